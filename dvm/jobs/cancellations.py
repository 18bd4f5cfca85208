"""Requests that were taken back (NIP-09), remembered until their requests are too old to come.

Relays give no order: a deletion may be here before the request it names, and a payment may be under way when it comes.
So what was said is kept, on disk and in memory, and every job is looked up before it is begun: without a query, as most
are not taken back.
"""

from collections.abc import Sequence
from typing import Final

from dvm import queries
from dvm.limits import ProviderLimits
from identity import Event
from store import Database, Transaction

REMEMBERED_MAX: Final = 10_000  # deletions of strangers' requests cost us no more than this
NAMED_MAX: Final = 100  # of one deletion


class Cancellations:
    """Those that concern one agent, as far as anybody can tell: the request's author is only known once it is here."""

    def __init__(self, db: Database, agent: str, limits: ProviderLimits) -> None:
        self._db = db
        self._agent = agent
        self._seconds_max = limits.request_age_seconds_max + limits.request_future_seconds_max
        self._remembered: dict[tuple[str, str], None] = {}  # request id and author, oldest first

    async def load(self, now: int) -> None:
        """Read what an earlier process heard of."""
        async with self._db.transaction() as tx:
            await queries.forget_cancellations(tx, self._agent, now - self._seconds_max)
        self._remembered = dict.fromkeys(await queries.cancellations(self._db, self._agent))

    def include(self, request: Event) -> bool:
        """Whether the request was taken back by its author."""
        return (request.id, request.pubkey) in self._remembered

    async def remember(self, tx: Transaction, deletion: Event, now: int) -> Sequence[str]:
        """Keep what a deletion names, and forget what is too old or too much; returns the ids."""
        named = [tag[1] for tag in deletion.tags_named("e") if len(tag) > 1 and len(tag[1]) == 64][:NAMED_MAX]
        await queries.forget_cancellations(tx, self._agent, now - self._seconds_max)
        for request_id in named:
            await queries.insert_cancellation(tx, self._agent, request_id, deletion.pubkey, now)
            self._remembered[request_id, deletion.pubkey] = (
                None  # if `tx` is undone, the deletion comes again
            )
        while len(self._remembered) > REMEMBERED_MAX:
            oldest = next(iter(self._remembered))
            del self._remembered[oldest]
            await queries.forget_cancellation(tx, self._agent, *oldest)
        return named
