"""Relays of others, whom strangers name: however many, and however they hang, the others get their turn."""

import asyncio
import time

import pytest
import structlog

from relay_bridge import Outbox, RelayPool, visits
from relay_bridge.errors import ConnectionLost
from relay_bridge.transport import Socket
from tests.relay_bridge.test_outbox import _pass_until, add, becomes, state
from tradepost.testing.clock import ManualClock
from tradepost.testing.relay import MemoryRelay

OURS, HONEST = "ws://ours.test", "ws://honest.test"


class Net:
    """Our relay, good ones of others, and bad ones of others that hang in one way or another."""

    def __init__(self, clock: ManualClock, *, shakes_hands: bool) -> None:
        self.ours, self.honest, self.silent = (MemoryRelay(clock=clock) for _ in range(3))
        self.silent.switches.without_ok = True
        self.shakes_hands = shakes_hands
        self.asked: list[str] = []

    async def connect(self, url: str) -> Socket:
        if url == OURS:
            return await self.ours.connect(url)
        self.asked.append(url)
        if "bad" not in url:
            return await self.honest.connect(url)
        if not self.shakes_hands:
            await asyncio.Event().wait()
        return await self.silent.connect(url)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(int(time.time()))


@pytest.fixture(params=[True, False], ids=["says nothing", "never shakes hands"])
def net(clock, request) -> Net:
    return Net(clock, shakes_hands=request.param)


@pytest.fixture
async def pool(net, clock):
    async with RelayPool([OURS], clock=clock, connect=net.connect) as pool:
        yield pool


def bad(number: int) -> list[str]:
    return [f"ws://bad{number}-{part}.test" for part in range(4)]


async def test_an_honest_relay_is_not_kept_waiting_for_those_that_hang(db, clock, net, pool, outbox, make):
    events = [make(at=clock.now()) for _ in range(50)]
    for number, event in enumerate(events):
        await add(db, outbox, event, bad(number))
    answer = make(at=clock.now())
    await add(db, outbox, answer, [HONEST])
    async with asyncio.timeout(5):
        while len(net.ours.events) <= len(events):  # not a second passes for ours
            await asyncio.sleep(0.001)
    began = clock.now()
    await _pass_until(clock, lambda: net.honest.events == [answer], 1)
    assert clock.now() - began < 120  # 200 relays wait before it, 32 at a time, ten seconds each
    assert len(set(net.asked)) <= 201
    # Who hangs rests ever longer: somebody new gets a place at once, or in some seconds.
    await _pass_until(clock, lambda: clock.now() - began > 900, 5)
    for _ in range(3):
        began, answer = clock.now(), make(at=clock.now())
        await add(db, outbox, answer, [HONEST.replace("honest", "new")])
        await _pass_until(clock, lambda answer=answer: answer in net.honest.events, 0.25)
        assert clock.now() - began <= 15
    assert len(outbox._visits.workers) <= 32
    assert len(asyncio.all_tasks()) < 400


async def test_what_was_to_go_there_is_dropped_when_its_time_is_over(db, clock, net, outbox, make):
    event, late = make(at=clock.now()), make(at=clock.now())
    with structlog.testing.capture_logs() as logs:
        await add(db, outbox, event, bad(0))
        for _ in range(20):
            await add(db, outbox, make(at=clock.now()), bad(0), until=clock.now() + 7200)
        async with asyncio.timeout(20):
            while await state(db, event) != "sent":
                await clock.advance(20)
                await asyncio.sleep(0.001)
                if late is not None and clock.now() > event.created_at + 3600:
                    await add(db, outbox, late, bad(0)[:1], own=False)
                    late = None
    assert 2 * 3600 < clock.now() - event.created_at < 3 * 3600
    assert {log["event"] for log in logs if log["log_level"] != "info"} <= {"outbox_refused"}
    assert len([log for log in logs if log["event"].startswith("outbox")]) < 4 * 30


async def test_more_relays_than_are_remembered_get_their_turn_from_the_table(
    db, clock, net, outbox, make, monkeypatch
):
    monkeypatch.setattr(visits, "_WAITING_MAX", 40)
    for number in range(30):
        await add(db, outbox, make(at=clock.now()), bad(number))
    answer = make(at=clock.now())
    await add(db, outbox, answer, [HONEST])
    assert len(outbox._visits._due) <= 40
    net.shakes_hands = True
    net.silent.switches.without_ok = False  # they all answer now
    await _pass_until(clock, lambda: net.honest.events == [answer], 1)


async def test_who_answered_before_comes_first(db, clock, net, outbox, make):
    await add(db, outbox, make(at=clock.now()), [HONEST])
    await _pass_until(clock, lambda: len(net.honest.events) == 1)
    await clock.advance(5)
    for number in range(50):
        await add(db, outbox, make(at=clock.now()), bad(number))
    answer, began = make(at=clock.now()), clock.now()
    await add(db, outbox, answer, [HONEST])
    await _pass_until(clock, lambda: answer in net.honest.events, 0.25)
    assert clock.now() - began <= 15


async def test_those_that_always_have_something_and_are_slow_give_up_their_places_in_turn(db, make):
    clock = ManualClock(int(time.time()))
    honest, slow = MemoryRelay(clock=clock), MemoryRelay(clock=clock)
    answer_at_once, late = slow.receive, set[asyncio.Task[None]]()

    async def answer(connection, frame: str) -> None:
        await clock.sleep(9)
        answer_at_once(connection, frame)

    def receive(connection, frame: str) -> None:
        late.add(task := asyncio.create_task(answer(connection, frame)))
        task.add_done_callback(late.discard)

    slow.receive = receive

    async def connect(url: str) -> Socket:
        return await (honest if url == HONEST else slow).connect(url)

    async with RelayPool([], clock=clock, connect=connect) as pool, Outbox(db, pool, clock) as outbox:
        began, waiting = clock.now(), None
        while waiting is None or waiting not in honest.events:
            seconds = clock.now() - began
            assert seconds < 120
            if seconds % 8 == 0:  # before those before it were answered
                for number in range(8):
                    await add(db, outbox, make(at=clock.now()), bad(number))
            if seconds == 40:  # they answered before, and so come first
                await add(db, outbox, waiting := make(at=clock.now()), [HONEST])
            await clock.advance(1)
            await asyncio.sleep(0.005)
        assert clock.now() - began <= 60
        assert slow.events  # what is slow gets its events all the same
        for task in late:
            task.cancel()


async def test_a_relay_that_leaves_one_event_unanswered_gets_the_others(db, make):
    clock = ManualClock(int(time.time()))
    relay = MemoryRelay(clock=clock)
    poison = make(at=clock.now())
    push, relay_publish = relay.receive, []

    def receive(connection, frame: str) -> None:
        relay_publish.append(frame)
        if poison.id not in frame:
            push(connection, frame)

    relay.receive = receive

    async def connect(url: str) -> Socket:
        if url == HONEST:
            return await relay.connect(url)
        raise ConnectionLost("no")

    async with RelayPool([], clock=clock, connect=connect) as pool, Outbox(db, pool, clock) as outbox:
        await add(db, outbox, poison, [HONEST])
        others = [make(at=clock.now()) for _ in range(3)]
        for event in others:
            await add(db, outbox, event, [HONEST])
            await becomes(db, event, "sent")
            await clock.advance(4)
        assert await state(db, poison) == "open"
        assert relay.connections_made == 1  # it was no reason to leave
