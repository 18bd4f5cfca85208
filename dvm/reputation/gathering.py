"""What relays have of an agent: the events that its keys signed for a log, and the reviews of its jobs, as they are.

Each key is asked for by itself, at each relay: what one has too much of, or does not answer, hides nothing of another.
Strangers decide how much there is of reviews and of rotations, the agent of the rest: all of it is bounded.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from dvm.kinds import DELETION
from dvm.stored import PAGE_SECONDS_MAX, stored_pages
from identity import Event, InvalidReceipt
from identity.receipts import NAMESPACE, REVIEW
from identity.roots import APP_DATA, LEAVES_NAME, ROOT_NAME, ROOT_REPLACEABLE, parse_root
from identity.rotation import ROTATION_NAME
from relay_bridge import Filter, RelayBridgeError, RelayPool
from relay_bridge.mailboxes import RELAY_LIST, read_relays
from relay_bridge.timing import within
from store import Clock

RELAYS_NAMED_MAX: Final = 4  # besides the configured ones
ROOTS_MAX: Final = 5_000  # each of these: of one key at one relay
PAGES_MAX: Final = 2_000
PAGES_AT_ONCE: Final = 200  # of 40 kB each: what exceeds 16 MB in one answer is not read
ROTATIONS_MAX: Final = 500  # by a key, and as many that strangers may have made of it
DELETIONS_MAX: Final = 2_000  # an agent takes an announcement back each time it stops
CROWD_MIN: Final = 100  # a page with so many of one second, and none of another, may have been cut off
CROWD_MAX: Final = 5_000
REVIEWS_MAX: Final = 10_000
IDS_PER_QUESTION: Final = 100  # relays commonly refuse longer lists
QUESTION_SECONDS_MAX: Final = 60.0  # with all its pages


class Gathering:
    """What came so far: every event once, and of each relay which ones. `trouble` says what a relay did not do."""

    def __init__(self, pool: RelayPool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._asked: set[tuple[str, str]] = set()
        self._away: set[str] = set()
        self.events: dict[str, Event] = {}
        self.ids_at: dict[str, set[str]] = {url: set() for url in pool.urls}
        self.trouble: dict[str, str] = {}

    def called(self, name: str) -> list[Event]:
        """The events of kind 78 of that name (`t`)."""
        return [event for event in self.events.values() if _is_called(event, name)]

    async def visit(self, relays: Iterable[str]) -> None:
        """Ask these too from now on, as many as there is room for."""
        room = RELAYS_NAMED_MAX + len(self._pool.urls) - len(self.ids_at)
        chosen = self._pool.choose(relays, RELAYS_NAMED_MAX)
        self.ids_at |= {url: set() for url in [url for url in chosen if url not in self.ids_at][:room]}

    def named_relays(self) -> list[str]:
        """Where the authors say that they read, and that their leaves are: the newest word first."""
        named: list[str] = []
        for event in sorted(self.events.values(), key=lambda event: (-event.created_at, event.id)):
            if event.kind == RELAY_LIST:
                named += read_relays(event)
            elif event.kind == ROOT_REPLACEABLE or _is_called(event, ROOT_NAME):
                with suppress(InvalidReceipt):
                    named += parse_root(event).relays
        return named

    async def ask_of(self, keys: Iterable[str]) -> bool:
        """Ask each relay for what these keys signed, where that was not done yet; whether it was to be done."""
        new = [(url, key) for key in keys for url in self.ids_at if (url, key) not in self._asked]
        self._asked |= set(new)
        await asyncio.gather(*(self._ask(url, *question) for url, key in new for question in _questions(key)))
        return bool(new)

    async def ask_reviews(self, keys: Iterable[str]) -> None:
        """Ask each relay for the reviews of these keys' jobs."""
        questions = [Filter(kinds=(REVIEW,), tags={"p": (key,), "L": (NAMESPACE,)}) for key in keys]
        await asyncio.gather(*(self._ask(url, one, REVIEWS_MAX) for url in self.ids_at for one in questions))

    async def ask_missing(self, review_ids: Iterable[str]) -> None:
        """Ask each relay for those of these reviews that are not here yet."""
        missing = [one for one in dict.fromkeys(review_ids) if one not in self.events][:REVIEWS_MAX]
        for start in range(0, len(missing), IDS_PER_QUESTION):
            what = Filter(kinds=(REVIEW,), ids=tuple(missing[start : start + IDS_PER_QUESTION]))
            await asyncio.gather(*(self._ask(url, what, REVIEWS_MAX) for url in self.ids_at))

    async def _ask(self, url: str, what: Filter, events_max: int) -> None:
        """What a relay has of it. One that does not answer is not asked again; what it gave until then counts."""
        if url in self._away:
            return
        try:
            await within(self._clock, QUESTION_SECONDS_MAX, self._read(url, what, events_max))
        except (RelayBridgeError, TimeoutError) as error:
            self._give_up(url, str(error))

    async def _read(self, url: str, what: Filter, events_max: int) -> None:
        found: set[str] = set()
        crowds: set[int] = set()
        async for page in stored_pages(self._pool, url, what, events_max=events_max):
            found |= self._take(url, page.events)
            if (second := _crowd(page.events)) and second not in crowds:
                crowds.add(second)
                found |= await self._read_crowd(url, what, second)
            if not page.complete:
                health = self._pool.relay(url).health
                self._give_up(url, "it did not answer to the end" if health.connected else health.last_error)
        if 1 < events_max <= len(found):
            self.trouble[url] = f"it has {events_max} {_in_words(what)} or more; older ones were not read"

    async def _read_crowd(self, url: str, what: Filter, second: int) -> set[str]:
        """Pages go back in time, so of one second that fills a page the rest is in none: ask for more of it at once."""
        of_second = msgspec.structs.replace(what, limit=CROWD_MAX).between(second, second)
        more = await self._pool.relay(url).fetch([of_second], PAGE_SECONDS_MAX)
        self.trouble[url] = (
            f"it has {len(more.events)} {_in_words(what)} of one second, and perhaps not all were read"
        )
        return self._take(url, more.events)

    def _take(self, url: str, events: Iterable[Event]) -> set[str]:
        """Their ids."""
        ids = {self.events.setdefault(event.id, event).id for event in events}
        self.ids_at[url] |= ids
        return ids

    def _give_up(self, url: str, reason: str) -> None:
        self._away.add(url)
        self.trouble[url] = reason


