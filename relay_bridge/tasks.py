"""Background tasks that belong to somebody: their failures are logged, and they end with their owner."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, Generic, TypeVar

import structlog

from relay_bridge.timing import within
from store import Clock

log = structlog.get_logger(__name__)

T = TypeVar("T")

_UNREADABLE_SECONDS: Final = 1.0
_FAILED_SECONDS: Final = 1


class Tasks:
    """The tasks of one owner."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, step: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `step`; what it raises is logged."""
        task = asyncio.create_task(step, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def every(self, clock: Clock, seconds: float, step: Callable[[], Awaitable[None]], name: str) -> None:
        """Run `step` now and again and again; what it raises is logged and does not end the series."""

        async def series() -> None:
            while True:
                try:
                    await step()
                except Exception:
                    log.exception("task_failed", task=name)
                await clock.sleep(seconds)

        self.start(series(), name)

    async def close(self) -> None:
        """Cancel all and wait until they have ended; the calling task, if it is one of them, is spared."""
        tasks = self._tasks - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_failed", task=task.get_name(), exc_info=error)


class Dispatcher(Generic[T]):
    """Takes open rows from a table and handles them side by side, a bounded number at a time, until cancelled.

    The table is the queue: only a bounded number of rows is kept in memory, and what was left from an earlier run is
    found the same way as what is new. A new row may also be offered by whoever wrote it, which saves reading it back.

    `load(n, now)` gives at most n open rows that are due at `now`; `next_due(now)` when the earliest of the others
    will be (None: never); `key` tells rows apart. `handle` closes its row and returns None, or puts it off and
    returns when it will be due.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        parallel_max: int,
        load: Callable[[int, int], Awaitable[Sequence[T]]],
        next_due: Callable[[int], Awaitable[int | None]],
        key: Callable[[T], str],
        handle: Callable[[T], Coroutine[Any, Any, int | None]],
    ) -> None:
        self._clock = clock
        self._parallel_max = parallel_max
        self._load = load
        self._next_due = next_due
        self._key = key
        self._handle = handle
        self._held: set[str] = set()
        self._waiting: deque[T] = deque()
        self._running = 0
        self._look = True
        self._due_at: int | None = None
        self._changed = asyncio.Event()
        self._tasks = Tasks()
        #: Set while nothing is due and nothing in hand.
        self.idle = asyncio.Event()

    @property
    def due_at(self) -> int | None:
        """While idle: when a row will be due again, as far as is known."""
        return self._due_at

    def wake(self) -> None:
        """There may be new rows in the table."""
        self._look = True
        self.idle.clear()
        self._changed.set()

    def offer(self, row: T) -> None:
        """This row was committed just now, and is due. It is found in the table if others wait before it."""
        if self._look or len(self._waiting) > self._parallel_max:
            self.wake()
        elif (key := self._key(row)) not in self._held:
            self._held.add(key)
            self.idle.clear()
            if self._running < self._parallel_max and not self._waiting:
                self._begin(row)
            else:
                self._waiting.append(row)
                self._changed.set()

    async def run(self) -> None:
        """Work. Cancelling it cancels the handlers under way and waits for them."""
        try:
            while True:
                self._changed.clear()
                if self._due_at is not None and self._due_at <= self._clock.now():
                    self._look = True  # also while there is always something new
                if self._look and not self._waiting:
                    await self._find()
                while self._waiting and self._running < self._parallel_max:
                    self._begin(self._waiting.popleft())
                if self._waiting or not self._look:
                    await self._pause()
        finally:
            self._look = True  # what is offered from now on stays in the table
            await self._tasks.close()

    async def _find(self) -> None:
        # A row that is finished while the table is being read may be in the answer, still open: it is not new.
        # While `_look` is set nothing is offered past the rows that are being read.
        in_hand = frozenset(self._held)
        limit = len(in_hand) + 2 * self._parallel_max
        now = self._clock.now()
        self._changed.clear()
        try:
            rows = await self._load(limit, now)
            self._due_at = await self._next_due(now)
        except Exception:
            log.exception("table_unreadable")
            await self._clock.sleep(_UNREADABLE_SECONDS)
            return
        # Whoever called `wake` meanwhile may have written behind what was read.
        self._look = self._changed.is_set() or len(rows) == limit
        found = [row for row in rows if self._key(row) not in in_hand]
        self._held.update(map(self._key, found))
        self._waiting.extend(found)

    async def _pause(self) -> None:
        if self._changed.is_set():
            return
        if not self._held:
            self.idle.set()
        try:
            if self._due_at is None:
                await self._changed.wait()
            else:
                await within(self._clock, max(self._due_at - self._clock.now(), 0.05), self._changed.wait())
        except TimeoutError:
            self._look = True
        self.idle.clear()

    def _begin(self, row: T) -> None:
        self._running += 1
        self._tasks.start(self._run_one(row), "handler")

    async def _run_one(self, row: T) -> None:
        try:
            due_at = await self._handle(row)
        except Exception:
            log.exception("handler_failed")
            due_at = self._clock.now() + _FAILED_SECONDS  # the row is as it was: try again, but not at once
        finally:
            self._running -= 1
            self._held.discard(self._key(row))
            self._changed.set()
        if due_at is not None:
            self._due_at = due_at if self._due_at is None else min(due_at, self._due_at)
