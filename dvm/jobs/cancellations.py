"""Requests that were taken back (NIP-09), remembered until their requests are too old to come.

Relays give no order: a deletion may be here before the request it names, and a payment may be under way when it comes.
So what was said is kept, on disk and in memory, and every job is looked up before it is begun: without a query, as most
are not taken back. Each author pushes out its own first, and no number of strangers those of customers.
"""

from collections.abc import Sequence
from typing import Final

from dvm import queries
from dvm.jobs.gate import NoticeGate
from dvm.jobs.room import Neighbour, Standing
from dvm.limits import ProviderLimits
from identity import Event
from store import Database, Transaction

NAMED_MAX: Final = 100  # of one deletion
AUTHORS_MAX: Final = 1000  # of each standing
OF_ONE_MAX: Final = {
    Standing.CUSTOMER: 100,
    Standing.STRANGER: 10,
}  # most are of jobs that are here, and end at once


class Cancellations:
    """Those that concern one agent, as far as anybody can tell: the request's author is only known once it is here."""

    def __init__(self, db: Database, agent: str, limits: ProviderLimits, gate: NoticeGate) -> None:
        self._db = db
        self._agent = agent
        self._gate = gate
        self._seconds_max = limits.request_age_seconds_max + limits.request_future_seconds_max
        #: Request ids by author, each oldest first.
        self._remembered: dict[Standing, dict[str, list[str]]] = {standing: {} for standing in OF_ONE_MAX}

    async def load(self, now: int) -> None:
        """Read what an earlier process heard of."""
        async with self._db.transaction() as tx:
            await queries.forget_cancellations(tx, self._agent, now - self._seconds_max)
            for request_id, author in await queries.cancellations(tx, self._agent):
                await self._keep(tx, await self._gate.neighbour(tx, author), [request_id])

    def include(self, request: Event) -> bool:
        """Whether the request was taken back by its author."""
        return any(request.id in authors.get(request.pubkey, ()) for authors in self._remembered.values())

    async def remember(self, tx: Transaction, deletion: Event, now: int) -> Sequence[str]:
        """Keep what a deletion names, and forget what is too old or too much; returns the ids."""
        named = [tag[1] for tag in deletion.tags_named("e") if len(tag) > 1 and len(tag[1]) == 64][:NAMED_MAX]
        author = await self._gate.neighbour(tx, deletion.pubkey)
        kept = named[-OF_ONE_MAX[author.standing] :]
        await queries.forget_cancellations(tx, self._agent, now - self._seconds_max)
        for request_id in kept:
            await queries.insert_cancellation(tx, self._agent, request_id, author.key, now)
        await self._keep(tx, author, kept)  # if `tx` is undone, the deletion comes again
        return named

    async def _keep(self, tx: Transaction, author: Neighbour, ids: Sequence[str]) -> None:
        """Remember these too, and forget, on disk as well, what is too much for it."""
        authors, most = self._remembered[author.standing], OF_ONE_MAX[author.standing]
        ids = list(dict.fromkeys([*authors.pop(author.key, ()), *ids]))
        authors[author.key] = ids[-most:]  # as the one heard of last
        forgotten = [(request_id, author.key) for request_id in ids[:-most]]
        if len(authors) > AUTHORS_MAX:
            oldest = next(iter(authors))
            forgotten += [(request_id, oldest) for request_id in authors.pop(oldest)]
        for one in forgotten:
            await queries.forget_cancellation(tx, self._agent, *one)
