"""Where people read (NIP-65): their relay lists, looked up in the background and remembered for a while.

Nobody waits for a lookup. What was sent before the list was known is sent on, once and without a promise, to the relays
that it names; later answers go there as to any other relay. Bounded in every direction: strangers decide how many
people there are, and what their lists say.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from identity.event import Event
from relay_bridge.filters import Filter
from relay_bridge.pool import RelayPool
from relay_bridge.tasks import Tasks
from relay_bridge.urls import usable_relays
from store import Clock

RELAY_LIST: Final = 10002
RELAYS_MAX: Final = 4  # of one person's; NIP-65 advises two to four
FRESH_SECONDS: Final = 6 * 3600
LOOKUP_SECONDS_MAX: Final = 5.0
PEOPLE_MAX: Final = 10_000  # remembered
WAITING_MAX: Final = 1000  # people to be looked up; more are not
BATCH: Final = 100  # people in one question
EVENTS_MAX: Final = 8  # of one person that wait to be sent on
SENDING_MAX: Final = 64


class _Sent(NamedTuple):
    event: Event
    relays: frozenset[str]


class Mailboxes:
    """Use as an async context manager: what is asked for outside of it is not looked up."""

    def __init__(self, pool: RelayPool, clock: Clock) -> None:
        """`pool` must be open while this is."""
        self._pool = pool
        self._clock = clock
        self._known: OrderedDict[str, tuple[int, tuple[str, ...]]] = OrderedDict()
        self._waiting: OrderedDict[str, list[_Sent]] = OrderedDict()
        self._wanted = asyncio.Event()
        self._tasks = Tasks()
        self._sending = asyncio.Semaphore(SENDING_MAX)

    async def __aenter__(self) -> "Mailboxes":
        self._tasks.start(self._run(), "mailboxes")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._tasks.close()

    def relays_of(self, person: str) -> tuple[str, ...] | None:
        """Where a person reads; None if that has to be looked up."""
        known = self._known.get(person)
        if known is None or known[0] <= self._clock.now():
            return None
        return known[1]

    def send_on(self, person: str, events: Iterable[Event], relays: Collection[str]) -> None:
        """Look up where a person reads, and send `events` there too, which went to `relays`."""
        if person not in self._waiting and len(self._waiting) >= WAITING_MAX:
            return
        waiting = self._waiting.setdefault(person, [])
        there = frozenset(relays)
        waiting += [_Sent(event, there) for event in events]
        del waiting[:-EVENTS_MAX]
        self._wanted.set()

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._waiting:
                people = list(self._waiting)[:BATCH]
                await self._look_up(people)
                for person in people:
                    self._send(self._waiting.pop(person), self._known[person][1])

    async def _look_up(self, people: Sequence[str]) -> None:
        what = Filter(kinds=(RELAY_LIST,), authors=tuple(people))
        found = await self._pool.query([what], seconds_max=LOOKUP_SECONDS_MAX)
        newest = {event.pubkey: event for event in reversed(found)}
        until = self._clock.now() + FRESH_SECONDS
        for person in people:
            event = newest.get(person)
            self._known[person] = (until, read_relays(event) if event else ())
            self._known.move_to_end(person)
        while len(self._known) > PEOPLE_MAX:
            self._known.popitem(last=False)

    def _send(self, sent: Iterable[_Sent], relays: Sequence[str]) -> None:
        for event, there in sent:
            more = [relay for relay in relays if relay not in there]
            if more and not self._sending.locked():
                self._tasks.start(self._publish(event, more), "mail")

    async def _publish(self, event: Event, relays: Sequence[str]) -> None:
        async with self._sending:
            await self._pool.publish(event, relays)


def read_relays(event: Event) -> tuple[str, ...]:
    """The relays of a relay list (10002) where its author reads: those without a marker, or marked so."""
    tags = (tag for tag in event.tags_named("r") if len(tag) > 1 and tag[2:3] in ((), ("",), ("read",)))
    return usable_relays((tag[1] for tag in tags), relays_max=RELAYS_MAX)
