"""The SQL of what callers bring and take away."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from store import Database, Row, Transaction

Source = Database | Transaction


class Transfer(StrEnum):
    """Where a deposit or a withdrawal stands."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"  # nothing came, or went
    EXPIRED = "expired"  # an invoice that nobody paid


@dataclass(frozen=True)
class DepositRow:
    """Sats that a caller brings. `amount_sat` is that of the token or invoice, `credited_sat` what came of it."""

    id: str
    caller: str
    way: str
    op_id: str
    quote_id: str | None = field(repr=False)
    amount_sat: int
    state: Transfer
    created_at: int
    expires_at: int | None = None
    credited_sat: int = 0
    reason: str = ""


@dataclass(frozen=True)
class PayoutRow:
    """Sats that a caller takes away: `amount_sat` arrive, `held_sat` are kept for it while it is open."""

    id: str
    caller: str
    way: str
    wish: str
    op_id: str | None
    k1: str | None = field(repr=False)
    bolt11: str | None
    amount_sat: int
    held_sat: int
    state: Transfer
    created_at: int
    expires_at: int | None = None
    fee_sat: int = 0
    reason: str = ""


# Deposits -------------------------------------------------------------------------------------------------------------


async def insert_deposit(tx: Transaction, row: DepositRow, client: str = "") -> bool:
    """Somebody brings sats; one that came to nothing begins anew. False if it is under way, or done.

    `client`: the address that asked for an invoice, kept while it may be paid.
    """
    changed = await tx.execute(
        "INSERT INTO caller_deposits (id, caller, way, op_id, quote_id, amount_sat, state, expires_at, created_at,"
        " client) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET caller = excluded.caller,"
        " op_id = excluded.op_id, state = excluded.state, reason = '', created_at = excluded.created_at"
        " WHERE caller_deposits.state = 'failed'",
        row.id, row.caller, row.way, row.op_id, row.quote_id, row.amount_sat, row.state, row.expires_at,
        row.created_at, client,
    )  # fmt: skip
    return changed == 1


async def deposit(source: Source, deposit_id: str) -> DepositRow | None:
    """One deposit."""
    return _deposit(await source.one("SELECT * FROM caller_deposits WHERE id = ?", deposit_id))


async def open_deposits(source: Source, caller: str) -> list[DepositRow]:
    """What a caller is bringing, the newest first."""
    rows = await source.all(
        "SELECT * FROM caller_deposits WHERE caller = ? AND state = 'open' ORDER BY created_at DESC, id",
        caller,
    )
    return [found for row in rows if (found := _deposit(row))]


async def coming_sat(source: Source, caller: str, now: int, *, invoices: bool = True) -> int:
    """What may still come for a caller: tokens, unless their mint was given up, and the `invoices` that can be paid."""
    row = await source.one(
        "SELECT COALESCE(SUM(d.amount_sat), 0) AS sat FROM caller_deposits d WHERE d.caller = ? AND d.state = 'open'"
        " AND (d.expires_at IS NULL OR d.expires_at >= ?) AND (d.quote_id IS NULL OR ?)"
        " AND NOT EXISTS (SELECT 1 FROM wallet_operations o JOIN wallet_abandoned w ON w.mint = o.mint"
        " WHERE o.op_id = d.op_id)",
        caller, now, invoices,
    )  # fmt: skip
    return int(row["sat"]) if row else 0


async def unpaid_invoices(source: Source, client: str, since: int) -> tuple[int, int]:
    """How many invoices were made since then and are not paid: for all callers, and of those for one address."""
    row = await source.one(
        "SELECT COUNT(*) AS n, COUNT(CASE WHEN client = ? THEN 1 END) AS own FROM caller_deposits"
        " WHERE state = 'open' AND created_at >= ? AND quote_id IS NOT NULL",
        client, since,
    )  # fmt: skip
    return (int(row["n"]), int(row["own"])) if row else (0, 0)


async def uncredited_sat(source: Source) -> int:
    """What callers brought that is among our coins and not in their balances yet, in sat."""
    row = await source.one(
        "SELECT COALESCE(SUM(o.received_sat), 0) AS sat FROM caller_deposits d"
        " JOIN wallet_operations o ON o.op_id = d.op_id WHERE d.state IN ('open', 'expired') AND o.state = 'done'"
    )
    return int(row["sat"]) if row else 0


