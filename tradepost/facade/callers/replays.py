"""Each signature of a request counts once: those of the last minute are remembered, in memory.

Over a restart a mark on disk stands in for them: no signature made after it was ever taken. It is set some seconds
ahead of what is taken, so it is written once in these seconds and not for each request; the next process refuses what
is not made after it.
"""

import asyncio
from collections import defaultdict
from typing import Final, Self

from identity.nip98 import WINDOW_SECONDS
from store import Clock, Database
from tradepost.facade.callers import queries_replays as queries
from tradepost.facade.web.problems import TooManyRequests, Unauthorized
from wallet.errors import Action

#: More than one process can verify in the two minutes for which a signature may be good; 53 MB.
REMEMBERED_MAX: Final = 500_000
MARK_SECONDS: Final = 5


class Replays:
    """The signatures that were taken. Use `load`."""

    def __init__(self, db: Database, clock: Clock, *, taken_until: int) -> None:
        self._db = db
        self._clock = clock
        self._refused_until = taken_until  # what was taken of later signatures is in `_seen`
        self._mark = taken_until
        self._marking = asyncio.Lock()
        self._seen: set[bytes] = set()
        self._made_at: defaultdict[int, list[bytes]] = defaultdict(list)

    @classmethod
    async def load(cls, db: Database, clock: Clock) -> Self:
        """Those of a desk that begins now: one for each post, as there is one process."""
        return cls(db, clock, taken_until=await queries.taken_until(db))

    async def remember(self, name: bytes, created_at: int) -> None:
        """Take the signature of this `name` (16 bytes or more, unlike all others), made at `created_at`, verified.

        Raises `Unauthorized` if it was taken before, or may have been before a restart; `TooManyRequests` if there is
        no room. When it returns, no later call and no later process takes the same.
        """
        now = self._clock.now()
        self._forget(now)
        if created_at <= self._refused_until:
            raise Unauthorized(
                "signed before this desk last began: sign the request anew",
                action=Action.RETRY_AFTER, retry_after=max(1, self._refused_until + 1 - now),
            )  # fmt: skip
        name = name[:16]
        if name in self._seen:
            raise Unauthorized(
                "this signature was used before: sign each request anew, two that are alike with another nonce",
                action=Action.RETRY_AFTER, retry_after=1,
            )  # fmt: skip
        if len(self._seen) >= REMEMBERED_MAX:
            raise TooManyRequests("too many signed requests at this desk just now", retry_after=1)
        self._seen.add(name)
        self._made_at[created_at].append(name)
        if created_at > self._mark:
            await self._set_mark(created_at)

    async def _set_mark(self, created_at: int) -> None:
        async with self._marking:
            if created_at > self._mark:
                mark = created_at + MARK_SECONDS
                async with self._db.transaction() as tx:
                    await queries.set_taken_until(tx, mark)
                self._mark = mark

    def _forget(self, now: int) -> None:
        """Drop those that are too old to be good, and refuse them should the clock go back.

        But a clock that was wrong once, far ahead of us, does not close the desk until then.
        """
        until = now - WINDOW_SECONDS - 1
        if until > self._refused_until:
            for second in [second for second in self._made_at if second <= until]:
                self._seen.difference_update(self._made_at.pop(second))
            self._refused_until = until
        self._refused_until = min(self._refused_until, now + WINDOW_SECONDS + MARK_SECONDS)
