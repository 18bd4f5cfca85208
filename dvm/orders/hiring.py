"""Work that is wanted of one agent or another: what it is, who may do it, and for whom of ours it is."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from dvm import queries_guarantees as queries
from dvm.discovery.announce import find_agents
from dvm.discovery.directory import called
from dvm.errors import NoAgentFound
from dvm.orders.asking import Wanted, named_key
from dvm.post import Post
from store import Transaction
from wallet.terms import Method

DISAPPOINTED_SECONDS: Final = 86_400  # for so long an agent that did not deliver is asked last


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is wanted. `wanted.max_sat` and `wanted.seconds_max` are for all of it, not for one agent.

    `others`: an agent that was named may be followed by others of the kind. `avoid`: keys that are not asked. `own`:
    agents of this post, which are paid in advance: no arbiter could give us back more than we have anyway.
    """

    wanted: Wanted
    others: bool = True
    avoid: tuple[str, ...] = ()
    own: tuple[str, ...] = ()

    def settle_with(self, public_key: str) -> Sequence[Method]:
        """How that agent is paid."""
        return (Method.PREPAID,) if public_key in self.own else self.wanted.settle


class Buyer(Protocol):
    """For whom of ours it is bought: an agent, by its short name, and for which of its jobs; or somebody we serve."""

    @property
    def allowance(self) -> str:
        """Whose allowance it is."""
        ...

    @property
    def job_id(self) -> str:
        """For what."""
        ...

    async def check(self, tx: Transaction, guarantee_id: str, sat: int) -> None:
        """Raise if it may not: what it buys, for at most `sat`, is written down in `tx` already, under that id."""
        ...


def guarantee_id_of(customer: str, name: str) -> str:
    """The id of what that customer hired for under a name."""
    whose = f"{customer}:{name}"  # another key would be given what only this one may read
    return hashlib.sha256(whose.encode()).hexdigest()


@dataclass(frozen=True)
class Candidate:
    """An agent that may be asked. `target` is how it is named.

    `price_msat`, what it announced, is None if it did not; `deposit_msat` is what it asks of strangers at least.
    """

    public_key: str
    price_msat: int | None
    target: str
    deposit_msat: int = 0

    def is_within(self, sat: int) -> bool:
        """Whether it may do it for that."""
        return self.price_msat is None or self.price_msat <= 1000 * sat

    def bid_sat(self, sat: int, *, others: bool) -> int:
        """The most that is paid, of `sat`: what it announced, as long as there are `others` who may keep their word."""
        if self.price_msat is None or not others:
            return sat
        return min(sat, -(-max(self.price_msat, self.deposit_msat) // 1000))


async def look_for(task: Task, post: Post, customer: str) -> list[Candidate]:
    """Live agents for a task, ranked by their announcements; those that did not deliver lately come last.

    Raises `NoAgentFound` if no relay can be reached: that nobody is found then says nothing.
    """
    wanted = task.wanted
    named = named_key(wanted.target)
    candidates = {named: Candidate(named, None, wanted.target)} if named else {}
    if not named or task.others:
        found = await find_agents(post.pool, post.clock, wanted.kind)
        if not found and not any(relay.connected for relay in post.pool.health().values()):
            raise NoAgentFound(
                f"no agent can be looked for: none of {', '.join(post.pool.urls)} can be reached"
            )
        live = [x for x in found if x.alive and (named or called(x, wanted.kind, wanted.target))]
        since = post.clock.now() - DISAPPOINTED_SECONDS
        doubted = await queries.disappointing(post.db, customer, since)
        for x in sorted(live, key=lambda x: x.public_key in doubted):
            target = wanted.target if x.public_key == named else x.public_key
            price_msat = x.prices_msat.get(wanted.kind)
            candidates[x.public_key] = Candidate(x.public_key, price_msat, target, x.deposit_msat)
    return [candidate for candidate in candidates.values() if candidate.public_key not in task.avoid]


def nobody_for(task: Task, post: Post, found: Sequence[Candidate]) -> str:
    """Why nobody can be asked, in a sentence, and what to do."""
    wanted = task.wanted
    seen = f"all ask more than {wanted.max_sat} sat (--max-sat)" if found else "none is announced and alive"
    return (
        f"no agent for {wanted.target!r} (kind {wanted.kind}) on {', '.join(post.pool.urls)}: {seen}. "
        "Look with `tradepost find`, name an agent by its npub, or other relays with TRADEPOST_RELAYS"
    )
