"""Results in escrow by reference: who is told of one fetches it, and it counts from when it was fetched."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from dvm import Agent, Customer, Job
from dvm.escrow.arbiter import Arbiter
from dvm.escrow.messages import Delivered, write_message
from dvm.nip90 import make_result
from identity import Event, LocalSigner, SecretKey, sign_event
from identity.nip59 import wrap
from wallet.escrow import Role, Stage

if TYPE_CHECKING:
    from conftest import Trade

    from dvm.orders.order import Order

PRICE = 21
LATE_SECONDS = 600 + 120 + 30


@pytest.fixture
def agent() -> Agent:
    """Tells long stories for 21 sats."""
    agent = Agent("Long")

    @agent.serves(kind=5001, price_sat=PRICE)
    async def tell(job: Job) -> str:
        return job.text * 10_000

    return agent


def hold_results(trade: "Trade") -> None:
    """From now on the relay takes no results; who publishes one tries again."""
    trade.market.relay.switches.reject = lambda event: "error: disk full" if event.kind == 6001 else None


async def told(trade: "Trade", order: "Order") -> None:
    """Wait until the arbiter was told of the result, and has looked for it in vain."""
    async with asyncio.timeout(10):
        while (case := await trade.view(Role.ARBITER, order)) is None or case.reported is None:
            await asyncio.sleep(0.005)
        asked = [f.ids for filters in trade.market.relay.requests for f in filters]
        while (case.reported["id"],) not in asked:
            await asyncio.sleep(0.005)
            asked = [f.ids for filters in trade.market.relay.requests for f in filters]
    assert case.stage is Stage.AGREED


async def test_a_result_as_large_as_relays_take_is_paid_from_escrow(trade: "Trade") -> None:
    order = await trade.ask("story")
    assert await order.result() == "story" * 10_000
    case = await trade.reach(Role.ARBITER, order, Stage.DELIVERED)
    assert case.result is not None
    assert len(case.result.to_json()) > 50_000
    await trade.customer.stop()
    await trade.reach(Role.PROVIDER, order, Stage.PAID, every=30)
    assert (await trade.sats())[1] == PRICE


async def test_a_result_that_relays_do_not_have_yet_is_looked_for_across_a_restart(trade: "Trade") -> None:
    hold_results(trade)
    order = await trade.ask()
    await told(trade, order)
    await trade.arbiter.stop()
    again = trade._replace(arbiter=Arbiter(trade.arbiter._post, trade.arbiter._signer))
    await again.arbiter.start()
    await trade.pass_time(100)
    assert (case := await trade.view(Role.ARBITER, order)) is not None
    assert case.stage is Stage.AGREED
    trade.market.relay.switches.reject = lambda _event: None
    case = await trade.reach(Role.ARBITER, order, Stage.DELIVERED, every=5)
    assert case.delivered_at is not None
    assert case.delivered_at >= case.created_at + 100
    await again.arbiter.stop()


async def test_what_the_arbiter_sees_too_late_is_owed_nothing(trade: "Trade") -> None:
    hold_results(trade)
    order = await trade.ask()
    await told(trade, order)
    await trade.pass_time(LATE_SECONDS)
    trade.market.relay.switches.reject = lambda _event: None
    await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=5)
    case = await trade.view(Role.ARBITER, order)
    assert case is not None
    assert (case.stage, case.result) == (Stage.RULED, None)
    assert await trade.sats() == (0, 0)


@pytest.mark.parametrize("away", [False, True])
async def test_the_arbiter_shows_a_customer_what_its_relays_do_not(trade: "Trade", away: bool) -> None:
    """The customer asks its relays for results in vain, and fetches the one that the arbiter names."""
    trade.market.relay.switches.refuse = lambda filters: (
        "error: no" if any(f.kinds == (6001,) for f in filters) else None
    )
    order = await trade.ask("story", review=False)
    if away:
        await trade.reach(Role.CUSTOMER, order, Stage.HELD)
        await trade.customer.stop()
        await trade.reach(Role.ARBITER, order, Stage.DELIVERED)
        await trade.pass_time(500)
        again = Customer(trade.customer.signer, trade.customer._post)
        await again.start()
        (order,) = await again.open_orders()
    await trade.reach(Role.CUSTOMER, order, Stage.RELEASED, every=1)
    await trade.reach(Role.PROVIDER, order, Stage.PAID)
    assert await order.result() == "story" * 10_000
    results = [event for event in trade.market.relay.published if event.kind == 6001]
    assert len(results) == 2  # the agent's, and once more by the arbiter
    assert len({event.id for event in results}) == 1
    if away:
        await again.stop()


async def test_an_arbiter_that_was_away_reads_before_it_takes_silence_for_consent(trade: "Trade") -> None:
    order = await trade.ask()
    await order.result()
    await trade.reach(Role.ARBITER, order, Stage.DELIVERED)
    await trade.arbiter.stop()
    await trade.customer.dispute(order.id, "no")
    await trade.customer._post.outbox.flush(5)
    await trade.pass_time(LATE_SECONDS)
    again = Arbiter(trade.arbiter._post, trade.arbiter._signer)
    await again.start()
    await trade.reach(Role.ARBITER, order, Stage.DISPUTED, every=1)
    await again.stop()


async def test_an_event_of_another_counts_for_nothing(trade: "Trade") -> None:
    hold_results(trade)
    order = await trade.ask()
    await told(trade, order)
    row = await trade.view(Role.PROVIDER, order)
    assert row is not None
    now = trade.market.clock.now()
    foreign = sign_event(make_result(row.request, "x", price_msat=0, now=now), SecretKey.generate())
    trade.market.relay.insert(foreign)
    coins = await trade.provider._desk.secrets(row)
    wrapped = await letter(trade, Delivered(foreign.id, ["wss://relay.test", "nonsense"], coins))
    trade.market.relay.insert(wrapped)
    async with asyncio.timeout(10):
        while (case := await trade.view(Role.ARBITER, order)) is None or (case.reported or {})[
            "id"
        ] != foreign.id:
            await asyncio.sleep(0.005)
    assert case.reported is not None
    assert case.reported["relays"] == ["wss://relay.test"]
    await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=30)
    assert await trade.sats() == (0, 0)


async def letter(trade: "Trade", message: Delivered) -> Event:
    """What the provider writes to the arbiter."""
    row = (await trade.provider._desk.escrows.open(Role.PROVIDER, trade.provider.public_key))[0]
    to, now = trade.arbiter.public_key, trade.market.clock.now()
    assert isinstance(trade.provider.signer, LocalSigner)
    return await wrap(trade.provider.signer, to, write_message(message, row.terms, to, now), now=now)
