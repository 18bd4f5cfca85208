"""How an agent is found: announcement (31990, NIP-89), profile and heartbeat (11998), and the search for others'."""

import asyncio
from typing import Final

import msgspec
import structlog

from dvm.agent import Agent
from dvm.discovery.directory import Listing, called, listings, ranked
from dvm.discovery.names import Leads, check_name
from dvm.discovery.profile import KINDS, introductions
from dvm.errors import NoAgentFound
from dvm.kinds import ANNOUNCEMENT, DELETION, HEARTBEAT, folded
from dvm.post import Post
from dvm.schemas import TEXT, Param
from identity import EventTemplate, Signer, make_template
from identity.event import Tags
from relay_bridge import Filter, RelayChange, RelayPool
from relay_bridge.tasks import Tasks
from relay_bridge.timing import within
from store import Clock

log = structlog.get_logger(__name__)

BEAT_SECONDS: Final = 120  # one that is lost, or a clock that is some minutes ahead, leaves nobody for dead
BEAT_AGAIN_SECONDS: Final = 10  # after one that no relay took
MOVE_AGAIN_SECONDS: Final = 10  # after going over to other relays has failed
HOLDS_SECONDS: Final = 300
INTRODUCE_SECONDS: Final = 6 * 3600  # names come and go, and relays forget
LISTEN_SECONDS_MAX: Final = 5.0  # one of our relays may hang
STOP_SECONDS_MAX: Final = 5.0  # a key that lives elsewhere may not be there
SEARCH_SECONDS_MAX: Final = 5.0
NAMED_MAX: Final = 500


class Announcer:
    """Announces one agent while it runs, and who it is. `stop` takes the announcement back (NIP-09)."""

    def __init__(self, agent: Agent, signer: Signer, post: Post, *, demands: Tags = ()) -> None:
        """`demands` are tags that say what strangers owe."""
        self._demands = demands
        self._agent = agent
        self._signer = signer
        self._post = post
        self._announced_at = 0
        self._tasks = Tasks()
        self._moves = Tasks()
        self._moving = asyncio.Lock()

    async def start(self) -> None:
        """Put the announcement into the outbox, begin to beat, and to look whether the rest is as it should be."""
        self._announced_at = self._post.clock.now()
        await self._enqueue(announcement(self._agent, self._announced_at, self._demands))
        self._tasks.start(self._beat(), f"heartbeat {self._agent.slug}")
        self._tasks.every(self._post.clock, INTRODUCE_SECONDS, self.introduce, f"profile {self._agent.slug}")

    def follow_pool(self, change: RelayChange) -> None:
        """The pool's relays have changed: announce and introduce anew. What there is of the profile goes along.

        Relays that were left are told that the agent is not there any more. Returns at once: a key that lives elsewhere
        may not be there for long, and holds nobody else. What fails is done again; one change comes after the other.
        """
        self._moves.start(self._follow(change), f"relays of {self._agent.slug}")

    async def _follow(self, change: RelayChange) -> None:
        async with self._moving:
            while True:
                try:
                    return await self._move(change)
                except Exception:
                    log.exception("agent_not_moved", agent=self._agent.slug)
                    await self._post.clock.sleep(MOVE_AGAIN_SECONDS)

    async def _move(self, change: RelayChange) -> None:
        """May be done again after it has failed anywhere."""
        farewell = await self._signer.sign(self._taken_back(self._post.clock.now() - 1))
        mine = Filter(kinds=KINDS, authors=(self._signer.public_key,))
        found = await self._post.pool.query([mine], seconds_max=SEARCH_SECONDS_MAX)
        async with self._post.db.transaction() as tx:
            for event in {event.kind: event for event in reversed(found)}.values():
                await self._post.outbox.add(tx, event, change.added, own=False)
            await self._post.outbox.add(tx, farewell, change.left, own=False)
        await self._tasks.close()
        await self.start()

    async def stop(self) -> None:
        """Stop beating and put the deletion into the outbox."""
        await self._moves.close()
        await self._tasks.close()
        if not self._announced_at:
            return
        # One second back, so that an agent restarted within this second is not deleted with its predecessor.
        at = max(self._announced_at, self._post.clock.now() - 1)
        deletion = self._taken_back(at)
        self._announced_at = 0
        try:
            await within(self._post.clock, STOP_SECONDS_MAX, self._enqueue(deletion))
        except TimeoutError:
            log.warning(
                "announcement_stays", reason="its key cannot be asked; the heartbeat runs out by itself"
            )

    def _taken_back(self, at: int) -> EventTemplate:
        key = self._signer.public_key
        tags = [("a", f"{ANNOUNCEMENT}:{key}:{self._agent.slug}"), ("a", f"{HEARTBEAT}:{key}:")]
        tags += [("k", str(ANNOUNCEMENT)), ("k", str(HEARTBEAT))]
        return make_template(DELETION, content="the agent stopped", tags=tags, created_at=at)

    async def introduce(self) -> None:
        """Publish the profile and where the agent reads, unless relays have that already. Waits until one is there."""
        agent, post, key = self._agent, self._post, self._signer.public_key
        name = await check_name(post.fetcher, agent.nip05, key) if agent.nip05 else None
        if name is not None and name.leads is not Leads.HERE:
            log.warning("name_not_announced", agent=agent.slug, name=name.name, reason=name.said)
        await post.pool.up()
        found = await post.pool.query([Filter(kinds=KINDS, authors=(key,))], seconds_max=SEARCH_SECONDS_MAX)
        known = {event.kind: event for event in reversed(found)}  # the newest of each
        for template in introductions(agent, post.pool.urls, known, name, post.clock.now()):
            await self._enqueue(template)

    async def _enqueue(self, template: EventTemplate) -> None:
        event = await self._signer.sign(template)
        async with self._post.db.transaction() as tx:
            await self._post.outbox.add(tx, event)

    async def _beat(self) -> None:
        await self._post.inbox.listening(
            seconds_max=LISTEN_SECONDS_MAX
        )  # relays keep no ephemeral wraps for us
        while True:
            event = await self._signer.sign(heartbeat(self._agent, self._post.clock.now()))
            # Not through the outbox: a heartbeat that comes late is a lie.
            answers = await self._post.pool.publish(event)
            is_out = any(answer.accepted for answer in answers.values())
            await self._post.clock.sleep(BEAT_SECONDS if is_out else BEAT_AGAIN_SECONDS)


