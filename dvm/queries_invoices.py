"""The SQL of Lightning invoices that customers were offered. The rest of dvm's is in queries.py."""

from dataclasses import dataclass
from enum import StrEnum

from dvm.queries import PaymentRow
from store import Database, Row, Transaction


class InvoiceStage(StrEnum):
    """Where the invoice of a job stands."""

    OPEN = "open"
    PAID = "paid"
    SURPLUS = "surplus"
    RETURNED = "returned"
    EXPIRED = "expired"


@dataclass(frozen=True)
class InvoiceRow:
    """The invoice of one job. `name` is that of `wallet.rails`."""

    agent: str
    job_id: str
    customer: str
    name: str
    bolt11: str
    payment_hash: str
    price_msat: int
    on_credit: bool
    state: InvoiceStage
    created_at: int
    ask_at: int
    expires_at: int
    event_id: str | None = None


def _row(row: Row) -> InvoiceRow:
    values = {name: row[name] for name in InvoiceRow.__dataclass_fields__}
    return InvoiceRow(**(values | {"state": InvoiceStage(row["state"]), "on_credit": bool(row["on_credit"])}))


async def insert_invoice(tx: Transaction, invoice: InvoiceRow) -> None:
    """Keep an invoice before anybody is shown it; a job has one."""
    await tx.execute(
        "INSERT INTO invoices (agent, job_id, customer, name, bolt11, payment_hash, price_msat, on_credit, state,"
        " created_at, ask_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (agent, job_id) DO NOTHING",
        invoice.agent, invoice.job_id, invoice.customer, invoice.name, invoice.bolt11, invoice.payment_hash,
        invoice.price_msat, int(invoice.on_credit), invoice.state, invoice.created_at, invoice.ask_at,
        invoice.expires_at,
    )  # fmt: skip


async def get_invoice(source: Database | Transaction, agent: str, job_id: str) -> InvoiceRow | None:
    """The invoice of one job."""
    row = await source.one("SELECT * FROM invoices WHERE agent = ? AND job_id = ?", agent, job_id)
    return _row(row) if row else None


async def invoice_by_hash(db: Database, agent: str, payment_hash: str) -> InvoiceRow | None:
    """The invoice of a job of this agent that has this payment hash."""
    row = await db.one("SELECT * FROM invoices WHERE payment_hash = ? AND agent = ?", payment_hash, agent)
    return _row(row) if row else None


async def invoice_by_event(db: Database, agent: str, event_id: str) -> InvoiceRow | None:
    """The invoice that this offer or result carries."""
    row = await db.one("SELECT * FROM invoices WHERE event_id = ? AND agent = ?", event_id, agent)
    return _row(row) if row else None


async def count_payable(db: Database, agent: str, customer: str, now: int) -> tuple[int, int]:
    """How many invoices of an agent can still be paid, and how many of them are this customer's."""
    row = await db.one(
        "SELECT COUNT(*) AS n, COUNT(CASE WHEN customer = ? THEN 1 END) AS own FROM invoices"
        " WHERE agent = ? AND state = 'open' AND expires_at > ?",
        customer, agent, now,
    )  # fmt: skip
    return (int(row["n"]), int(row["own"])) if row else (0, 0)


async def due_invoices(db: Database, agent: str, now: int, limit: int) -> list[InvoiceRow]:
    """Some of those that are to be asked about by now."""
    rows = await db.all(
        "SELECT * FROM invoices WHERE agent = ? AND state = 'open' AND ask_at <= ? ORDER BY ask_at LIMIT ?",
        agent, now, limit,
    )  # fmt: skip
    return [_row(row) for row in rows]


async def next_due(db: Database, agent: str) -> int | None:
    """When the next is to be asked about; None if none is open."""
    row = await db.one("SELECT MIN(ask_at) AS at FROM invoices WHERE agent = ? AND state = 'open'", agent)
    return row["at"] if row else None


async def surplus_invoices(db: Database, agent: str) -> list[InvoiceRow]:
    """Those whose money is to go back."""
    rows = await db.all("SELECT * FROM invoices WHERE agent = ? AND state = 'surplus'", agent)
    return [_row(row) for row in rows]


