"""What must be so when a run has ended, by the books of the mint and of the parties, and by what the relays have."""

from typing import TYPE_CHECKING, Final

from dvm import queries
from soak.expected import expected
from soak.virtual import EPOCH
from soak.world import NAMES, PRICE_SAT, ground
from wallet.escrow import Stage
from wallet.terms import MARGIN_SECONDS, Method

if TYPE_CHECKING:
    from soak.run import Run

SKEW_SECONDS_MAX: Final = 60  # clocks that are further off are refused
FEES_SAT_MAX: Final = 4  # of one party: three swaps at most, of few coins


class Judge:
    """Adds to the problems of a run that has ended."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._plan = run.plan

    def _must(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            self._run.problems.append(otherwise)

    async def judge(self) -> int:
        """Look at everything; returns what the provider has earned, in sat."""
        world, run = self._run.world, self._run
        self._has = {name: await world[name].balance() for name in NAMES}
        self._rows = {name: await run.row(name) for name in NAMES}
        books = {name: await world[name].post.wallet.audit(ask_mints=True) for name in NAMES}
        for name, report in books.items():
            self._must(report.ok, f"the books of the {name}: {report.problems}")
        start = ground()
        self._fees = {
            name: report.accounts.get("fees/mint", 0) // 1000 - start.fees_sat[name]
            for name, report in books.items()
        }
        self._left = world.mint.outstanding_sat - sum(self._has.values())
        self._must(self._left >= 0, f"there are {-self._left} sat more than the mint owes")
        total = sum(self._has.values()) + self._left + world.mint.fees_sat
        self._must(total == sum(start.sats.values()) + start.mint.fees_sat, "the mint made money")
        self._must(self._has["arbiter"] == 0, "the arbiter has money of others")
        self._must(max(self._fees.values()) <= FEES_SAT_MAX, f"fees: {self._fees}")
        await self._no_result_twice()
        self._nothing_is_left_over()
        if self._plan.method is Method.ESCROW:
            self._the_provider_has_its_due()
            self._the_customer_has_its_due()
            await self._order_and_money_agree()
            self._as_planned()
        return self._gain

    async def _no_result_twice(self) -> None:
        for order in self._run.orders:
            results = self._results(order)
            self._must(len(results) <= 1, f"{len(results)} results for one order")

    def _results(self, order: str) -> list[str]:
        provider = self._run.world["provider"].key
        events = self._run.world.office.events.values()
        return [e.id for e in events if e.kind == 6001 and e.pubkey == provider and e.tag("e") == order]

    def _is_honest(self, *names: str) -> bool:
        """Whether these keep to the rules, and stay."""
        return self._plan.cheater not in names and not self._run.left & set(names)

    def _nothing_is_left_over(self) -> None:
        """Coins are left behind only by whoever went away and could take them."""
        if self._left == 0:
            return
        excused = self._run.left & {"customer", "provider"}
        provider = self._rows["provider"]
        if self._plan.cheater == "provider" and provider is not None and provider.stage is Stage.YIELDED:
            excused.add("provider")  # sold what it had given back: neither side takes the coins
        self._must(bool(excused), f"{self._left} sat lie at the mint and nobody takes them; {self._stages()}")

    def _stages(self) -> str:
        return ", ".join(f"{name} {row.stage if row else 'nothing'}" for name, row in self._rows.items())

    @property
    def _gain(self) -> int:
        return self._has["provider"] - ground().sats["provider"] + self._own_fees("provider")

    def _own_fees(self, name: str) -> int:
        """What the mint took of a party beyond the swap of the coins in escrow, which their worth is told without."""
        row = self._rows[name]
        took = self._plan.method is Method.PREPAID or (row is not None and row.amount_sat > 0)
        return 0 if took else self._fees[name]

    def _the_provider_has_its_due(self) -> None:
        customer, provider, arbiter = (self._rows[name] for name in ("customer", "provider", "arbiter"))
        orders = len(self._run.orders)
        self._must(
            self._gain <= PRICE_SAT * orders, f"the provider has {self._gain} sat, its price is {PRICE_SAT}"
        )
        if provider is None or not self._is_honest("provider"):
            return
        if provider.stage is Stage.PAID and orders == 1:
            self._must(self._gain == provider.amount_sat, "the provider was paid something else than it says")
        was_out = provider.result is not None
        heard = arbiter is not None and arbiter.delivered_at is not None
        due = PRICE_SAT
        if arbiter is not None and arbiter.ruling is not None:
            due = self._plan.award_sat
        if not was_out or orders > 1:
            return
        if self._is_honest("arbiter") and arbiter is not None and (heard or arbiter.ruling):
            ruled = arbiter.ruling is not None or arbiter.stage is Stage.RULED
            if ruled:
                self._must(self._gain == due, f"the provider has {self._gain} sat of {due}; {self._stages()}")
        if (
            self._is_honest("arbiter", "customer")
            and customer is not None
            and customer.stage is Stage.RELEASED
        ):
            disputed = bool(customer.statements)
            if not disputed:
                self._must(
                    self._gain == PRICE_SAT, f"accepted, and the provider has {self._gain}; {self._stages()}"
                )

    def _the_customer_has_its_due(self) -> None:
        customer, _provider, arbiter = (self._rows[name] for name in ("customer", "provider", "arbiter"))
        world = self._run.world
        if not self._is_honest("customer"):
            return
        lost = ground().sats["customer"] - self._has["customer"] - self._fees["customer"]
        if customer is None or customer.stage is Stage.VOID:
            self._must(lost == 0, f"nothing was locked, and the customer lost {lost} sat")
            return
        self._must(customer.stage is not Stage.LOST, "the customer's coins were taken without two signatures")
        self._must(lost <= PRICE_SAT + FEES_SAT_MAX, f"the customer lost {lost} sat")
        last = customer.terms.deliver_by + MARGIN_SECONDS + SKEW_SECONDS_MAX
        if not any(EPOCH + world.office.since[one] <= last for one in self._results(customer.request_id)):
            self._must(lost == 0, f"nothing came in time, and the customer lost {lost} sat; {self._stages()}")
        if customer.statements and self._is_honest("customer", "arbiter") and arbiter is not None:
            if arbiter.ruling is None and customer.stage is Stage.DISPUTED:
                self._must(False, "the dispute has no end")
            if arbiter.ruling is not None and self._plan.award_sat == 0:
                self._must(lost == 0, f"the customer was awarded all, and lost {lost} sat; {self._stages()}")

    async def _order_and_money_agree(self) -> None:
        customer = self._rows["customer"]
        if customer is None or not self._is_honest("customer"):
            return
        order = await queries.get_order(self._run.world["customer"].post.db, customer.request_id)
        assert order is not None
        if customer.stage is Stage.REFUNDED:
            self._must(order.state == "refunded", f"refunded, and the order is {order.state}")
        if customer.stage is Stage.RELEASED:
            self._must(order.state in ("done", "lost"), f"released, and the order is {order.state}")

    def _as_planned(self) -> None:
        due, customer = expected(self._plan), self._rows["customer"]
        if due is None or customer is None:
            return
        self._must(
            self._gain == due.provider_sat, f"the provider has {self._gain} sat of {due}; {self._stages()}"
        )
        if due.before_locktime and customer.stage is Stage.REFUNDED:
            self._must(
                customer.updated_at < customer.terms.locktime,
                f"the customer had to wait for its money; {self._stages()}",
            )
        if due.provider_sat == 0:
            self._must(
                customer.stage is Stage.REFUNDED, f"nothing was due, and the customer is {customer.stage}"
            )
