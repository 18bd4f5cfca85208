"""Agents that try to have more of a customer's budget, time or memory than they earn."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from dvm import Agent, Allowance, Job, OrderState
from dvm.nip90 import Status, hint_in, make_feedback
from dvm.orders.guarantee_lifecycle import LOOK_AGAIN_SECONDS
from dvm.queries import OrderRow
from identity import LocalSigner, SecretKey, make_template, sign_event
from identity.nip19 import encode_nprofile
from tests.dvm.conftest import Stranger, eventually
from tests.dvm.orders.actors import PRICE, Actor, Scene, open_shop
from tradepost.api import open_customer
from tradepost.relays import change_relays
from tradepost.testing import ManualClock, Market, MemoryRelay
from tradepost.testing.market import RELAY

OTHER_RELAY = "ws://other.test"


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with Market(clock=ManualClock()) as market:
        yield Scene(market, await market.customer(sat=100))


async def _alone(scene: Scene, actor: Actor, text: str, max_sat: int) -> Any:
    return await scene.customer.hire(
        actor.key.public_key, text, kind=5001, max_sat=max_sat, seconds_max=600, others=False
    )


# -- money


async def test_who_announces_little_and_asks_for_all_is_left_while_there_are_others(scene: Scene) -> None:
    cheat = Actor(scene.market, price_sat=1)
    await open_shop(scene.market)
    guarantee = await scene.hire(max_sat=60)
    assert (await cheat.request()).tag("bid") == "1000"
    await cheat.offer(60)
    assert await scene.result(guarantee) == "HELLO"
    row = await scene.order(guarantee, cheat)
    assert row is not None
    assert (row.state, row.reason) == (OrderState.FAILED, "the agent asks 60 sat, your limit is 1 sat")


async def test_the_only_agent_may_ask_more_than_it_announced(scene: Scene) -> None:
    actor = Actor(scene.market, price_sat=1)
    guarantee = await scene.hire(max_sat=60)
    await actor.offer(60)
    await actor.token()
    await actor.deliver("done")
    assert await scene.result(guarantee) == "done"


async def test_an_offer_that_freezes_the_budget_for_days_is_not_taken(scene: Scene) -> None:
    cheat = Actor(scene.market)
    await open_shop(scene.market)
    guarantee = await scene.hire(max_sat=60)
    await cheat.offer(seconds=86_400)
    assert await scene.result(guarantee) == "HELLO"
    row = await scene.order(guarantee, cheat)
    assert row is not None
    assert "too long" in row.reason


async def test_coins_that_were_locked_too_late_are_not_sent(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    late, second = Actor(scene.market), Actor(scene.market, price_sat=PRICE + 1)
    guarantee = await scene.hire(max_sat=60)
    await late.offer()
    await late.token()
    await scene.reached(guarantee, late, OrderState.AWAITING_REFUND, every=1)
    await scene.reached(guarantee, second, OrderState.REQUESTED, every=1)
    settle, mint_answers = scene.customer._purchases.settle, asyncio.Event()

    async def slowly(op_id: str) -> Any:
        await mint_answers.wait()
        return await settle(op_id)

    monkeypatch.setattr(scene.customer._purchases, "settle", slowly)
    await second.offer()
    await scene.reached(guarantee, second, OrderState.PAYING)
    await late.deliver("late")
    assert await asyncio.wait_for(guarantee.result(), 5) == "late"
    mint_answers.set()
    await scene.reached(guarantee, second, OrderState.AWAITING_REFUND)
    await scene.customer._post.outbox.flush(5)
    wraps = [event for event in scene.market.relay.published if event.kind == 1059]
    assert second.key.public_key not in {event.tag("p") for event in wraps}
    await scene.clock.advance(3700)
    await scene.reached(guarantee, second, OrderState.REFUNDED, every=20)
    assert (await scene.customer._post.wallet.audit(ask_mints=True)).ok


async def test_small_refunds_do_not_prolong_the_wait_for_the_whole(scene: Scene) -> None:
    thief = Actor(scene.market)
    await open_shop(scene.market)
    guarantee = await scene.hire(max_sat=60, seconds=300)
    await thief.offer()
    await thief.token()
    await scene.reached(guarantee, thief, OrderState.AWAITING_REFUND, every=1)
    began_at, purse = scene.clock.now(), await scene.market.post("thief", sat=100)
    while len(await scene.orders(guarantee)) == 1:
        assert scene.clock.now() - began_at < 40
        before = await scene.sats()
        await thief.send_back(await purse.wallet.send(scene.market.mint.url, 2))
        async with asyncio.timeout(10):
            while await scene.sats() == before and len(await scene.orders(guarantee)) == 1:
                await asyncio.sleep(0.005)
        await scene.clock.advance(12)
    assert await scene.result(guarantee) == "HELLO"


@pytest.mark.parametrize(("back_sat", "is_refund"), [(3, True), (2, False)])
async def test_of_a_small_price_a_part_is_no_refund(scene: Scene, back_sat: int, is_refund: bool) -> None:
    """Of 4 sat the mint takes one when the agent makes coins of them, and one when we swap those."""
    thief = Actor(scene.market, price_sat=4)
    guarantee = await scene.hire(max_sat=4)
    await thief.offer()
    await thief.token()
    await scene.reached(guarantee, thief, OrderState.PAID)
    await thief.say(Status.ERROR, "no")
    purse = await scene.market.post("thief", sat=100)
    with capture_logs() as logs:
        await thief.send_back(await purse.wallet.send(scene.market.mint.url, back_sat))
        if is_refund:
            await scene.reached(guarantee, thief, OrderState.REFUNDED)
        else:
            await eventually(lambda: any(log["event"] == "refund_no_good" for log in logs), "what it sent")
            await scene.reached(guarantee, thief, OrderState.AWAITING_REFUND)


async def test_a_job_that_was_taken_back_buys_nothing_more() -> None:
    async with Market(clock=ManualClock()) as market:
        agent, seller = Agent("Writer"), Actor(market)

        @agent.serves(kind=5050)
        async def write(job: Job) -> str:
            return await job.ask("5001", job.text, kind=5001, max_sat=30)

        provider = await market.open(agent, name="writer", sat=200, allowance=Allowance(40, 80))
        stranger = Stranger(market)
        request = stranger.request(kind=5050, text="hello")
        await seller.request()
        now = market.clock.now()
        deletion = make_template(5, tags=[("e", request.id), ("k", "5050")], created_at=now)
        market.relay.insert(sign_event(deletion, stranger.key))
        await stranger.answer(request, "error")
        await provider._post.outbox.flush(5)
        async with asyncio.timeout(5):
            while not seller.taken_back():
                await asyncio.sleep(0.005)
        await seller.offer(30)
        rows = await provider._post.db.all("SELECT state, reason, op_id FROM orders")
        assert [tuple(row) for row in rows] == [("cancelled", "the job that it was for is over", None)]
        guarantees = await provider._post.db.all("SELECT state FROM guarantees")
        assert [row["state"] for row in guarantees] == ["failed"]


# -- time, and who is meant


class _Two(MemoryRelay):
    """A relay, and another one at a second URL."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.other = MemoryRelay(clock=clock)

    async def connect(self, url: str) -> Any:
        return await (self.other.connect(url) if url == OTHER_RELAY else super().connect(url))


