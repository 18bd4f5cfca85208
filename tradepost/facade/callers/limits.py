"""How often one may call: so many requests within a minute, by tier, counted for all machines of a post together.

Counts are kept in memory and added to those in the store once a second, so a request writes nothing; what is counted
on other machines, or was by an earlier process, is read then too.

The minute slides: what was counted in the last full minute weighs as much as it still reaches into the last 60 s.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog
from aiohttp import web

from store import Clock, Database
from tradepost.facade.callers import queries_callers as queries
from tradepost.facade.callers.callers import Caller, Tier
from tradepost.facade.web.addresses import client_of_request
from tradepost.facade.web.problems import TooManyRequests
from tradepost.settings import Settings

WINDOW_SECONDS: Final = 60
SYNC_SECONDS: Final = 1.0
COSTLY: Final = 6  # requests that ask mints or relays count for so many
UNPAID: Final = "unpaid"
BUCKETS_MAX: Final = 50_000  # in a minute; from then on all that those ask who never paid is counted together
PAYERS: Final = 4  # who call from one address, each as often as they may

log = structlog.get_logger(__name__)


class Limits:
    """Counts requests. Use `open_limits`. Memory: two minutes of `BUCKETS_MAX`, and what all who never paid may."""

    def __init__(self, settings: Settings, db: Database, clock: Clock) -> None:
        self._limits = settings.http_requests_per_minute
        self._behind_proxy = settings.gateway_behind_proxy
        self._db = db
        self._clock = clock
        self._machine = secrets.token_hex(8)
        self._own: dict[int, Counter[str]] = {}  # by minute: what was counted here
        self._unsaved: Counter[tuple[int, str]] = Counter()  # of that, what is not in the store yet
        self._others: dict[tuple[int, str], int] = {}  # what was counted elsewhere

    def count(
        self, caller: Caller | None, request: web.Request, *, costly: bool = False, brings_sats: bool = False
    ) -> None:
        """Count a request. Raises `TooManyRequests`, which says when there is room again; such are not counted.

        Callers are counted by account, and by the address they come from: anybody can draw as many keys as they like,
        and have some paid for. All who never paid are counted together in what is costly, unless they pay just now.
        """
        minute, second = divmod(self._clock.now(), WINDOW_SECONDS)
        weight = COSTLY if costly else 1
        counts = self._minute(minute)
        is_shared = (costly and not brings_sats) or len(counts) >= BUCKETS_MAX
        buckets = self._buckets(caller, request, is_shared=is_shared)
        refused = [
            (wait, who, limit)
            for who, limit in buckets
            if (wait := self._wait(who, limit, minute, second, weight))
        ]
        if refused:
            raise _refusal(*max(refused))
        for who, _ in buckets:
            counts[who] += weight
            self._unsaved[minute, who] += weight

    def client_of(self, request: web.Request) -> str:
        """Whose request this is, as far as an address can say."""
        return client_of_request(request, behind_proxy=self._behind_proxy)

    async def sync(self) -> None:
        """Add what was counted here to the store, and read what was counted elsewhere."""
        minute = self._clock.now() // WINDOW_SECONDS
        unsaved, self._unsaved = self._unsaved, Counter()
        try:
            if unsaved:
                async with self._db.transaction() as tx:
                    await queries.add_counts(tx, self._machine, unsaved)
                    await queries.delete_counts(tx, before=minute - 1)
        except BaseException:
            self._unsaved.update(unsaved)
            raise
        self._others = await queries.other_counts(self._db, self._machine, since=minute - 1)

    async def keep_in_step(self) -> None:
        """`try_sync` once a second, for ever."""
        while True:
            await self._clock.sleep(SYNC_SECONDS)
            await self.try_sync()

    async def try_sync(self) -> None:
        """`sync`, and log why it was not possible."""
        try:
            await self.sync()
        except Exception:  # a full disk, say: limits hold for this machine alone until it has room again
            log.exception("request_counts_not_saved")

    def _buckets(
        self, caller: Caller | None, request: web.Request, *, is_shared: bool
    ) -> list[tuple[str, int]]:
        """What a request counts against, and how much of it is allowed."""
        limits, client = self._limits, self.client_of(request)
        if caller is None or caller.tier is Tier.ANONYMOUS:
            own = [(f"{Tier.ANONYMOUS}/{client}", limits.anonymous)]
        elif caller.tier is Tier.AUTHENTICATED:
            own = [
                (f"{caller.tier}/{caller.id}", limits.authenticated), (f"address/{client}", limits.paying),
            ]  # fmt: skip
        elif caller.tier is Tier.PAYING:
            return [
                (f"{caller.tier}/{caller.id}", limits.paying), (f"payers/{client}", PAYERS * limits.paying),
            ]  # fmt: skip
        else:
            return []
        return [*own, (UNPAID, limits.unpaid)] if is_shared else own

    def _wait(self, who: str, limit: int, minute: int, second: int, weight: int) -> int:
        before, now = self._counted(minute - 1, who), self._counted(minute, who)
        return seconds_to_wait(before, now, second, weight=min(weight, limit), limit=limit)

    def _counted(self, minute: int, who: str) -> int:
        own = self._own[minute].get(who, 0) if minute in self._own else 0
        return own + self._others.get((minute, who), 0) if self._others else own

    def _minute(self, minute: int) -> Counter[str]:
        if minute not in self._own:
            kept = {before: counts for before, counts in self._own.items() if before == minute - 1}
            self._own = kept | {minute: Counter()}
        return self._own[minute]


@asynccontextmanager
async def open_limits(settings: Settings, db: Database, clock: Clock) -> AsyncIterator[Limits]:
    """Limits that go on from what the store knows, and are kept in step with it while the context lasts."""
    limits = Limits(settings, db, clock)
    await limits.sync()
    keeping = asyncio.create_task(limits.keep_in_step())
    try:
        yield limits
    finally:
        keeping.cancel()
        await asyncio.wait([keeping])
        await limits.try_sync()


def seconds_to_wait(before: int, now: int, second: int, *, weight: int, limit: int) -> int:
    """How long until `weight` more is within `limit`, if nothing else is counted meanwhile; 0: it is. Pure.

    `before` was counted in the last full minute, `now` in this one, of which `second` have passed. `weight` is at most
    `limit`.
    """
    room = WINDOW_SECONDS * (limit - now - weight)
    if room >= 0:  # in this minute, once enough of the last one is out of sight
        needed = WINDOW_SECONDS - room // before if before else 0
        return max(0, needed - second)
    needed = WINDOW_SECONDS - WINDOW_SECONDS * (limit - weight) // now  # in the next one
    return WINDOW_SECONDS - second + max(0, needed)


def _refusal(wait: int, who: str, limit: int) -> TooManyRequests:
    tier = who.partition("/")[0]
    if who == UNPAID:
        said = "too many who have not paid anything call at once; a caller with sats here is served"
    elif tier in (Tier.PAYING, "payers"):
        said = f"more than {limit} requests within a minute"
    else:
        said = f"more than {limit} requests within a minute; a caller with sats here may send more"
    return TooManyRequests(
        f"{said}; try again in {wait} s",
        retry_after=wait,
        headers={
            "RateLimit-Policy": f'"{tier}";q={limit};w={WINDOW_SECONDS}',
            "RateLimit": f'"{tier}";r=0;t={wait}',
        },
    )
