"""An agent's reputation: its keys, roots, leaves and reviews as relays show them, and what they amount to.

What one relay hides another shows, and what none shows any more we may have seen before: the newest root of each log is
remembered where there is a database.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dvm import queries_reputation as queries
from dvm.reputation.conduct import check_conduct, log_signed_by
from dvm.reputation.gathering import Gathering
from dvm.reputation.settlements import MintWitness, look
from identity import Event
from identity.audit import Audit, Settlement, audit, candidates
from identity.published import Finding, Shown, State, check_roots, read_book, read_state, sort_events
from identity.receipts import REVIEW, Review
from identity.roots import Head
from identity.rotation import KEYS_MAX, ROTATION_NAME
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
        """The log that the agent's key is of: the one that it began, if it did. Others that it signed for do not hide
        that one, and are a finding. Relays are asked for each key that it comes upon.
        """
        for _ in range(ROUNDS_MAX):
            logs = _logs_of(agent, gathering.called(ROTATION_NAME))
            states = [await self._state(log, gathering) for log in logs]
            keys = dict.fromkeys(key for state in states for key in state.chain.keys)
            if not await gathering.ask_of(list(keys)[:KEYS_MAX]):
                break
        *others, own = states
        if _has_begun(agent, sort_events(agent, gathering.events.values())):
            return own
        return max((one for one in others if agent in one.chain), key=_size, default=own)

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
        """What is wrong with the published roots, and with what the log's keys did besides."""
        roots = check_roots(material.shown, material.state, self._clock.now())
        return (*roots, *_conduct(material))

    async def judge(self, material: Material) -> Audit:
        """What it all amounts to. Evidence is looked at, and mints are asked, only where that can matter; once."""
        log, now, known = material.state.chain.log, self._clock.now(), material.known
        chosen = await asyncio.to_thread(candidates, log, material.events, now, known)
        if self._witness is None:
            settlements = await asyncio.to_thread(_look_at, chosen)
        else:
            found = await asyncio.gather(*(self._witness.look(review) for _, review in chosen))
            settlements = {event.id: one for (event, _), one in zip(chosen, found, strict=True)}
        judged = await asyncio.to_thread(audit, log, material.events, settlements, now, known)
        conduct = await asyncio.to_thread(_conduct, material)
        return replace(judged, findings=(*judged.findings, *conduct))


def _conduct(material: Material) -> list[Finding]:
    return list(check_conduct(material.state.chain, material.shown, material.events))


def _look_at(reviews: Iterable[tuple[Event, Review]]) -> dict[str, Settlement]:
    return {event.id: look(review) for event, review in reviews}


def _logs_of(agent: str, rotations: Iterable[Event]) -> list[str]:
    """The logs that a key may be of, its own one last: those that it names itself, in a rotation."""
    named = {log_signed_by(agent, event) for event in rotations}
    others = sorted(log for log in named if log not in (None, agent))
    return [*others[:LOGS_MAX], agent]


def _has_begun(agent: str, shown: Shown) -> bool:
    """Whether the key published roots, or the first leaves, of a log that is named by it."""
    roots = any(event.pubkey == agent for event, _ in shown.roots)
    return roots or any(event.pubkey == agent and page.first == 0 for event, page in shown.pages)


def _size(state: State) -> int:
    return state.head.size if state.head else 0


def _views(gathering: Gathering, state: State) -> tuple[RelayView, ...]:
    views = []
    for url, ids in gathering.ids_at.items():
        heads = [root.head for event, root in state.roots if event.id in ids]
        views.append(RelayView(url, heads[-1] if heads else None, gathering.trouble.get(url, "")))
    return tuple(views)
