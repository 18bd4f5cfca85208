"""One relay: stays connected to it, and keeps what outlives a connection (who is subscribed, how the relay does)."""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from identity.event import Event
from relay_bridge.auth import Signers
from relay_bridge.door import Door
from relay_bridge.errors import ConnectionLost, InvalidRelayUrl, TooManySubscriptions
from relay_bridge.fetching import Fetched, fetch
from relay_bridge.filters import Filter
from relay_bridge.limits import PoolLimits
from relay_bridge.session import Feed, Session
from relay_bridge.tasks import Tasks
from relay_bridge.timing import Backoff, within
from relay_bridge.transport import Connect
from relay_bridge.values import Answer, RelayHealth
from store import Clock

log = structlog.get_logger(__name__)

_CONNECT_SECONDS_MAX: Final = 10.0
_STABLE_SECONDS: Final = 30  # a connection that lasted so long begins again with short delays


class RelayConnection:
    """Connects on `start` and again after every loss, until `close`. Subscriptions are renewed each time."""

    def __init__(
        self, url: str, *, connect: Connect, clock: Clock, door: Door, signers: Signers, limits: PoolLimits
    ) -> None:
        self.url = url
        self.health = RelayHealth(url)
        self._connect = connect
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
        while True:
            started = self._clock.now()
            error = await self._connect_once()
            self._up.clear()
            self._session = None
            self._tried.set()
            if self._clock.now() - started >= _STABLE_SECONDS:
                backoff.reset()
            self.health.failures += 1
            self.health.last_error = error
            self._note_connected(False)
            await self._clock.sleep(backoff.next())

    async def _connect_once(self) -> str:
        """One connection from beginning to end; returns why it ended."""
        try:
            socket = await within(self._clock, _CONNECT_SECONDS_MAX, self._connect(self.url))
        except InvalidRelayUrl as error:
            self._refusal = str(error)
            return self._refusal
        except (ConnectionLost, TimeoutError) as error:
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
        with _Use(self):
            async with self._queries:
                if not await self._ready(seconds_max) or self._session is None:
                    return Fetched([], complete=False)
                return await fetch(self._session, filters, self._limits, self._clock, seconds_max)

    async def count(self, filters: Sequence[Filter], seconds_max: float) -> int | None:
        """NIP-45; None if the relay cannot or does not tell."""
        with _Use(self):
            async with self._queries:
                if not await self._ready(seconds_max) or self._session is None:
                    return None
                try:
                    return await within(self._clock, seconds_max, self._session.count(filters))
                except (ConnectionLost, TimeoutError):
                    return None

    async def publish(self, event: Event) -> Answer:
        """Send once and wait for the relay's answer. Never raises; a relay that is down answers `error:` at once."""
        with _Use(self):
            try:
                return await within(self._clock, self._limits.publish_seconds_max, self._publish(event))
            except (ConnectionLost, TimeoutError) as error:
                return Answer(False, f"error: {error}")

    async def _publish(self, event: Event) -> Answer:
        if not await self.tried() or self._session is None:
            reason = (
                f"blocked: {self._refusal}"
                if self._refusal
                else f"error: not connected: {self.health.last_error}"
            )
            return Answer(False, reason)
        return await self._session.publish(event)

    async def _ready(self, seconds_max: float) -> bool:
        try:
            return await within(self._clock, seconds_max, self.tried())
        except TimeoutError:
            return False


class _Use:
    """Keeps a connection from being thought idle."""

    def __init__(self, connection: RelayConnection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection._uses += 1

    def __exit__(self, *exc_info: object) -> None:
        self._connection._uses -= 1
        self._connection._used_at = self._connection._clock.now()