async def deposits_that_ended(db: Database) -> list[DepositRow]:
    """Open deposits whose operation ended, or whose invoice is not asked for any more."""
    rows = await db.all(
        "SELECT d.* FROM caller_deposits d JOIN wallet_operations o ON o.op_id = d.op_id WHERE d.state = 'open'"
        " AND o.state IN ('done', 'failed', 'lost') UNION ALL"
        " SELECT d.* FROM caller_deposits d JOIN wallet_quotes q ON q.quote_id = d.quote_id WHERE d.state = 'open'"
        " AND q.state = 'expired'"
    )
    return [found for row in rows if (found := _deposit(row))]


async def end_deposit(
    tx: Transaction, row: DepositRow, state: Transfer, *, credited_sat: int = 0, reason: str = ""
) -> str | None:
    """open → done, failed or expired; returns whose it is, None if it has ended, or is another attempt by now.

    An expired one, which was paid after all, may still be done.
    """
    found = await tx.one(
        "UPDATE caller_deposits SET state = ?, credited_sat = ?, reason = ?, client = '' WHERE id = ? AND op_id = ?"
        " AND (state = 'open' OR (state = 'expired' AND ? = 'done')) RETURNING caller",
        state, credited_sat, reason, row.id, row.op_id, state,
    )  # fmt: skip
    return None if found is None else str(found["caller"])


async def delete_unpaid(tx: Transaction, before: int, limit: int) -> None:
    """Delete invoices that nobody paid and that expired before then."""
    rows = await tx.all(
        "SELECT id FROM caller_deposits d WHERE state = 'expired' AND expires_at < ?"
        " AND NOT EXISTS (SELECT 1 FROM wallet_operations o WHERE o.op_id = d.op_id) ORDER BY expires_at LIMIT ?",
        before, limit,
    )  # fmt: skip
    for row in rows:
        await tx.execute("DELETE FROM lnurl_invoices WHERE payment_hash = ?", row["id"])
        await tx.execute("DELETE FROM caller_deposits WHERE id = ?", row["id"])


# Withdrawals ----------------------------------------------------------------------------------------------------------


async def insert_payout(tx: Transaction, row: PayoutRow) -> bool:
    """Somebody takes sats away; False if that invoice was paid for somebody before, or is being paid."""
    values: dict[str, Any] = {name: getattr(row, name) for name in PayoutRow.__dataclass_fields__}
    return bool(
        await tx.execute(
            f"INSERT INTO caller_withdrawals ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"  # noqa: S608 - names of ours
            " ON CONFLICT DO NOTHING",
            *values.values(),
        )
    )


async def payout(source: Source, payout_id: str) -> PayoutRow | None:
    """One withdrawal."""
    return _payout(await source.one("SELECT * FROM caller_withdrawals WHERE id = ?", payout_id))


async def payouts_of(source: Source, caller: str, limit: int) -> list[PayoutRow]:
    """A caller's withdrawals, the newest first."""
    rows = await source.all(
        "SELECT * FROM caller_withdrawals WHERE caller = ? ORDER BY created_at DESC, id LIMIT ?",
        caller,
        limit,
    )
    return [found for row in rows if (found := _payout(row))]


async def open_payouts(db: Database) -> list[PayoutRow]:
    """Withdrawals that have not ended."""
    rows = await db.all("SELECT * FROM caller_withdrawals WHERE state = 'open' ORDER BY created_at, id")
    return [found for row in rows if (found := _payout(row))]


async def end_payout(
    tx: Transaction, payout_id: str, state: Transfer, *, fee_sat: int, amount_sat: int, reason: str = ""
) -> bool:
    """open → done or failed; False if it has ended."""
    changed = await tx.execute(
        "UPDATE caller_withdrawals SET state = ?, fee_sat = ?, amount_sat = ?, reason = ?"
        " WHERE id = ? AND state = 'open'",
        state, fee_sat, amount_sat, reason, payout_id,
    )  # fmt: skip
    return changed == 1


def _deposit(row: Row | None) -> DepositRow | None:
    if row is None:
        return None
    values = {name: row[name] for name in DepositRow.__dataclass_fields__}
    return DepositRow(**(values | {"state": Transfer(row["state"])}))


def _payout(row: Row | None) -> PayoutRow | None:
    if row is None:
        return None
    values = {name: row[name] for name in PayoutRow.__dataclass_fields__}
    return PayoutRow(**(values | {"state": Transfer(row["state"])}))
