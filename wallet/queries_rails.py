"""Every SQL statement about Lightning: invoices of ours, payments of ours. Tables: migrations/0004_rails.sql."""

from dataclasses import dataclass, field
from enum import StrEnum

from store import Database, Row, Transaction


class InvoiceState(StrEnum):
    """Where a payment to us stands."""

    ASKED = "asked"
    OPEN = "open"
    SETTLED = "settled"
    EXPIRED = "expired"


class SendState(StrEnum):
    """Where a payment by us stands."""

    RECORDED = "recorded"
    ASKED = "asked"
    PAID = "paid"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether it is known what became of it."""
        return self in (SendState.PAID, SendState.FAILED)


@dataclass(frozen=True)
class OwnInvoice:
    """An invoice that was made for us; `handle`, `bolt11` and `payment_hash` are missing while it is only asked for."""

    name: str
    rail: str
    state: InvoiceState
    amount_msat: int
    job_id: str | None
    created_at: int
    received_msat: int = 0
    handle: str | None = None
    bolt11: str | None = None
    payment_hash: str | None = None
    expires_at: int | None = None
    settled_at: int | None = None
    preimage: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Payment:
    """A payment of ours: `fee_msat` is what it cost beside `amount_msat`, `error` why it failed or is not known yet."""

    name: str
    rail: str
    state: SendState
    bolt11: str
    payment_hash: str
    amount_msat: int
    fee_max_msat: int | None
    job_id: str | None
    created_at: int
    fee_msat: int = 0
    error: str = ""
    closed_at: int | None = None
    preimage: str | None = field(default=None, repr=False)


def _invoice(row: Row) -> OwnInvoice:
    values = {name: row[name] for name in OwnInvoice.__dataclass_fields__}
    return OwnInvoice(**(values | {"state": InvoiceState(row["state"])}))


def _payment(row: Row) -> Payment:
    values = {name: row[name] for name in Payment.__dataclass_fields__}
    return Payment(**(values | {"state": SendState(row["state"])}))


# --- invoices ---------------------------------------------------------------------------------------------------------


async def insert_invoice(tx: Transaction, invoice: OwnInvoice) -> None:
    """Write down that an invoice is about to be asked for."""
    await tx.execute(
        "INSERT INTO lightning_invoices (name, rail, state, amount_msat, job_id, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        invoice.name, invoice.rail, invoice.state, invoice.amount_msat, invoice.job_id, invoice.created_at,
    )  # fmt: skip


async def open_invoice(
    tx: Transaction, name: str, *, rail: str, handle: str, bolt11: str, payment_hash: str, expires_at: int
) -> None:
    """The rail made it, and it may be shown."""
    await tx.execute(
        "UPDATE lightning_invoices SET state = 'open', rail = ?, handle = ?, bolt11 = ?, payment_hash = ?,"
        " expires_at = ? WHERE name = ? AND state = 'asked'",
        rail, handle, bolt11, payment_hash, expires_at, name,
    )  # fmt: skip


async def settle_invoice(
    tx: Transaction, name: str, *, received_msat: int, preimage: str | None, now: int
) -> bool:
    """It was paid; False if that was known."""
    return bool(
        await tx.execute(
            "UPDATE lightning_invoices SET state = 'settled', received_msat = ?, preimage = ?, settled_at = ?"
            " WHERE name = ? AND state <> 'settled'",
            received_msat, preimage, now, name,
        )
    )  # fmt: skip


async def expire_invoice(tx: Transaction, name: str) -> None:
    """Nobody paid it, and nobody can any more."""
    await tx.execute(
        "UPDATE lightning_invoices SET state = 'expired' WHERE name = ? AND state = 'open'", name
    )


async def invoice(db: Database, name: str) -> OwnInvoice | None:
    """One of our invoices."""
    row = await db.one("SELECT * FROM lightning_invoices WHERE name = ?", name)
    return _invoice(row) if row else None


async def invoice_of(db: Database, payment_hash: str) -> OwnInvoice | None:
    """The one of our invoices that has this payment hash."""
    row = await db.one("SELECT * FROM lightning_invoices WHERE payment_hash = ?", payment_hash)
    return _invoice(row) if row else None


async def open_invoices(db: Database, *, of_jobs: bool) -> list[str]:
    """Names of those that may still be paid; `of_jobs`: those made for jobs too."""
    rows = await db.all(
        "SELECT name FROM lightning_invoices WHERE state = 'open' AND (job_id IS NULL OR ? = 1)"
        " ORDER BY created_at, name",
        int(of_jobs),
    )
    return [row["name"] for row in rows]


# --- payments ---------------------------------------------------------------------------------------------------------


async def insert_payment(tx: Transaction, payment: Payment) -> bool:
    """Write down a payment; False if its name or its payment hash is taken."""
    return bool(
        await tx.execute(
            "INSERT INTO lightning_payments (name, rail, state, bolt11, payment_hash, amount_msat, fee_max_msat,"
            " job_id, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            payment.name, payment.rail, payment.state, payment.bolt11, payment.payment_hash, payment.amount_msat,
            payment.fee_max_msat, payment.job_id, payment.created_at,
        )
    )  # fmt: skip


async def ask_payment(tx: Transaction, name: str) -> None:
    """From here on only the rail knows what became of it."""
    await tx.execute(
        "UPDATE lightning_payments SET state = 'asked' WHERE name = ? AND state = 'recorded'", name
    )


async def note_payment(tx: Transaction, name: str, error: str) -> None:
    """Why it is not known yet."""
    await tx.execute(
        "UPDATE lightning_payments SET error = ? WHERE name = ? AND state = 'asked'", error, name
    )


async def close_payment(
    tx: Transaction, name: str, state: SendState, *, fee_msat: int, preimage: str | None, error: str, now: int
) -> bool:
    """It is known what became of it; False if that was known before."""
    return bool(
        await tx.execute(
            "UPDATE lightning_payments SET state = ?, fee_msat = ?, preimage = ?, error = ?, closed_at = ?"
            " WHERE name = ? AND state IN ('recorded', 'asked')",
            state, fee_msat, preimage, error, now, name,
        )
    )  # fmt: skip


async def payment(source: Database | Transaction, name: str) -> Payment | None:
    """One payment."""
    row = await source.one("SELECT * FROM lightning_payments WHERE name = ?", name)
    return _payment(row) if row else None


async def payment_of(source: Database | Transaction, payment_hash: str) -> Payment | None:
    """The payment of an invoice, by whatever name, that has not failed."""
    row = await source.one(
        "SELECT * FROM lightning_payments WHERE payment_hash = ? AND state <> 'failed'", payment_hash
    )
    return _payment(row) if row else None


async def open_payments(db: Database) -> list[str]:
    """Names of those of which nobody knows what became."""
    rows = await db.all(
        "SELECT name FROM lightning_payments WHERE state IN ('recorded', 'asked') ORDER BY created_at, name"
    )
    return [row["name"] for row in rows]
