"""The SQL of what callers' jobs take of their balances. Deposits and withdrawals are in queries_transfers.py."""

from dataclasses import dataclass
from typing import Final

from dvm.escrow.parties import UNPAID
from dvm.queries_guarantees import AT_REST, ORDER_AT_REST, cost_of, cost_of_order
from store import Database, Transaction
from wallet.queries_escrows import OPEN

#: Begins the ids of what is no job, but the hearing of a dispute over one.
HEARING: Final = "hearing:"
_HEARINGS: Final = (
    f"caller_jobs j JOIN escrows e ON e.role = 'customer' AND j.id = '{HEARING}' || e.request_id"
)
_UNPAID: Final = ", ".join(f"'{state}'" for state in UNPAID)
Source = Database | Transaction


@dataclass(frozen=True)
class CallerJob:
    """What one job took: `reserved_sat` at its begin, `cost_sat` in the end (None: not known yet)."""

    id: str
    caller: str
    key: str
    wish: str
    reserved_sat: int
    cost_sat: int | None
    created_at: int


@dataclass(frozen=True)
class KeyBudget:
    """What jobs asked for with one key may take, each of them and all that begin on one day (UTC); None: no limit."""

    job_sat: int | None
    day_sat: int | None


@dataclass(frozen=True)
class CallerSummary:
    """One account as the operator sees it."""

    id: str
    keys: tuple[str, ...]
    is_ticket: bool
    balance_sat: int
    held_sat: int
    jobs: int
    since: int


async def job(source: Source, job_id: str) -> CallerJob | None:
    """One job."""
    row = await source.one("SELECT * FROM caller_jobs WHERE id = ?", job_id)
    return None if row is None else CallerJob(**{name: row[name] for name in CallerJob.__dataclass_fields__})


async def insert_job(tx: Transaction, row: CallerJob) -> None:
    """A job begins."""
    await tx.execute(
        "INSERT INTO caller_jobs (id, caller, key, wish, reserved_sat, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        row.id, row.caller, row.key, row.wish, row.reserved_sat, row.created_at,
    )  # fmt: skip


async def open_jobs(tx: Transaction, caller: str) -> int:
    """How many jobs of a caller are not charged yet; hearings are none."""
    row = await tx.one(
        "SELECT COUNT(*) AS jobs FROM caller_jobs WHERE cost_sat IS NULL AND caller = ? AND id NOT LIKE ?",
        caller, f"{HEARING}%",
    )  # fmt: skip
    return int(row["jobs"]) if row else 0


async def open_jobs_of_strangers(tx: Transaction) -> int:
    """How many jobs of all callers who never brought sats have not ended."""
    row = await tx.one(
        "SELECT COUNT(*) AS jobs FROM caller_jobs j WHERE j.cost_sat IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM accounts a WHERE a.account = 'caller/' || j.caller)"
    )
    return int(row["jobs"]) if row else 0


async def set_cost(tx: Transaction, job_id: str, cost_sat: int) -> None:
    """What a job cost is known."""
    await tx.execute("UPDATE caller_jobs SET cost_sat = ? WHERE id = ?", cost_sat, job_id)


async def jobs_at_rest(db: Database) -> list[str]:
    """Jobs that nothing is waited for and whose cost is not set yet."""
    rows = await db.all(
        "SELECT j.id FROM caller_jobs j JOIN guarantees g ON g.id = j.id"  # noqa: S608 - our own words
        f" WHERE j.cost_sat IS NULL AND {AT_REST} ORDER BY j.created_at, j.id"
    )
    return [row["id"] for row in rows]


async def hearings_at_rest(db: Database) -> list[str]:
    """As `jobs_at_rest`, of hearings by an arbiter.

    One whose order ended unpaid, or was never made, may be ordered anew as long as its escrow is open.
    """
    rows = await db.all(
        f"SELECT j.id FROM {_HEARINGS} LEFT JOIN orders o ON o.id = e.fee_order"  # noqa: S608 - our own words
        f" WHERE j.cost_sat IS NULL AND (o.id IS NULL OR {ORDER_AT_REST})"
        f" AND (NOT e.{OPEN} OR o.state NOT IN ({_UNPAID})) ORDER BY j.created_at, j.id"
    )
    return [row["id"] for row in rows]


