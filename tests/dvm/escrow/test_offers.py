"""Offers of escrow by a provider made by hand, and what a customer makes of them before it locks a coin."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dvm import OrderFailed
from dvm.escrow.agreement import acceptance_of
from dvm.nip90 import EscrowOffer, Offer, Status, make_feedback
from dvm.orders.customer import Customer
from dvm.orders.order import Order
from identity import Event, SecretKey, sign_event
from tests.dvm.conftest import PRICE, eventually
from tradepost.testing import ManualClock, Market
from wallet.escrow import Stage
from wallet.terms import MARGIN_SECONDS, Method, Terms

ROGUE, JUDGE, OTHER, LOCK = (SecretKey(bytes([number]) * 32) for number in (5, 6, 7, 8))

Change = Callable[[Terms], tuple[Terms, Terms, SecretKey]]  # what is signed, what is offered, who signs


@dataclass(frozen=True)
class Rogue:
    """A provider made by hand, with an arbiter made by hand that signs whatever it is given."""

    market: Market
    customer: Customer

    async def terms(self, order: Order) -> tuple[Event, Terms]:
        """Sound terms for an order."""
        found: list[Event] = []

        def is_there() -> bool:
            found[:] = [event for event in self.market.relay.published if event.id == order.id]
            return bool(found)

        await eventually(is_there, "the request")
        now = self.market.clock.now()
        deliver_by = now + 300
        terms = Terms(
            method=Method.ESCROW, request_id=order.id, provider=ROGUE.public_key,
            provider_key=LOCK.compressed_public_key, customer=self.customer.public_key,
            customer_key=found[0].tag("lock") or "", mint=self.market.mint.url, price_sat=PRICE, deliver_by=deliver_by,
            review_seconds=600, dispute_seconds=600, locktime=deliver_by + 1200 + 3 * MARGIN_SECONDS,
            arbiter=JUDGE.public_key, arbiter_key=SecretKey.generate().compressed_public_key,
        )  # fmt: skip
        return found[0], terms

    async def offer(self, order: Order, change: Change) -> None:
        request, terms = await self.terms(order)
        signed, offered, by = change(terms)
        now = self.market.clock.now()
        acceptance = sign_event(acceptance_of(signed, now), by)
        offer = Offer(
            price_msat=1000 * offered.price_sat, mints=(offered.mint,), lock=offered.provider_key,
            locktime=offered.locktime, settle=("escrow",),
            escrow=EscrowOffer(
                arbiter=offered.arbiter or "", arbiter_key=offered.arbiter_key or "", signed_at=now,
                sig=acceptance.sig, fee_msat=1000 * offered.arbiter_fee_sat, deliver_by=offered.deliver_by,
                review_seconds=offered.review_seconds, dispute_seconds=offered.dispute_seconds,
                arbiter_relays=offered.arbiter_relays,
            ),
        )  # fmt: skip
        template = make_feedback(request, Status.PAYMENT_REQUIRED, now=now, tags=offer.to_tags())
        self.market.relay.insert(sign_event(template, ROGUE))


@pytest.fixture
async def rogue(tmp_path: Path) -> AsyncIterator[Rogue]:
    async with Market(clock=ManualClock(), folder=tmp_path) as market:
        yield Rogue(market, await market.customer(sat=1000))


def offered_only(**changes: object) -> Change:
    return lambda terms: (terms, replace(terms, **changes), JUDGE)


def signed_too(change: Callable[[Terms], dict[str, object]], by: SecretKey = JUDGE) -> Change:
    def both(terms: Terms) -> tuple[Terms, Terms, SecretKey]:
        changed = replace(terms, **change(terms))
        return changed, changed, by

    return both


OFFERS: dict[str, tuple[Change, str]] = {
    "a key the arbiter never accepted": (offered_only(arbiter_key=OTHER.compressed_public_key), "not signed"),
    "a key of the provider's": (offered_only(provider_key=OTHER.compressed_public_key), "not signed"),
    "a sat more": (offered_only(price_sat=PRICE + 1), "not signed"),
    "a fee of the arbiter's": (offered_only(arbiter_fee_sat=1), "not signed"),
    "relays that the arbiter never named": (offered_only(arbiter_relays=("wss://other.test",)), "not signed"),
    "relays without those that it signed": (
        lambda t: (replace(t, arbiter_relays=("wss://a.test",)), t, JUDGE), "not signed"
    ),
    "no usable relay of the arbiter's": (signed_too(lambda _: {"arbiter_relays": ("https://a.test",)}), "not reach"),
    "a second more": (lambda t: (t, replace(t, locktime=t.locktime + 1), JUDGE), "not signed"),
    "signed by somebody else": (lambda t: (t, t, OTHER), "not signed"),
    "another arbiter": (signed_too(lambda _: {"arbiter": OTHER.public_key}, OTHER), "did not name"),
    "the provider as its own arbiter": (signed_too(lambda _: {"arbiter": ROGUE.public_key}, ROGUE), "three different"),
    "a short locktime": (signed_too(lambda t: {"locktime": t.locktime - 1}), "too early"),
    "a locktime far away": (signed_too(lambda t: {"locktime": t.locktime + 31 * 86_400}), "30 days"),
    "an unlisted mint": (signed_too(lambda _: {"mint": "https://other.test"}), "does not use"),
    "one key twice": (signed_too(lambda t: {"arbiter_key": t.provider_key}), "twice"),
    "the other parity of a key": (
        signed_too(lambda t: {"arbiter_key": ("02" if t.customer_key[1] == "3" else "03") + t.customer_key[2:]}),
        "twice",
    ),
    "an identity for a key": (signed_too(lambda t: {"arbiter_key": f"02{JUDGE.public_key}"}), "identity"),
    "a delivery in the past": (signed_too(lambda t: {"deliver_by": t.deliver_by - 300}), "passed"),
}  # fmt: skip


async def test_offers_that_are_not_taken(rogue: Rogue) -> None:
    async def ask() -> Order:
        return await rogue.customer.ask(
            ROGUE.public_key, "hello", kind=5001, max_sat=100, settle=(Method.ESCROW,),
            arbiters=[JUDGE.public_key, ROGUE.public_key],
        )  # fmt: skip

    for what, (change, reason) in OFFERS.items():
        order = await ask()
        await rogue.offer(order, change)
        with pytest.raises(OrderFailed) as refusal:
            await asyncio.wait_for(order.result(), 10)
        assert reason in str(refusal.value), what
        assert await rogue.customer.desk.get(order.id) is None
    assert await rogue.customer._post.wallet.balance() == {rogue.market.mint.url: 1000}
    order = await ask()
    await rogue.offer(order, signed_too(lambda _: {}))

    async def is_paid() -> bool:
        row = await rogue.customer.desk.get(order.id)
        return row is not None and row.stage is Stage.HELD

    await eventually(is_paid, "good terms to be paid")
