"""Handlers that fail, and handlers that wait for somebody: the event comes again, and holds nobody up meanwhile."""

import asyncio
import time

from relay_bridge import Delivery, Filter, Inbox, InboxLimits, NotNow, RelayPool, queries
from tests.relay_bridge.test_inbox import _pass_until, states
from tradepost.testing.clock import ManualClock
from tradepost.testing.relay import MemoryRelay

URL = "ws://relay.test"
KIND = Filter(kinds=(5001,))


async def test_a_failing_handler_is_tried_again_a_bounded_number_of_times(db, make, eventually):
    clock = ManualClock(int(time.time()))
    relay = MemoryRelay(clock=clock)
    attempts: list[int] = []

    async def fail(delivery: Delivery) -> None:
        attempts.append(clock.now())
        raise RuntimeError("still broken")

    async with (
        RelayPool([URL], clock=clock, connect=relay.connect) as pool,
        Inbox(db, pool, clock, InboxLimits(attempts_max=3)) as inbox,
    ):
        following = await inbox.follow("jobs", [KIND], fail, margin_seconds=60)
        await following.caught_up()
        relay.insert(make(at=clock.now()))
        await eventually(lambda: len(attempts) == 1)
        for number in (2, 3):
            await _pass_until(clock, lambda number=number: len(attempts) == number)
        for _ in range(200):
            await clock.advance(60)
        assert len(attempts) == 3
        assert attempts[2] - attempts[1] > attempts[1] - attempts[0]
        assert await states(db) == ["open"]
        await following.close()
        await inbox.follow("jobs", [KIND], fail, margin_seconds=60)  # a new start: again
        await eventually(lambda: len(attempts) == 4)


async def test_what_waits_for_somebody_comes_until_it_is_done_and_holds_no_handler(db, make, eventually):
    clock = ManualClock(int(time.time()))
    relay = MemoryRelay(clock=clock)
    mint_is_back, calls, done = False, dict[str, list[int]](), list[str]()

    async def handle(delivery: Delivery) -> None:
        calls.setdefault(delivery.event.content, []).append(clock.now())
        if delivery.event.content.startswith("paid") and not mint_is_back:
            raise NotNow("the mint does not answer")
        done.append(delivery.event.content)

    limits = InboxLimits(handlers_max=2, attempts_max=3)
    async with (
        RelayPool([URL], clock=clock, connect=relay.connect) as pool,
        Inbox(db, pool, clock, limits) as inbox,
    ):
        following = await inbox.follow("jobs", [KIND], handle, margin_seconds=60)
        await following.caught_up()
        waiting = [f"paid {number}" for number in range(5)]
        for content in waiting:
            relay.insert(make(content=content, at=clock.now()))
        await _pass_until(clock, lambda: len(calls) == 5)
        relay.insert(make(content="free", at=clock.now()))
        async with asyncio.timeout(60):  # without a second passing
            while done != ["free"]:
                await asyncio.sleep(0.001)
        async with asyncio.timeout(60):
            while any(len(calls[content]) <= 20 for content in waiting):
                await clock.advance(15)
                await asyncio.sleep(0.001)
                await eventually(lambda: following.is_idle)  # no time passes while what is due is handled
        for content in waiting:
            gaps = [after - before for before, after in zip(calls[content], calls[content][1:], strict=False)]
            assert max(gaps) <= 70  # a minute, and what the test's steps add
            assert gaps[-1] > gaps[0]
        async with asyncio.timeout(60):
            while sorted(await states(db)) != ["done"] + ["open"] * 5:
                await asyncio.sleep(0.001)
        mint_is_back = True
        await _pass_until(clock, lambda: sorted(done) == ["free", *waiting], 2)


async def test_what_was_put_off_does_not_hold_up_what_is_new(db, make):
    late, later, new = (make(kind=5001, at=at) for at in (100, 101, 300))
    async with db.transaction() as tx:
        for event in (late, later, new):
            await queries.keep_event(tx, "jobs", URL, event, event.created_at)
        await queries.put_off(tx, "jobs", late, attempts=1, due_at=299)
        await queries.put_off(tx, "jobs", later, attempts=1, due_at=200)
    found = await queries.due_deliveries(db, "jobs", 10, 300)
    assert [row.event for row in found] == [new, later, late]
