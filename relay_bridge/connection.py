"""One relay: stays connected to it, and keeps what outlives a connection (who is subscribed, how the relay does)."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import structlog

from identity.event import Event
from relay_bridge.auth import Signers
from relay_bridge.door import Door
from relay_bridge.errors import ConnectionLost, InvalidRelayUrl, TooManySubscriptions
from relay_bridge.feed import Feed
from relay_bridge.fetching import Fetched, Question
from relay_bridge.filters import Filter
from relay_bridge.limits import PoolLimits
from relay_bridge.session import Session
from relay_bridge.tasks import Tasks
from relay_bridge.timing import Backoff, within
from relay_bridge.transport import Connect
from relay_bridge.values import Answer, RelayHealth
from store import Clock

log = structlog.get_logger(__name__)

_CONNECT_SECONDS_MAX: Final = 10.0
_STABLE_SECONDS: Final = 30  # a connection that lasted so long begins again with short delays
_PAUSE_SECONDS: Final = (
    1.0  # how long a relay that misbehaved is left the first time; then four times that, …
)
_PAUSE_SECONDS_MAX: Final = 3600.0
_FORGIVEN_SECONDS: Final = 3600  # … unless it behaved for so long


class RelayConnection:
    """Connects on `start` and again after every loss, until `close`. Subscriptions are renewed each time."""

    def __init__(
        self,
        health: RelayHealth,
        *,
        connect: Connect,
        clock: Clock,
        door: Door,
        signers: Signers,
        limits: PoolLimits,
    ) -> None:
        self.url = health.url
        self.health = health
        self.connect = connect  #: read anew for each connection
        self._clock = clock
        self._door = door
        self._signers = signers
        self._limits = limits
        self._feeds: dict[Feed, None] = {}
        self._session: Session | None = None
        self._up = asyncio.Event()
        self._tried = asyncio.Event()
        self._refusal = ""
        self._queries = asyncio.Semaphore(limits.queries_max)
        self._uses = 0
        self._used_at = clock.now()
        self._tasks = Tasks()

    # Life

    def start(self) -> None:
        """Begin to connect."""
        self._tasks.start(self._run(), f"relay {self.url}")

    async def close(self) -> None:
        """Disconnect for good; feeds are told `lost`."""
        await self._tasks.close()
        self._up.clear()
        self._session = None
        self._tried.set()  # whoever still waits is told that we are not connected

    def idle_since(self) -> int | None:
        """Unix time of the last use, None while in use."""
        return None if self._uses or self._feeds else self._used_at

    async def _run(self) -> None:
        backoff = Backoff()
        pauses = Backoff(_PAUSE_SECONDS, factor=4.0, cap_seconds=_PAUSE_SECONDS_MAX)
        while True:
            started = self._clock.now()
            error = await self._connect_once()
            misbehaved = self._session is not None and self._session.misbehaved
            self._up.clear()
            self._session = None
            self._tried.set()
            lasted_seconds = self._clock.now() - started
            if lasted_seconds >= _STABLE_SECONDS:
                backoff.reset()
            if lasted_seconds >= _FORGIVEN_SECONDS:
                pauses.reset()
            self.health.failures += 1
            self.health.last_error = error
            self._note_connected(False)
            if misbehaved:
                self.health.lies()
            await self._clock.sleep(pauses.next() if misbehaved else backoff.next())

    async def _connect_once(self) -> str:
        """One connection from beginning to end; returns why it ended."""
        try:
            socket = await within(self._clock, _CONNECT_SECONDS_MAX, self.connect(self.url))
        except InvalidRelayUrl as error:
            self._refusal = str(error)
            self.health.breaks()
            return self._refusal
        except (ConnectionLost, TimeoutError) as error:
            self.health.breaks()
            return str(error)
        self._refusal = ""
        self._session = Session(
            self.url,
            socket,
            clock=self._clock,
            door=self._door,
            signers=self._signers,
            limits=self._limits,
            health=self.health,
        )
        self._note_connected(True)
        try:
            return await self._session.run(tuple(self._feeds), self._opened)
        except Exception as error:
            # A feed could not keep what it was given (the disk is full, say). Nothing is lost: the next connection
            # asks for it again.
            log.exception("relay_session_failed", relay=self.url)
            return f"we failed: {type(error).__name__}"

    def _opened(self) -> None:
        self._tried.set()
        self._up.set()

    def _note_connected(self, connected: bool) -> None:
        if self.health.connected == connected:
            return
        self.health.connected = connected
        self.health.since = self._clock.now()
        log.info(
            "relay_connected" if connected else "relay_lost", relay=self.url, error=self.health.last_error
        )

    # Use

    async def up(self) -> None:
        """Wait until connected, however long that takes."""
        await self._up.wait()

    async def tried(self) -> bool:
        """Wait for the first attempt to connect to end; then whether we are connected now."""
        await self._tried.wait()
        return self._up.is_set()

    @property
    def refusal(self) -> str:
        """Why this relay will never be connected to; empty if it may."""
        return self._refusal

    def attach(self, feed: Feed) -> None:
        """Subscribe now and after every reconnect. Raises `TooManySubscriptions`."""
        if len(self._feeds) >= self._limits.subscriptions_max:
            raise TooManySubscriptions(f"{len(self._feeds)} subscriptions on {self.url}; close some")
        self._feeds[feed] = None
        if self._session is not None and self._up.is_set():
            self._session.open(feed)

    def detach(self, feed: Feed) -> None:
        """Undo `attach`; harmless if it was undone."""
        if feed not in self._feeds:
            return
        del self._feeds[feed]
        self._used_at = self._clock.now()
        if self._session is not None:
            self._session.drop(feed)

    async def fetch(self, filters: Sequence[Filter], seconds_max: float) -> Fetched:
        """Stored events, verified, in the relay's order; incomplete if the relay is down or the time runs out."""
        question = Question(filters, self._limits)
        await self.ask(question, seconds_max)
        return question.fetched

    async def ask(self, question: Question, seconds_max: float) -> bool:
        """As `fetch`; whether the relay answered to the end."""
        started = time.perf_counter()
        with _Use(self):
            try:
                # Whoever waits for its turn at a relay that tells nothing waits no longer for that.
                await within(self._clock, seconds_max, self._put(question))
            except TimeoutError:
                self.health.breaks()
            else:
                if question.complete:
                    self.health.keeps(time.perf_counter() - started)
        return question.complete

    async def _put(self, question: Question) -> None:
        async with self._queries:
            if await self.tried() and self._session is not None:
                await question.put_to(self._session)

    async def count(self, filters: Sequence[Filter], seconds_max: float) -> int | None:
        """NIP-45; None if the relay cannot or does not tell."""
        with _Use(self):
            try:
                return await within(self._clock, seconds_max, self._count(filters))
            except (ConnectionLost, TimeoutError):
                return None

    async def _count(self, filters: Sequence[Filter]) -> int | None:
        async with self._queries:
            if await self.tried() and self._session is not None:
                return await self._session.count(filters)
        return None

    async def publish(self, event: Event) -> Answer:
        """Send once and wait for the relay's answer. Never raises; a relay that is down answers `error:` at once."""
        started = time.perf_counter()
        with _Use(self):
            try:
                answer = await within(self._clock, self._limits.publish_seconds_max, self._publish(event))
            except (ConnectionLost, TimeoutError) as error:
                answer = Answer(False, f"error: {error}", silent=True)
        if answer.accepted:
            self.health.keeps(time.perf_counter() - started)
        else:
            self.health.breaks()
        return answer

    async def _publish(self, event: Event) -> Answer:
        if not await self.tried() or self._session is None:
            if self._refusal:
                return Answer(False, f"blocked: {self._refusal}")
            return Answer(False, f"error: not connected: {self.health.last_error}", silent=True)
        return await self._session.publish(event)


class _Use:
    """Keeps a connection from being thought idle."""

    def __init__(self, connection: RelayConnection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection._uses += 1

    def __exit__(self, *exc_info: object) -> None:
        self._connection._uses -= 1
        self._connection._used_at = self._connection._clock.now()
