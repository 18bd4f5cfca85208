"""A query on one session: one `REQ`, its stored events, one `CLOSE`."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from identity.event import Event
from relay_bridge.filters import Filter
from relay_bridge.limits import PoolLimits
from relay_bridge.session import Session
from relay_bridge.timing import within
from store import Clock


@dataclass(frozen=True)
class Fetched:
    """What a query brought. `complete`: the relay said that this is all it gives for this `REQ`."""

    events: list[Event]
    complete: bool


class _OneShot:
    lasting = False

    def __init__(self, filters: Sequence[Filter], limits: PoolLimits) -> None:
        self._filters = filters
        self._limits = limits
        self._bytes = 0
        self.found: dict[str, Event] = {}
        self.complete = False
        self.ended = asyncio.Event()

    def filters(self) -> Sequence[Filter]:
        return self._filters

    def opened(self) -> None:
        pass

    async def events(self, events: Sequence[Event]) -> bool:
        for event in events:
            self._bytes += len(event.content) + sum(len(value) for tag in event.tags for value in tag)
            if len(self.found) >= self._limits.query_events_max or self._bytes > self._limits.query_bytes_max:
                self.ended.set()
                break
            self.found[event.id] = event
        return True

    async def room(self) -> None:
        return

    def eose(self) -> None:
        self.complete = not self.ended.is_set()
        self.ended.set()

    def lost(self) -> None:
        self.ended.set()


async def fetch(
    session: Session, filters: Sequence[Filter], limits: PoolLimits, clock: Clock, seconds_max: float
) -> Fetched:
    """Ask for stored events. What came before the time ran out is returned, as incomplete."""
    feed = _OneShot(filters, limits)
    session.open(feed)
    try:
        await within(clock, seconds_max, feed.ended.wait())
    except TimeoutError:
        pass
    finally:
        session.drop(feed)
    return Fetched(list(feed.found.values()), feed.complete)
