"""Mail for people: into the outbox for where they read (NIP-65, for gift wraps NIP-17), as far as that is known.

Nobody waits for a lookup. Where the lists of a reader are not known yet, what was sent to other relays is put into the
outbox for those that the lists name as soon as they are; a crash before that costs no more than this copy. Lists are
remembered for a while. Bounded in every direction: strangers decide how many people there are, and what lists say.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog

from identity.event import Event
from identity.nip59 import KIND_EPHEMERAL_GIFT_WRAP, KIND_GIFT_WRAP
from relay_bridge.filters import Filter
from relay_bridge.outbox import Outbox
from relay_bridge.pool import RelayPool
from relay_bridge.tasks import Tasks
from relay_bridge.urls import usable_relays
from store import Clock, Database, Transaction

log = structlog.get_logger(__name__)

RELAY_LIST: Final = 10002
MESSAGE_RELAY_LIST: Final = 10050
RELAYS_MAX: Final = 4  # of one list that are used, the best of them; NIP-65 advises two to four
LISTED_MAX: Final = 8  # of one list that are remembered
FRESH_SECONDS: Final = 6 * 3600
LOOKUP_SECONDS_MAX: Final = 5.0
PEOPLE_MAX: Final = 10_000  # remembered
WAITING_MAX: Final = 1000  # people to be looked up; more are not
BATCH: Final = 100  # people in one question
EVENTS_MAX: Final = 8  # of one person that wait to be sent on
_WRAPS: Final = (KIND_GIFT_WRAP, KIND_EPHEMERAL_GIFT_WRAP)


@dataclass(frozen=True)
class Ways:
    """Where one person reads, and where it takes messages: the first that are usable of what it lists."""

    read: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()

    def of(self, event: Event) -> tuple[str, ...]:
        """Where to send `event`. Who has no relays for messages gets gift wraps where it reads."""
        return (self.messages or self.read) if event.kind in _WRAPS else self.read


class _Sent(NamedTuple):
    event: Event
    until: int | None


class Mailboxes:
    """Use as an async context manager: outside of it nobody is looked up."""

    def __init__(self, db: Database, pool: RelayPool, outbox: Outbox, clock: Clock) -> None:
        """`pool` and `outbox` must be open while this is."""
        self._db = db
        self._pool = pool
        self._outbox = outbox
        self._clock = clock
        self._known: OrderedDict[str, tuple[int, Ways]] = OrderedDict()
        self._waiting: OrderedDict[str, list[_Sent]] = OrderedDict()
        self._wanted = asyncio.Event()
        self._tasks = Tasks()

    async def __aenter__(self) -> "Mailboxes":
        self._tasks.start(self._run(), "mailboxes")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._tasks.close()

    async def send(
        self,
        tx: Transaction,
        event: Event,
        reader: str,
        relays: Iterable[str] = (),
        *,
        until: int | None = None,
    ) -> None:
        """Put `event` for `reader` into the outbox: for our relays, for `relays`, and for where the reader reads.

        `relays` must be usable, as for `Outbox.add`, whose `until` this is.
        """
        ways = self.ways_to(reader)
        listed = self._pool.choose(ways.of(event), RELAYS_MAX) if ways else ()
        await self._outbox.add(tx, event, (*relays, *listed), until=until)
        if ways is None:
            tx.after_commit(lambda: self._send_on(reader, _Sent(event, until)))

    def ways_to(self, person: str) -> Ways | None:
        """Where a person reads; None if that has to be looked up."""
        known = self._known.get(person)
        if known is None or known[0] <= self._clock.now():
            return None
        return known[1]

    def _send_on(self, person: str, sent: _Sent) -> None:
        if person not in self._waiting and len(self._waiting) >= WAITING_MAX:
            return
        waiting = self._waiting.setdefault(person, [])
        waiting.append(sent)
        del waiting[:-EVENTS_MAX]
        self._wanted.set()

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._waiting:
                people = list(self._waiting)[:BATCH]
                await self._look_up(people)
                sent = {person: self._waiting.pop(person) for person in people}
                try:
                    await self._add(sent)
                except Exception:  # a full disk, say: these copies are lost, the next ones need not be
                    log.exception("mail_not_sent_on")

    async def _look_up(self, people: Sequence[str]) -> None:
        what = Filter(kinds=(RELAY_LIST, MESSAGE_RELAY_LIST), authors=tuple(people))
        found = await self._pool.query([what], seconds_max=LOOKUP_SECONDS_MAX)
        newest = {(event.pubkey, event.kind): event for event in reversed(found)}
        until = self._clock.now() + FRESH_SECONDS
        for person in people:
            reads, takes = newest.get((person, RELAY_LIST)), newest.get((person, MESSAGE_RELAY_LIST))
            ways = Ways(read_relays(reads) if reads else (), message_relays(takes) if takes else ())
            self._known[person] = until, ways
            self._known.move_to_end(person)
        while len(self._known) > PEOPLE_MAX:
            self._known.popitem(last=False)

    async def _add(self, sent: dict[str, list[_Sent]]) -> None:
        async with self._db.transaction() as tx:
            for person, waiting in sent.items():
                ways = self._known[person][1]
                for event, until in waiting:
                    if relays := self._pool.choose(ways.of(event), RELAYS_MAX):
                        await self._outbox.add(tx, event, relays, own=False, until=until)


def read_relays(event: Event) -> tuple[str, ...]:
    """The relays of a relay list (10002) where its author reads: those without a marker, or marked so."""
    tags = (tag for tag in event.tags_named("r") if len(tag) > 1 and tag[2:3] in ((), ("",), ("read",)))
    return usable_relays((tag[1] for tag in tags), relays_max=LISTED_MAX)


def message_relays(event: Event) -> tuple[str, ...]:
    """The relays of a list (10050) where its author takes messages (NIP-17)."""
    return usable_relays((tag[1] for tag in event.tags_named("relay") if len(tag) > 1), relays_max=LISTED_MAX)
