"""A query on one session: one `REQ`, its stored events, one `CLOSE`."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from identity.event import Event
from relay_bridge.filters import Filter
from relay_bridge.limits import PoolLimits

if TYPE_CHECKING:
    from relay_bridge.session import Session


@dataclass(frozen=True)
class Fetched:
    """What a query brought. `complete`: the relay said that this is all it gives for this `REQ`."""

    events: list[Event]
    complete: bool


class Question:
    """One query on its way: a `feed.Feed` that ends with the stored events. Cancelled, it keeps what came so far."""

    lasting = False
    shares = False

    def __init__(self, filters: Sequence[Filter], limits: PoolLimits) -> None:
        self._filters = filters
        self._limits = limits
        self._bytes = 0
        self._found: dict[str, Event] = {}
        self._ended = asyncio.Event()
        #: Whether the relay said that this is all it gives for this `REQ`.
        self.complete = False

    @property
    def fetched(self) -> Fetched:
        """What it brought."""
        return Fetched(list(self._found.values()), self.complete)

    async def put_to(self, session: "Session") -> None:
        """Ask, and wait for the end."""
        session.open(self)
        try:
            await self._ended.wait()
        finally:
            session.drop(self)

    # What the session calls

    def filters(self) -> Sequence[Filter]:
        """See `feed.Feed.filters`."""
        return self._filters

    def opened(self, *, shared: bool) -> None:
        """See `feed.Feed.opened`."""

    def ignores(self, _event: Event) -> bool:
        """See `feed.Feed.ignores`."""
        return False

    async def events(self, events: Sequence[Event]) -> bool:
        """See `feed.Feed.events`: what exceeds the limits is left out, and ends the question."""
        for event in events:
            self._bytes += len(event.content) + sum(len(value) for tag in event.tags for value in tag)
            if (
                len(self._found) >= self._limits.query_events_max
                or self._bytes > self._limits.query_bytes_max
            ):
                self._ended.set()
                break
            self._found[event.id] = event
        return True

    async def room(self) -> None:
        """See `feed.Feed.room`."""

    def eose(self) -> None:
        """See `feed.Feed.eose`."""
        self.complete = not self._ended.is_set()
        self._ended.set()

    def lost(self) -> None:
        """See `feed.Feed.lost`."""
        self._ended.set()