def announcement(agent: Agent, now: int, demands: Tags = ()) -> EventTemplate:
    """The 31990 event, with the content keys that deployed clients read."""
    capabilities = [agent.capabilities[kind] for kind in sorted(agent.capabilities)]
    prices = {c.price_sat for c in capabilities}
    content: dict[str, object] = {
        "name": agent.name,
        "about": agent.about,
        "amount": "free" if prices == {0} else str(max(prices, default=0) * 1000),
        "supportsEncryption": True,
        "encryptionSupported": True,  # what nostrdvm called it before
        "acceptsNutZaps": False,
        "cashuAccepted": any(prices),  # its name before that meant a token on the request, which is taken
        "personalized": False,
        "nip90Params": {p.name: _described(p) for c in capabilities for p in c.schema.params},
    }
    if agent.picture:
        content["picture"] = content["image"] = agent.picture
    tags: list[tuple[str, ...]] = [("d", agent.slug)]
    tags += [("k", str(c.kind)) for c in capabilities]
    tags += [("t", c.name.lower()) for c in capabilities]  # NIP-24: lower case
    tags += [("price", str(c.kind), str(c.price_sat * 1000)) for c in capabilities]
    tags += demands
    return make_template(
        ANNOUNCEMENT, content=msgspec.json.encode(content).decode(), tags=tags, created_at=now
    )


def _described(param: Param) -> dict[str, object]:
    """A parameter as nostrdvm announces it, and what shows its announcements reads."""
    form = param.form.what if not param.values and param.form is not TEXT else ""
    about = "; ".join(filter(None, (param.about, form)))
    return {"required": param.required, "values": list(param.values), "description": about}


def heartbeat(agent: Agent, now: int) -> EventTemplate:
    """The 11998 event: alive now, and for the next `HOLDS_SECONDS`."""
    tags = [("d", agent.slug), ("status", "online"), ("expiration", str(now + HOLDS_SECONDS))]
    return make_template(HEARTBEAT, tags=tags, created_at=now)


async def find_agents(pool: RelayPool, clock: Clock, kind: int) -> list[Listing]:
    """Agents that announce `kind`: live ones first, then cheaper ones, then newer announcements."""
    return await _search(pool, clock, Filter(kinds=(ANNOUNCEMENT,), tags={"k": (str(kind),)}), kind)


async def look_up(pool: RelayPool, clock: Clock, public_key: str) -> list[Listing]:
    """What one agent announces; nothing where the relays do not know it, as an agent need not announce itself."""
    return await _search(pool, clock, Filter(kinds=(ANNOUNCEMENT,), authors=(public_key,)))


async def find_called(pool: RelayPool, clock: Clock, name: str) -> list[Listing]:
    """Agents of that name, the live ones first, among those that announced themselves last."""
    found = await _search(pool, clock, Filter(kinds=(ANNOUNCEMENT,), limit=NAMED_MAX))
    return [listing for listing in found if folded(name) in (folded(listing.name), listing.slug)]


async def _search(pool: RelayPool, clock: Clock, what: Filter, *kinds: int) -> list[Listing]:
    found = await pool.query([what], seconds_max=SEARCH_SECONDS_MAX)
    if not found:
        return []
    authors = tuple({event.pubkey for event in found})
    beats = await pool.query([Filter(kinds=(HEARTBEAT,), authors=authors)], seconds_max=SEARCH_SECONDS_MAX)
    now = clock.now()
    return ranked(listings(found, beats, now, kinds), now)


async def choose_agent(pool: RelayPool, clock: Clock, kind: int, wanted: str) -> Listing:
    """The first of `find_agents` that is live and fits the word `wanted`. Raises `NoAgentFound`."""
    fitting = [x for x in await find_agents(pool, clock, kind) if called(x, kind, wanted)]
    live = next((x for x in fitting if x.alive), None)
    if live is None:
        seen = f"{len(fitting)} announced, none of them alive" if fitting else "none announced"
        raise NoAgentFound(
            f"no agent for {wanted!r} (kind {kind}) on {', '.join(pool.urls)}: {seen}. "
            "Name an agent by its npub, or other relays with TRADEPOST_RELAYS"
        )
    return live