async def test_a_relay_that_is_away_for_a_moment_does_not_end_it() -> None:
    clock = ManualClock()
    market = Market(clock=clock)
    market.relay = _Two(clock)
    async with market:
        customer = await market.customer(sat=100)
        await change_relays(customer._post, [RELAY, OTHER_RELAY])
        scene = Scene(market, customer)
        rude = Actor(market)
        guarantee = await scene.hire(seconds=600)
        await rude.request()
        await clock.advance(LOOK_AGAIN_SECONDS)  # so that agents are looked for anew
        market.relay.switches.down = True
        market.relay.drop_connections()
        pool = customer._post.pool
        async with asyncio.timeout(5):
            while pool.health()[RELAY].connected:
                await asyncio.sleep(0.005)
        request, now = await rude.request(), clock.now()
        answer = make_feedback(request, Status.ERROR, now=now, message="no")
        market.relay.other.insert(sign_event(answer, rude.key))  # the relay that is there knows no agent
        await scene.reached(guarantee, rude, OrderState.FAILED)
        await clock.advance(LOOK_AGAIN_SECONDS + 1)
        assert not guarantee.ended
        market.relay.switches.down = False
        await open_shop(market)
        assert await scene.result(guarantee) == "HELLO"


async def test_a_name_is_one_customers_own() -> None:
    async with Market(clock=ManualClock()) as market:
        Actor(market)
        post, settings = await market.post("customer", sat=100), market.settings("customer")
        wish: dict[str, Any] = {"kind": 5001, "max_sat": 50, "seconds_max": 120, "name": "chapter 1"}
        async with (
            open_customer(settings, post) as first,
            open_customer(settings, post, LocalSigner(SecretKey.generate())) as second,
        ):
            one = await first.hire("5001", "secret", private=True, **wish)
            again = await first.hire("5001", "secret", private=True, **wish)
            other = await second.hire("5001", "mine", **wish)
            assert one.id == again.id != other.id


