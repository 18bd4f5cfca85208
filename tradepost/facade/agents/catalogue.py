"""Agents that this desk can hire: its own, and those that are announced on its relays.

Relays are read beside the requests, never in one of them: a round is begun by the first question after a minute, and
only who asks when nothing is known yet waits for it, some seconds. What relays show was written by strangers, and is
cut to size by `dvm.discovery.directory`. Own agents are here whatever relays do.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from dvm import Agent, Listing, Post, Provider
from dvm.discovery.announce import announcement
from dvm.discovery.directory import ALIVE_SECONDS, listings, ranked
from dvm.discovery.names import Leads, check_name
from dvm.discovery.profile import PROFILE, announced_name
from dvm.jobs.admission import demands
from dvm.kinds import ANNOUNCEMENT, HEARTBEAT, NAMES, folded, name_of
from dvm.orders.asking import named_key
from identity import Event
from relay_bridge import Filter
from relay_bridge.tasks import Tasks
from relay_bridge.timing import within
from tradepost.facade.web.problems import NotFound
from tradepost.post import limits_of
from tradepost.settings import Settings

FRESH_SECONDS: Final = 60
STALE_SECONDS: Final = 600  # who asks later than that waits
AGAIN_SECONDS: Final = (
    5  # after a round that reached no relay, or for an agent that the last one did not show
)
WAIT_SECONDS_MAX: Final = 3.0
QUERY_SECONDS_MAX: Final = 5.0
ANNOUNCEMENTS_MAX: Final = 500  # of each question to each relay
AGENTS_MAX: Final = 1000
AUTHORS_PER_QUESTION: Final = 100
NAMES_PER_ROUND_MAX: Final = 50
NAMES_AT_ONCE: Final = 8
NAME_SECONDS: Final = 6 * 3600


@dataclass(frozen=True)
class Known:
    """An agent that can be hired. `agent` is what serves it if it is this post's, `nip05` a name that leads to it."""

    listing: Listing
    agent: Agent | None = None
    nip05: str = ""

    @property
    def public_key(self) -> str:
        """Its key, in hex."""
        return self.listing.public_key

    def price_sat(self, kind: int) -> int | None:
        """What a job of that kind costs, the deposit of a stranger included; None if that is not announced."""
        price_msat = self.listing.prices_msat.get(kind)
        return None if price_msat is None else -(-max(price_msat, self.listing.deposit_msat) // 1000)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What somebody looks for; what is left out does not matter.

    `capability` is what a kind of job is called, or a part of that; `q` are words that an agent says of itself.
    """

    kind: int | None = None
    capability: str = ""
    q: str = ""
    max_sat: int | None = None
    live: bool | None = None

    def fits(self, known: Known) -> bool:
        """Whether an agent is one of those. A price counts for the kinds that are looked for."""
        listing = known.listing
        kinds = self._kinds(listing)
        if not kinds or self.live not in (None, listing.alive):
            return False
        if self.max_sat is not None:
            prices = [price for kind in kinds if (price := known.price_sat(kind)) is not None]
            if min(prices, default=self.max_sat + 1) > self.max_sat:
                return False
        words = folded(self.q).split()
        told = folded(" ".join((listing.name, listing.slug, listing.about, *listing.words))) if words else ""
        return all(word in told for word in words)

    def _kinds(self, listing: Listing) -> list[int]:
        """The kinds that are meant. A word that is not the name of any of them may be what the agent calls its work."""
        kinds = [kind for kind in listing.kinds if self.kind in (None, kind)]
        if not (word := folded(self.capability)):
            return kinds
        named = [kind for kind in kinds if word in folded(name_of(kind)) or word == str(kind)]
        return named or (kinds if any(word in folded(one) for one in listing.words) else [])


class Catalogue:
    """Who can be hired. `close` ends what asks relays."""

    def __init__(self, post: Post, providers: Sequence[Provider], settings: Settings, url: str) -> None:
        """`providers` are this post's agents, `url` is where the desk is reached."""
        self._post = post
        self._host = urlsplit(url).netloc
        self._own = tuple(self._known_of(one, settings) for one in providers)
        self._others: tuple[Known, ...] = ()
        #: By key: the name that it claims, when that was checked, and whether it leads there.
        self._names: dict[str, tuple[str, int, bool]] = {}
        self._begun_at = -FRESH_SECONDS  # the last round
        self._due_at = self._stale_at = 0
        #: Of the round under way: set once it is known what relays show.
        self._round: asyncio.Event | None = None
        self._tasks = Tasks()

    async def close(self) -> None:
        """Stop asking relays."""
        await self._tasks.close()

    @property
    def own(self) -> tuple[Known, ...]:
        """This post's agents; of several keys of one agent the newest first."""
        return self._own

    @property
    def own_by_name(self) -> dict[str, Known]:
        """This post's agents by their short names."""
        return {known.listing.slug: known for known in reversed(self._own)}

    def address(self, agent: Agent) -> str:
        """Of an agent of this post, the name that is both its NIP-05 name and its Lightning address."""
        return f"{agent.slug}@{self._host}"

    async def known(self) -> tuple[Known, ...]:
        """All, this post's first, then live and cheap ones."""
        now = self._post.clock.now()
        if now >= self._due_at:
            self._begin_round(now)
        if now >= self._stale_at:
            await self._come()
        return (*self._own, *self._others)

    async def search(self, what: Search) -> list[Known]:
        """Those that fit, in the same order."""
        return [one for one in await self.known() if what.fits(one)]

    async def find(self, target: str) -> Known:
        """The agent of that npub, nprofile or key in hex, of that NIP-05 name, or that calls itself so.

        Raises `NotFound`, `BadRequest` for a malformed key. An agent that is named by its key may have come just now:
        relays are asked once more, if they were not a moment ago. Who asks for one of this post never waits.
        """
        key = named_key(target)
        found = _called(target, key, self._own) or _called(target, key, await self.known())
        now = self._post.clock.now()
        if not found and key and now >= self._begun_at + AGAIN_SECONDS:
            self._begin_round(now)
            await self._come()
            found = _called(target, key, self._others)
        if len(found) == 1:
            return found[0]
        if found:
            raise NotFound(f"{len(found)} agents are called {target[:80]!r}: name one by its npub")
        raise NotFound(f"this desk knows no agent {target[:80]!r}: see GET /v1/agents for those it knows")

    # Reading relays --------------------------------------------------------------------------------------------------

    def _begin_round(self, now: int) -> None:
        if self._round is None:
            self._round = asyncio.Event()
            self._begun_at, self._due_at = now, now + FRESH_SECONDS
            self._tasks.start(self._read(self._round), "catalogue")

    async def _come(self) -> None:
        if self._round is not None:
            with suppress(TimeoutError):
                await within(self._post.clock, WAIT_SECONDS_MAX, self._round.wait())

    async def _read(self, came: asyncio.Event) -> None:
        try:
            found = await self._look()
            now = self._post.clock.now()
            if found is None:  # no relay: who was alive is so for a while
                self._due_at, self._stale_at = now + AGAIN_SECONDS, now + FRESH_SECONDS
                self._show([_aged(one.listing, now) for one in self._others])
                return
            self._stale_at = now + STALE_SECONDS
            agents, profiles = found
            self._show(ranked(agents, now))
            came.set()
            await self._check_names(profiles, now)
            self._show([one.listing for one in self._others])
        finally:
            came.set()
            self._round = None

    async def _look(self) -> tuple[list[Listing], Mapping[str, Event]] | None:
        """Other agents by key, and their profiles; None if no relay could be asked."""
        known = tuple(map(str, NAMES))
        announced = await self._ask(
            Filter(kinds=(ANNOUNCEMENT,), tags={"k": known}, limit=ANNOUNCEMENTS_MAX),
            Filter(kinds=(ANNOUNCEMENT,), limit=ANNOUNCEMENTS_MAX),
        )
        own = {one.public_key for one in self._own}
        foreign = [event for event in announced if event.pubkey not in own][:AGENTS_MAX]
        authors = list(dict.fromkeys(event.pubkey for event in foreign))
        about: list[Event] = []
        for start in range(0, len(authors), AUTHORS_PER_QUESTION):
            some = tuple(authors[start : start + AUTHORS_PER_QUESTION])
            about += await self._ask(Filter(kinds=(HEARTBEAT, PROFILE), authors=some))
        if not any(relay.connected for relay in self._post.pool.health().values()):
            return None
        beats = [event for event in about if event.kind == HEARTBEAT]
        profiles = {
            event.pubkey: event for event in reversed(about) if event.kind == PROFILE
        }  # the newest of each
        return _one_each(listings(foreign, beats, self._post.clock.now())), profiles

    async def _ask(self, *questions: Filter) -> list[Event]:
        return await self._post.pool.query(questions, seconds_max=QUERY_SECONDS_MAX)

    def _show(self, found: Iterable[Listing]) -> None:
        def name(key: str) -> str:
            claimed, _, holds = self._names.get(key, ("", 0, False))
            return claimed if holds else ""

        self._others = tuple(Known(one, nip05=name(one.public_key)) for one in found)

    async def _check_names(self, profiles: Mapping[str, Event], now: int) -> None:
        """Ask where the names lead that live agents claim: only one that leads to its agent is shown."""
        claimed = {
            one.public_key: announced_name(profiles[one.public_key])
            for one in self._others
            if one.listing.alive and one.public_key in profiles
        }
        self._names = {
            key: known for key, known in self._names.items()
            if claimed.get(key) == known[0] and now - known[1] < NAME_SECONDS
        }  # fmt: skip
        new = [(key, name) for key, name in claimed.items() if name and key not in self._names]
        room = asyncio.Semaphore(NAMES_AT_ONCE)

        async def check(key: str, name: str) -> None:
            async with room:
                checked = await check_name(self._post.fetcher, name, key)
            self._names[key] = (name, now, checked.leads is Leads.HERE)

        await asyncio.gather(*(check(key, name) for key, name in new[:NAMES_PER_ROUND_MAX]))

    def _known_of(self, provider: Provider, settings: Settings) -> Known:
        """An agent of ours, as it announces itself."""
        agent, now = provider.agent, self._post.clock.now()
        told = announcement(agent, now, demands(limits_of(settings, agent.slug)))
        event = Event(
            id="", pubkey=provider.public_key, created_at=now, kind=told.kind, tags=told.tags, content=told.content,
            sig="",
        )  # fmt: skip
        listing = replace(listings([event], (), now)[0], alive=not provider.is_retired)
        return Known(listing, agent, self.address(agent))


def _called(target: str, key: str | None, known: Iterable[Known]) -> list[Known]:
    """Those that `target` may mean: a key is one agent's, and what is this post's wins over what is called the same."""
    if key is not None:
        return [one for one in known if one.public_key == key][:1]
    word = folded(target)
    found = [
        one for one in known
        if word in (folded(one.nip05), folded(one.listing.slug), folded(one.listing.name))
    ]  # fmt: skip
    return [one for one in found if one.agent][:1] or found


def _aged(listing: Listing, now: int) -> Listing:
    alive = listing.beat_at is not None and now - listing.beat_at <= ALIVE_SECONDS
    return replace(listing, alive=alive)


def _one_each(found: Iterable[Listing]) -> list[Listing]:
    """One for each key: who announces itself several times is as it did last, and does all of those kinds."""
    newest_last = sorted(found, key=lambda one: one.announced_at)
    merged: dict[str, Listing] = {}
    for one in newest_last:
        before = merged.get(one.public_key, one)
        kinds = tuple(dict.fromkeys((*one.kinds, *before.kinds)))
        words = tuple(dict.fromkeys((*one.words, *before.words)))
        prices = {**before.prices_msat, **one.prices_msat}
        merged[one.public_key] = replace(one, kinds=kinds, words=words, prices_msat=prices)
    return list(merged.values())