async def ask_again(tx: Transaction, invoice: InvoiceRow, ask_at: int) -> None:
    """Put off the next question."""
    await tx.execute(
        "UPDATE invoices SET ask_at = ? WHERE agent = ? AND job_id = ? AND state = 'open'",
        ask_at, invoice.agent, invoice.job_id,
    )  # fmt: skip


async def carry(tx: Transaction, agent: str, job_id: str, event_id: str) -> None:
    """The offer or result that carries the invoice, written with it."""
    await tx.execute(
        "UPDATE invoices SET event_id = ? WHERE agent = ? AND job_id = ?", event_id, agent, job_id
    )


async def move_invoice(tx: Transaction, invoice: InvoiceRow, state: InvoiceStage) -> bool:
    """Move an invoice on; False if it is no longer in the state `invoice` was read in."""
    return bool(
        await tx.execute(
            "UPDATE invoices SET state = ? WHERE agent = ? AND job_id = ? AND state = ?",
            state, invoice.agent, invoice.job_id, invoice.state,
        )
    )  # fmt: skip


async def owed_msat(tx: Transaction, agent: str, customer: str) -> int:
    """What a customer owes an agent for work that is done or under way; what failed is owed by nobody."""
    row = await tx.one(
        "SELECT COALESCE(SUM(i.price_msat), 0) AS msat FROM invoices i"
        " LEFT JOIN jobs j ON j.agent = i.agent AND j.id = i.job_id WHERE i.agent = ? AND i.customer = ?"
        " AND i.on_credit = 1 AND i.state IN ('open', 'expired')"
        " AND COALESCE(j.state, 'queued') NOT IN ('failed', 'cancelled', 'returned', 'expired')",
        agent, customer,
    )  # fmt: skip
    return int(row["msat"]) if row else 0


async def paid_msat(source: Database | Transaction, agent: str, customer: str) -> int:
    """What a customer has paid an agent so far, however; not what is to go back."""
    row = await source.one(
        "SELECT COALESCE(SUM(amount_sat), 0) AS sat FROM payments WHERE agent = ? AND payer = ? AND state = 'redeemed'"
        " AND reason = ''",
        agent, customer,
    )  # fmt: skip
    return 1000 * int(row["sat"]) if row else 0


async def has_paid(source: Database | Transaction, agent: str, key: str) -> bool:
    """Whether a key has paid an agent for a job, or somebody for a job of the key's; not what is to go back.

    Wallets often pay under a key that they make for the one payment.
    """
    row = await source.one(
        "SELECT 1 FROM payments WHERE agent = ? AND payer = ? AND state = 'redeemed' AND reason = ''"
        " UNION ALL SELECT 1 FROM jobs j CROSS JOIN payments p"  # in this order: the key's few jobs first
        " WHERE j.agent = ? AND j.customer = ? AND j.price_msat > 0 AND j.state IN ('queued', 'running', 'done')"
        " AND p.agent = j.agent AND p.job_id = j.id AND p.state = 'redeemed' AND p.reason = '' LIMIT 1",
        agent, key, agent, key,
    )  # fmt: skip
    return row is not None


async def is_being_paid(tx: Transaction, agent: str, job_id: str) -> bool:
    """Whether ecash for a job is being swapped to us."""
    row = await tx.one(
        "SELECT 1 FROM payments WHERE agent = ? AND job_id = ? AND state = 'redeeming' LIMIT 1", agent, job_id
    )
    return row is not None


async def insert_paid(tx: Transaction, payment: PaymentRow) -> bool:
    """Write down a payment that is ours already; False if it was."""
    return bool(
        await tx.execute(
            "INSERT INTO payments (id, agent, job_id, payer, public, state, token, amount_sat, reason, created_at,"
            " updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            payment.id, payment.agent, payment.job_id, payment.payer, int(payment.public), payment.state,
            payment.token, payment.amount_sat, payment.reason, payment.created_at, payment.created_at,
        )
    )  # fmt: skip
