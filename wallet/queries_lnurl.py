"""Every SQL statement about LNURL: invoices shown, withdrawals, orders paid through a Lightning wallet."""

from dataclasses import dataclass, field
from enum import StrEnum

from store import Database, Row, Transaction


class Withdrawal(StrEnum):
    """Where a withdrawal stands."""

    OPEN = "open"  # its k1 is good
    PAYING = "paying"  # one melt has it, and decides
    PAID = "paid"
    VOID = "void"  # taken back by whoever promised it


class Stage(StrEnum):
    """Where an order stands that is paid through a Lightning wallet."""

    UNPAID = "unpaid"  # its invoice is out
    PAID = "paid"  # the ecash is ours
    ASKED = "asked"  # the job is an order of our customer
    DONE = "done"  # with a result
    FAILED = "failed"  # without one
    EXPIRED = "expired"  # nobody paid


OPEN_STAGES = (Stage.UNPAID, Stage.PAID, Stage.ASKED)


@dataclass(frozen=True)
class InvoiceRow:
    """An invoice that was shown: whose it is, and what the payer said."""

    payment_hash: str
    quote_id: str
    name: str
    comment: str
    payer: str
    created_at: int


@dataclass(frozen=True)
class WithdrawalRow:
    """Sats that whoever knows `k1` may withdraw."""

    k1: str = field(repr=False)
    mint: str
    state: Withdrawal
    owed_sat: int
    pay_sat: int
    description: str
    attempts: int
    bolt11: str | None
    op_id: str | None
    created_at: int


@dataclass(frozen=True)
class LightningOrder:
    """A row of lnurl_orders; `params` is JSON."""

    id: str = field(repr=False)
    state: Stage
    provider: str
    kind: int
    input: str = field(repr=False)
    params: str = field(repr=False)
    max_sat: int
    amount_sat: int
    mint: str
    quote_id: str = field(repr=False)
    bolt11: str
    payment_hash: str
    expires_at: int
    refund_to: str
    job_id: str | None
    k1: str | None = field(repr=False)
    reason: str
    created_at: int
    updated_at: int


# --- invoices ---------------------------------------------------------------------------------------------------------


async def insert_invoice(tx: Transaction, row: InvoiceRow) -> None:
    """Remember what an invoice is for, before it is shown."""
    await tx.execute(
        "INSERT INTO lnurl_invoices (payment_hash, quote_id, name, comment, payer, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        row.payment_hash, row.quote_id, row.name, row.comment, row.payer, row.created_at,
    )  # fmt: skip


async def invoice(db: Database, payment_hash: str) -> InvoiceRow | None:
    """One invoice by its payment hash."""
    row = await db.one("SELECT * FROM lnurl_invoices WHERE payment_hash = ?", payment_hash)
    return None if row is None else InvoiceRow(**{n: row[n] for n in InvoiceRow.__dataclass_fields__})


async def open_invoices(db: Database, *, since: int) -> list[str]:
    """Quotes of invoices shown since then that are neither claimed nor given up, the newest first."""
    rows = await db.all(
        "SELECT lnurl_invoices.quote_id AS quote_id FROM lnurl_invoices JOIN wallet_quotes"
        " ON wallet_quotes.quote_id = lnurl_invoices.quote_id"
        " WHERE wallet_quotes.state = 'open' AND lnurl_invoices.created_at >= ?"
        " ORDER BY lnurl_invoices.created_at DESC, lnurl_invoices.quote_id",
        since,
    )
    return [row["quote_id"] for row in rows]


# --- withdrawals ------------------------------------------------------------------------------------------------------


async def insert_withdrawal(tx: Transaction, row: WithdrawalRow) -> None:
    """Promise sats to whoever knows the k1."""
    await tx.execute(
        "INSERT INTO lnurl_withdrawals (k1, mint, state, owed_sat, pay_sat, description, attempts, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
        row.k1, row.mint, row.state, row.owed_sat, row.pay_sat, row.description, row.created_at,
    )  # fmt: skip


async def withdrawal(db: Database, k1: str) -> WithdrawalRow | None:
    """One withdrawal."""
    row = await db.one("SELECT * FROM lnurl_withdrawals WHERE k1 = ?", k1)
    if row is None:
        return None
    values = {name: row[name] for name in WithdrawalRow.__dataclass_fields__}
    return WithdrawalRow(**(values | {"state": Withdrawal(row["state"])}))


async def withdrawals_under_way(db: Database) -> list[str]:
    """The k1 of each withdrawal that a melt has."""
    return [row["k1"] for row in await db.all("SELECT k1 FROM lnurl_withdrawals WHERE state = 'paying'")]


async def begin_withdrawal(tx: Transaction, row: WithdrawalRow, bolt11: str, op_id: str) -> bool:
    """open → paying, by this invoice and this melt; False if somebody else was quicker."""
    changed = await tx.execute(
        "UPDATE lnurl_withdrawals SET state = 'paying', bolt11 = ?, op_id = ?"
        " WHERE k1 = ? AND state = 'open' AND attempts = ?",
        bolt11, op_id, row.k1, row.attempts,
    )  # fmt: skip
    return changed == 1


