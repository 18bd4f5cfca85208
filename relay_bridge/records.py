"""How relays did, kept across restarts: what a pool knows of them is read when it begins, and written now and then."""

from dataclasses import replace
from typing import Final

from relay_bridge import queries
from relay_bridge.pool import RelayPool
from relay_bridge.tasks import Tasks
from relay_bridge.values import RelayHealth
from store import Clock, Database

_SAVE_SECONDS: Final = 60.0  # a crash forgets no more than what was learned in this time
_KEEP_SECONDS: Final = 90 * 86_400  # of relays that nobody uses


class RelayRecords:
    """Use as an async context manager, inside that of its pool."""

    def __init__(self, db: Database, pool: RelayPool, clock: Clock) -> None:
        """`db` must have this package's migrations."""
        self._db = db
        self._pool = pool
        self._clock = clock
        self._saved: dict[str, RelayHealth] = {}
        self._tasks = Tasks()

    async def __aenter__(self) -> "RelayRecords":
        for health in await queries.relay_records(self._db):
            self._pool.remember(health)
        self._saved = self._known()
        self._tasks.every(self._clock, _SAVE_SECONDS, self._save, "relay records")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._tasks.close()
        await self._save()

    async def _save(self) -> None:
        known, now = self._known(), self._clock.now()
        changed = [health for url, health in known.items() if health != self._saved.get(url)]
        async with self._db.transaction() as tx:
            for health in changed:
                await queries.save_relay_record(tx, health, now)
            await queries.forget_relay_records(tx, now - _KEEP_SECONDS)
        self._saved = known

    def _known(self) -> dict[str, RelayHealth]:
        return {health.url: replace(health) for health in self._pool.known() if health.kept or health.broken}
