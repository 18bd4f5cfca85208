"""One open socket to one relay: what was asked on it, what came back, who is waiting. It ends with its socket.

Tasks: the *reader* takes frames off the socket, throws away what nobody asked for, answers waiters (`OK`, `COUNT`)
at once and queues the rest in order; the *deliverer* verifies what is queued in batches and hands it to the feeds.
The queue is bounded in frames and bytes: when it is full the reader stops, and with it the relay.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Final, NoReturn

import structlog

from identity.event import Event
from relay_bridge.auth import Authenticator, Signers
from relay_bridge.door import Check, Door, RecentIds
from relay_bridge.ears import Bundle, Ear
from relay_bridge.errors import ConnectionLost, InvalidMessage, RelayMisbehaved
from relay_bridge.feed import Feed
from relay_bridge.fetching import Question
from relay_bridge.filters import NOTHING, Filter
from relay_bridge.gathering import Gathering
from relay_bridge.limits import PoolLimits
from relay_bridge.messages import (
    AuthMessage,
    ClosedMessage,
    CountMessage,
    EoseMessage,
    EventMessage,
    NoticeMessage,
    OkMessage,
    close_frame,
    event_frame,
    parse_relay_message,
    prefix_of,
    request_frame,
)
from relay_bridge.timing import Backoff, within
from relay_bridge.transport import Socket
from relay_bridge.values import Answer, RelayHealth
from store import Clock

log = structlog.get_logger(__name__)

_BATCH_MAX: Final = 64  # events verified together, on the loop in about 2 ms
_BATCHES_AHEAD: Final = 24  # under verification at once
_RECENTLY_CLOSED: Final = 256  # subscriptions whose last events may still be on the wire
_AUTH_ROUNDS_MAX: Final = 2
_FORGIVEN: Final = 9  # strikes for each good event: what is bad may be others', and the relay lax
_ANSWERS_MAX: Final = 4  # to each message of ours; a relay that says far more is left
_LATE_MAX: Final = 20_000  # events after a `CLOSE`, which were on their way
_REMEMBERED: Final = 4096  # events told lately: no subscription is told one twice

Queued = EventMessage | EoseMessage | ClosedMessage
_QUEUED: Final = (EventMessage, EoseMessage, ClosedMessage)
Heard = tuple[Queued, Sequence[Feed]]  # a message, and who wants it if it is an event


@dataclass
class _Patience:
    """What a feed remembers from one `REQ` of a session to the next."""

    backoff: Backoff = field(default_factory=lambda: Backoff(0.5, factor=2.0))
    auth_rounds: int = 0


class Session:
    """See the head of this file. Create, then `run` until it returns."""

    def __init__(
        self,
        url: str,
        socket: Socket,
        *,
        clock: Clock,
        door: Door,
        signers: Signers,
        limits: PoolLimits,
        health: RelayHealth,
    ) -> None:
        self.url = url
        self._socket = socket
        self._clock = clock
        self._door = door
        self._limits = limits
        self._health = health
        self._auth = Authenticator(url, signers, clock, self._publish_auth)
        self._group = asyncio.TaskGroup()
        self._names = count(1)
        self._open: dict[str, Ear] = {}
        self._closed_names: deque[str] = deque(maxlen=_RECENTLY_CLOSED)
        self._patience: dict[Feed, _Patience] = {}  # of every feed from its first REQ until it is dropped
        self._gathering = Gathering(
            url, clock, seconds_max=limits.eose_seconds_max, ask=self._ask, close=self._close, part=self._part,
            authenticate=self._authenticate, prove=self._prove,
        )  # fmt: skip
        self._oks: defaultdict[str, list[asyncio.Future[Answer]]] = defaultdict(list)
        self._counts: dict[str, asyncio.Future[int]] = {}
        self._queue: deque[tuple[Queued, Sequence[Feed], int]] = deque()
        self._queued_bytes = 0
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._strikes = 0
        self._sent = self._said = self._late = 0
        self._told = RecentIds(_REMEMBERED)
        self._over: str | None = None
        #: Whether it ended because the relay is not worth listening to.
        self.misbehaved = False

    async def run(self, feeds: Iterable[Feed], on_open: Callable[[], None]) -> str:
        """Serve until the connection ends; returns why. `on_open` is called when the session may be used.

        On return all feeds are told and all waiters released.
        """
        reason = "closed by us"
        try:
            async with self._group:
                self._group.create_task(self._read())
                self._group.create_task(self._deliver())
                self._group.create_task(self._gathering.run())
                for feed in feeds:
                    self.open(feed)
                on_open()
        except* ConnectionLost as lost:
            reason = str(lost.exceptions[0])
            self.misbehaved = isinstance(lost.exceptions[0], RelayMisbehaved)
        finally:
            self._end(reason)
            await self._socket.close()
        return reason

    # Asking

    def open(self, feed: Feed) -> None:
        """Ask for what the feed wants, in a `REQ` of its own or, in a moment, together with others."""
        if self._over is not None:
            feed.lost()
            return
        self._patience.setdefault(feed, _Patience())
        self._gathering.open(feed)

    def drop(self, feed: Feed) -> None:
        """Close what the feed has open. It is told `lost`."""
        self._patience.pop(feed, None)
        self._leave(feed)

    async def count(self, filters: Sequence[Filter]) -> int:
        """NIP-45. Raises `ConnectionLost` if the relay refuses."""
        name = f"c{next(self._names)}"
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._counts[name] = future
        try:
            await self._send(request_frame(name, filters, label="COUNT"))
            return await future
        finally:
            self._counts.pop(name, None)
            self._closed_names.append(name)

    async def publish(self, event: Event) -> Answer:
        """Send and wait for the `OK`, authenticating if that is what the relay wants. Raises `ConnectionLost`."""
        answer = await self._await_ok(event, "EVENT")
        for _ in range(_AUTH_ROUNDS_MAX):
            if answer.accepted or prefix_of(answer.message) != "auth-required":
                break
            if not await self._auth.authenticate({event.pubkey}):
                break
            answer = await self._await_ok(event, "EVENT")
        return answer

    async def _publish_auth(self, event: Event) -> Answer:
        return await self._await_ok(event, "AUTH")

    async def _await_ok(self, event: Event, label: str) -> Answer:
        self._check_alive()
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waiting = self._oks[event.id]
        waiting.append(future)
        try:
            await self._send(event_frame(event, label=label))
            return await future
        finally:
            waiting.remove(future)
            if not waiting and self._oks.get(event.id) is waiting:
                del self._oks[event.id]

    async def _send(self, frame: str) -> None:
        self._check_alive()
        self._sent += 1
        await self._socket.send(frame)

    def _start(self, step: Coroutine[None, None, None]) -> None:
        try:
            self._group.create_task(step)
        except RuntimeError:  # the session is ending: `_end` tells everybody
            step.close()

    def _check_alive(self) -> None:
        if self._over is not None:
            raise ConnectionLost(self._over)

    # Reading

    async def _read(self) -> NoReturn:
        for number in count():
            if number % _BATCH_MAX == 0:
                await asyncio.sleep(0)  # frames that are already here are read without ever giving way
            frame = await self._socket.recv()
            if len(frame) > self._limits.message_bytes_max:
                raise RelayMisbehaved(
                    f"the relay sent a message above {self._limits.message_bytes_max} bytes"
                )
            try:
                message = parse_relay_message(frame)
            except InvalidMessage:
                self._strike("malformed")
                continue
            if not isinstance(message, EventMessage):
                self._says_more()
            if isinstance(message, _QUEUED):
                if (hearing := self._sieve(message)) is not None:
                    if self._is_full:
                        await self._room()
                    if not self._queue:
                        self._filled.set()
                    self._queue.append((message, hearing, len(frame)))
                    self._queued_bytes += len(frame)
                continue
            match message:
                case OkMessage(event_id, accepted, text):
                    self._answer(event_id, Answer(accepted or prefix_of(text) == "duplicate", text))
                case AuthMessage(challenge):
                    self._auth.challenged(challenge)
                case CountMessage(name, total):
                    if (future := self._counts.get(name)) is not None and not future.done():
                        future.set_result(total)
                case NoticeMessage(text):
                    self._health.last_notice = text
        raise AssertionError("count() does not end")

    def _sieve(self, message: Queued) -> Sequence[Feed] | None:
        """A cheap first one: which feeds want an event; None for what belongs to nothing that we have open."""
        ear = self._open.get(message.subscription)
        if type(message) is EventMessage:
            hearing = ear.hears(message.event) if ear is not None else None
            if hearing:
                return hearing
            if hearing is not None:
                self._health.ignored += 1
                return None
            if ear is not None or message.subscription not in self._closed_names:
                self._strike("unasked")
            self._late += 1
            if self._late > _LATE_MAX:
                raise RelayMisbehaved(f"the relay sent {self._late} events of a closed subscription")
            return None
        if (
            isinstance(message, ClosedMessage)
            and (future := self._counts.get(message.subscription)) is not None
        ):
            if not future.done():
                future.set_exception(ConnectionLost(f"the relay refused to count: {message.message}"))
            return None
        return () if ear is not None else None

    @property
    def _is_full(self) -> bool:
        limits = self._limits
        return self._queued_bytes > limits.queue_bytes_max or len(self._queue) >= limits.queue_frames_max

    async def _room(self) -> None:
        while self._is_full:
            self._drained.clear()
            await self._drained.wait()

    def _answer(self, event_id: str, answer: Answer) -> None:
        for future in self._oks.get(event_id, ()):
            if not future.done():
                future.set_result(answer)

    def _strike(self, what: str) -> None:
        if not self._health.refused:
            # Where stored and new events meet, an honest relay may tell one twice.
            say = log.info if what == "repeated" else log.warning
            say("relay_message_refused", relay=self.url, what=what)
        self._health.refused[what] = self._health.refused.get(what, 0) + 1
        self._strikes += 1
        if self._strikes > self._limits.strikes_max:
            raise RelayMisbehaved(f"the relay sent {self._strikes} messages that were {what} or worse")

    def _says_more(self) -> None:
        self._said += 1
        if self._said > self._limits.strikes_max + _ANSWERS_MAX * self._sent:
            raise RelayMisbehaved(f"the relay sent {self._said} answers to {self._sent} messages")

    # Delivering

    async def _deliver(self) -> NoReturn:
        begun: deque[tuple[list[Heard], Check]] = deque()
        while True:
            if not begun:
                await self._filled.wait()
            while self._queue and len(begun) < _BATCHES_AHEAD:
                batch = self._take_batch()
                events = [message.event for message, _ in batch if isinstance(message, EventMessage)]
                begun.append((batch, self._door.begin(events)))
            batch, check = begun.popleft()
            await self._deliver_batch(batch, iter(await self._door.end(check)))
            if self._queue or begun:
                await asyncio.sleep(0)  # those who were handed something take it before there is more

    def _take_batch(self) -> list[Heard]:
        taken = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH_MAX))]
        self._queued_bytes -= sum(size for _, _, size in taken)
        if not self._queue:
            self._filled.clear()
        self._drained.set()
        return [(message, hearing) for message, hearing, _ in taken]

    async def _deliver_batch(self, batch: Sequence[Heard], verdicts: Iterator[bool]) -> None:
        pending: defaultdict[tuple[str, Feed], list[Event]] = defaultdict(list)
        for message, hearing in batch:
            if isinstance(message, EventMessage):
                if not next(verdicts):
                    self._strike("invalid")
                elif self._is_new(message):
                    self._health.events += 1
                    if self._strikes:
                        self._strikes = max(0, self._strikes - _FORGIVEN)
                    for feed in hearing:
                        pending[message.subscription, feed].append(message.event)
                else:
                    self._strike("repeated")
                continue
            # Whoever hears that something ended may rely on all that came before being in the feeds' hands.
            await self._hand_over(pending)
            pending.clear()
            self._ended(message)
        await self._hand_over(pending)

    def _is_new(self, message: EventMessage) -> bool:
        key = message.subscription + message.event.id
        if self._told.get(key) is not None:
            return False
        self._told.add(key)
        return True

    async def _hand_over(self, pending: dict[tuple[str, Feed], list[Event]]) -> None:
        if len(pending) == 1:
            [(name, feed)] = pending
            await self._hand(name, feed, pending[name, feed])
        elif pending:
            async with asyncio.TaskGroup() as together:  # those that write are written in one commit
                for (name, feed), events in pending.items():
                    together.create_task(self._hand(name, feed, events))

    async def _hand(self, name: str, feed: Feed, events: Sequence[Event]) -> None:
        ear = self._open.get(name)
        if ear is not None and feed in ear.feeds and not await feed.events(events):
            self._leave(feed)
            self._start(self._reopen_with_room(feed))

    def _ended(self, message: EoseMessage | ClosedMessage) -> None:
        ear = self._open.get(message.subscription)
        if ear is None:
            return
        if isinstance(message, EoseMessage):
            self._patience |= {feed: _Patience() for feed in ear.feeds}
            if not isinstance(ear, Bundle):
                ear.feed.eose()
            self._gathering.told(ear)
            return
        del self._open[message.subscription]
        self._health.closed += 1
        if self._gathering.refused(ear, message.message):
            return
        for feed, filters in [*ear.feeds.items()]:
            self._leave(feed)
            if feed.lasting:
                feed.lost()
            self._start(self._reopen(feed, filters, message.message))

    # Opening and closing

    def _ask(self, ear: Ear) -> None:
        ear.name = f"s{next(self._names)}"
        self._open[ear.name] = ear
        self._start(self._send(request_frame(ear.name, ear.filters)))

    def _close(self, ear: Ear) -> None:
        if self._open.pop(ear.name, None) is not None:
            self._closed_names.append(ear.name)
            self._late = 0
            self._start(self._send(close_frame(ear.name)))

    def _part(self, feed: Feed, but: Ear | None = None) -> bool:
        """Close what the feed hears by besides `but`, as far as nobody else does; whether there was anything."""
        ears = [ear for ear in self._open.values() if feed in ear.feeds and ear is not but]
        for ear in ears:
            del ear.feeds[feed]
            if not ear.feeds:
                self._close(ear)
        return bool(ears)

    def _leave(self, feed: Feed) -> None:
        was_open = self._part(feed)
        if self._gathering.leave(feed) or was_open:
            feed.lost()

    async def _reopen_with_room(self, feed: Feed) -> None:
        await feed.room()
        if feed in self._patience:
            self.open(feed)

    async def _reopen(self, feed: Feed, filters: Sequence[Filter], reason: str) -> None:
        patience = self._patience.get(feed)
        if patience is None:  # dropped meanwhile
            return
        again = False
        if prefix_of(reason) == "auth-required" and patience.auth_rounds < _AUTH_ROUNDS_MAX:
            patience.auth_rounds += 1
            again = await self._authenticate(filters)
        if not again and feed.lasting:
            log.info("subscription_closed_by_relay", relay=self.url, reason=reason)
            await self._clock.sleep(patience.backoff.next())
            patience.auth_rounds = 0
            again = True
        if feed not in self._patience:
            return
        if again:
            self.open(feed)
        else:
            feed.lost()

    async def _prove(self) -> None:
        with suppress(TimeoutError):
            question = Question(NOTHING, self._limits)
            await within(self._clock, self._limits.eose_seconds_max, question.put_to(self))

    async def _authenticate(self, filters: Sequence[Filter]) -> bool:
        return await self._auth.authenticate(_keys_in(filters))

    def _end(self, reason: str) -> None:
        self._over = reason
        for futures in self._oks.values():
            for future in futures:
                _release(future, reason)
        for counting in self._counts.values():
            _release(counting, reason)
        self._open.clear()
        for feed in self._patience:  # those between two REQs wait for an answer too
            feed.lost()


def _release(future: "asyncio.Future[Answer] | asyncio.Future[int]", reason: str) -> None:
    if not future.done():
        future.set_exception(ConnectionLost(reason))
        future.exception()  # its waiter may be gone; asyncio must not warn of it then


def _keys_in(filters: Iterable[Filter]) -> set[str]:
    """The public keys a request is about: its authors and those it is addressed to."""
    return {key for one in filters for key in (*(one.authors or ()), *one.tags.get("p", ()))}
