"""What must be so when a sealed result, or work for an invoice, was for sale: hashes and rails judge there."""

from abc import ABC, abstractmethod
from typing import Final

from dvm import OrderState, queries, queries_invoices
from dvm.queries import OrderRow
from dvm.reveals import fraud_proof, opened
from soak.cheats import LOCKS
from soak.judge import FEES_SAT_MAX, Judge
from soak.plan import Plan
from soak.world import DELIVER_SECONDS, PRICE_SAT, RESULT, Weather
from wallet import queries_rails
from wallet.escrow import Stage
from wallet.queries_escrows import EscrowRow
from wallet.rails import SendState

BAD_COINS: Final = {*LOCKS, "customer: one sat less"}
SLACK_SECONDS: Final = 10  # what messages and turns take in fair weather


class SaleJudge(Judge, ABC):
    """What both have in common: the price or nothing, and an order that says which."""

    async def _verdict(self) -> None:
        run, orders = self._run, len(self._run.orders)
        self._must(self._gain <= PRICE_SAT * orders, f"the provider has {self._gain} sat of {PRICE_SAT}")
        if self._is_honest("provider"):
            least = -self._fees["provider"] if self._gives_back else 0
            self._must(self._gain >= least, f"the provider lost {-self._gain} sat")
        if orders != 1:
            return
        order = await queries.get_order(run.world["customer"].post.db, run.orders[0])
        assert order is not None
        if self._is_honest("provider"):
            await self._the_provider_has_its_due(order)
        if self._is_honest("customer"):
            await self._the_customer_has_its_due(order)
        if (due := expected_sat(self._plan)) is not None:
            self._must(self._gain == due, f"the provider has {self._gain} sat of {due}; {order.state}")

    @property
    def _gives_back(self) -> bool:
        """Whether a provider whose work fails has to send coins, and bears their fee."""
        return False

    @abstractmethod
    async def _the_provider_has_its_due(self, order: OrderRow) -> None: ...

    @abstractmethod
    async def _the_customer_has_its_due(self, order: OrderRow) -> None: ...


class RevealJudge(SaleJudge):
    """A key is sold for its price, once, or told to nobody."""

    async def _the_provider_has_its_due(self, order: OrderRow) -> None:
        row, customer, run = self._rows["provider"], self._rows["customer"], self._run
        if row is None:
            self._must(self._gain == 0, "the provider was paid for nothing")
            return
        paid = row.stage is Stage.PAID
        self._must(
            self._gain == (row.amount_sat if paid else 0), f"{row.stage}, and the provider has {self._gain}"
        )
        if customer is not None and customer.preimage is not None:
            self._must(paid, f"the customer knows the key, and the provider is {row.stage}")
        if self._plan.cheat in BAD_COINS:
            self._must(
                not run.world.outside.key_shown, "the mint was told the key for coins that are not as agreed"
            )
        if run.world.outside.key_shown:
            claim = await run.world["provider"].post.db.one(
                "SELECT MAX(created_at) AS at FROM wallet_operations WHERE op_id LIKE 'escrow:provider:%'"
            )
            in_time = claim is not None and claim["at"] < row.terms.claim_until
            self._must(in_time, "the mint was told the key when the customer was soon to be quicker")

    async def _the_customer_has_its_due(self, order: OrderRow) -> None:
        row = self._rows["customer"]
        if row is None or row.stage is Stage.VOID:
            self._must(self._lost == 0, f"nothing was locked, and the customer lost {self._lost} sat")
            return
        self._must(self._lost <= PRICE_SAT + FEES_SAT_MAX, f"the customer lost {self._lost} sat")
        self._must(row.stage is not Stage.LOST, "the coins were taken, and the customer has no key")
        match row.stage:
            case Stage.REFUNDED:
                self._must(self._lost == 0, f"refunded, and the customer lost {self._lost} sat")
            case Stage.RELEASED:
                self._has_what_it_paid_for(order, row)
        told = {OrderState.DONE, OrderState.LOST} if row.preimage else {OrderState.REFUNDED}
        self._must(order.state in told, f"the escrow is {row.stage}, the order {order.state}")

    def _has_what_it_paid_for(self, order: OrderRow, row: EscrowRow) -> None:
        proof = fraud_proof(order, row)
        if order.state is OrderState.DONE:
            self._must(opened(order, row) == RESULT.encode(), "the key opens something else")
        else:
            self._must(proof is not None and proof.check().is_fraud, f"{order.state}, and no fraud is proved")
        calm = self._plan.weather == Weather() and not self._plan.kills
        if calm and self._plan.cheat != "provider: takes the coins late":
            self._must(row.updated_at < row.terms.deliver_by, "the customer waited for what it had paid for")


class InvoiceJudge(SaleJudge):
    """Nothing is done without the rail's word, but on credit; what is not done goes back."""

    @property
    def _gives_back(self) -> bool:
        return True

    async def _the_provider_has_its_due(self, order: OrderRow) -> None:
        world = self._run.world
        invoice = await queries_invoices.get_invoice(world["provider"].post.db, order.provider, order.id)
        paid = invoice is not None and world.network.bills[invoice.payment_hash].received_msat > 0
        lent = invoice is not None and invoice.on_credit
        if self._results(order.id):
            with_coins = "pays twice" in self._plan.cheat
            self._must(paid or lent or with_coins, "the result is out, and nobody has paid for it")
            if paid and not with_coins:
                self._must(self._gain == PRICE_SAT, f"done and paid, and the provider has {self._gain} sat")
        elif self._is_honest("customer"):
            self._must(self._gain <= 0, f"nothing was done, and the provider has {self._gain} sat")

    async def _the_customer_has_its_due(self, order: OrderRow) -> None:
        nothing_paid = (OrderState.FAILED, OrderState.EXPIRED, OrderState.CANCELLED)
        if order.state in nothing_paid:
            self._must(self._lost == 0, f"the order is {order.state}, and the customer lost {self._lost} sat")
        if order.state is OrderState.REFUNDED:
            self._must(self._lost <= FEES_SAT_MAX, f"refunded, and the customer lost {self._lost} sat")
        if order.state is OrderState.LOST:
            self._must(not self._is_honest("provider"), "an honest provider kept the money")
        self._must(self._lost <= PRICE_SAT + FEES_SAT_MAX, f"the customer lost {self._lost} sat")
        if order.state is OrderState.DONE and self._is_honest("provider") and not await self._owes(order):
            self._must(self._gain == PRICE_SAT, f"the order is done, and the provider has {self._gain} sat")

    async def _owes(self, order: OrderRow) -> bool:
        """Whether it was done on credit, and the customer could or would not pay."""
        payment = await queries_rails.payment(self._run.world["customer"].post.db, f"debt:{order.id}")
        return self._plan.on_credit and (payment is None or payment.state is SendState.FAILED)


def expected_sat(plan: Plan) -> int | None:
    """What the provider must have in the end, told from the plan alone; None if it cannot be told."""
    if plan.cheat or plan.kills or plan.weather != Weather() or "leaves" in (plan.customer, plan.provider):
        return None
    if plan.customer != "content":
        return 0
    if plan.provider != "works":
        return None  # nothing, or what its own coins for the customer cost
    return PRICE_SAT if plan.works_seconds < DELIVER_SECONDS - SLACK_SECONDS else None
