"""The durable outbox: events to publish are written in the transaction that decides them, and sent until they are out.

A *worker* for each relay takes that relay's open rows from the table and publishes them, in the order of adding, a
few at a time; no relay waits for another. What a crash leaves is sent again: the same event under the same id, which
a relay that has it answers with `duplicate`.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from identity.event import Event, parse_event
from relay_bridge import queries
from relay_bridge.errors import TooManyRelays
from relay_bridge.pool import RelayPool
from relay_bridge.tasks import Dispatcher, Tasks
from relay_bridge.urls import normalise_relay_url
from relay_bridge.values import Answer
from store import Clock, Database, Row, Transaction

log = structlog.get_logger(__name__)

_PARALLEL_MAX: Final = 32  # events on their way to one relay
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
        self._workers: dict[str, _Worker] = {}
        self._tasks = Tasks()
        self._sending = False

    async def __aenter__(self) -> "Outbox":
        async with self._db.transaction() as tx:
            await queries.revive_outbox(tx, self._pool.urls)
        self._sending = True
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
        relays: Sequence[str] = (),
        *,
        enough: int = 1,
        until: int | None = None,
    ) -> None:
        """Publish `event` once `tx` is committed; never if it is undone. Adding an event again changes nothing.

        Goes to `relays`, or if there are none to the pool's own. Each of them gets it at least once when it can be
        reached; those that fail are tried again until `enough` have accepted it (or as many as there are), or until
        the unix time `until`. Raises `InvalidRelayUrl`: sift URLs from outside with `usable_relays` first.
        """
        urls = tuple(dict.fromkeys(map(normalise_relay_url, relays))) or self._pool.urls
        added = await queries.add_event(
            tx, event, urls, own=not relays, enough=enough, until=until, now=self._clock.now()
        )
        if added:
            tx.after_commit(lambda: self._wake(urls))

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

    def _wake(self, urls: Sequence[str]) -> None:
        if not self._sending:
            return
        for url in urls:
            worker = self._workers.get(url)
            if worker is None:
                worker = self._workers[url] = _Worker(url, self._db, self._pool, self._clock)
                worker.task = self._tasks.start(worker.run(), f"outbox {url}")
            worker.wake()

    async def _sweep(self) -> None:
        now = self._clock.now()
        async with self._db.transaction() as tx:
            expired = await queries.expire_sendings(tx, now)
            await queries.forget_sent(tx, now - _KEEP_SECONDS)
        for event_id in expired:
            log.warning("outbox_expired", event_id=event_id)
        needed = {*self._pool.urls, *await queries.relays_to_serve(self._db)}
        for url, worker in list(self._workers.items()):
            if url not in needed and worker.idle.is_set() and worker.task is not None:
                del self._workers[url]
                worker.task.cancel()


class _Worker:
    """Sends to one relay."""

    def __init__(self, url: str, db: Database, pool: RelayPool, clock: Clock) -> None:
        self.url = url
        self._db = db
        self._pool = pool
        self._clock = clock
        self._own = url in pool.urls
        self.task: asyncio.Task[None] | None = None
        self._dispatcher = Dispatcher[Row](
            clock,
            parallel_max=_PARALLEL_MAX,
            load=self._load,
            next_due=lambda now: queries.next_sending(db, url, now),
            key=lambda row: str(row["event_id"]),
            handle=self._send,
        )
        self.idle = self._dispatcher.idle
        self._away = False

    def wake(self) -> None:
        self._dispatcher.wake()
        if self._away:
            self.idle.set()

    async def run(self) -> None:
        await self._dispatcher.run()

    async def _load(self, rows_max: int, now: int) -> Sequence[Row]:
        connection = self._pool.relay(self.url) if self._own else None
        if connection is not None and not await connection.tried():
            # Our own relays come back. Until then no attempts are counted, and then nothing waits for its turn.
            self._away = True
            self.idle.set()
            await connection.up()
            self.idle.clear()
            self._away = False
        return await queries.due_sendings(self._db, self.url, rows_max, due_by=now, now=self._clock.now())

    async def _send(self, row: Row) -> None:
        event = parse_event(row["raw"])
        try:
            answer = await self._pool.relay(self.url).publish(event)
        except TooManyRelays as error:
            answer = Answer(False, f"error: {error}")
        attempts = row["attempts"] + 1
        state = self._judge(answer, attempts)
        async with self._db.transaction() as tx:
            due_at = self._clock.now() + _retry_seconds(answer, attempts)
            await queries.record_answer(
                tx, event.id, self.url, state=state, answer=answer.message, due_at=due_at
            )
            closed = await self._close_if_decided(tx, event.id)
        if state != "accepted":
            log.info(
                "outbox_not_accepted", event_id=event.id, relay=self.url, state=state, answer=answer.message
            )
        if closed == "refused":
            log.warning("outbox_refused", event_id=event.id, answer=answer.message)

    def _judge(self, answer: Answer, attempts: int) -> str:
        if answer.accepted:
            return "accepted"
        if answer.refused:
            return "refused"
        attempts_max = _OWN_ATTEMPTS_MAX if self._own else _OUTSIDE_ATTEMPTS_MAX
        return "dropped" if attempts >= attempts_max else "open"

    async def _close_if_decided(self, tx: Transaction, event_id: str) -> str | None:
        row = await queries.sending_state(tx, event_id)
        if row is None:
            return None
        if row["state"] != "open":
            decided = str(
                row["state"]
            )  # again, so that a relay that failed after the decision is dropped too
        elif row["accepted"] >= row["enough"] or (row["accepted"] and not row["open"]):
            decided = "sent"
        elif not row["open"]:
            decided = "refused"
        else:
            return None
        await queries.close_sending(tx, event_id, decided, self._clock.now())
        return decided


def _retry_seconds(answer: Answer, attempts: int) -> int:
    delay: int = min(_RETRY_FIRST_SECONDS << min(attempts - 1, 20), _RETRY_CAP_SECONDS)
    return max(delay, _RATE_LIMITED_SECONDS_MIN) if answer.message.startswith("rate-limited:") else delay
