"""What hears by one `REQ`: one feed alone, or a bundle of feeds whose filters are put together. Pure.

Filters are put together where they differ in nothing but the values of one condition: 100 agents' gift wraps are one
filter with 100 keys. What comes is handed to those whose own filters match.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec

from identity.event import Event
from relay_bridge.feed import Feed
from relay_bridge.filters import Filter, matches_any
from relay_bridge.messages import request_frame

_BESIDES_TAGS: Final = ("ids", "authors", "kinds")  # the most telling first


class Alone:
    """One feed with a `REQ` of its own, which brings the stored events too."""

    def __init__(self, feed: Feed) -> None:
        self.name = ""
        self.feed = feed
        self.filters = tuple(feed.filters())
        self.feeds = {feed: self.filters}
        #: Whether all stored events have come.
        self.told = False
        only = self.filters[0].matches if len(self.filters) == 1 else None  # most have one filter
        self._matches: Callable[[Event], bool] = only or partial(matches_any, self.filters)

    def hears(self, event: Event) -> Sequence[Feed] | None:
        """Who wants an event that came, true or forged; None if nobody has asked for such a one."""
        if not self._matches(event):
            return None
        return () if self.feed.ignores(event) else (self.feed,)


@dataclass(frozen=True)
class Room:
    """What one `REQ` may hold: relays limit both, some to ten filters and 16 KiB."""

    filters_max: int = 10
    bytes_max: int = 16_000

    def below(self, size: "Room", least: "Room") -> "Room":
        """What is left of it at a relay that takes `least` and not `size`: fewer filters, or else fewer bytes."""
        if size.filters_max > least.filters_max:
            return Room(least.filters_max, self.bytes_max)
        return Room(self.filters_max, least.bytes_max)


class Bundle:
    """Feeds that share a `REQ`. It brings what is new, and of the stored events next to nothing."""

    def __init__(self) -> None:
        self.name = ""
        self.feeds: dict[Feed, tuple[Filter, ...]] = {}
        self._joint: dict[Hashable, Filter] = {}
        self._by_value: defaultdict[tuple[str, object], list[tuple[Feed, Filter]]] = defaultdict(list)

    @property
    def filters(self) -> tuple[Filter, ...]:
        """What to ask the relay for."""
        return tuple(self._joint.values())

    @property
    def size(self) -> Room:
        """The least room for it."""
        return Room(len(self._joint), len(request_frame("", self.filters)))

    def add(self, feed: Feed, room: Room) -> bool:
        """Let a feed in, with the filters it has now; False if it does not fit in."""
        filters, joint = tuple(feed.filters()), dict(self._joint)
        for one in filters:
            name, values, rest = _parted(one)
            other = joint.get((name, rest))
            joint[name, rest] = _joined(name, one, values, other)
        if len(joint) > room.filters_max or len(request_frame("", tuple(joint.values()))) > room.bytes_max:
            return False
        self._joint = joint
        self.feeds[feed] = filters
        for one in filters:
            name, values, _ = _parted(one)
            for value in values or (None,):
                self._by_value[name if values else "", value].append((feed, one))
        return True

    def hears(self, event: Event) -> Sequence[Feed] | None:
        """See `Alone.hears`."""
        asked = self._who_asked(event)
        # Who has left it is still in the relay's filters: what comes for those is no fault of the relay.
        if not asked and not matches_any(self.filters, event):
            return None
        return [feed for feed in asked if not feed.ignores(event)]

    def _who_asked(self, event: Event) -> dict[Feed, None]:
        values: Iterable[tuple[str, object]] = (
            ("", None), ("kinds", event.kind), ("authors", event.pubkey), ("ids", event.id),
            *(("#" + tag[0], tag[1]) for tag in event.tags if len(tag) > 1),
        )  # fmt: skip
        return {
            feed: None
            for value in values
            for feed, one in self._by_value.get(value, ())
            if one.matches(event) and feed in self.feeds
        }


Ear = Alone | Bundle


def _parted(one: Filter) -> tuple[str, Sequence[object], Hashable]:
    """A filter's most telling condition and its values (none: every event may match), and what it says besides."""
    said = one.to_dict()
    said.pop("since", None)
    said.pop("limit", None)
    tags = [name for name in said if name[0] == "#"]
    candidates = tags if len(tags) == 1 else () if tags else _BESIDES_TAGS
    name = next((name for name in candidates if name in said), "")
    values = said.pop(name, ())
    assert isinstance(values, tuple)
    return name, values, tuple(sorted(said.items()))


def _joined(name: str, one: Filter, values: Sequence[object], other: Filter | None) -> Filter:
    """What both filters match, live events only but for one: relays understand a `limit` of 0 in two ways."""
    since = one.since
    if other is not None:
        _, others, _ = _parted(other)
        values = tuple(dict.fromkeys((*others, *values)))
        since = None if since is None or other.since is None else min(since, other.since)
    changed: dict[str, object] = (
        {"tags": {name[1:]: values}} if name[:1] == "#" else {name: values} if name else {}
    )
    return msgspec.structs.replace(one, since=since, limit=1, **changed)
