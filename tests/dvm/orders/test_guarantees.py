"""Work that is hired for: agents that are dead, silent, refusing, failing or late, and the next one that does it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from dvm import (
    Agent,
    BadRequest,
    Job,
    JobFailed,
    NoAgentFound,
    OrderFailed,
    OrderState,
    ProviderLimits,
)
from dvm.nip90 import Input, Status
from dvm.orders.asking import Wanted
from dvm.orders.guarantee_lifecycle import Attempt, GuaranteeState
from dvm.orders.hiring import Task, look_for
from dvm.orders.order import Guarantee
from dvm.queries_guarantees import attach_order, end_guarantee, orders_of
from store import Database
from tests.dvm.orders.actors import PRICE, Actor, Scene, open_shop
from tradepost.post import all_migrations
from tradepost.testing import ManualClock, Market
from wallet.terms import Method

if TYPE_CHECKING:
    from conftest import Trade


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with Market(clock=ManualClock()) as market:
        yield Scene(market, await market.customer(sat=100))


def asked(guarantee: Guarantee) -> list[str]:
    return [update.message for update in guarantee._updates if update.step == "asking"]


# -- who is asked next, and what is said


async def test_one_good_agent_is_all_it_takes(scene: Scene) -> None:
    await open_shop(scene.market)
    guarantee = await scene.hire()
    assert await scene.result(guarantee, orders=1) == "HELLO"
    (order,) = await scene.orders(guarantee)
    assert order.state is OrderState.DONE
    steps = [update.step for update in guarantee._updates]
    assert steps == ["asking", "offer", "paid", "working", "result"]
    assert scene.customer.open_guarantees() == []


async def test_a_dead_agent_is_left_after_a_while(scene: Scene) -> None:
    dead = Actor(scene.market)
    await open_shop(scene.market)
    guarantee = await scene.hire()
    assert await scene.result(guarantee) == "HELLO"
    first, second = sorted(await scene.orders(guarantee), key=lambda row: row.created_at)
    assert (first.provider, first.state) == (dead.key.public_key, OrderState.CANCELLED)
    assert 30 <= second.created_at - first.created_at < 60
    assert dead.taken_back()
    assert "no sign of life; asking npub1" in asked(guarantee)[1]


async def test_an_agent_that_refuses_is_followed_at_once(scene: Scene) -> None:
    rude = Actor(scene.market)
    await open_shop(scene.market)
    began_at = scene.clock.now()
    guarantee = await scene.hire()
    await rude.say(Status.ERROR, "not for you")
    assert await asyncio.wait_for(guarantee.result(), 10) == "HELLO"
    assert scene.clock.now() == began_at
    assert "not for you; asking npub1" in asked(guarantee)[1]


async def test_an_agent_that_wants_more_than_is_left_is_followed(scene: Scene) -> None:
    dear = Actor(scene.market)
    await open_shop(scene.market)
    guarantee = await scene.hire()
    await dear.offer(51)
    assert await asyncio.wait_for(guarantee.result(), 10) == "HELLO"


async def test_an_agent_that_fails_gives_the_money_back_first(scene: Scene) -> None:
    agent = Agent("Cheap")

    @agent.serves(kind=5001, price_sat=20)
    async def fail(job: Job) -> str:
        raise JobFailed("out of ideas")

    cheap = await scene.market.open(agent, name="cheap")
    await cheap._post.outbox.flush(5)
    await open_shop(scene.market)
    guarantee = await scene.hire(max_sat=30)  # not enough for both at once
    assert await asyncio.wait_for(guarantee.result(), 10) == "HELLO"
    assert "20 sat taken back; asking npub1" in asked(guarantee)[1]
    by_state = {row.state: row for row in await scene.orders(guarantee)}
    assert by_state.keys() == {OrderState.REFUNDED, OrderState.DONE}
    assert 100 - 22 - 8 <= await scene.sats() <= 100 - 22


async def test_silence_after_payment_takes_the_money_back_before_anybody_else_is_asked(scene: Scene) -> None:
    thief = Actor(scene.market)
    await open_shop(scene.market)
    guarantee = await scene.hire(max_sat=30)
    await thief.offer()
    await scene.reached(guarantee, thief, OrderState.PAID)
    await scene.reached(guarantee, thief, OrderState.AWAITING_REFUND, every=1)
    await scene.customer._post.outbox.flush(5)
    assert thief.taken_back()
    for _ in range(10):
        await scene.clock.advance(1)
        assert len(await scene.orders(guarantee)) == 1  # 9 sat are left, and the agent asks 22
    honest = await scene.market.post("honest", sat=100)
    await thief.send_back(await honest.wallet.send(scene.market.mint.url, PRICE))
    assert await asyncio.wait_for(guarantee.result(), 20) == "HELLO"
    assert "no sign of life, 21 sat taken back; asking npub1" in asked(guarantee)[1]


async def test_what_stays_locked_counts_against_the_budget(scene: Scene) -> None:
    thief = Actor(scene.market)
    await open_shop(scene.market)
    guarantee = await scene.hire(max_sat=42)
    await thief.offer()
    await scene.reached(guarantee, thief, OrderState.PAID)
    with pytest.raises(OrderFailed, match="21 sat are still locked") as error:
        await scene.result(guarantee)
    assert error.value.action == "retry_after"
    assert len(await scene.orders(guarantee)) == 1  # 21 sat were left
    assert await scene.sats() >= 100 - 21 - 2


async def test_with_enough_left_the_next_is_asked_while_the_money_is_locked(scene: Scene) -> None:
    thief = Actor(scene.market)
    await open_shop(scene.market)
    guarantee = await scene.hire(max_sat=45)  # of which 2 are the mint's
    await thief.offer()
    await thief.token()
    assert await scene.result(guarantee) == "HELLO"
    assert "21 sat still locked; asking npub1" in asked(guarantee)[1]
    states = {row.provider: row for row in await scene.orders(guarantee)}
    assert sum(row.price_sat for row in states.values()) == 43
    await scene.clock.advance(3700)
    await scene.reached(guarantee, thief, OrderState.REFUNDED, every=20)
    assert 100 - 22 - 8 <= await scene.sats() <= 100 - 22
    assert (await scene.customer._post.wallet.audit(ask_mints=True)).ok


async def test_an_agent_that_works_has_half_of_the_time(scene: Scene) -> None:
    slow = Actor(scene.market)
    await open_shop(scene.market)
    guarantee = await scene.hire(max_sat=60)
    await slow.offer()
    await scene.reached(guarantee, slow, OrderState.PAID)
    await slow.say(Status.PROCESSING)
    async with asyncio.timeout(5):
        while (row := await scene.order(guarantee, slow)) is None or row.heard_in != "paid":
            await asyncio.sleep(0.005)
    began_at = scene.clock.now()
    assert await scene.result(guarantee) == "HELLO"
    assert scene.clock.now() - began_at >= 60
    assert not slow.taken_back()  # it may still deliver, and keeps the money for that


async def test_a_late_result_is_good_as_long_as_it_is_paid_for(scene: Scene) -> None:
    late, dead = Actor(scene.market), Actor(scene.market, price_sat=PRICE + 1)
    guarantee = await scene.hire(max_sat=60)
    await late.offer()
    await late.token()
    await scene.reached(guarantee, late, OrderState.AWAITING_REFUND, every=1)
    await scene.reached(guarantee, dead, OrderState.REQUESTED, every=1)
    await late.deliver("sorry, the queue")
    assert await asyncio.wait_for(guarantee.result(), 10) == "sorry, the queue"
    await scene.reached(guarantee, dead, OrderState.CANCELLED)  # so it is never paid


async def test_a_result_after_the_refund_is_not_paid(scene: Scene) -> None:
    late = Actor(scene.market)
    guarantee = await scene.hire(max_sat=60)
    await late.offer()
    token = await late.token()
    post = await scene.market.post("late")
    await post.wallet.receive(token, [late.lock])
    await late.say(Status.ERROR, "I gave up")
    await late.send_back(await post.wallet.send(scene.market.mint.url, PRICE - 1))
    with pytest.raises(OrderFailed, match="came back"):
        await asyncio.wait_for(guarantee.result(), 10)
    before = await scene.sats()
    await late.deliver("here after all")
    order = await scene.order(guarantee, late)
    assert order is not None
    assert order.state is OrderState.REFUNDED
    assert await scene.sats() == before


async def test_the_only_agent_is_not_left_for_nobody(scene: Scene) -> None:
    slow = Actor(scene.market)
    guarantee = await scene.hire()
    await slow.request()
    for _ in range(100):
        await scene.clock.advance(1)
    assert not slow.taken_back()
    await slow.deliver("at last")
    assert await asyncio.wait_for(guarantee.result(), 10) == "at last"


async def test_a_named_agent_is_the_only_one_unless_others_will_do(scene: Scene) -> None:
    rude = Actor(scene.market)
    await open_shop(scene.market)
    key = rude.key.public_key
    alone = await scene.customer.hire(key, "hello", kind=5001, max_sat=50, seconds_max=120, others=False)
    await rude.say(Status.ERROR, "no")
    with pytest.raises(OrderFailed, match="no; nothing was paid"):
        await asyncio.wait_for(alone.result(), 10)
    guarantee = await scene.customer.hire(key, "hello", kind=5001, max_sat=50, seconds_max=120)
    assert await scene.result(guarantee) == "HELLO"
    assert len(await scene.orders(guarantee)) == 2


async def test_who_did_not_deliver_is_asked_last_the_next_time(scene: Scene) -> None:
    Actor(scene.market)
    await open_shop(scene.market)
    assert await scene.result(await scene.hire()) == "HELLO"
    again = await scene.hire()
    assert await asyncio.wait_for(again.result(), 10) == "HELLO"
    assert len(await scene.orders(again)) == 1


async def test_nobody_to_ask_leaves_nothing_behind(scene: Scene) -> None:
    with pytest.raises(NoAgentFound, match=r"none is announced.*tradepost find"):
        await scene.hire()
    Actor(scene.market, price_sat=70)
    with pytest.raises(NoAgentFound, match=r"all ask more than 50 sat \(--max-sat"):
        await scene.hire()
    rows = await scene.customer._post.db.all("SELECT id FROM guarantees")
    assert rows == []


async def test_nobody_delivers_and_it_is_said_who_was_asked(scene: Scene) -> None:
    actors = [Actor(scene.market, price_sat=n) for n in (1, 2)]
    guarantee = await scene.hire(seconds=60)
    with pytest.raises(OrderFailed, match=r"no result from 2 agent.*nothing was paid"):
        await scene.result(guarantee, orders=3)
    for actor in actors:
        row = await scene.order(guarantee, actor)
        assert row is not None
        assert row.state in (OrderState.CANCELLED, OrderState.EXPIRED)


async def test_too_many_agents_are_not_asked(scene: Scene) -> None:
    actors = [Actor(scene.market, price_sat=n) for n in range(1, 11)]
    guarantee = await scene.hire()
    for actor in actors[:8]:
        await actor.say(Status.ERROR, "no")
    with pytest.raises(OrderFailed, match="8 agent"):
        await asyncio.wait_for(guarantee.result(), 10)


async def test_taking_the_order_back_ends_it_for_all(scene: Scene) -> None:
    first = Actor(scene.market)
    await open_shop(scene.market)
    guarantee = await scene.hire()
    await scene.reached(guarantee, first, OrderState.REQUESTED)
    await scene.customer.cancel((await scene.orders(guarantee))[0].id)
    with pytest.raises(OrderFailed, match="cancelled; nothing was paid"):
        await asyncio.wait_for(guarantee.result(), 10)
    assert len(await scene.orders(guarantee)) == 1
    with pytest.raises(BadRequest):
        await scene.customer.cancel((await scene.orders(guarantee))[0].id)


async def test_from_an_escrow_the_money_is_back_before_the_next_is_asked(trade: "Trade") -> None:
    good = Agent("Good")

    @good.serves(kind=5050, price_sat=PRICE)
    async def do(job: Job) -> str:
        return job.text.upper()

    limits = ProviderLimits(arbiters=(trade.arbiter.public_key,))
    second = await trade.market.open(good, name="good", limits=limits)
    await second._post.outbox.flush(5)
    guarantee = await trade.customer.hire(
        trade.provider.public_key, "hello", kind=5050, max_sat=30, seconds_max=600, settle=(Method.ESCROW,),
        arbiters=[trade.arbiter.public_key],
    )  # fmt: skip
    assert await Scene(trade.market, trade.customer).result(guarantee) == "HELLO"
    assert "cannot do hello" in asked(guarantee)[1]
    assert "21 sat taken back; asking npub1" in asked(guarantee)[1]
    rows = await orders_of(trade.customer._post.db, guarantee.id)
    assert {row.provider: row.state for row in rows} == {
        trade.provider.public_key: OrderState.REFUNDED,
        second.public_key: OrderState.DONE,
    }
    assert (await trade.customer._post.wallet.audit(ask_mints=True)).ok


# -- what is on disk


def test_what_is_wanted_can_be_read_again() -> None:
    wanted = Wanted(
        target="summarisation", text=[Input("ab" * 32, "job", relay="wss://relay.test"), Input("text")], kind=5001,
        max_sat=50, params={"language": "de", "size": ("1", "2")}, private=True, seconds_max=60,
        arbiters=("cd" * 32,), settle=(Method.ESCROW, Method.PREPAID), review=True,
    )  # fmt: skip
    task = Task(wanted=wanted, others=False, avoid=("ef" * 32,))
    read = msgspec.json.decode(msgspec.json.encode(task), type=Task)
    assert msgspec.json.encode(read) == msgspec.json.encode(task)
    assert read.wanted.text == wanted.text
    assert read.wanted.settle[0] is Method.ESCROW


async def test_the_same_name_is_the_same_work(scene: Scene) -> None:
    await open_shop(scene.market)
    first, again = [await scene.hire(name="chapter 1") for _ in range(2)]
    assert first is again
    assert await scene.result(first, orders=1) == "HELLO"
    later = await scene.hire(name="chapter 1")
    assert await asyncio.wait_for(later.result(), 10) == "HELLO"
    assert len(await scene.orders(first)) == 1
    assert await scene.sats() >= 100 - 21 - 3


async def test_that_no_relay_answers_does_not_mean_that_nobody_is_there(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    rude = Actor(scene.market)
    guarantee = await scene.hire()
    await open_shop(scene.market)
    await scene.clock.advance(29)
    outages: list[Exception] = []

    async def look_during_an_outage(*about: Any) -> Any:
        scene.market.relay.switches.down = not outages
        if not outages:
            scene.market.relay.drop_connections()
        try:
            return await look_for(*about)
        except NoAgentFound as error:
            outages.append(error)
            raise
        finally:
            scene.market.relay.switches.down = False

    monkeypatch.setattr("dvm.orders.guarantees.look_for", look_during_an_outage)
    await rude.say(Status.PROCESSING)
    await scene.clock.advance(2)  # what was known of agents is old now
    await rude.say(Status.ERROR, "no")
    assert await scene.result(guarantee) == "HELLO"
    assert "can be reached" in str(outages[0])


@pytest.mark.parametrize(("paid_sat", "back_sat"), [(0, 0), (23, 0), (23, 19)])
@pytest.mark.parametrize("state", OrderState)
async def test_the_transaction_of_an_order_keeps_the_budget(
    state: OrderState, paid_sat: int, back_sat: int, tmp_path: Path
) -> None:
    """With 50 sat, one order of 21 in every state, and one more that may just cost what is left, or a sat more."""
    attempt = Attempt("o", state, 50, 21, False, 0, 0, paid_sat, back_sat)
    is_busy = state in (OrderState.REQUESTED, OrderState.PAYING, OrderState.PAID, OrderState.DONE)
    columns = (
        "id, customer, provider, kind, max_sat, lock_nonce, request, deadline_at, created_at, updated_at"
    )
    async with await Database.open(tmp_path / "db", all_migrations()) as db:
        async with db.transaction() as tx:
            await tx.execute(
                "INSERT INTO guarantees (id, customer, state, task, private, max_sat, deadline_at, created_at, updated_at)"
                " VALUES ('g', 'c', 'open', '', 0, 50, 0, 0, 0)"
            )
            await tx.execute(
                f"INSERT INTO orders ({columns}, state, price_sat, guarantee_id, paid_sat, returned_sat)"
                " VALUES ('o', 'c', 'p', 5001, 50, '', '', 0, 0, 0, ?, 21, 'g', ?, ?)",
                state, paid_sat, back_sat,
            )  # fmt: skip
        for sat in (27, 28, 29, 30, 46, 47, 50, 51):
            async with db.transaction() as tx:
                await tx.execute(
                    f"INSERT INTO orders ({columns}, state) VALUES (?, 'c', 'q', 5001, ?, '', '', 0, 0, 0, 'requested')",
                    f"o{sat}", sat,
                )  # fmt: skip
                fits = await attach_order(tx, "g", f"o{sat}", -1)
                await tx.execute("DELETE FROM orders WHERE id = ?", f"o{sat}")
            assert fits is (not is_busy and attempt.outlay_sat + sat <= 50), (state, sat)
        async with db.transaction() as tx:
            assert await end_guarantee(tx, "g", GuaranteeState.FAILED, now=0)
            assert not await end_guarantee(tx, "g", GuaranteeState.DONE, now=0)
            assert not await attach_order(tx, "g", "o", -1)


async def test_an_agent_that_begins_while_we_look_for_another_is_not_left(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Actor(scene.market)
    await open_shop(scene.market)
    guarantee = await scene.hire(max_sat=60)
    await slow.request()
    begun, looked = asyncio.Event(), asyncio.Event()

    async def look(*about: Any) -> Any:
        if not begun.is_set():
            begun.set()
            await slow.offer()
            await scene.reached(guarantee, slow, OrderState.PAID)
            looked.set()
        return await look_for(*about)

    monkeypatch.setattr("dvm.orders.guarantees.look_for", look)
    while not begun.is_set():
        await scene.clock.advance(1)
        await asyncio.sleep(0.005)
    await asyncio.wait_for(looked.wait(), 10)
    await slow.deliver("the work")
    assert await scene.result(guarantee) == "the work"
    assert len(await scene.orders(guarantee)) == 1


async def test_a_result_that_came_after_the_end_and_was_paid_is_handed_out(scene: Scene) -> None:
    late = Actor(scene.market)
    guarantee = await scene.hire(max_sat=50, seconds=60, name="chapter")
    await late.offer()
    await late.token()
    with pytest.raises(OrderFailed):
        await scene.result(guarantee)
    await late.deliver("late")
    await scene.reached(guarantee, late, OrderState.DONE)
    again = await scene.hire(name="chapter")
    async with asyncio.timeout(10):
        assert await again.result() == "late"
