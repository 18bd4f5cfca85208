"""The SQL of guarantees, and of what agents of ours spend by them. The rest of dvm's is in queries.py."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from dvm.orders.guarantee_lifecycle import CALLED_OFF, DROPPED, QUICKER, SILENT, GuaranteeState
from dvm.orders.lifecycle import NOT_NEEDED, OrderState
from dvm.queries import OrderRow, read_order
from store import Database, Row, Transaction

# What an order costs us in the end, or still may, and takes of its guarantee's budget: with all fees, those of money
# that came back as well. `guarantee_lifecycle.Attempt.outlay_sat` says the same in Python.
_PAID: Final = "CASE WHEN o.paid_sat > o.price_sat THEN o.paid_sat ELSE o.price_sat END"
_COST: Final = (
    "CASE WHEN o.state = 'requested' THEN o.max_sat"
    f" WHEN o.state IN ('paying', 'paid', 'awaiting_refund', 'lost', 'done', 'refunded')"
    f" THEN {_PAID} - o.returned_sat ELSE 0 END"
)
# What a guarantee does: all of its budget while it is open, for that may be spent any moment, and fees on top.
_COSTS: Final = f"(SELECT COALESCE(SUM({_COST}), 0) FROM orders o WHERE o.guarantee_id = g.id)"  # noqa: S608 - constants
_SPENT: Final = (
    "SELECT COALESCE(SUM(CASE WHEN state = 'open' AND max_sat > cost_sat THEN max_sat ELSE cost_sat END), 0) AS sat"  # noqa: S608
    f" FROM (SELECT g.state, g.max_sat, {_COSTS} AS cost_sat FROM guarantees g WHERE g.max_sat > 0 AND g.allowance = ?"
)
ORDERS_MAX: Final = 1000
_FINAL: Final = ", ".join(f"'{state}'" for state in OrderState if state.is_final)
#: Of an order `o`: nothing is waited for, not even coins at a mint that was given up; a late refund may still come.
ORDER_AT_REST: Final = (
    f"(o.state IN ({_FINAL}) OR EXISTS (SELECT 1 FROM wallet_abandoned w WHERE w.mint = o.mint))"  # noqa: S608 - our own words
)
#: Of a guarantee `g`: it has ended, and so have all of its orders.
AT_REST: Final = (
    "g.state <> 'open' AND NOT EXISTS"  # noqa: S608 - our own words
    f" (SELECT 1 FROM orders o WHERE o.guarantee_id = g.id AND NOT {ORDER_AT_REST})"
)


@dataclass(frozen=True)
class GuaranteeRow:
    """Work that is wanted of one agent or another. `task` is `hiring.Task` as JSON, encrypted if `private`."""

    id: str
    customer: str
    state: GuaranteeState
    task: str = field(repr=False)
    private: bool
    max_sat: int
    deadline_at: int
    allowance: str | None
    job_id: str | None
    order_id: str | None
    reason: str
    created_at: int
    updated_at: int


def _guarantee(row: Row) -> GuaranteeRow:
    values = {name: row[name] for name in GuaranteeRow.__dataclass_fields__}
    return GuaranteeRow(**(values | {"state": GuaranteeState(row["state"]), "private": bool(row["private"])}))


async def insert_guarantee(tx: Transaction, row: GuaranteeRow) -> bool:
    """Store a new guarantee; False if there is one of that id."""
    return bool(
        await tx.execute(
            "INSERT INTO guarantees (id, customer, state, task, private, max_sat, deadline_at, allowance, job_id,"
            " created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            row.id, row.customer, row.state, row.task, int(row.private), row.max_sat, row.deadline_at,
            row.allowance, row.job_id, row.created_at, row.updated_at,
        )
    )  # fmt: skip


async def get_guarantee(source: Database | Transaction, guarantee_id: str) -> GuaranteeRow | None:
    """One guarantee."""
    row = await source.one("SELECT * FROM guarantees WHERE id = ?", guarantee_id)
    return _guarantee(row) if row else None


async def open_guarantees(db: Database, customer: str) -> list[GuaranteeRow]:
    """Those of one customer that have not ended, and those with an order that is not needed any more."""
    rows = await db.all(
        "SELECT * FROM guarantees WHERE customer = ? AND state = 'open' UNION"
        " SELECT g.* FROM orders o JOIN guarantees g ON g.id = o.guarantee_id WHERE o.customer = ?"
        " AND o.state IN ('requested', 'paying', 'paid') AND (g.state = 'done' OR g.reason IN (?, ?))"
        " ORDER BY created_at, id",
        customer, customer, DROPPED, CALLED_OFF,
    )  # fmt: skip
    return [_guarantee(row) for row in rows]


async def guarantees_for(
    db: Database, allowance: str, before: tuple[int, str], limit: int
) -> list[GuaranteeRow]:
    """The newest that were begun for somebody, older than `before`: when one of them began, and its id."""
    created_at, guarantee_id = before
    rows = await db.all(
        "SELECT * FROM guarantees WHERE allowance = ? AND created_at <= ? AND (created_at < ? OR id < ?)"
        " ORDER BY created_at DESC, id DESC LIMIT ?",
        allowance, created_at, created_at, guarantee_id, limit,
    )  # fmt: skip
    return [_guarantee(row) for row in rows]


async def end_guarantee(
    tx: Transaction,
    guarantee_id: str,
    state: GuaranteeState,
    *,
    now: int,
    order_id: str | None = None,
    reason: str = "",
) -> bool:
    """End an open guarantee; False if it has ended."""
    return bool(
        await tx.execute(
            "UPDATE guarantees SET state = ?, order_id = ?, reason = ?, updated_at = ?"
            " WHERE id = ? AND state = 'open'",
            state, order_id, reason, now, guarantee_id,
        )
    )  # fmt: skip


async def drop_guarantees(tx: Transaction, allowance: str, job_id: str, now: int) -> list[str]:
    """End those that an agent of ours began for a job that is over; returns their ids."""
    rows = await tx.all(
        "SELECT id FROM guarantees WHERE allowance = ? AND job_id = ? AND state = 'open'", allowance, job_id
    )
    ids = [str(row["id"]) for row in rows]
    for guarantee_id in ids:
        await end_guarantee(tx, guarantee_id, GuaranteeState.FAILED, now=now, reason=DROPPED)
    return ids


async def orders_of(source: Database | Transaction, guarantee_id: str) -> list[OrderRow]:
    """The orders that were made for a guarantee, oldest first by the second."""
    rows = await source.all(
        "SELECT * FROM orders WHERE guarantee_id = ? ORDER BY created_at, id", guarantee_id
    )
    return [read_order(row) for row in rows]


async def orders_of_all(db: Database, guarantee_ids: Sequence[str]) -> dict[str, list[OrderRow]]:
    """As `orders_of`, of some guarantees, by their ids."""
    found: dict[str, list[OrderRow]] = {guarantee_id: [] for guarantee_id in guarantee_ids}
    marks = ", ".join("?" * len(guarantee_ids))
    for row in await db.all(
        f"SELECT * FROM orders WHERE guarantee_id IN ({marks}) ORDER BY created_at, id",  # noqa: S608 - question marks
        *guarantee_ids,
    ):
        found[row["guarantee_id"]].append(read_order(row))
    return found


async def is_at_rest(source: Database | Transaction, guarantee_id: str) -> bool:
    """Whether a guarantee has ended and nothing is waited for by any of its orders; a late refund may still come."""
    sql = f"SELECT 1 FROM guarantees g WHERE g.id = ? AND {AT_REST}"  # noqa: S608 - our own words
    return await source.one(sql, guarantee_id) is not None


async def cost_of(source: Database | Transaction, guarantee_id: str) -> int:
    """What the orders of a guarantee cost in sat, or still may: all fees included, less what came back."""
    row = await source.one(
        f"SELECT COALESCE(SUM({_COST}), 0) AS sat FROM orders o WHERE o.guarantee_id = ?",  # noqa: S608 - constants
        guarantee_id,
    )
    return int(row["sat"]) if row else 0


async def cost_of_order(source: Database | Transaction, order_id: str) -> int:
    """As `cost_of`, of one order alone."""
    row = await source.one(f"SELECT {_COST} AS sat FROM orders o WHERE o.id = ?", order_id)  # noqa: S608 - constants
    return int(row["sat"]) if row else 0


async def is_needed(tx: Transaction, order_id: str, now: int) -> bool:
    """Whether the result of an order that is being paid is here already, or still waited for.

    It is not after its deadline, if it was taken back, or if its guarantee has ended or another order brought a result.
    """
    row = await tx.one(
        "SELECT 1 FROM orders o LEFT JOIN guarantees g ON g.id = o.guarantee_id WHERE o.id = ? AND o.result IS NULL"
        " AND (o.deadline_at <= ? OR o.reason <> '' OR g.state <> 'open'"
        " OR EXISTS (SELECT 1 FROM orders x WHERE x.guarantee_id = g.id AND x.state = 'done'))",
        order_id, now,
    )  # fmt: skip
    return row is None


async def attach_order(tx: Transaction, guarantee_id: str, order_id: str, now: int) -> bool:
    """Make a new order one of a guarantee.

    False if that has ended, another of its orders is under way or done, or all may cost more than it may: then the
    caller undoes the transaction.
    """
    await tx.execute("UPDATE orders SET guarantee_id = ? WHERE id = ?", guarantee_id, order_id)
    row = await tx.one(
        f"SELECT g.max_sat, SUM({_COST}) AS sat,"  # noqa: S608 - constants
        " SUM(CASE WHEN o.state IN ('requested', 'paid', 'done') OR (o.state = 'paying' AND o.deadline_at > ?)"
        " THEN 1 ELSE 0 END) AS busy"
        " FROM guarantees g JOIN orders o ON o.guarantee_id = g.id"
        " WHERE g.id = ? AND g.state = 'open' GROUP BY g.max_sat",
        now, guarantee_id,
    )  # fmt: skip
    return row is not None and row["sat"] <= row["max_sat"] and row["busy"] == 1


async def disappointing(db: Database, customer: str, since: int) -> frozenset[str]:
    """Agents that were asked since then and did not deliver, and have not since."""
    rows = await db.all(
        "SELECT provider, state FROM orders WHERE created_at >= ? AND customer = ? AND (state IN"
        " ('done', 'failed', 'expired', 'awaiting_refund', 'refunded', 'lost') OR (state = 'cancelled' AND reason = ?))"
        " AND reason NOT IN (?, ?, ?, ?) ORDER BY created_at DESC, id LIMIT ?",
        since, customer, SILENT, DROPPED, CALLED_OFF, QUICKER, NOT_NEEDED, ORDERS_MAX,
    )  # fmt: skip
    last = {row["provider"]: row["state"] for row in reversed(rows)}
    return frozenset(provider for provider, state in last.items() if state != "done")


async def spent_for_job(source: Database | Transaction, allowance: str, job_id: str) -> int:
    """What purchases of an agent for one of its jobs cost, or still may."""
    row = await source.one(f"{_SPENT} AND g.job_id = ?) AS bought", allowance, job_id)
    return int(row["sat"]) if row else 0


async def spent_since(source: Database | Transaction, allowance: str, since: int) -> int:
    """What purchases that an agent began since then cost, or still may."""
    row = await source.one(f"{_SPENT} AND g.created_at >= ?) AS bought", allowance, since)
    return int(row["sat"]) if row else 0