def _is_called(event: Event, name: str) -> bool:
    return event.kind == APP_DATA and ("t", name) in event.tags


def _crowd(events: Sequence[Event]) -> int | None:
    """The second that fills this page."""
    seconds = {event.created_at for event in events}
    return seconds.pop() if len(events) >= CROWD_MIN and len(seconds) == 1 else None


def _in_words(what: Filter) -> str:
    """What was asked for: "events of kind 78 (tradepost:rotation, by anybody)"."""
    kinds = ", ".join(map(str, what.kinds or ()))
    names = [*what.tags.get("t", ()), *(() if what.authors else ("by anybody",))]
    return f"events of kind {kinds}" + (f" ({', '.join(names)})" if names else "")


def _questions(key: str) -> Sequence[tuple[Filter, int]]:
    """What a relay is asked about one key, each with how many events are read."""
    mine = (key,)
    return (
        (Filter(kinds=(RELAY_LIST,), authors=mine), 1),
        (Filter(kinds=(ROOT_REPLACEABLE,), authors=mine, tags={"d": (ROOT_NAME,)}), 1),
        (Filter(kinds=(APP_DATA,), authors=mine, tags={"t": (ROOT_NAME,)}), ROOTS_MAX),
        (Filter(kinds=(APP_DATA,), authors=mine, tags={"t": (LEAVES_NAME,)}, limit=PAGES_AT_ONCE), PAGES_MAX),
        (Filter(kinds=(APP_DATA,), authors=mine, tags={"t": (ROTATION_NAME,)}), ROTATIONS_MAX),
        (Filter(kinds=(APP_DATA,), tags={"t": (ROTATION_NAME,), "p": mine}), ROTATIONS_MAX),
        (Filter(kinds=(DELETION,), authors=mine), DELETIONS_MAX),
    )