async def cost(source: Source, job_id: str) -> int:
    """What a job, or a hearing, costs in sat, or still may: all fees included, less what came back."""
    if not job_id.startswith(HEARING):
        return await cost_of(source, job_id)
    row = await source.one(f"SELECT e.fee_order FROM {_HEARINGS} WHERE j.id = ?", job_id)  # noqa: S608 - our own words
    return await cost_of_order(source, row["fee_order"]) if row and row["fee_order"] else 0


async def jobs_with_money_back(db: Database, *, since: int) -> list[str]:
    """Jobs and hearings that were charged for, and that may cost less since then.

    Money of an order came back, or was never paid after all: its mint had been given up meanwhile.
    """
    back = "o.state IN ('refunded', 'failed') AND o.updated_at >= ? AND j.cost_sat > 0"
    rows = await db.all(
        "SELECT j.id FROM orders o JOIN caller_jobs j ON j.id = o.guarantee_id"  # noqa: S608 - our own words
        f" WHERE o.guarantee_id IS NOT NULL AND {back} UNION"
        f" SELECT j.id FROM {_HEARINGS} JOIN orders o ON o.id = e.fee_order WHERE {back}",
        since, since,
    )  # fmt: skip
    return [row["id"] for row in rows]


async def budget(source: Source, key: str) -> KeyBudget:
    """What the owner of an account allowed one of its keys."""
    row = await source.one("SELECT job_sat, day_sat FROM caller_keys WHERE key = ?", key)
    return KeyBudget(row["job_sat"], row["day_sat"]) if row else KeyBudget(None, None)


async def taken_since(source: Source, key: str, since: int) -> int:
    """What jobs that a key began since then took, or may still."""
    row = await source.one(
        "SELECT COALESCE(SUM(COALESCE(cost_sat, reserved_sat)), 0) AS sat FROM caller_jobs"
        " WHERE key = ? AND created_at >= ?",
        key, since,
    )  # fmt: skip
    return int(row["sat"]) if row else 0


async def locked_sat(source: Source) -> int:
    """What has left the wallet for jobs and hearings that were not charged yet: a part of what is kept for them."""
    out = "SELECT CASE WHEN o.paid_sat > 0 THEN o.paid_sat - o.returned_sat ELSE 0 END AS sat FROM"
    row = await source.one(
        "SELECT COALESCE(SUM(sat), 0) AS sat FROM ("  # noqa: S608 - our own words
        f"{out} caller_jobs j JOIN orders o ON o.guarantee_id = j.id WHERE j.cost_sat IS NULL UNION ALL"
        f" {out} {_HEARINGS} JOIN orders o ON o.id = e.fee_order WHERE j.cost_sat IS NULL) AS paid"
    )
    return int(row["sat"]) if row else 0


async def all_callers(source: Source) -> list[CallerSummary]:
    """Every account, the newest first; of its keys those that it has now."""
    rows = await source.all(
        "SELECT c.id, c.ticket, c.created_at, COALESCE(-b.balance_msat, 0) AS balance_msat,"
        " COALESCE(-h.balance_msat, 0) AS held_msat,"
        " (SELECT COUNT(*) FROM caller_jobs j WHERE j.caller = c.id AND j.id NOT LIKE 'hearing:%') AS jobs"
        " FROM callers c LEFT JOIN accounts b ON b.account = 'caller/' || c.id"
        " LEFT JOIN accounts h ON h.account = 'held/' || c.id ORDER BY c.created_at DESC, c.id"
    )
    keys: dict[str, list[str]] = {}
    for row in await source.all("SELECT key, caller FROM caller_keys ORDER BY created_at, key"):
        keys.setdefault(row["caller"], []).append(row["key"])
    return [
        CallerSummary(
            row["id"], tuple(keys.get(row["id"], ())), row["ticket"] is not None, int(row["balance_msat"]) // 1000,
            int(row["held_msat"]) // 1000, int(row["jobs"]), row["created_at"],
        )
        for row in rows
    ]  # fmt: skip
