"""Work that is hired for in somebody's name: who pays is asked in time, it is found again, it can be called off."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from dvm import BadRequest, Guarantee, OrderFailed, OrderState, ProviderLimits
from dvm.errors import Trouble
from dvm.nip90 import parse_request
from dvm.orders.guarantee_lifecycle import CALLED_OFF, GuaranteeState
from dvm.queries_guarantees import get_guarantee, guarantees_for, orders_of_all
from store import Transaction
from tests.dvm.orders.actors import PRICE, Actor, Scene, open_shop
from tradepost.testing import ManualClock, Market
from wallet import InsufficientFunds
from wallet.terms import Method


@dataclass
class Buyer:
    """Takes whatever it is asked for, or nothing."""

    allowance: str = "somebody"
    job_id: str = "their job"
    refuses: bool = False
    seen: list[tuple[str, int, bool]] = field(default_factory=list)

    async def check(self, tx: Transaction, guarantee_id: str, sat: int) -> None:
        self.seen.append((guarantee_id, sat, await get_guarantee(tx, guarantee_id) is not None))
        if self.refuses:
            raise RuntimeError("no sats")


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with Market(clock=ManualClock()) as market:
        yield Scene(market, await market.customer(sat=200))


async def test_a_buyer_is_asked_once_in_the_transaction_that_begins_it(scene: Scene) -> None:
    await open_shop(scene.market)
    buyer = Buyer()
    first = await scene.hire(name="a", buyer=buyer)
    again = await scene.hire(name="a", buyer=buyer)
    assert first is again
    assert first.id == scene.customer.guarantee_id("a")
    assert buyer.seen == [(first.id, 50, True)]
    assert scene.customer.guarantee(first.id) is first
    assert await scene.result(first, orders=1) == "HELLO"


async def test_what_the_buyer_refuses_was_never_begun(scene: Scene) -> None:
    await open_shop(scene.market)
    with pytest.raises(RuntimeError):
        await scene.hire(name="a", buyer=Buyer(refuses=True))
    db = scene.customer._post.db
    assert await get_guarantee(db, scene.customer.guarantee_id("a")) is None
    assert scene.customer.open_guarantees() == []
    assert await scene.result(await scene.hire(name="a", buyer=Buyer()), orders=1) == "HELLO"


async def test_what_was_begun_for_somebody_is_found_page_by_page(scene: Scene) -> None:
    await open_shop(scene.market)
    ids = []
    for number in range(5):
        await scene.clock.advance(number % 2)  # some in the same second
        guarantee = await scene.hire(name=str(number), buyer=Buyer())
        await scene.result(guarantee, orders=1)
        ids.append(guarantee.id)
    await scene.result(await scene.hire(buyer=Buyer(allowance="another")), orders=1)
    db, found, before = scene.customer._post.db, [], (2**53, "")
    while page := await guarantees_for(db, "somebody", before, 2):
        assert len(page) <= 2
        found += page
        before = (page[-1].created_at, page[-1].id)
    assert len(found) == 5
    assert {row.id for row in found} == set(ids)
    assert found == sorted(found, key=lambda row: (row.created_at, row.id), reverse=True)
    orders = await orders_of_all(db, ids)
    assert [len(orders[one]) for one in ids] == [1] * 5
    assert await orders_of_all(db, []) == {}


async def test_a_page_is_read_by_the_index_however_many_there_are(scene: Scene) -> None:
    db, plans = scene.customer._post.db, []

    class Explained:
        async def all(self, sql: str, *values: object) -> list[object]:
            plans.extend(row["detail"] for row in await db.all(f"EXPLAIN QUERY PLAN {sql}", *values))
            return []

    await guarantees_for(Explained(), "somebody", (2**53, ""), 20)  # type: ignore[arg-type]  # it only reads
    await orders_of_all(Explained(), ["a", "b"])  # type: ignore[arg-type]  # as above
    assert any("USING INDEX guarantees_by_day (allowance=? AND created_at<?)" in plan for plan in plans)
    assert any("USING INDEX orders_of_guarantee" in plan for plan in plans)
    assert not any(plan.startswith("SCAN") for plan in plans)


async def test_what_an_order_brought_is_found_again(scene: Scene) -> None:
    await open_shop(scene.market)
    guarantee = await scene.hire()
    await scene.result(guarantee, orders=1)
    (order,) = await scene.orders(guarantee)
    assert await scene.customer.result(order.id) == "HELLO"
    with pytest.raises(BadRequest):
        await scene.customer.result("0" * 64)


# -- calling it off


async def ended(guarantee: Guarantee) -> str:
    with pytest.raises(OrderFailed) as error:
        await asyncio.wait_for(guarantee.result(), 20)
    return str(error.value)


async def test_what_nobody_was_paid_for_is_called_off_at_once(scene: Scene) -> None:
    actor = Actor(scene.market)
    guarantee = await scene.hire()
    await actor.request()
    await scene.customer.call_off(guarantee.id)
    assert CALLED_OFF in await ended(guarantee)
    await scene.reached(guarantee, actor, OrderState.CANCELLED)
    row = await get_guarantee(scene.customer._post.db, guarantee.id)
    assert row is not None
    assert (row.state, row.reason) == (GuaranteeState.FAILED, CALLED_OFF)
    await scene.customer._post.outbox.flush(5)
    assert actor.taken_back()
    with pytest.raises(BadRequest, match="has ended"):
        await scene.customer.call_off(guarantee.id)


async def test_what_is_paid_comes_back_when_it_is_called_off(scene: Scene) -> None:
    actor = Actor(scene.market)
    guarantee = await scene.hire()
    await actor.offer()
    await scene.reached(guarantee, actor, OrderState.PAID)
    await scene.customer.call_off(guarantee.id)
    await scene.reached(guarantee, actor, OrderState.AWAITING_REFUND)
    honest = await scene.market.post("honest", sat=100)
    await actor.send_back(await honest.wallet.send(scene.market.mint.url, PRICE))
    await scene.reached(guarantee, actor, OrderState.REFUNDED)
    assert await scene.sats() >= 200 - 4


async def test_what_is_delivered_all_the_same_is_taken(scene: Scene) -> None:
    actor = Actor(scene.market)
    guarantee = await scene.hire()
    await actor.offer()
    await scene.reached(guarantee, actor, OrderState.PAID)
    await scene.customer.call_off(guarantee.id)
    await ended(guarantee)
    await actor.deliver("late")
    await scene.reached(guarantee, actor, OrderState.DONE)


async def test_nobody_is_blamed_for_what_was_called_off(scene: Scene) -> None:
    actor = Actor(scene.market)
    await open_shop(scene.market)  # a sat dearer, so asked second
    guarantee = await scene.hire()
    await actor.request()
    await scene.customer.call_off(guarantee.id)
    await scene.reached(guarantee, actor, OrderState.CANCELLED)
    again = await scene.hire()
    await scene.reached(again, actor, OrderState.REQUESTED)


# -- what went wrong


async def test_want_of_our_own_sats_is_told_from_a_refusal(scene: Scene) -> None:
    await open_shop(scene.market, price_sat=300)
    guarantee = await scene.hire(max_sat=300)
    await ended(guarantee)
    (order,) = await scene.orders(guarantee)
    assert (order.state, order.code) == (OrderState.FAILED, InsufficientFunds.code)
    dear = Actor(scene.market, kind=5002)
    guarantee = await scene.customer.hire(dear.key.public_key, "x", kind=5002, max_sat=PRICE, others=False)
    await dear.offer(PRICE + 1)
    await ended(guarantee)
    (order,) = await scene.orders(guarantee)
    assert (order.state, order.code) == (OrderState.FAILED, Trouble.OFFER_REFUSED)


# -- agents of our own


async def test_an_agent_of_our_own_is_paid_in_advance_whatever_others_are(scene: Scene) -> None:
    arbiter = await scene.market.arbiter()
    limits = ProviderLimits(arbiters=(arbiter.public_key,))
    shop = await open_shop(scene.market, limits=limits)
    ways = (Method.ESCROW, Method.PREPAID)
    terms = {"settle": ways, "arbiters": [arbiter.public_key], "seconds": 600}
    for own, told in (((), ways), ((shop.public_key,), (Method.PREPAID,))):
        guarantee = await scene.hire(own=own, **terms)
        assert await asyncio.wait_for(guarantee.result(), 20) == "HELLO"
        (order,) = await scene.orders(guarantee)
        assert parse_request(order.request).settle == told
        assert (await scene.customer.desk.get(order.id) is not None) is (not own)
