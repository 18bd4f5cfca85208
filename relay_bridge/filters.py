"""NIP-01 filters: what a subscription asks for, and whether an event is what was asked for."""

import string
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from identity.event import KIND_MAX, Event
from relay_bridge.errors import InvalidMessage

FILTER_VALUES_MAX: Final = 5000  # values in one filter that we accept from outside
_HEX_TAGS: Final = frozenset("ep")
_LETTERS: Final = frozenset(string.ascii_letters)


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """One NIP-01 filter. None means "any"; an empty tuple matches nothing. Times are unix seconds, inclusive.

    `tags` maps a single letter (without `#`) to the values of which an event must carry at least one.
    """

    ids: tuple[str, ...] | None = None
    authors: tuple[str, ...] | None = None
    kinds: tuple[int, ...] | None = None
    since: int | None = None
    until: int | None = None
    limit: int | None = None
    tags: Mapping[str, tuple[str, ...]] = {}

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON, only with the conditions that are set."""
        plain: dict[str, object] = {
            name: value
            for name in ("ids", "authors", "kinds", "since", "until", "limit")
            if (value := getattr(self, name)) is not None
        }
        return plain | {f"#{letter}": values for letter, values in self.tags.items()}

    def matches(self, event: Event) -> bool:
        """Whether all conditions hold; `limit` is none of them."""
        return (
            (self.kinds is None or event.kind in self.kinds)
            and (self.since is None or event.created_at >= self.since)
            and (self.until is None or event.created_at <= self.until)
            and (self.authors is None or event.pubkey in self.authors)
            and (self.ids is None or event.id in self.ids)
            and (
                not self.tags or all(_carries(event, letter, values) for letter, values in self.tags.items())
            )
        )

    def between(self, since: int | None, until: int | None = None) -> "Filter":
        """The same filter narrowed to the given times; never widened beyond what it had."""
        since = max((t for t in (self.since, since) if t is not None), default=None)
        until = min((t for t in (self.until, until) if t is not None), default=None)
        return msgspec.structs.replace(self, since=since, until=until)


def parse_filter(plain: object) -> Filter:
    """Read a filter from parsed JSON (what a relay gets). Raises `InvalidMessage`."""
    if not isinstance(plain, dict):
        raise InvalidMessage("a filter must be a JSON object")
    fields: dict[str, Any] = {}
    tags: dict[str, tuple[str, ...]] = {}
    for name, value in plain.items():
        if name in ("ids", "authors"):
            fields[name] = _strings(name, value, is_hex=True)
        elif name == "kinds":
            fields[name] = tuple(_integer(name, kind, KIND_MAX) for kind in _values(name, value))
        elif name in ("since", "until", "limit"):
            fields[name] = _integer(name, value, 2**53)
        elif isinstance(name, str) and len(name) == 2 and name[0] == "#" and name[1] in _LETTERS:
            tags[name[1]] = _strings(name, value, is_hex=name[1] in _HEX_TAGS)
        else:
            raise InvalidMessage(f"unknown condition in a filter: {str(name)[:40]!r}")
    return Filter(**fields, tags=tags)


#: What no event matches: a relay's `EOSE` proves that all it sent before has been read.
NOTHING: Final = (Filter(ids=("0" * 64,), limit=1),)


def matches_any(filters: Iterable[Filter], event: Event) -> bool:
    """Whether at least one filter lets the event through."""
    return any(one.matches(event) for one in filters)


def _carries(event: Event, letter: str, values: tuple[str, ...]) -> bool:
    return any(len(tag) > 1 and tag[0] == letter and tag[1] in values for tag in event.tags)


def _values(name: str, value: object) -> list[object]:
    if not isinstance(value, list) or not 0 < len(value) <= FILTER_VALUES_MAX:
        raise InvalidMessage(f"{name} in a filter must be a list of 1 … {FILTER_VALUES_MAX} values")
    return value


def _strings(name: str, value: object, *, is_hex: bool) -> tuple[str, ...]:
    found = []
    for one in _values(name, value):
        if not isinstance(one, str) or (
            is_hex and (len(one) != 64 or not set(one) <= set("0123456789abcdef"))
        ):
            raise InvalidMessage(
                f"{name} in a filter must hold {'64 lowercase hex digits' if is_hex else 'texts'}"
            )
        found.append(one)
    return tuple(found)


def _integer(name: str, value: object, maximum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        raise InvalidMessage(f"{name} in a filter must be an integer 0 … {maximum}")
    return value
