"""Where the outbox sends to relays of others, whom strangers name: some at a time, each in its turn.

A *visit* is a `Worker` that has one of the places. It keeps that while nobody waits for it, and when somebody does
until it is idle or has been busy for some time; a relay that cannot be reached, or says nothing at all, loses it at
once and rests, each time for longer, with all that it is to get. Those that answered before come first, the others in
the order in which something was due there; one whose time was over before it had everything comes last.
"""

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from relay_bridge import queries
from relay_bridge.pool import RelayPool
from relay_bridge.sending import RETRY_SECONDS_MAX, Clerk, Worker
from relay_bridge.tasks import Tasks
from relay_bridge.timing import within
from store import Clock, Database

log = structlog.get_logger(__name__)

_PLACES: Final = 32  # half of what the pool connects: others have questions to relays
_WAITING_MAX: Final = 10_000  # relays, in memory; more are found in the table when these had their turn
_TURN_SECONDS: Final = 15  # longer than an answer may take, so that each turn brings something on
_LOOK_SECONDS: Final = 1.0
_SECONDS_MAX: Final = 7200  # after which what a silent relay was to get is dropped
_DROPPED_AT_ONCE: Final = 500


class Visits:
    """Belongs to one outbox. Nothing is done before `start`."""

    def __init__(self, db: Database, pool: RelayPool, clock: Clock, clerk: Clerk, tasks: Tasks) -> None:
        self._db = db
        self._pool = pool
        self._clock = clock
        self._clerk = clerk
        self._tasks = tasks
        self._visits: dict[Worker, asyncio.Task[None]] = {}
        self._at: dict[str, Worker] = {}
        self._due: dict[str, int] = {}  # when those are to be visited that have something, and no place
        self._silences: dict[str, int] = {}  # in a row, of those in `_due` and `_at`
        self._unfinished: set[str] = set()  # of those in `_due` and `_at`, whose turn was over too early
        self._waits = self._is_full = False
        self._changed = asyncio.Event()

    def start(self) -> None:
        """Visit, as long as the tasks last."""
        self._tasks.start(self._run(), "outbox visits")

    @property
    def workers(self) -> list[Worker]:
        """Those that have a place."""
        return list(self._visits)

    def offer(self, row: queries.Open) -> None:
        """This row was committed just now, and is due."""
        if (worker := self._at.get(row.relay)) is not None:
            worker.offer(row)
        elif self._remember(row.relay):
            if not self._has_place():
                self._wait_for_a_place()
            elif self._waits:
                self._fill()
            else:
                self._visit(row.relay)

    async def find_more(self) -> None:
        """As `find`, if there was more than is remembered."""
        if self._is_full and not self._waits:
            self._due.clear()
            self._silences.clear()
            self._unfinished.clear()
            await self.find()

    async def find(self) -> None:
        """Look into the table who is to get something."""
        urls = await queries.relays_to_serve(self._db, _WAITING_MAX)
        self._is_full = len(urls) == _WAITING_MAX
        for url in urls:
            if (worker := self._at.get(url)) is not None:
                worker.wake()
            elif url not in self._pool.urls:
                self._remember(url)
        self._fill()

    def leave(self, url: str) -> None:
        """This relay is another's no more."""
        self._due.pop(url, None)
        self._silences.pop(url, None)
        self._unfinished.discard(url)
        if (worker := self._at.get(url)) is not None:
            self._end(worker)

    def _remember(self, url: str) -> bool:
        """Whether it has to be visited now: one that rests is not."""
        if url in self._due:
            return False
        if len(self._due) >= _WAITING_MAX and not self._pool.trusts(url):
            self._is_full = True
            return False
        self._due[url] = self._clock.now()
        return True

    def _has_place(self) -> bool:
        """Whether there is one, made if need be by one that has nothing to get now, or had its time."""
        if len(self._visits) < _PLACES:
            return True
        idle = next((worker for worker in self._visits if worker.idle.is_set()), None)
        if idle is not None:
            self._settle(idle)
            return True
        oldest = min(self._visits, key=lambda worker: worker.busy_since)
        if self._clock.now() - oldest.busy_since < _TURN_SECONDS:
            return False
        self._end(oldest)  # what was on its way is sent once more
        self._unfinished.add(oldest.url)
        self._due[oldest.url] = self._clock.now()
        return True

    def _settle(self, worker: Worker) -> None:
        """End a visit to a relay that has what was due."""
        self._end(worker)
        self._silences.pop(worker.url, None)
        self._unfinished.discard(worker.url)
        if worker.due_at is not None:
            self._due[worker.url] = worker.due_at
            self._changed.set()

    def _end(self, worker: Worker) -> asyncio.Task[None]:
        task = self._visits.pop(worker)
        del self._at[worker.url]
        task.cancel()
        worker.idle.set()  # whoever waits for that waits no longer
        return task

    def _fill(self) -> None:
        now = self._clock.now()
        due = [(self._comes_first(url), at, url) for url, at in self._due.items() if at <= now]
        self._waits = False
        for _, _, url in sorted(due, key=lambda one: (not one[0], one[1])):
            if not self._has_place():
                self._wait_for_a_place()
                break
            self._visit(url)

    def _comes_first(self, url: str) -> bool:
        return self._pool.trusts(url) and url not in self._unfinished

    def _visit(self, url: str) -> None:
        del self._due[url]
        worker = Worker(url, self._db, self._pool, self._clock, self._clerk, on_silence=self._on_silence)
        worker.wake()
        self._at[url] = worker
        self._visits[worker] = self._tasks.start(worker.run(), f"outbox {url}")

    def _on_silence(self, worker: Worker, reason: str) -> None:
        if worker not in self._visits:
            return
        silences = self._silences[worker.url] = self._silences.get(worker.url, 0) + 1
        self._due[worker.url] = self._clock.now() + min(1 << min(silences - 1, 20), RETRY_SECONDS_MAX)
        self._changed.set()
        log.info("outbox_relay_silent", relay=worker.url, times=silences, reason=reason)
        self._tasks.start(self._give_up(worker.url, self._end(worker)), f"outbox leaves {worker.url}")

    async def _give_up(self, url: str, visit: "asyncio.Task[None]") -> None:
        await asyncio.wait([visit])
        await self._pool.leave(url)
        self._fill()
        while (
            await self._clerk.drop(url, self._clock.now() - _SECONDS_MAX, _DROPPED_AT_ONCE)
            == _DROPPED_AT_ONCE
        ):
            pass

    def _wait_for_a_place(self) -> None:
        self._waits = True
        self._changed.set()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            self._fill()
            if self._waits:
                await self._clock.sleep(_LOOK_SECONDS)
            elif not self._due:
                await self._changed.wait()
            else:
                seconds = max(min(self._due.values()) - self._clock.now(), _LOOK_SECONDS)
                with suppress(TimeoutError):
                    await within(self._clock, seconds, self._changed.wait())