async def test_the_relays_in_an_nprofile_are_those_where_the_agent_is_asked(scene: Scene) -> None:
    actor = Actor(scene.market)
    target = encode_nprofile(actor.key.public_key, ["wss://where.it.reads"])
    guarantee = await scene.customer.hire(target, "y", kind=5001, max_sat=30, seconds_max=60)
    async with asyncio.timeout(5):
        while not (rows := await scene.orders(guarantee)):
            await asyncio.sleep(0.005)
    assert hint_in(rows[0].request) == ("wss://where.it.reads",)


# -- memory, and others' turns


async def test_one_offer_of_an_agent_is_looked_at_at_a_time(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheat, other = Actor(scene.market), Actor(scene.market)
    await _alone(scene, cheat, "a", 30)
    honest = await _alone(scene, other, "b", 30)
    plans, plan = list[str](), scene.customer._purchases.plan

    async def wait(row: OrderRow, *about: Any) -> Any:  # as while the mint is away
        plans.append(row.id)
        await asyncio.Event().wait()
        return await plan(row, *about)

    monkeypatch.setattr(scene.customer._purchases, "plan", wait)
    for _ in range(300):
        await cheat.offer()
        await scene.clock.advance(1)
    await other.say(Status.ERROR, "I refuse")
    await scene.reached(honest, other, OrderState.FAILED)
    assert len(plans) == 1


async def test_false_refunds_wait_without_holding_a_handler(scene: Scene) -> None:
    cheat = Actor(scene.market)
    await _alone(scene, cheat, "a", 30)
    purse = await scene.market.post("flood", sat=60)
    coins = await purse.wallet.send(scene.market.mint.url, 1)
    await cheat.request()
    scene.market.mint.down = True
    for _ in range(300):
        proofs = tuple(replace(proof, secret=os.urandom(32).hex(), dleq=None) for proof in coins.proofs)
        await cheat.send_back(replace(coins, proofs=proofs))
    wraps = scene.customer._followings["wraps"]
    count = "SELECT COUNT(*) AS n FROM inbox WHERE state = 'open' AND due_at > 0"
    async with asyncio.timeout(20):
        while (await scene.customer._post.db.all(count))[0]["n"] < 300 or not wraps.is_idle:
            await asyncio.sleep(0.01)


async def test_of_all_that_an_agent_says_so_much_is_kept_and_the_result(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dvm.orders.order.CONTENT_CHARACTERS_MAX", 150)
    actor = Actor(scene.market)
    order = await scene.customer.ask(actor.key.public_key, "a", kind=5001)
    request = await actor.request()
    for number in range(3):
        now = scene.clock.now()
        actor._publish(make_feedback(request, Status.PARTIAL, now=now, message=str(number), content="x" * 60))
    async with asyncio.timeout(5):
        while order._characters < 180:
            await asyncio.sleep(0.005)
    await actor.deliver("done" * 50)
    assert await asyncio.wait_for(order.result(), 5) == "done" * 50
    assert [update.step for update in order._updates] == ["partial"] * 2 + ["result"]


async def test_an_end_that_could_not_be_told_is_told_later(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_shop(scene.market)
    text, fails = scene.customer._book.text, [1]

    async def once(row: Any) -> str | None:
        if fails:
            fails.pop()
            raise OSError("disk")
        return await text(row)

    monkeypatch.setattr(scene.customer._book, "text", once)
    guarantee = await scene.hire(name="n")
    async with asyncio.timeout(5):
        while fails:
            await asyncio.sleep(0.005)
    await scene.clock.advance(6)
    assert await asyncio.wait_for(guarantee.result(), 5) == "HELLO"
