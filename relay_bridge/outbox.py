"""The durable outbox: events to publish are written in the transaction that decides them, and sent until they are out.

A *worker* for each relay takes that relay's open rows and publishes them (`sending.py`); no relay waits for another.
Those of others are visited in turn (`visits.py`). What a crash leaves is sent again: the same event under the same id,
which a relay that has it answers with `duplicate`.

A relay that refuses an event decides nothing but for this time: what none took goes to relays that are added, and again
to those that refused, at a start and every few hours, as long as it matters. Only `invalid` and `pow` are final.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import structlog

from identity.event import Event
from relay_bridge import queries
from relay_bridge.inbox import PRUNED_AT_ONCE
from relay_bridge.pool import RelayPool
from relay_bridge.sending import Clerk, Worker
from relay_bridge.tasks import Tasks
from relay_bridge.urls import normalise_relay_url
from relay_bridge.visits import Visits
from store import Clock, Database, Transaction

log = structlog.get_logger(__name__)

_SWEEP_SECONDS: Final = 15.0
_REFUSED_SECONDS: Final = 7200.0
_KEEP_SECONDS: Final = 30 * 86_400  # what is refused everywhere and has no end of its own


class Outbox:
    """Use as an async context manager: entering takes up what an earlier run left open, leaving stops sending."""

    def __init__(self, db: Database, pool: RelayPool, clock: Clock) -> None:
        """`db` must have this package's migrations; `pool` must be open while the outbox is."""
        self._db = db
        self._pool = pool
        self._clock = clock
        self._clerk = Clerk(db, clock)
        self._workers: dict[str, tuple[Worker, asyncio.Task[None]]] = {}  # of our own relays
        self._tasks = Tasks()
        self._visits = Visits(db, pool, clock, self._clerk, self._tasks)
        self._sending = False
        self._position: int | None = None

    async def __aenter__(self) -> "Outbox":
        async with self._db.transaction() as tx:
            await queries.revive_outbox(tx, self._pool.urls, self._clock.now())
        self._sending = True
        self._tasks.start(self._clerk.run(), "outbox clerk")
        await self._wake()
        self._visits.start()
        self._tasks.every(self._clock, _SWEEP_SECONDS, self._sweep, "outbox sweep")
        self._tasks.every(self._clock, _REFUSED_SECONDS, self._try_again, "outbox refused")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._sending = False
        await self._tasks.close()

    async def add(
        self,
        tx: Transaction,
        event: Event,
        relays: Iterable[str] = (),
        *,
        own: bool = True,
        until: int | None = None,
    ) -> None:
        """Publish `event` once `tx` is committed; never if it is undone.

        Goes to the pool's own relays (unless `own` is false), whichever these will be, and to `relays` besides. Each
        of them is tried until it accepts or refuses it, has failed too often, or the unix time `until` has come: what
        one relay says decides for no other. If none takes what goes to our own, see the head of this file; without
        `until` it matters for thirty days. What is still to be sent somewhere is not added for there again.
        Raises `InvalidRelayUrl`: sift URLs from outside with `RelayPool.choose` or `usable_relays` first.
        """
        urls = tuple(dict.fromkeys((*(self._pool.urls if own else ()), *map(normalise_relay_url, relays))))
        if not urls:
            return
        if self._position is None:
            self._position = await queries.last_position(tx)
        self._position += 1
        added = await queries.add_event(
            tx, event, urls, own=own, until=until, position=self._position, now=self._clock.now()
        )
        if added:
            tx.after_commit(lambda: self._offer(event, added))

    async def follow_pool(self) -> None:
        """The pool's relays have changed: what is still to be sent to those of ours goes to the new ones, too.

        What waits for one that was left is tried as at any relay of others.
        """
        async with self._db.transaction() as tx:
            await queries.extend_outbox(tx, self._pool.urls, self._clock.now())
        for url in [url for url in self._workers if url not in self._pool.urls]:
            worker, task = self._workers.pop(url)
            task.cancel()
            worker.idle.set()
        for url in self._pool.urls:
            self._visits.leave(url)
        await self._wake()

    async def flush(self, seconds_max: float) -> bool:
        """Wait until nothing is due or on its way; False if the time ran out first.

        Rows that wait for their next attempt, for a relay of ours that is down, or for their turn are not due.
        """
        deadline = asyncio.ensure_future(self._clock.sleep(seconds_max))
        try:
            while busy := [worker for worker in self._serving() if not worker.idle.is_set()]:
                waiting = [asyncio.ensure_future(worker.idle.wait()) for worker in busy]
                await asyncio.wait([deadline, *waiting], return_when=asyncio.FIRST_COMPLETED)
                for wait in waiting:
                    wait.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
                if deadline.done():
                    return False
            return True
        finally:
            deadline.cancel()

    def _serving(self) -> list[Worker]:
        return [*(worker for worker, _ in self._workers.values()), *self._visits.workers]

    def _offer(self, event: Event, urls: Sequence[str]) -> None:
        for url in urls if self._sending else ():
            row = queries.Open(event, url, 0)
            if url in self._pool.urls:
                self._worker(url).offer(row)
            else:
                self._visits.offer(row)

    async def _wake(self) -> None:
        for url in self._pool.urls:
            if await queries.has_sendings(self._db, url):
                self._worker(url).wake()
        await self._visits.find()

    def _worker(self, url: str) -> Worker:
        if url not in self._workers:
            worker = Worker(url, self._db, self._pool, self._clock, self._clerk)
            self._workers[url] = worker, self._tasks.start(worker.run(), f"outbox {url}")
        return self._workers[url][0]

    async def _try_again(self) -> None:
        async with self._db.transaction() as tx:
            reopened = await queries.reopen_refused(tx, self._clock.now())
        if reopened:
            await self._wake()

    async def _sweep(self) -> None:
        now = self._clock.now()
        async with self._db.transaction() as tx:
            expired = await queries.expire_sendings(tx, now)
            await queries.forget_closed(tx, now - _KEEP_SECONDS, PRUNED_AT_ONCE)
        for event_id in expired:
            log.info("outbox_expired", event_id=event_id)
        await self._visits.find_more()
