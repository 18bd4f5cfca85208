"""How the outbox sends to one relay: a *worker* publishes its open rows, the *clerk* writes down what it answered."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from relay_bridge import queries
from relay_bridge.errors import TooManyRelays
from relay_bridge.pool import RelayPool
from relay_bridge.tasks import Dispatcher
from relay_bridge.values import Answer
from store import Clock, Database, Transaction

log = structlog.get_logger(__name__)

_PARALLEL_MAX: Final = 256  # events on their way to one relay, or waiting for the clerk
_OUTSIDE_PARALLEL_MAX: Final = 32
_GATHER_SECONDS: Final = 0.05
# Our own relays are only tried while they are connected; what they call an error for more than a day will stay one
# (nostr-sdk's relay says "error: unknown" to a replaceable event of which it has a newer version).
_OWN_ATTEMPTS_MAX: Final = 200
_OUTSIDE_ATTEMPTS_MAX: Final = 20  # about two hours
_RETRY_FIRST_SECONDS: Final = 1
_RATE_LIMITED_SECONDS_MIN: Final = 5
RETRY_SECONDS_MAX: Final = 600


class Worker:
    """Sends to one relay, in the order of adding, a number of events at a time."""

    def __init__(
        self,
        url: str,
        db: Database,
        pool: RelayPool,
        clock: Clock,
        clerk: "Clerk",
        *,
        on_silence: Callable[["Worker", str], None] | None = None,
    ) -> None:
        """Without `on_silence` the relay is one of ours, and waited for. With it, it is another's: that is told why
        when the relay cannot be reached, or says nothing at all.
        """
        self.url = url
        self._db = db
        self._pool = pool
        self._clock = clock
        self._clerk = clerk
        self._on_silence = on_silence
        self._dispatcher = Dispatcher[queries.Open](
            clock,
            parallel_max=_PARALLEL_MAX if on_silence is None else _OUTSIDE_PARALLEL_MAX,
            load=self._load,
            next_due=lambda now: queries.next_sending(db, url, now),
            key=lambda row: row.event.id,
            handle=self._send,
        )
        #: Set while nothing is due and nothing on its way.
        self.idle = self._dispatcher.idle
        #: When something came for it last while it had nothing to do.
        self.busy_since = clock.now()
        self._away = False
        self._answers = 0

    @property
    def due_at(self) -> int | None:
        """While idle: when something will be due again."""
        return self._dispatcher.due_at

    def offer(self, row: queries.Open) -> None:
        """See `Dispatcher.offer`."""
        self._if_idle()
        self._dispatcher.offer(row)
        self._if_away()

    def wake(self) -> None:
        """See `Dispatcher.wake`."""
        self._if_idle()
        self._dispatcher.wake()
        self._if_away()

    def _if_idle(self) -> None:
        if self.idle.is_set():
            self.busy_since = self._clock.now()

    def _if_away(self) -> None:
        if self._away:
            self.idle.set()

    async def run(self) -> None:
        """Work until cancelled."""
        await self._dispatcher.run()

    async def _load(self, rows_max: int, now: int) -> Sequence[queries.Open]:
        connection = self._pool.relay(self.url) if self._on_silence is None else None
        if connection is not None and not await connection.tried():
            # Our own relays come back. Until then no attempts are counted, and then nothing waits for its turn.
            self._away = True
            self.idle.set()
            await connection.up()
            self.idle.clear()
            self._away = False
        return await queries.due_sendings(self._db, self.url, rows_max, due_by=now, now=self._clock.now())

    async def _send(self, row: queries.Open) -> int | None:
        answers = self._answers
        try:
            answer = await self._pool.relay(self.url).publish(row.event)
        except TooManyRelays as error:
            answer = Answer(False, f"error: {error}", silent=True)
        if not answer.silent:
            self._answers += 1
        elif self._on_silence is not None and self._answers == answers:
            self._on_silence(self, answer.message)
            return self._clock.now() + _RETRY_FIRST_SECONDS  # the row is as it was
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
        attempts_max = _OWN_ATTEMPTS_MAX if self._on_silence is None else _OUTSIDE_ATTEMPTS_MAX
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


class Clerk:
    """Writes answers down, those of a moment together: a crash before that only sends an event again."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._said: asyncio.Queue[_Said] = asyncio.Queue()

    async def record(self, said: _Said) -> None:
        """Return when it is on disk."""
        self._said.put_nowait(said)
        await said.recorded

    async def drop(self, relay: str, added_before: int, rows_max: int) -> int:
        """Give up what a relay was to get and has not for so long, so many rows at most; returns how many."""
        async with self._db.transaction() as tx:
            dropped = await queries.drop_sendings(tx, relay, added_before, rows_max)
            for event_id in dropped:
                await self._end(tx, event_id)
        return len(dropped)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            batch = [await self._said.get()]
            await asyncio.sleep(_GATHER_SECONDS)  # of the machine's time, whatever the post's clock says
            while not self._said.empty():
                batch.append(self._said.get_nowait())
            try:
                async with self._db.transaction() as tx:
                    unwanted = [await self._write(tx, said) for said in batch]
            except Exception as error:
                log.exception("outbox_unwritable")
                for said in batch:
                    _release(said.recorded, error)
                continue
            for said, is_unwanted in zip(batch, unwanted, strict=True):
                _release(said.recorded)
                if said.state != "accepted":
                    log.info(
                        "outbox_not_accepted",
                        event_id=said.event_id, relay=said.relay, state=said.state, answer=said.answer,
                    )  # fmt: skip
                if is_unwanted:
                    log.warning("outbox_refused", event_id=said.event_id, answer=said.answer)

    async def _write(self, tx: Transaction, said: _Said) -> bool:
        await queries.record_answer(
            tx, said.event_id, said.relay, state=said.state, answer=said.answer, due_at=said.due_at
        )
        return await self._end(tx, said.event_id)

    async def _end(self, tx: Transaction, event_id: str) -> bool:
        """Forget or close an event that no relay is to get any more; whether none took it."""
        row = await queries.sending_state(tx, event_id)
        if row is None or row["open"]:
            return False
        if row["accepted"]:
            await queries.forget_sending(tx, event_id)
        else:
            await queries.close_sending(tx, event_id, self._clock.now())
        return not row["accepted"]


def _release(waiting: asyncio.Future[None], error: Exception | None = None) -> None:
    if waiting.done():
        return
    if error is None:
        waiting.set_result(None)
    else:
        waiting.set_exception(error)


def _retry_seconds(answer: Answer, attempts: int) -> int:
    delay: int = min(_RETRY_FIRST_SECONDS << min(attempts - 1, 20), RETRY_SECONDS_MAX)
    return max(delay, _RATE_LIMITED_SECONDS_MIN) if answer.message.startswith("rate-limited:") else delay
