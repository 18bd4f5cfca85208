"""The durable outbox: events to publish are written in the transaction that decides them, and sent until they are out.

A *worker* for each relay takes that relay's open rows and publishes them, in the order of adding, a number at a time;
no relay waits for another. The *clerk* writes the relays' answers down, many in one transaction. What a crash leaves
is sent again: the same event under the same id, which a relay that has it answers with `duplicate`.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from identity.event import Event
from relay_bridge import queries
from relay_bridge.errors import TooManyRelays
from relay_bridge.inbox import PRUNED_AT_ONCE
from relay_bridge.pool import RelayPool
from relay_bridge.tasks import Dispatcher, Tasks
from relay_bridge.urls import normalise_relay_url
from relay_bridge.values import Answer, RelayChange
from store import Clock, Database, Transaction

log = structlog.get_logger(__name__)

_PARALLEL_MAX: Final = 256  # events on their way to one relay, or waiting for the clerk
_GATHER_SECONDS: Final = 0.05
# Our own relays are only tried while they are connected; what they call an error for more than a day will stay one
# (nostr-sdk's relay says "error: unknown" to a replaceable event of which it has a newer version).
_OWN_ATTEMPTS_MAX: Final = 200
_OUTSIDE_ATTEMPTS_MAX: Final = 20  # about two hours; the relays of others may be gone for good
_RETRY_FIRST_SECONDS: Final = 1
_RATE_LIMITED_SECONDS_MIN: Final = 5
_RETRY_CAP_SECONDS: Final = 600
_SWEEP_SECONDS: Final = 15.0
_KEEP_SECONDS: Final = 7 * 86_400


class Outbox:
    """Use as an async context manager: entering takes up what an earlier run left open, leaving stops sending."""

    def __init__(self, db: Database, pool: RelayPool, clock: Clock) -> None:
        """`db` must have this package's migrations; `pool` must be open while the outbox is."""
        self._db = db
        self._pool = pool
        self._clock = clock
        self._clerk = _Clerk(db, clock)
        self._workers: dict[str, _Worker] = {}
        self._tasks = Tasks()
        self._sending = False
        self._position: int | None = None

    async def __aenter__(self) -> "Outbox":
        async with self._db.transaction() as tx:
            await queries.revive_outbox(tx, self._pool.urls)
        self._sending = True
        self._tasks.start(self._clerk.run(), "outbox clerk")
        self._wake(await queries.relays_to_serve(self._db))
        self._tasks.every(self._clock, _SWEEP_SECONDS, self._sweep, "outbox sweep")
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
        one relay says decides for no other. What is still to be sent somewhere is not added for there again.
        Raises `InvalidRelayUrl`: sift URLs from outside with `RelayPool.choose` or `usable_relays` first.
        """
        urls = tuple(dict.fromkeys((*(self._pool.urls if own else ()), *map(normalise_relay_url, relays))))
        if self._position is None:
            self._position = await queries.last_position(tx)
        self._position += 1
        added = await queries.add_event(
            tx, event, urls, own=own, until=until, position=self._position, now=self._clock.now()
        )
        if added:
            tx.after_commit(lambda: self._offer(event, added))

    async def follow_pool(self, change: RelayChange) -> None:
        """The pool's relays have changed: what is still to be sent to those of ours goes to the new ones, too.

        What waits for one that was left is tried as at any relay of others.
        """
        async with self._db.transaction() as tx:
            await queries.extend_outbox(tx, self._pool.urls)
        for url in (*change.added, *change.left):  # a worker knows from the start whose relay it serves
            worker = self._workers.pop(url, None)
            if worker is not None and worker.task is not None:
                worker.task.cancel()
        self._wake(await queries.relays_to_serve(self._db))

    async def flush(self, seconds_max: float) -> bool:
        """Wait until nothing is due or on its way; False if the time ran out first.

        Rows that wait for their next attempt, or for a relay of ours that is down, are not due.
        """
        deadline = asyncio.ensure_future(self._clock.sleep(seconds_max))
        try:
            while busy := [worker for worker in self._workers.values() if not worker.idle.is_set()]:
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

    def _offer(self, event: Event, urls: Sequence[str]) -> None:
        for url in urls if self._sending else ():
            self._worker(url).offer(queries.Open(event, url, 0))

    def _wake(self, urls: Sequence[str]) -> None:
        for url in urls:
            self._worker(url).wake()

    def _worker(self, url: str) -> "_Worker":
        worker = self._workers.get(url)
        if worker is None:
            worker = self._workers[url] = _Worker(url, self._db, self._pool, self._clock, self._clerk)
            worker.task = self._tasks.start(worker.run(), f"outbox {url}")
        return worker

    async def _sweep(self) -> None:
        now = self._clock.now()
        async with self._db.transaction() as tx:
            expired = await queries.expire_sendings(tx, now)
            await queries.forget_closed(tx, now - _KEEP_SECONDS, PRUNED_AT_ONCE)
        for event_id in expired:
            log.warning("outbox_expired", event_id=event_id)
        needed = {*self._pool.urls, *await queries.relays_to_serve(self._db)}
        for url, worker in list(self._workers.items()):
            if url not in needed and worker.idle.is_set() and worker.task is not None:
                del self._workers[url]
                worker.task.cancel()


class _Worker:
    """Sends to one relay."""

    def __init__(self, url: str, db: Database, pool: RelayPool, clock: Clock, clerk: "_Clerk") -> None:
        self.url = url
        self._db = db
        self._pool = pool
        self._clock = clock
        self._clerk = clerk
        self._own = url in pool.urls
        self.task: asyncio.Task[None] | None = None
        self._dispatcher = Dispatcher[queries.Open](
            clock,
            parallel_max=_PARALLEL_MAX,
            load=self._load,
            next_due=lambda now: queries.next_sending(db, url, now),
            key=lambda row: row.event.id,
            handle=self._send,
        )
        self.idle = self._dispatcher.idle
        self._away = False

    def offer(self, row: queries.Open) -> None:
        self._dispatcher.offer(row)
        self._if_away()

    def wake(self) -> None:
        self._dispatcher.wake()
        self._if_away()

    def _if_away(self) -> None:
        if self._away:
            self.idle.set()

    async def run(self) -> None:
        await self._dispatcher.run()

    async def _load(self, rows_max: int, now: int) -> Sequence[queries.Open]:
        connection = self._pool.relay(self.url) if self._own else None
        if connection is not None and not await connection.tried():
            # Our own relays come back. Until then no attempts are counted, and then nothing waits for its turn.
            self._away = True
            self.idle.set()
            await connection.up()
            self.idle.clear()
            self._away = False
        return await queries.due_sendings(self._db, self.url, rows_max, due_by=now, now=self._clock.now())

    async def _send(self, row: queries.Open) -> int | None:
        try:
            answer = await self._pool.relay(self.url).publish(row.event)
        except TooManyRelays as error:
            answer = Answer(False, f"error: {error}")
        attempts = row.attempts + 1
        state = self._judge(answer, attempts)
        due_at = self._clock.now() + _retry_seconds(answer, attempts)
        await self._clerk.record(_Said(row.event.id, self.url, state, answer.message, due_at))
        return due_at if state == "open" else None

    def _judge(self, answer: Answer, attempts: int) -> str:
        if answer.accepted:
            return "accepted"
        if answer.refused:
            return "refused"
        attempts_max = _OWN_ATTEMPTS_MAX if self._own else _OUTSIDE_ATTEMPTS_MAX
        return "dropped" if attempts >= attempts_max else "open"


@dataclass(frozen=True)
class _Said:
    """What came of sending an event to a relay once."""

    event_id: str
    relay: str
    state: str
    answer: str
    due_at: int
    recorded: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class _Clerk:
    """Writes answers down, those of a moment together: a crash before that only sends an event again."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._said: asyncio.Queue[_Said] = asyncio.Queue()

    async def record(self, said: _Said) -> None:
        """Return when it is on disk."""
        self._said.put_nowait(said)
        await said.recorded

    async def run(self) -> None:
        while True:
            batch = [await self._said.get()]
            await asyncio.sleep(_GATHER_SECONDS)  # of the machine's time, whatever the post's clock says
            while not self._said.empty():
                batch.append(self._said.get_nowait())
            try:
                async with self._db.transaction() as tx:
                    closed = [await self._write(tx, said) for said in batch]
            except Exception as error:
                log.exception("outbox_unwritable")
                for said in batch:
                    _release(said.recorded, error)
                continue
            for said, state in zip(batch, closed, strict=True):
                _release(said.recorded)
                if said.state != "accepted":
                    log.info(
                        "outbox_not_accepted",
                        event_id=said.event_id, relay=said.relay, state=said.state, answer=said.answer,
                    )  # fmt: skip
                if state == "refused":
                    log.warning("outbox_refused", event_id=said.event_id, answer=said.answer)

    async def _write(self, tx: Transaction, said: _Said) -> str | None:
        await queries.record_answer(
            tx, said.event_id, said.relay, state=said.state, answer=said.answer, due_at=said.due_at
        )
        row = await queries.sending_state(tx, said.event_id)
        if row is None or row["open"]:
            return None
        if row["accepted"]:
            await queries.forget_sending(tx, said.event_id)
            return "sent"
        await queries.close_sending(tx, said.event_id, self._clock.now())
        return "refused"


def _release(waiting: asyncio.Future[None], error: Exception | None = None) -> None:
    if waiting.done():
        return
    if error is None:
        waiting.set_result(None)
    else:
        waiting.set_exception(error)


def _retry_seconds(answer: Answer, attempts: int) -> int:
    delay: int = min(_RETRY_FIRST_SECONDS << min(attempts - 1, 20), _RETRY_CAP_SECONDS)
    return max(delay, _RATE_LIMITED_SECONDS_MIN) if answer.message.startswith("rate-limited:") else delay
