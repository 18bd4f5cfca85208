"""The SQL of the metrics. Each statement is served by an index: none reads what ended long ago."""

from dataclasses import dataclass
from typing import Final

from store import Snapshot
from wallet.queries_escrows import OPEN as ESCROW_OPEN

# The very words of the indexes of what is open, which serve no others.
_JOB_OPEN: Final = "state NOT IN ('done', 'failed', 'expired', 'returned', 'cancelled')"
_ORDER_OPEN: Final = "state NOT IN ('done', 'failed', 'expired', 'refunded', 'lost', 'cancelled')"
_PAYMENT_OPEN: Final = "state IN ('received', 'redeeming', 'returning')"

Counts = dict[tuple[str, ...], int]


@dataclass(frozen=True)
class Backlog:
    """What is not done yet: how much of it, and since when (unix seconds) the oldest waits, None if there is none."""

    count: int
    oldest_at: int | None


async def jobs(rows: Snapshot, ended_since: int) -> Counts:
    """Jobs that others ordered of us, by state: the open ones, and those begun since then that have ended."""
    return await _by_state(rows, "jobs", "state", _JOB_OPEN, ended_since)


async def orders(rows: Snapshot, ended_since: int) -> Counts:
    """Jobs that we ordered, by state, as `jobs`."""
    return await _by_state(rows, "orders", "state", _ORDER_OPEN, ended_since)


async def escrows(rows: Snapshot, ended_since: int) -> Counts:
    """Escrows, by our role in them and their stage, as `jobs`."""
    return await _by_state(rows, "escrows", "role, stage", ESCROW_OPEN, ended_since)


async def payments(rows: Snapshot) -> Counts:
    """Payments that came for jobs and have not come to rest, by state."""
    found = await rows.all(
        f"SELECT state, COUNT(*) AS n FROM payments WHERE {_PAYMENT_OPEN} GROUP BY state"  # noqa: S608 - our own words
    )
    return {(row["state"],): int(row["n"]) for row in found}


async def caller_money(rows: Snapshot) -> Counts:
    """Millisats that we owe callers, by what for: `balance`, and `held` for jobs under way."""
    found = await rows.all(
        "SELECT 'balance' AS name, COALESCE(-SUM(balance_msat), 0) AS n FROM accounts"
        " WHERE account IN (SELECT 'caller/' || id FROM callers)"
        " UNION ALL SELECT 'held', COALESCE(-SUM(balance_msat), 0) FROM accounts"
        " WHERE account IN (SELECT 'held/' || id FROM callers)"
    )
    return {(row["name"],): int(row["n"]) for row in found}


async def caller_work(rows: Snapshot) -> dict[str, Backlog]:
    """What callers wait for: `jobs`, `deposits`, `withdrawals`."""
    found = await rows.all(
        "SELECT 'jobs' AS name, COUNT(*) AS n, MIN(created_at) AS oldest FROM caller_jobs WHERE cost_sat IS NULL"
        " UNION ALL SELECT 'deposits', COUNT(*), MIN(created_at) FROM caller_deposits WHERE state = 'open'"
        " UNION ALL SELECT 'withdrawals', COUNT(*), MIN(created_at) FROM caller_withdrawals WHERE state = 'open'"
    )
    return {row["name"]: Backlog(int(row["n"]), row["oldest"]) for row in found}


async def backlogs(rows: Snapshot) -> dict[str, Backlog]:
    """What waits for somebody outside: `outbox` for a relay, `inbox` for a handler, `operations` for a mint."""
    found = await rows.all(
        "SELECT 'outbox' AS name, COUNT(*) AS n, MIN(added_at) AS oldest FROM outbox WHERE state = 'open'"
        " UNION ALL SELECT 'inbox', COUNT(*), MIN(received_at) FROM inbox WHERE state = 'open'"
        " UNION ALL SELECT 'operations', COUNT(*), MIN(created_at) FROM wallet_operations"
        " WHERE state IN ('planned', 'open') AND state = 'open'"  # the first half names the index
    )
    return {row["name"]: Backlog(int(row["n"]), row["oldest"]) for row in found}


async def _by_state(rows: Snapshot, table: str, columns: str, is_open: str, ended_since: int) -> Counts:
    found = await rows.all(
        f"SELECT {columns}, COUNT(*) AS n FROM {table} WHERE {is_open} GROUP BY {columns}"  # noqa: S608 - our own words
        f" UNION ALL SELECT {columns}, COUNT(*) FROM {table}"
        f" WHERE created_at >= ? AND NOT ({is_open}) GROUP BY {columns}",
        ended_since,
    )
    return {tuple(row[column] for column in columns.split(", ")): int(row["n"]) for row in found}
