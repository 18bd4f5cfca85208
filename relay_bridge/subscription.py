"""A live subscription on many relays, kept in memory only. What must survive a restart follows by the `Inbox`."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count
from typing import Final

import structlog

from identity.event import Event
from relay_bridge.connection import RelayConnection
from relay_bridge.door import RecentIds
from relay_bridge.filters import Filter
from relay_bridge.limits import PoolLimits
from relay_bridge.timing import most, within
from store import Clock

log = structlog.get_logger(__name__)

OnEvent = Callable[[Event, str], Awaitable[None] | None]

_REMEMBERED: Final = 10_000
_AT_ONCE: Final = 512  # events before others get their turn: more than a session hands over in one


class Subscription:
    """Hands each event to `on_event(event, relay)` once, one at a time, whichever relays send it.

    While `on_event` takes its time, events wait in a bounded queue; other subscriptions and the relay's answers do
    not wait for it. When the queue is full the subscription leaves that relay for a moment and then asks it for the
    stored events anew; ephemeral events of that moment are lost. What `on_event` raises is logged.
    """

    def __init__(
        self,
        filters: Sequence[Filter],
        on_event: OnEvent,
        connections: Iterable[RelayConnection],
        clock: Clock,
        limits: PoolLimits,
    ) -> None:
        self._on_event = on_event
        self._clock = clock
        self._limits = limits
        self._seen = RecentIds(_REMEMBERED)
        self._waiting: deque[tuple[Event, str]] = deque()
        self._filled = asyncio.Event()
        self._taken = asyncio.Event()
        self._filters = filters
        self._feeds: dict[RelayConnection, _RelayFeed] = {}
        #: Whether it has ended.
        self.closed = False
        try:
            self.listen_on(connections)
        except BaseException:
            self.listen_on(())
            raise
        self._task = asyncio.create_task(self._run(), name="subscription")

    def listen_on(self, connections: Iterable[RelayConnection]) -> None:
        """Hear these relays from now on, and no others. Raises `TooManySubscriptions`."""
        wanted = dict.fromkeys(connections)
        for connection in [one for one in self._feeds if one not in wanted]:
            connection.detach(self._feeds.pop(connection))
        for connection in wanted:
            if connection not in self._feeds:
                feed = _RelayFeed(self, connection.url, self._filters)
                connection.attach(feed)
                self._feeds[connection] = feed

    async def eose(self) -> None:
        """Wait until each relay has told what it had stored, is found to be down, or takes too long over it.

        Everything told until then is at least in the queue before `on_event`. Too long is also much longer than others.
        """
        feeds = dict(self._feeds)
        patience_seconds = [connection.health.patience_seconds for connection in feeds]
        with suppress(TimeoutError):
            steps = [_has_told(connection, feed) for connection, feed in feeds.items()]
            await within(
                self._clock, self._limits.eose_seconds_max, most(self._clock, steps, patience_seconds)
            )
        late = [connection for connection, feed in feeds.items() if not feed.told.is_set()]
        for connection in late:
            connection.health.breaks()
            log.info("eose_missing", relay=connection.url)

    async def close(self) -> None:
        """End it. `on_event` is not called any more after this; a call under way is cancelled."""
        self.closed = True
        self.listen_on(())
        self._task.cancel()
        if self._task is not asyncio.current_task():
            await asyncio.wait([self._task])

    def take(self, events: Iterable[Event], relay: str) -> bool:
        """Queue events unless they were met before. False if there is no room for one of them."""
        seen, waiting, room = self._seen, self._waiting, self._limits.waiting_events_max
        for event in events:
            if seen.get(event.id) is not None:
                continue
            if len(waiting) >= room:
                return False
            seen.add(event.id)
            waiting.append((event, relay))
            self._filled.set()
        return True

    async def room(self) -> None:
        """Wait until half of the queue is free."""
        while len(self._waiting) > self._limits.waiting_events_max // 2:
            self._taken.clear()
            await self._taken.wait()

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            for number in count():
                if not self._waiting:
                    break
                if number % _AT_ONCE == _AT_ONCE - 1:
                    await asyncio.sleep(0)
                event, relay = self._waiting.popleft()
                self._taken.set()
                try:
                    result = self._on_event(event, relay)
                    if result is not None:
                        await result
                except Exception:
                    log.exception("on_event_failed", relay=relay, event_id=event.id)


async def _has_told(connection: RelayConnection, feed: "_RelayFeed") -> bool:
    if not await connection.tried():
        return False
    await feed.told.wait()
    return True


class _RelayFeed:
    lasting = True
    shares = False  # what is stored is to come, too

    def __init__(self, subscription: Subscription, url: str, filters: Sequence[Filter]) -> None:
        self._subscription = subscription
        self._url = url
        self._filters = filters
        self.told = asyncio.Event()

    def filters(self) -> Sequence[Filter]:
        return self._filters

    def opened(self, *, shared: bool) -> None:
        pass

    def ignores(self, _event: Event) -> bool:
        return False

    async def events(self, events: Sequence[Event]) -> bool:
        return self._subscription.take(events, self._url)

    async def room(self) -> None:
        await self._subscription.room()

    def eose(self) -> None:
        self.told.set()

    def lost(self) -> None:
        self.told.set()
