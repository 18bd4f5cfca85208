"""Coins that are locked when nobody waits for the work any more: they are not sent, and come back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dvm import Agent, Allowance, Job, JobFailed, OrderState, ProviderLimits
from dvm.orders.purchases import Purchases
from dvm.queries import OrderRow, get_order
from dvm.queries_guarantees import orders_of
from tests.dvm.orders.actors import PRICE, Actor, Scene, open_shop
from tradepost.api import open_customer
from tradepost.testing import ManualClock, Market


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with Market(clock=ManualClock()) as market:
        yield Scene(market, await market.customer(sat=100))


@pytest.fixture
def mint_answers(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """No operation of the scene's customer is seen through before this is set."""
    settle, answers = scene.customer._purchases.settle, asyncio.Event()

    async def slowly(op_id: str) -> Any:
        await answers.wait()
        return await settle(op_id)

    monkeypatch.setattr(scene.customer._purchases, "settle", slowly)
    return answers


async def were_sent(scene: Scene, actor: Actor) -> bool:
    await scene.customer._post.outbox.flush(5)
    return any(e.kind == 1059 and e.tag("p") == actor.key.public_key for e in scene.market.relay.published)


async def reached(scene: Scene, order_id: str, state: OrderState, *, every: int = 0) -> OrderRow:
    async with asyncio.timeout(60):
        while (row := await get_order(scene.customer._post.db, order_id)) is None or row.state is not state:
            await asyncio.sleep(0.005)
            await scene.clock.advance(every)
    return row


async def test_they_come_back_though_a_result_comes(scene: Scene, mint_answers: asyncio.Event) -> None:
    actor = Actor(scene.market)
    order = await scene.customer.ask(actor.key.public_key, "x", kind=5001, max_sat=50)
    await actor.offer()
    await reached(scene, order.id, OrderState.PAYING)
    await order.cancel()
    mint_answers.set()
    await reached(scene, order.id, OrderState.AWAITING_REFUND)
    await actor.deliver("unasked")
    await scene.customer.caught_up(5)
    row = await reached(scene, order.id, OrderState.REFUNDED, every=60)
    assert row.reason == "it was not needed any more when the coins were locked"
    assert not await were_sent(scene, actor)
    assert (await scene.customer._post.wallet.audit(ask_mints=True)).ok


async def test_the_next_agent_is_asked_while_a_mint_hangs(scene: Scene, mint_answers: asyncio.Event) -> None:
    slow, second = Actor(scene.market), Actor(scene.market, price_sat=PRICE + 1)
    guarantee = await scene.hire(max_sat=60, seconds=240)
    await slow.offer()
    await scene.reached(guarantee, slow, OrderState.PAYING)
    await scene.reached(guarantee, second, OrderState.REQUESTED, every=5)
    mint_answers.set()
    await scene.reached(guarantee, slow, OrderState.AWAITING_REFUND)
    assert not await were_sent(scene, slow)
    await second.offer()
    await second.token()
    await second.deliver("done")
    assert await asyncio.wait_for(guarantee.result(), 20) == "done"


async def test_a_restart_after_the_deadline_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Market(clock=ManualClock()) as market:
        actor, post = Actor(market), await market.post("customer", sat=100)

        async def never(_self: Purchases, _op_id: str) -> Any:
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(Purchases, "settle", never)
            async with open_customer(market.settings("customer"), post) as customer:
                scene = Scene(market, customer)
                guarantee = await scene.hire()
                await actor.offer(seconds=7200)
                await scene.reached(guarantee, actor, OrderState.PAYING)
        assert isinstance(market.clock, ManualClock)
        await market.clock.advance(1000)
        async with open_customer(market.settings("customer"), post) as customer:
            scene = Scene(market, customer)
            (row,) = await orders_of(post.db, guarantee.id)
            await reached(scene, row.id, OrderState.AWAITING_REFUND)
            assert not await were_sent(scene, actor)


async def test_a_paid_job_that_failed_buys_nothing_more() -> None:
    """Its customer's money cannot go back yet, as a purchase holds it; the next purchase is not paid with it."""
    async with Market(clock=ManualClock()) as market:
        agent, first, second = Agent("Writer"), Actor(market), Actor(market, price_sat=PRICE + 1)
        fail, buying = asyncio.Event(), set[asyncio.Task[str]]()

        @agent.serves(kind=5050, price_sat=60)
        async def write(job: Job) -> str:
            for seller in (first, second):
                buys = job.ask(seller.key.public_key, job.text, kind=5001, max_sat=25, others=False)
                buying.add(asyncio.ensure_future(buys))
            await fail.wait()
            raise JobFailed("no idea")

        provider = await market.open(agent, name="writer", sat=0, allowance=Allowance(50, 80))
        customer = await market.customer(sat=100)
        await customer.ask(provider.public_key, "hello", kind=5050, max_sat=60)
        await first.offer()
        await first.token()
        await second.request()
        fail.set()
        async with asyncio.timeout(20):
            while not second.taken_back():
                await asyncio.sleep(0.005)
        await second.offer()
        await provider._post.outbox.flush(5)
        rows = await provider._post.db.all(
            "SELECT state FROM orders WHERE provider = ?", second.key.public_key
        )
        assert [row["state"] for row in rows] == ["cancelled"]
        await asyncio.gather(*buying, return_exceptions=True)


async def test_an_agent_that_is_named_is_held_to_its_price_while_there_are_others(scene: Scene) -> None:
    dear = Actor(scene.market)
    await open_shop(scene.market)
    guarantee = await scene.customer.hire(
        dear.key.public_key, "hello", kind=5001, max_sat=50, seconds_max=120
    )
    await dear.offer(50)
    await scene.reached(guarantee, dear, OrderState.FAILED)
    assert await scene.result(guarantee) == "HELLO"


async def test_what_a_free_agent_asks_of_strangers_is_within_the_bid(scene: Scene) -> None:
    for number in range(2):
        agent = Agent(f"Shop {number}")

        @agent.serves(kind=5001)
        async def shout(job: Job) -> str:
            return job.text.upper()

        provider = await scene.market.open(
            agent, name=f"shop{number}", limits=ProviderLimits(stranger_sat_min=1)
        )
        await provider._post.outbox.flush(5)
        async with asyncio.timeout(60):
            while not any(
                e.kind == 11998 and e.pubkey == provider.public_key for e in scene.market.relay.events
            ):
                await asyncio.sleep(0.005)
    guarantee = await scene.hire(max_sat=5)
    assert await asyncio.wait_for(guarantee.result(), 20) == "HELLO"
    (row,) = await scene.orders(guarantee)
    assert (row.max_sat, row.price_sat) == (1, 1)
