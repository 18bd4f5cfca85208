"""All SQL of dvm, and the rows it reads: jobs, payments, orders. Tables: migrations/."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dvm.jobs.lifecycle import JobState, PaymentState
from dvm.nip90 import stated_confidence
from dvm.orders.lifecycle import OrderState
from identity import Event, parse_event
from store import Database, Row, Transaction


@dataclass(frozen=True)
class JobRow:
    """A job we do."""

    agent: str
    id: str
    kind: int
    customer: str
    state: JobState
    price_msat: int
    request: Event
    relay: str
    reason: str
    attempts: int
    locktime: int | None
    offer_expires_at: int | None
    created_at: int
    updated_at: int
    result_id: str | None = None  # of the event that has the result, sealed or not
    confidence: float | None = None  # what the agent's function said of the result, 0 … 1
    is_stored: bool = True  # False: new, not in the table yet

    @property
    def price_sat(self) -> int:
        """The price in whole sats; prices are set in sats."""
        return self.price_msat // 1000


SURPLUS: Final = "surplus"  # the reason of a payment for a job that was paid already: it goes back


@dataclass(frozen=True)
class PaymentRow:
    """What came for a job: `token` is the ecash (money: it shows in no `repr`), or the invoice that was paid."""

    id: str
    agent: str
    job_id: str
    payer: str
    public: bool
    state: PaymentState
    token: str = field(repr=False)
    amount_sat: int
    op_id: str | None
    reason: str
    created_at: int

    @property
    def was_ours(self) -> bool:
        """Whether the mint once swapped it to us: if it is to go back, we owe it."""
        return self.amount_sat > 0

    @property
    def by_invoice(self) -> bool:
        """Whether it came by Lightning."""
        return self.token.startswith("ln")

    @property
    def is_surplus(self) -> bool:
        """Whether it came for a job that was paid already."""
        return self.reason == SURPLUS


@dataclass(frozen=True)
class OrderRow:
    """A job others do for us."""

    id: str
    customer: str
    provider: str
    kind: int
    state: OrderState
    max_sat: int
    price_sat: int
    mint: str | None
    lock_nonce: str = field(repr=False)
    locktime: int | None
    op_id: str | None
    refund_op_id: str | None
    request: Event
    offer: Event | None
    result: Event | None
    reason: str
    deadline_at: int
    version: int
    created_at: int
    updated_at: int  # when it came to its state
    review: bool = False  # a result in escrow waits for somebody who looks at it
    guarantee_id: str | None = None  # what it was made for, if any agent will do (`queries_guarantees`)
    heard_in: str = ""  # the state it was in when the agent last said that it is at work
    paid_sat: int = 0  # what left the wallet for it, fees included, once that is known
    returned_sat: int = 0  # what came back, less the fee
    code: str = ""  # of `reason`, for programs

    @property
    def confidence(self) -> float | None:
        """How sure the agent said that it is of its result, 0 … 1; a sealed one is in the offer."""
        told = self.result or self.offer
        return stated_confidence(told) if told else None


# Jobs ------------------------------------------------------------------------------------------------------------


async def insert_job(tx: Transaction, job: JobRow) -> bool:
    """Store a new job; False if this agent has it already (nothing is changed then)."""
    return bool(
        await tx.execute(
            "INSERT INTO jobs (agent, id, kind, customer, state, price_msat, request, relay, reason, attempts,"
            " locktime, offer_expires_at, created_at, updated_at, result_id, confidence)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (agent, id) DO NOTHING",
            job.agent, job.id, job.kind, job.customer, job.state, job.price_msat, job.request.to_json().decode(),
            job.relay, job.reason, job.attempts, job.locktime, job.offer_expires_at, job.created_at, job.updated_at,
            job.result_id, job.confidence,
        )
    )  # fmt: skip


async def update_job(tx: Transaction, job: JobRow, expected: JobState) -> bool:
    """Write what has become of a job; False if its stored state is not the `expected` one."""
    changed = await tx.execute(
        "UPDATE jobs SET state = ?, reason = ?, attempts = ?, locktime = ?, offer_expires_at = ?, updated_at = ?,"
        " result_id = ?, confidence = ?, leaf = NULLIF(leaf, -1) WHERE agent = ? AND id = ? AND state = ?",
        job.state, job.reason, job.attempts, job.locktime, job.offer_expires_at, job.updated_at,
        job.result_id, job.confidence, job.agent, job.id, expected,
    )  # fmt: skip
    return bool(changed)


async def get_job(db: Database | Transaction, agent: str, job_id: str) -> JobRow | None:
    """One job of one agent."""
    row = await db.one("SELECT * FROM jobs WHERE agent = ? AND id = ?", agent, job_id)
    return _job(row) if row else None


async def is_over(source: Database | Transaction, agent: str, job_id: str) -> bool:
    """Whether one of our agents does no work for a job any more."""
    row = await source.one("SELECT state FROM jobs WHERE agent = ? AND id = ?", agent, job_id)
    return row is not None and JobState(row["state"]).is_given_up


async def agents_that_served(db: Database) -> list[str]:
    """The public keys of all our agents that ever had a job."""
    return [row["agent"] for row in await db.all("SELECT DISTINCT agent FROM jobs")]


async def jobs_in(db: Database, agent: str, *states: JobState) -> list[JobRow]:
    """Open jobs of one agent in any of the states, oldest first."""
    rows = await db.all(
        f"SELECT * FROM jobs WHERE agent = ? AND state IN ({_marks(states)})"  # noqa: S608 - question marks only
        " AND state NOT IN ('done', 'failed', 'expired', 'returned', 'cancelled') ORDER BY created_at, id",
        agent, *states,
    )  # fmt: skip
    return [_job(row) for row in rows]


async def lapsed_offers(db: Database, agent: str, now: int, limit: int) -> list[JobRow]:
    """Some of the offers that nobody paid in time."""
    rows = await db.all(
        "SELECT * FROM jobs WHERE agent = ? AND state = 'offered' AND offer_expires_at <= ?"
        " AND state NOT IN ('done', 'failed', 'expired', 'returned', 'cancelled') LIMIT ?",
        agent, now, limit,
    )  # fmt: skip
    return [_job(row) for row in rows]


async def recent_jobs(db: Database, limit: int) -> list[JobRow]:
    """The newest jobs of all agents of this post."""
    rows = await db.all("SELECT * FROM jobs ORDER BY created_at DESC, id LIMIT ?", limit)
    return [_job(row) for row in rows]


async def find_jobs(db: Database, id_prefix: str) -> list[JobRow]:
    """Jobs whose id begins with `id_prefix`."""
    rows = await db.all("SELECT * FROM jobs WHERE id >= ? AND id <= ? LIMIT 10", id_prefix, id_prefix + "g")
    return [_job(row) for row in rows]


# Cancellations ---------------------------------------------------------------------------------------------------


async def insert_cancellation(tx: Transaction, agent: str, request_id: str, author: str, now: int) -> None:
    """Remember that `author` took a request back; again changes nothing."""
    await tx.execute(
        "INSERT INTO cancellations (agent, request_id, author, created_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (agent, request_id, author) DO NOTHING",
        agent, request_id, author, now,
    )  # fmt: skip


async def forget_cancellation(tx: Transaction, agent: str, request_id: str, author: str) -> None:
    """Drop one."""
    await tx.execute(
        "DELETE FROM cancellations WHERE agent = ? AND request_id = ? AND author = ?",
        agent,
        request_id,
        author,
    )


async def forget_cancellations(tx: Transaction, agent: str, before: int) -> None:
    """Drop those heard of before the unix time `before`."""
    await tx.execute("DELETE FROM cancellations WHERE agent = ? AND created_at < ?", agent, before)


async def cancellations(db: Database | Transaction, agent: str) -> list[tuple[str, str]]:
    """Request id and author of all that are remembered, oldest first."""
    rows = await db.all(
        "SELECT request_id, author FROM cancellations WHERE agent = ? ORDER BY created_at, request_id", agent
    )
    return [(row["request_id"], row["author"]) for row in rows]


async def jobs_named(db: Database, agent: str, customer: str, ids: Sequence[str]) -> list[JobRow]:
    """Those of the jobs of one customer that it can still take back."""
    rows = await db.all(
        f"SELECT * FROM jobs WHERE agent = ? AND customer = ? AND id IN ({_marks(ids)})"  # noqa: S608
        " AND state NOT IN ('done', 'failed', 'returned', 'cancelled')",
        agent, customer, *ids,
    )  # fmt: skip
    return [_job(row) for row in rows]


async def jobs_taken_back(db: Database, agent: str) -> list[JobRow]:
    """Open jobs whose customers took them back."""
    rows = await db.all(
        "SELECT jobs.* FROM cancellations JOIN jobs ON jobs.agent = cancellations.agent"
        " AND jobs.id = cancellations.request_id AND jobs.customer = cancellations.author"
        " WHERE cancellations.agent = ?"
        " AND jobs.state NOT IN ('done', 'failed', 'expired', 'returned', 'cancelled')",
        agent,
    )
    return [_job(row) for row in rows]


# Payments --------------------------------------------------------------------------------------------------------


async def insert_payment(tx: Transaction, payment: PaymentRow) -> bool:
    """Store ecash that came; False if the very same coins came before."""
    return bool(
        await tx.execute(
            "INSERT INTO payments (id, agent, job_id, payer, public, state, token, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            payment.id, payment.agent, payment.job_id, payment.payer, int(payment.public), payment.state,
            payment.token, payment.created_at, payment.created_at,
        )
    )  # fmt: skip


async def update_payment(
    tx: Transaction,
    payment: PaymentRow,
    state: PaymentState,
    *,
    now: int,
    op_id: str | None = None,
    amount_sat: int | None = None,
    reason: str = "",
) -> bool:
    """Move a payment on; False if it is no longer in the state `payment` was read in."""
    changed = await tx.execute(
        "UPDATE payments SET state = ?, op_id = ?, amount_sat = ?, reason = ?, updated_at = ?"
        " WHERE id = ? AND state = ?",
        state, op_id or payment.op_id, payment.amount_sat if amount_sat is None else amount_sat,
        reason or payment.reason, now, payment.id, payment.state,
    )  # fmt: skip
    if state in (PaymentState.REDEEMED, PaymentState.RETURNED):  # there may be something to log now
        await tx.execute(
            "UPDATE jobs SET leaf = NULL WHERE agent = ? AND id = ? AND leaf = -1",
            payment.agent,
            payment.job_id,
        )
    return bool(changed)


async def forget_payment(tx: Transaction, payment: PaymentRow) -> None:
    """Drop a payment that came to nothing, unless it has moved on."""
    await tx.execute("DELETE FROM payments WHERE id = ? AND state = ?", payment.id, payment.state)


async def get_payment(db: Database, payment_id: str) -> PaymentRow | None:
    """One payment."""
    row = await db.one("SELECT * FROM payments WHERE id = ?", payment_id)
    return _payment(row) if row else None


async def payments_of(db: Database, agent: str, job_id: str) -> list[PaymentRow]:
    """All payments that came for one job, oldest first."""
    rows = await db.all(
        "SELECT * FROM payments WHERE agent = ? AND job_id = ? ORDER BY created_at, id", agent, job_id
    )
    return [_payment(row) for row in rows]


async def escrow_payments(tx: Transaction, agent: str, job_id: str, token: str | None) -> list[PaymentRow]:
    """The payments that brought a job the coins of its escrow, given back or not: one, or none."""
    rows = await tx.all(
        "SELECT * FROM payments WHERE agent = ? AND job_id = ? AND token = ? AND state IN ('held', 'returned')",
        agent, job_id, token,
    )  # fmt: skip
    return [_payment(row) for row in rows]


async def open_payments(db: Database, agent: str) -> list[PaymentRow]:
    """Payments whose money is not yet where it belongs."""
    rows = await db.all(
        "SELECT * FROM payments WHERE agent = ? AND state IN ('received', 'redeeming', 'returning')"
        " ORDER BY created_at, id",
        agent,
    )
    return [_payment(row) for row in rows]


# Orders ----------------------------------------------------------------------------------------------------------


async def insert_order(tx: Transaction, order: OrderRow) -> None:
    """Store a new order."""
    await tx.execute(
        "INSERT INTO orders (id, customer, provider, kind, state, max_sat, lock_nonce, request, deadline_at,"
        " review, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        order.id, order.customer, order.provider, order.kind, order.state, order.max_sat, order.lock_nonce,
        order.request.to_json().decode(), order.deadline_at, int(order.review), order.created_at,
        order.updated_at,
    )  # fmt: skip


_ORDER_COLUMNS = frozenset(
    {
        "provider",
        "price_sat",
        "mint",
        "locktime",
        "op_id",
        "refund_op_id",
        "offer",
        "result",
        "reason",
        "code",
        "deadline_at",
        "heard_in",
        "paid_sat",
        "returned_sat",
    }
)


async def update_order(
    tx: Transaction, order: OrderRow, state: OrderState, *, now: int, **columns: Any
) -> bool:
    """Move an order on and set the named columns; False if anybody changed it since `order` was read."""
    assert columns.keys() <= _ORDER_COLUMNS, columns.keys()
    values = {name: v.to_json().decode() if isinstance(v, Event) else v for name, v in columns.items()}
    assignments = "".join(f", {name} = ?" for name in values)
    changed = await tx.execute(
        "UPDATE orders SET updated_at = CASE WHEN state = ? THEN updated_at ELSE ? END,"  # noqa: S608
        f" state = ?, version = version + 1{assignments} WHERE id = ? AND version = ?",
        state, now, state, *values.values(), order.id, order.version,
    )  # fmt: skip
    return bool(changed)


async def get_order(db: Database | Transaction, order_id: str) -> OrderRow | None:
    """One order."""
    row = await db.one("SELECT * FROM orders WHERE id = ?", order_id)
    return read_order(row) if row else None


async def open_orders(db: Database, customer: str) -> list[OrderRow]:
    """Orders of one customer that have not ended."""
    rows = await db.all(
        "SELECT * FROM orders WHERE customer = ?"
        " AND state NOT IN ('done', 'failed', 'expired', 'refunded', 'lost', 'cancelled') ORDER BY created_at, id",
        customer,
    )
    return [read_order(row) for row in rows]


async def customers_with_open_orders(db: Database) -> list[str]:
    """Public keys under which this post has orders that have not ended."""
    rows = await db.all(
        "SELECT DISTINCT customer FROM orders"
        " WHERE state NOT IN ('done', 'failed', 'expired', 'refunded', 'lost', 'cancelled') ORDER BY customer"
    )
    return [row["customer"] for row in rows]


async def locked_sat(db: Database) -> int:
    """What open orders of this post have locked for their providers alone, not in escrow, at the price."""
    row = await db.one(
        "SELECT COALESCE(SUM(price_sat), 0) AS sat FROM orders WHERE state IN ('paying', 'paid', 'awaiting_refund')"
        " AND NOT EXISTS (SELECT 1 FROM escrows WHERE role = 'customer' AND party = orders.customer"
        " AND request_id = orders.id)"
    )
    return int(row["sat"]) if row else 0


async def recent_orders(db: Database, limit: int) -> list[OrderRow]:
    """The newest orders of this post."""
    rows = await db.all("SELECT * FROM orders ORDER BY created_at DESC, id LIMIT ?", limit)
    return [read_order(row) for row in rows]


async def find_orders(db: Database, id_prefix: str) -> list[OrderRow]:
    """Orders whose id begins with `id_prefix`."""
    rows = await db.all("SELECT * FROM orders WHERE id >= ? AND id <= ? LIMIT 10", id_prefix, id_prefix + "g")
    return [read_order(row) for row in rows]


def _job(row: Row) -> JobRow:
    return JobRow(
        agent=row["agent"], id=row["id"], kind=row["kind"], customer=row["customer"], state=JobState(row["state"]),
        price_msat=row["price_msat"], request=parse_event(row["request"]), relay=row["relay"], reason=row["reason"],
        attempts=row["attempts"], locktime=row["locktime"], offer_expires_at=row["offer_expires_at"],
        created_at=row["created_at"], updated_at=row["updated_at"], result_id=row["result_id"],
        confidence=row["confidence"],
    )  # fmt: skip


def _payment(row: Row) -> PaymentRow:
    return PaymentRow(
        id=row["id"], agent=row["agent"], job_id=row["job_id"], payer=row["payer"], public=bool(row["public"]),
        state=PaymentState(row["state"]), token=row["token"], amount_sat=row["amount_sat"], op_id=row["op_id"],
        reason=row["reason"], created_at=row["created_at"],
    )  # fmt: skip


def read_order(row: Row) -> OrderRow:
    """An order from its row."""
    return OrderRow(
        id=row["id"], customer=row["customer"], provider=row["provider"], kind=row["kind"],
        state=OrderState(row["state"]), max_sat=row["max_sat"], price_sat=row["price_sat"], mint=row["mint"],
        lock_nonce=row["lock_nonce"], locktime=row["locktime"], op_id=row["op_id"], refund_op_id=row["refund_op_id"],
        request=parse_event(row["request"]), offer=_event(row["offer"]), result=_event(row["result"]),
        reason=row["reason"], deadline_at=row["deadline_at"], version=row["version"],
        created_at=row["created_at"], updated_at=row["updated_at"], review=bool(row["review"]),
        guarantee_id=row["guarantee_id"], heard_in=row["heard_in"], paid_sat=row["paid_sat"],
        returned_sat=row["returned_sat"], code=row["code"],
    )  # fmt: skip


def _event(raw: str | None) -> Event | None:
    return parse_event(raw) if raw else None


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
