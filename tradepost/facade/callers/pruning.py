"""Forgets callers who left nothing here, and what of signing in has expired.

An account follows from its key, so whoever comes back finds the same one. Kept is whoever ever had sats, jobs,
transfers or anything open here, whose keys have names or budgets, and every account with a key that joined it.
"""

from typing import Final

from relay_bridge.tasks import Tasks
from store import Clock, Database
from tradepost.facade.callers import queries_callers, queries_sessions
from tradepost.facade.callers.callers import Callers, account_of
from tradepost.facade.callers.queries_callers import KeyRow

PRUNE_SECONDS: Final = 3600
KEEP_SECONDS: Final = 86_400  # since it was made
PAGE_CALLERS: Final = 500  # that are looked at in one transaction
PAGES_MAX: Final = 200  # in one round; the next one goes on there


class Pruner:
    """Prunes once an hour, from `start` to `stop`; one for each post."""

    def __init__(self, db: Database, clock: Clock, callers: Callers) -> None:
        self._db = db
        self._clock = clock
        self._callers = callers
        self._after = ""  # the last id that was looked at
        self._tasks = Tasks()

    def start(self) -> None:
        """Prune now, and every hour."""
        self._tasks.every(self._clock, PRUNE_SECONDS, self.prune, "prune")

    async def stop(self) -> None:
        """Prune no more."""
        await self._tasks.close()

    async def prune(self) -> None:
        """One round, in transactions of their own: through all accounts, or so many of them."""
        for _ in range(PAGES_MAX):
            await self._prune_page()
            if not self._after:
                return

    async def _prune_page(self) -> None:
        now = self._clock.now()
        async with self._db.transaction() as tx:
            await queries_callers.delete_old_links(tx, now)
            await queries_sessions.delete_old_logins(tx, now)
            await queries_sessions.delete_old_sessions(tx, now, PAGE_CALLERS)
            page = await queries_callers.page_of_callers(tx, self._after, PAGE_CALLERS)
            idle = await queries_callers.idle_callers(tx, page, before=now - KEEP_SECONDS, now=now)
            for caller in idle:
                if all(_is_first_key(key) for key in await queries_callers.keys_of(tx, caller)):
                    await queries_sessions.delete_sessions_of(tx, caller)
                    await queries_callers.delete_caller(tx, caller)
            self._callers.forget(tx)
        self._after = page[-1] if len(page) == PAGE_CALLERS else ""


def _is_first_key(row: KeyRow) -> bool:
    """Whether nothing is said of a key but what follows from it."""
    return row.caller == account_of(row.key) and not row.name and not row.has_budget
