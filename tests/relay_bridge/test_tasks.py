"""Background tasks, the dispatcher, time limits and back-off."""

import asyncio
from collections.abc import Sequence

import pytest

from relay_bridge.tasks import Dispatcher, Tasks
from relay_bridge.timing import Backoff, within
from tradepost.testing.clock import ManualClock


class Table:
    """Rows by key, each with the time when it is due."""

    def __init__(self, clock: ManualClock, rows: dict[str, int]) -> None:
        self.rows, self.clock, self.handled, self.loads = rows, clock, list[str](), 0
        self.before_answer: asyncio.Event | None = None

    async def load(self, rows_max: int, now: int) -> Sequence[str]:
        self.loads += 1
        found = [key for key, due in self.rows.items() if due <= now][:rows_max]
        if self.before_answer is not None:
            await self.before_answer.wait()
        return found

    async def next_due(self, now: int) -> int | None:
        return min((due for due in self.rows.values() if due > now), default=None)

    async def handle(self, key: str) -> None:
        await asyncio.sleep(0)
        self.handled.append(key)
        del self.rows[key]

    def dispatcher(self, parallel_max: int = 2) -> Dispatcher[str]:
        return Dispatcher(
            self.clock,
            parallel_max=parallel_max,
            load=self.load,
            next_due=self.next_due,
            key=str,
            handle=self.handle,
        )


async def test_every_row_is_handled_once_also_those_due_later():
    clock = ManualClock()
    table = Table(clock, {f"row {n}": 0 for n in range(20)} | {"later": clock.now() + 100})
    dispatcher, tasks = table.dispatcher(), Tasks()
    tasks.start(dispatcher.run(), "dispatcher")
    await asyncio.wait_for(dispatcher.idle.wait(), 5)
    assert table.handled == [f"row {n}" for n in range(20)]
    due_at = table.rows["later"]
    while table.rows:
        await clock.advance(1)
        assert clock.now() >= due_at or table.rows
        assert clock.now() < due_at + 200
        await asyncio.sleep(0.001)
    assert table.handled[20:] == ["later"]
    await tasks.close()


async def test_a_row_finished_while_the_table_is_read_is_not_handled_again(eventually):
    clock = ManualClock()
    table = Table(clock, {"slow": 0})
    gate, again = asyncio.Event(), asyncio.Event()

    async def handle(key: str) -> None:
        await gate.wait()
        table.handled.append(key)
        del table.rows[key]

    dispatcher = Dispatcher[str](
        clock, parallel_max=2, load=table.load, next_due=table.next_due, key=str, handle=handle
    )
    tasks = Tasks()
    tasks.start(dispatcher.run(), "dispatcher")
    await eventually(lambda: table.loads == 1)
    table.before_answer = again
    await asyncio.sleep(0)
    dispatcher.wake()
    await eventually(lambda: table.loads == 2)
    gate.set()  # finishes while the second look is under way, which has seen the row open
    await eventually(lambda: table.handled)
    again.set()
    await asyncio.wait_for(dispatcher.idle.wait(), 5)
    assert table.handled == ["slow"]
    await tasks.close()


async def test_a_row_put_off_is_found_again_however_many_new_ones_come():
    clock = ManualClock()
    table = Table(clock, {"put off": clock.now() + 10})
    dispatcher, tasks = table.dispatcher(), Tasks()
    tasks.start(dispatcher.run(), "dispatcher")
    await asyncio.wait_for(dispatcher.idle.wait(), 5)
    for number in range(1200):  # twelve seconds
        table.rows[f"row {number}"] = 0
        dispatcher.offer(f"row {number}")
        await clock.advance(0.01)
        while f"row {number}" in table.rows:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert "put off" in table.handled
    await tasks.close()


async def test_what_is_offered_after_the_end_stays_in_the_table():
    clock = ManualClock()
    table = Table(clock, {"first": 0})
    dispatcher, tasks = table.dispatcher(), Tasks()
    tasks.start(dispatcher.run(), "dispatcher")
    await asyncio.wait_for(dispatcher.idle.wait(), 5)
    await tasks.close()
    table.rows["late"] = 0
    dispatcher.offer("late")
    await asyncio.sleep(0.01)
    assert (table.handled, list(table.rows)) == (["first"], ["late"])


async def test_an_unreadable_table_is_read_again():
    clock = ManualClock()
    table = Table(clock, {"row": 0})
    good = table.load
    failures = iter([OSError("disk")])

    async def load(rows_max: int, now: int) -> Sequence[str]:
        for failure in failures:
            raise failure
        return await good(rows_max, now)

    table.load = load  # type: ignore[method-assign]
    tasks, dispatcher = Tasks(), table.dispatcher()
    tasks.start(dispatcher.run(), "dispatcher")
    async with asyncio.timeout(5):
        while not table.handled:
            await clock.advance(1)
    await tasks.close()


async def test_tasks_that_fail_are_survived_and_series_go_on():
    clock, tasks, runs = ManualClock(), Tasks(), list[int]()

    async def fail() -> None:
        runs.append(clock.now())
        raise RuntimeError("a bug")

    tasks.start(fail(), "once")
    tasks.every(clock, 10, fail, "series")
    await asyncio.sleep(0)
    for _ in range(3):
        await clock.advance(10)
        await asyncio.sleep(0)
    assert len(runs) == 5
    await tasks.close()


async def test_within_gives_the_result_the_error_or_a_timeout():
    clock = ManualClock()

    async def give(value: int) -> int:
        return value

    async def fail() -> None:
        raise KeyError("x")

    assert await within(clock, 1, give(7)) == 7
    with pytest.raises(KeyError):
        await within(clock, 1, fail())
    cancelled = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    waiting = asyncio.ensure_future(within(clock, 10, hang()))
    await asyncio.sleep(0)
    await clock.advance(9)
    assert not waiting.done()
    await clock.advance(2)
    with pytest.raises(TimeoutError):
        await waiting
    assert cancelled.is_set()


def test_backoff_starts_fast_stays_eager_for_ten_minutes_and_is_patient_then():
    backoff = Backoff()
    assert all(backoff.next() < 0.2 for _ in range(4))
    away = 0.0
    while away < 590:
        delay = backoff.next()
        assert delay <= 4
        away += delay
    for _ in range(60):
        backoff.next()
    assert 30 <= backoff.next() <= 60
    backoff.reset()
    assert backoff.next() <= 0.1
    assert all(backoff.next() <= 4 for _ in range(100))