async def pay_withdrawal(tx: Transaction, op_id: str) -> None:
    """paying → paid: the melt `op_id` did it."""
    await tx.execute(
        "UPDATE lnurl_withdrawals SET state = 'paid' WHERE op_id = ? AND state = 'paying'", op_id
    )


async def reopen_withdrawal(tx: Transaction, op_id: str, *, owed_sat: int, pay_sat: int) -> None:
    """paying → open with the next attempt's number and these amounts: the melt `op_id` came to nothing."""
    await tx.execute(
        "UPDATE lnurl_withdrawals SET state = 'open', attempts = attempts + 1, bolt11 = NULL, op_id = NULL,"
        " owed_sat = ?, pay_sat = ? WHERE op_id = ? AND state = 'paying'",
        owed_sat, pay_sat, op_id,
    )  # fmt: skip


async def lower_withdrawal(tx: Transaction, k1: str, pay_sat: int) -> None:
    """Pay out less, as the mint wants more in reserve for fees."""
    await tx.execute(
        "UPDATE lnurl_withdrawals SET pay_sat = ? WHERE k1 = ? AND state = 'open' AND pay_sat > ?",
        pay_sat, k1, pay_sat,
    )  # fmt: skip


async def void_withdrawal(tx: Transaction, k1: str) -> int | None:
    """open → void; returns the sat that were owed, None if it was withdrawn, or is being."""
    row = await tx.one(
        "UPDATE lnurl_withdrawals SET state = 'void' WHERE k1 = ? AND state = 'open' RETURNING owed_sat", k1
    )
    return None if row is None else int(row["owed_sat"])


# --- orders -----------------------------------------------------------------------------------------------------------


async def insert_order(tx: Transaction, row: LightningOrder) -> None:
    """Keep an order before its invoice is shown."""
    await tx.execute(
        "INSERT INTO lnurl_orders (id, state, provider, kind, input, params, max_sat, amount_sat, mint, quote_id,"
        " bolt11, payment_hash, expires_at, refund_to, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        row.id, row.state, row.provider, row.kind, row.input, row.params, row.max_sat, row.amount_sat, row.mint,
        row.quote_id, row.bolt11, row.payment_hash, row.expires_at, row.refund_to, row.created_at, row.updated_at,
    )  # fmt: skip


async def order(db: Database, order_id: str) -> LightningOrder | None:
    """One order by its id."""
    return _order(await db.one("SELECT * FROM lnurl_orders WHERE id = ?", order_id))


async def order_of_invoice(db: Database, payment_hash: str) -> LightningOrder | None:
    """The order that an invoice pays."""
    return _order(await db.one("SELECT * FROM lnurl_orders WHERE payment_hash = ?", payment_hash))


async def open_orders(db: Database) -> list[LightningOrder]:
    """All that are not at an end, oldest first."""
    rows = await db.all(
        "SELECT * FROM lnurl_orders WHERE state IN ('unpaid', 'paid', 'asked') ORDER BY created_at, id"
    )
    return [order for row in rows if (order := _order(row))]


async def orders_to_refund(db: Database) -> list[LightningOrder]:
    """Orders whose rest goes to an address and has not gone yet."""
    rows = await db.all(
        "SELECT lnurl_orders.* FROM lnurl_orders JOIN lnurl_withdrawals ON lnurl_withdrawals.k1 = lnurl_orders.k1"
        " WHERE lnurl_orders.refund_to <> '' AND lnurl_withdrawals.state <> 'paid'"
    )
    return [order for row in rows if (order := _order(row))]


async def move_order(
    tx: Transaction,
    row: LightningOrder,
    state: Stage,
    *,
    now: int,
    job_id: str | None = None,
    k1: str | None = None,
    reason: str = "",
) -> bool:
    """Bring an order to its next state; False if it is not where `row` says any more, and nothing was written."""
    changed = await tx.execute(
        "UPDATE lnurl_orders SET state = ?, job_id = COALESCE(?, job_id), k1 = ?, reason = ?, updated_at = ?"
        " WHERE id = ? AND state = ?",
        state, job_id, k1, reason, now, row.id, row.state,
    )  # fmt: skip
    return changed == 1


async def spent_sat(db: Database, job_id: str) -> int:
    """What a job has cost this wallet so far, fees included and what came back taken off."""
    row = await db.one(
        "SELECT COALESCE(SUM(CASE WHEN kind IN ('send', 'melt') THEN sent_sat + paid_fee_sat"
        " ELSE -received_sat END), 0) AS sat FROM wallet_operations"
        " WHERE job_id = ? AND state IN ('done', 'failed', 'lost')",
        job_id,
    )
    assert row is not None
    return int(row["sat"])


def _order(row: Row | None) -> LightningOrder | None:
    if row is None:
        return None
    values = {name: row[name] for name in LightningOrder.__dataclass_fields__}
    return LightningOrder(**(values | {"state": Stage(row["state"])}))
