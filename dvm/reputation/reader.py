"""An agent's reputation: its keys, roots, leaves and reviews as relays show them, and what they amount to.

What one relay hides another shows, and what none shows any more we may have seen before: the newest root of each log is
remembered where there is a database.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dvm import queries_reputation as queries
from dvm.reputation.gathering import Gathering
from dvm.reputation.settlements import MintWitness, look
from identity import Event, InvalidReceipt
from identity.audit import Audit, Verdict, audit
from identity.published import Finding, Shown, State, check_roots, read_book, read_state, sort_events
from identity.receipts import REVIEW
from identity.roots import Head
from identity.rotation import KEYS_MAX, ROTATION_NAME, parse_rotation
from relay_bridge import RelayPool
from store import Clock, Database

ROUNDS_MAX: Final = 8
LOGS_MAX: Final = 4  # that a key may be of


@dataclass(frozen=True)
class RelayView:
    """What one relay showed: the newest root of the log, None if it has none. `trouble` says what it did not do."""

    url: str
    head: Head | None
    trouble: str = ""


@dataclass(frozen=True)
class Material:
    """All that was found of an agent: as it came, and sorted. `known` is the newest root seen before this reading."""

    events: tuple[Event, ...]
    shown: Shown
    state: State
    relays: tuple[RelayView, ...]
    known: Event | None

    @property
    def unreadable(self) -> int:
        """How many events say that they are reviews, and are not."""
        return sum(event.kind == REVIEW for event in self.shown.malformed)


class Reader:
    """Reads by the relays of `pool`, which is open. Without a `witness` no mint is asked, without a `db` nothing is
    remembered.
    """

    def __init__(
        self, pool: RelayPool, clock: Clock, *, witness: MintWitness | None = None, db: Database | None = None
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._witness = witness
        self._db = db

    async def read(self, agent: str, relays: Sequence[str] = (), *, held: Sequence[Event] = ()) -> Material:
        """Fetch all of the agent that has, or had, that key (hex).

        `relays` are asked besides ours; `held` is what the reader has already, out of a file say, signatures checked.
        """
        gathering = Gathering(self._pool, self._clock)
        await gathering.visit(relays)
        await gathering.ask_of([agent])
        await gathering.visit(gathering.named_relays())
        state = await self._follow(gathering, agent)
        await gathering.ask_reviews(state.chain.keys)
        await gathering.ask_missing(read_book(state.texts).answers)
        known = await queries.seen_root(self._db, state.chain.log) if self._db else None
        events = {event.id: event for event in (*gathering.events.values(), *held)}
        shown = sort_events(state.chain.log, events.values())
        whole = await asyncio.to_thread(read_state, state.chain.log, shown, self._clock.now(), known)
        await self._remember(whole, known)
        return Material(tuple(events.values()), shown, whole, _views(gathering, state), known)

    async def _follow(self, gathering: Gathering, agent: str) -> State:
        """The log that the agent's key is of. Relays are asked for each key that it comes upon."""
        for _ in range(ROUNDS_MAX):
            logs = _logs_of(agent, gathering.called(ROTATION_NAME))
            states = [await self._state(log, gathering) for log in logs]
            keys = dict.fromkeys(key for state in states for key in state.chain.keys)
            if not await gathering.ask_of(list(keys)[:KEYS_MAX]):
                break
        return next(state for state in states if agent in state.chain.keys)

    async def _state(self, log: str, gathering: Gathering) -> State:
        shown = sort_events(log, gathering.events.values())
        return await asyncio.to_thread(read_state, log, shown, self._clock.now(), None)

    async def _remember(self, state: State, known: Event | None) -> None:
        """Keep the newest root; one that was kept and does not count any more, its key being lost, gives way."""
        if self._db is None or not state.roots:
            return
        event, root = state.roots[-1]
        refuted = None if known in [one for one, _ in state.roots] else known
        async with self._db.transaction() as tx:
            await queries.note_seen_root(tx, state.chain.log, root.head.size, event, refuted)

    def check_roots(self, material: Material) -> tuple[Finding, ...]:
        """What is wrong with the published roots."""
        return tuple(check_roots(material.shown, material.state, self._clock.now()))

    async def judge(self, material: Material) -> Audit:
        """What it all amounts to. Mints are asked only about payments that decide what becomes of a receipt."""
        log, now = material.state.chain.log, self._clock.now()
        settlements = {event.id: look(review) for event, review in material.shown.reviews}
        asked: set[str] = set()
        while True:
            judged = await asyncio.to_thread(audit, log, material.events, settlements, now, material.known)
            if self._witness is None:
                return judged
            doubtful = {
                receipt.review_event.id: receipt.review
                for receipt in judged.receipts
                if receipt.verdict is Verdict.UNASKED and receipt.review_event and receipt.review
            }
            if doubtful.keys() <= asked:
                return judged
            asked |= doubtful.keys()
            found = await asyncio.gather(*(self._witness.look(review) for review in doubtful.values()))
            settlements |= dict(zip(doubtful, found, strict=True))


def _logs_of(agent: str, rotations: Iterable[Event]) -> list[str]:
    """The logs that a key may be of, its own one last: those that it names itself, in a rotation."""
    logs = []
    for event in rotations:
        try:
            rotation = parse_rotation(event)
        except InvalidReceipt:
            continue
        if agent in (rotation.old, rotation.new) and (rotation.by_both or event.pubkey == agent):
            logs.append(rotation.log)
    others = sorted(set(logs) - {agent})
    return [*others[:LOGS_MAX], agent]


def _views(gathering: Gathering, state: State) -> tuple[RelayView, ...]:
    views = []
    for url, ids in gathering.ids_at.items():
        heads = [root.head for event, root in state.roots if event.id in ids]
        views.append(RelayView(url, heads[-1] if heads else None, gathering.trouble.get(url, "")))
    return tuple(views)
