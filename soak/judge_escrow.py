"""What must be so when an escrow has ended."""

import asyncio
from typing import Final

from dvm import queries
from dvm.escrow.agreement import award_of
from dvm.escrow.messages import ESCROW_MESSAGE, Disputes, read_message
from identity import parse_event
from identity.nip59 import KIND_GIFT_WRAP, unwrap
from soak.expected import expected
from soak.judge import FEES_SAT_MAX, Judge
from soak.virtual import EPOCH
from soak.world import PRICE_SAT
from wallet.escrow import Stage
from wallet.escrows import Escrows
from wallet.queries_escrows import EscrowRow
from wallet.terms import MARGIN_SECONDS

SKEW_SECONDS_MAX: Final = 60  # clocks that are further off are refused
ON_THE_WAY_SECONDS_MAX: Final = 30  # a letter that is out, until it is read by whoever is there


class EscrowJudge(Judge):
    """See `Judge`: two of three, an arbiter, a time for review."""

    async def _verdict(self) -> None:
        self._the_provider_has_its_due()
        await self._the_customer_has_its_due()
        await self._nobody_was_taken_for_silent()
        await self._order_and_money_agree()
        self._as_planned()

    def _the_provider_has_its_due(self) -> None:
        customer, provider, arbiter = (self._rows[name] for name in ("customer", "provider", "arbiter"))
        orders = len(self._run.orders)
        self._must(
            self._gain <= PRICE_SAT * orders, f"the provider has {self._gain} sat, its price is {PRICE_SAT}"
        )
        if provider is None or not self._is_honest("provider"):
            return
        if provider.stage is Stage.PAID and orders == 1 and not self._paid_for_nothing:
            self._must(self._gain == provider.amount_sat, "the provider was paid something else than it says")
        was_out = provider.result is not None
        heard = arbiter is not None and arbiter.delivered_at is not None
        due = [PRICE_SAT]
        if arbiter is not None and arbiter.ruling is not None:
            due = [self._plan.award_sat, *([PRICE_SAT] if self._relents else [])]
        if self._plan.provider == "regrets":
            due.append(0)
        if not was_out or orders > 1:
            return
        if self._is_honest("arbiter") and arbiter is not None and (heard or arbiter.ruling):
            ruled = arbiter.ruling is not None or arbiter.stage is Stage.RULED
            if ruled:
                self._must(self._gain in due, f"the provider has {self._gain} sat of {due}; {self._stages()}")
        if (
            self._is_honest("arbiter", "customer")
            and customer is not None
            and customer.stage is Stage.RELEASED
        ):
            ruled = arbiter is not None and arbiter.ruling is not None
            if not customer.statements or (self._relents and not ruled):
                self._must(
                    self._gain == PRICE_SAT, f"accepted, and the provider has {self._gain}; {self._stages()}"
                )

    async def _the_customer_has_its_due(self) -> None:
        customer, _provider, arbiter = (self._rows[name] for name in ("customer", "provider", "arbiter"))
        world = self._run.world
        if not self._is_honest("customer"):
            return
        lost = self._lost
        if customer is None or customer.stage is Stage.VOID:
            self._must(lost == 0, f"nothing was locked, and the customer lost {lost} sat")
            return
        self._must(customer.stage is not Stage.LOST, "the customer's coins were taken without two signatures")
        self._must(lost <= PRICE_SAT + FEES_SAT_MAX, f"the customer lost {lost} sat")
        last = customer.terms.deliver_by + MARGIN_SECONDS + SKEW_SECONDS_MAX
        in_time = any(EPOCH + world.office.since[one] <= last for one in self._results(customer.request_id))
        if not in_time and not (self._relents and customer.stage is Stage.RELEASED):
            self._must(lost == 0, f"nothing came in time, and the customer lost {lost} sat; {self._stages()}")
        if customer.statements and self._is_honest("customer", "arbiter") and arbiter is not None:
            if arbiter.ruling is None and customer.stage is Stage.DISPUTED:
                self._must(False, "the dispute has no end")
            if arbiter.ruling is not None and self._plan.award_sat == 0 and not self._relents:
                self._must(lost == 0, f"the customer was awarded all, and lost {lost} sat; {self._stages()}")

        held_up = any(name == "customer" for name, _, _ in self._plan.kills) or self._plan.weather.mint_down
        if customer.ruling is not None and customer.stage is Stage.REFUNDED and not held_up:
            due = award_of(parse_event(customer.ruling), "customer")
            waited = customer.updated_at >= customer.terms.locktime
            ready = 0 < due <= await self._signed_sat(customer)
            self._must(not (waited and ready), "the customer had all signatures, and waited for the locktime")

    async def _nobody_was_taken_for_silent(self) -> None:
        """The arbiter signs for the provider by itself only if no dispute was out in time (or that costs something)."""
        row, party, office = self._rows["arbiter"], self._run.world["arbiter"], self._run.world.office
        if row is None or not self._is_honest("arbiter") or row.delivered_at is None:
            return
        if row.stage is not Stage.RULED or row.ruling is not None or row.conceded or self._plan.fee_sat:
            return
        last = row.delivered_at + row.terms.review_seconds + MARGIN_SECONDS - ON_THE_WAY_SECONDS_MAX
        ahead = party.clock.now() - asyncio.get_running_loop().time()
        for wrap in [event for event in office.events.values() if event.tag("p") == party.key]:
            if wrap.kind == KIND_GIFT_WRAP and office.since[wrap.id] + ahead <= last:
                rumor = await unwrap(party.signer, wrap)
                disputes = rumor.kind == ESCROW_MESSAGE and isinstance(read_message(rumor)[1], Disputes)
                self._must(not disputes, "a dispute was taken for silence")

    @property
    def _relents(self) -> bool:
        return self._plan.customer == "relents"

    @property
    def _paid_for_nothing(self) -> bool:
        """Whether the customer released its coins before the work failed: then the provider sends others back."""
        provider = self._rows["provider"]
        return self._relents and provider is not None and provider.result is None

    async def _signed_sat(self, row: EscrowRow) -> int:
        post = self._run.world["customer"].post
        coins = await Escrows(post.db, post.wallet, post.clock).coins(row)
        return sum(proof.amount for proof in coins.proofs if proof.secret in row.signatures)

    async def _order_and_money_agree(self) -> None:
        customer = self._rows["customer"]
        if customer is None or not self._is_honest("customer"):
            return
        order = await queries.get_order(self._run.world["customer"].post.db, customer.request_id)
        assert order is not None
        if customer.stage is Stage.REFUNDED:
            self._must(order.state == "refunded", f"refunded, and the order is {order.state}")
        if customer.stage is Stage.RELEASED:
            ends = ("done", "lost", *(["refunded"] if self._paid_for_nothing else []))
            self._must(order.state in ends, f"released, and the order is {order.state}")

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
