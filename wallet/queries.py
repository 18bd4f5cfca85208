"""Every SQL statement of the wallet. Functions with `tx` belong to the caller's transaction."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import orjson

from store import Database, Row, Transaction
from wallet.keysets import Keyset
from wallet.operations import HistoryEntry, Kind, Output, Quote, Role, State
from wallet.proofs import Dleq, Proof

EXPIRED_LATELY_SECONDS: Final = 120  # ago an invoice expired that is still asked for with those that are good


@dataclass(frozen=True)
class Operation:
    """A row of wallet_operations. `locked` is the lock of outputs for somebody else, as JSON."""

    op_id: str
    plan_id: str
    kind: Kind
    state: State
    mint: str
    purpose: str
    job_id: str | None
    quote_id: str | None
    send_sat: int
    keep_sat: int
    fee_sat: int
    locked: str | None
    created_at: int
    received_sat: int = 0
    sent_sat: int = 0
    paid_fee_sat: int = 0
    error: str | None = None
    closed_at: int | None = None

    def entry(self) -> HistoryEntry:
        """As a person reads it."""
        return HistoryEntry(
            op_id=self.op_id, kind=self.kind, state=self.state, mint=self.mint, purpose=self.purpose,
            job_id=self.job_id, received_sat=self.received_sat, sent_sat=self.sent_sat, fee_sat=self.paid_fee_sat,
            created_at=self.created_at, closed_at=self.closed_at,
        )  # fmt: skip


class FreeCoin(NamedTuple):
    """What is read of a coin of ours in order to choose it."""

    y: str
    amount: int
    id: str
    secret: str


def _operation(row: Row) -> Operation:
    names = Operation.__dataclass_fields__
    values = {name: row[name] for name in names}
    return Operation(**(values | {"kind": Kind(row["kind"]), "state": State(row["state"])}))


def _proof(row: Row) -> Proof:
    dleq = None if row["dleq_e"] is None else Dleq(row["dleq_e"], row["dleq_s"], row["dleq_r"])
    return Proof(row["amount"], row["keyset_id"], row["secret"], row["c"], dleq, row["witness"])


# --- keysets and counters ---------------------------------------------------------------------------------------------


async def keysets(db: Database, mint: str) -> dict[str, Keyset]:
    """All pinned keysets of a mint by id."""
    rows = await db.all("SELECT * FROM wallet_keysets WHERE mint = ?", mint)
    return {row["id"]: _keyset(row) for row in rows}


def _keyset(row: Row) -> Keyset:
    keys = {int(amount): key for amount, key in orjson.loads(row["keys"]).items()}
    return Keyset(
        row["id"], row["unit"], bool(row["active"]), row["input_fee_ppk"], row["final_expiry"], keys
    )


async def pin_keysets(tx: Transaction, mint: str, found: Iterable[Keyset]) -> None:
    """Store new keysets; of known ones update all but unit and keys, which are pinned."""
    await tx.execute_many(
        "INSERT INTO wallet_keysets (mint, id, unit, active, input_fee_ppk, final_expiry, keys)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (mint, id) DO UPDATE SET"
        " active = excluded.active, input_fee_ppk = excluded.input_fee_ppk, final_expiry = excluded.final_expiry",
        [
            (
                mint, k.id, k.unit, int(k.active), k.input_fee_ppk, k.final_expiry,
                orjson.dumps({str(amount): key for amount, key in k.keys.items()}).decode(),
            )
            for k in found
        ],
    )  # fmt: skip


async def take_counters(tx: Transaction, keyset_id: str, count: int) -> int:
    """Use up `count` NUT-13 counters of a keyset; returns the first."""
    row = await tx.one(
        "INSERT INTO wallet_counters (keyset_id, next) VALUES (?, ?)"
        " ON CONFLICT (keyset_id) DO UPDATE SET next = wallet_counters.next + excluded.next RETURNING next",
        keyset_id, count,
    )  # fmt: skip
    assert row is not None
    return int(row["next"]) - count


async def next_counter(source: Database | Transaction, keyset_id: str) -> int:
    """The next NUT-13 counter of a keyset."""
    row = await source.one("SELECT next FROM wallet_counters WHERE keyset_id = ?", keyset_id)
    return int(row["next"]) if row else 0


async def raise_counter(tx: Transaction, keyset_id: str, least: int) -> None:
    """Use up all counters below `least`; never goes back."""
    await tx.execute(
        "INSERT INTO wallet_counters (keyset_id, next, floor) VALUES (?, ?, ?) ON CONFLICT (keyset_id) DO UPDATE"
        " SET next = excluded.next, floor = excluded.floor WHERE wallet_counters.next < excluded.next",
        keyset_id, least, least,
    )  # fmt: skip


async def give_back_counters(tx: Transaction) -> None:
    """Make the counters free again of which no mint ever heard, unless a plan still holds some.

    Whatever a mint may have been shown is in `wallet_outputs`, or below the floor.
    """
    if await tx.one("SELECT 1 FROM wallet_operations WHERE state = 'planned' LIMIT 1"):
        return
    rows = await tx.all(
        "SELECT keyset_id, next, floor, (SELECT MAX(counter) FROM wallet_outputs"
        " WHERE wallet_outputs.keyset_id = wallet_counters.keyset_id) AS used FROM wallet_counters"
    )
    for row in rows:
        unused = max(row["floor"], 0 if row["used"] is None else row["used"] + 1)
        if unused < row["next"]:
            await tx.execute(
                "UPDATE wallet_counters SET next = ? WHERE keyset_id = ?", unused, row["keyset_id"]
            )


async def open_counters(
    source: Database | Transaction, keyset_id: str, first: int, last: int
) -> frozenset[int]:
    """Counters from `first` to `last` whose outputs are of open operations: what becomes of them is decided there."""
    rows = await source.all(
        "SELECT counter FROM wallet_outputs JOIN wallet_operations ON wallet_outputs.op_id = wallet_operations.op_id"
        " WHERE wallet_outputs.keyset_id = ? AND wallet_outputs.counter BETWEEN ? AND ?"
        " AND wallet_operations.state = 'open'",
        keyset_id, first, last,
    )  # fmt: skip
    return frozenset(int(row["counter"]) for row in rows)


# --- operations -------------------------------------------------------------------------------------------------------


async def operation(source: Database | Transaction, op_id: str) -> Operation | None:
    """One operation, None if there is none."""
    row = await source.one("SELECT * FROM wallet_operations WHERE op_id = ?", op_id)
    return None if row is None else _operation(row)


async def live_operations(db: Database, state: State) -> list[Operation]:
    """All operations that are `planned` or all that are `open`, oldest first."""
    rows = await db.all("SELECT * FROM wallet_operations WHERE state = ? ORDER BY created_at, op_id", state)
    return [_operation(row) for row in rows]


async def newest_operations(db: Database, limit: int) -> list[Operation]:
    """The newest first."""
    rows = await db.all("SELECT * FROM wallet_operations ORDER BY created_at DESC, op_id DESC LIMIT ?", limit)
    return [_operation(row) for row in rows]


async def insert_operation(tx: Transaction, op: Operation) -> None:
    """Write a planned operation."""
    await tx.execute(
        "INSERT INTO wallet_operations (op_id, plan_id, kind, state, mint, purpose, job_id, quote_id, send_sat,"
        " keep_sat, fee_sat, locked, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        op.op_id, op.plan_id, op.kind, op.state, op.mint, op.purpose, op.job_id, op.quote_id, op.send_sat, op.keep_sat,
        op.fee_sat, op.locked, op.created_at,
    )  # fmt: skip


async def open_operation(tx: Transaction, op_id: str, plan_id: str) -> bool:
    """planned → open; False if it is not planned any more, or was planned anew since."""
    changed = await tx.execute(
        "UPDATE wallet_operations SET state = 'open' WHERE op_id = ? AND plan_id = ? AND state = 'planned'",
        op_id, plan_id,
    )  # fmt: skip
    return changed == 1


async def close_operation(
    tx: Transaction,
    op_id: str,
    state: State,
    *,
    received: int,
    sent: int,
    fee: int,
    error: str | None,
    now: int,
) -> bool:
    """open → closed; False if somebody else closed it first, and then nothing else may be written."""
    changed = await tx.execute(
        "UPDATE wallet_operations SET state = ?, received_sat = ?, sent_sat = ?, paid_fee_sat = ?, error = ?,"
        " closed_at = ? WHERE op_id = ? AND state = 'open'",
        state, received, sent, fee, error, now, op_id,
    )  # fmt: skip
    return changed == 1


async def release_plan(tx: Transaction, op_id: str, plan_id: str) -> None:
    """Forget a planned operation, of which no mint ever heard, and let its coins go. Does nothing to any other."""
    deleted = await tx.execute(
        "DELETE FROM wallet_operations WHERE op_id = ? AND plan_id = ? AND state = 'planned'", op_id, plan_id
    )
    if deleted:
        await let_go(tx, op_id)


# --- outputs ----------------------------------------------------------------------------------------------------------


async def insert_outputs(tx: Transaction, op_id: str, outputs: Iterable[Output]) -> None:
    """Write what a mint will be asked to sign, before it is asked."""
    await tx.execute_many(
        "INSERT INTO wallet_outputs (op_id, attempt, position, role, keyset_id, counter, amount, secret,"
        " blinding_factor, blinded) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                op_id, o.attempt, o.position, o.role, o.keyset_id, o.counter, o.amount, o.secret, o.blinding_factor,
                o.blinded,
            )
            for o in outputs
        ],
    )  # fmt: skip


async def outputs(db: Database, op_id: str) -> list[list[Output]]:
    """The outputs of every attempt of an operation, in the order in which they were or will be sent."""
    rows = await db.all("SELECT * FROM wallet_outputs WHERE op_id = ? ORDER BY attempt, position", op_id)
    attempts: list[list[Output]] = []
    for row in rows:
        if row["position"] == 0:
            attempts.append([])
        attempts[-1].append(_output(row))
    return attempts


def _output(row: Row) -> Output:
    names = ("keyset_id", "counter", "amount", "secret", "blinding_factor", "blinded")
    return Output(row["attempt"], row["position"], Role(row["role"]), *(row[name] for name in names))


# --- coins ------------------------------------------------------------------------------------------------------------


async def free_coins(tx: Transaction, mint: str, limit: int) -> list[FreeCoin]:
    """Our largest coins at a mint that no operation has."""
    rows = await tx.all(
        "SELECT y, amount, keyset_id, secret FROM wallet_proofs WHERE mint = ? AND state = 'free'"
        " ORDER BY amount DESC LIMIT ?",
        mint, limit,
    )  # fmt: skip
    return [FreeCoin(row["y"], row["amount"], row["keyset_id"], row["secret"]) for row in rows]


async def all_free(db: Database, mint: str) -> list[str]:
    """The Ys of all our coins at a mint that no operation has."""
    return [
        row["y"]
        for row in await db.all("SELECT y FROM wallet_proofs WHERE mint = ? AND state = 'free'", mint)
    ]


async def sent_proofs(db: Database, op_id: str) -> dict[str, Proof]:
    """The coins of a token we made that are neither claimed nor being taken back, by Y."""
    rows = await db.all(
        "SELECT * FROM wallet_proofs WHERE made_by = ? AND state = 'sent' AND held_by IS NULL ORDER BY amount, y",
        op_id,
    )
    return {row["y"]: _proof(row) for row in rows}


async def held_proofs(db: Database, op_id: str) -> dict[str, Proof]:
    """The inputs of an operation by Y, with the witnesses that spend them."""
    rows = await db.all("SELECT * FROM wallet_proofs WHERE held_by = ? ORDER BY amount, y", op_id)
    return {row["y"]: _proof(row) for row in rows}


async def token_proofs(db: Database, op_id: str) -> tuple[Proof, ...]:
    """The coins an operation made for somebody else, whatever became of them."""
    rows = await db.all(
        "SELECT * FROM wallet_proofs WHERE made_by = ? AND role = 'send' ORDER BY amount, y", op_id
    )
    return tuple(Proof(p.amount, p.id, p.secret, p.C, p.dleq) for p in map(_proof, rows))


async def known_coins(source: Database | Transaction, mint: str, ys: Sequence[str]) -> list[Row]:
    """State and holder of those of `ys` that we ever had."""
    marks = ", ".join("?" * len(ys))
    return await source.all(
        f"SELECT y, state, held_by FROM wallet_proofs WHERE mint = ? AND y IN ({marks})",  # noqa: S608 - only marks
        mint, *ys,
    )  # fmt: skip


async def reserve(tx: Transaction, op_id: str, mint: str, ys: Iterable[str]) -> None:
    """Free coins become inputs of an operation."""
    await tx.execute_many(
        "UPDATE wallet_proofs SET state = 'reserved', held_by = ? WHERE mint = ? AND y = ? AND state = 'free'",
        [(op_id, mint, y) for y in ys],
    )


async def hold_foreign(tx: Transaction, op_id: str, mint: str, coins: dict[str, Proof]) -> None:
    """Somebody else's coins, or coins we sent, become inputs of an operation, with the witness that spends them."""
    await tx.execute_many(
        "INSERT INTO wallet_proofs (mint, y, state, keyset_id, amount, secret, c, witness, held_by)"
        " VALUES (?, ?, 'foreign', ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (mint, y) DO UPDATE SET witness = excluded.witness, held_by = excluded.held_by",
        [(mint, y, p.id, p.amount, p.secret, p.C, p.witness, op_id) for y, p in coins.items()],
    )


async def insert_made(
    tx: Transaction, op_id: str, mint: str, coins: Iterable[tuple[str, Role, Proof]], *, pending: bool = False
) -> None:
    """Coins that an operation made: (Y, whose, coin). Fails if one was ever in hand before.

    `pending`: the mint is still deciding about them (a payment in flight), and nobody may use them.
    """
    await tx.execute_many(
        "INSERT INTO wallet_proofs (mint, y, state, keyset_id, amount, secret, c, dleq_e, dleq_s, dleq_r,"
        " made_by, role) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                mint, y, _made_state(role, pending), p.id, p.amount, p.secret, p.C,
                *((p.dleq.e, p.dleq.s, p.dleq.r) if p.dleq else (None, None, None)), op_id, role,
            )
            for y, role, p in coins
        ],
    )  # fmt: skip


def _made_state(role: Role, pending: bool) -> str:
    if pending:
        return "pending"
    return "sent" if role is Role.SEND else "free"


async def pending_proofs(db: Database, op_id: str) -> dict[str, Proof]:
    """Coins found by an operation of which the mint has not decided yet, by Y."""
    rows = await db.all("SELECT * FROM wallet_proofs WHERE made_by = ? AND state = 'pending'", op_id)
    return {row["y"]: _proof(row) for row in rows}


async def pending_sat(db: Database, mint: str) -> int:
    """Sat in coins at a mint of which it has not decided yet."""
    row = await db.one(
        "SELECT COALESCE(SUM(amount), 0) AS sat FROM wallet_proofs WHERE mint = ? AND state = 'pending'", mint
    )
    return int(row["sat"]) if row else 0


async def free_pending(tx: Transaction, op_id: str) -> None:
    """What is still pending of an operation is ours."""
    await tx.execute("UPDATE wallet_proofs SET state = 'free' WHERE made_by = ? AND state = 'pending'", op_id)


async def are_free(tx: Transaction, mint: str, ys: Sequence[str]) -> dict[str, int]:
    """The amounts of those of `ys` that are free at this moment."""
    amounts = {}
    for y in ys:
        row = await tx.one(
            "SELECT amount FROM wallet_proofs WHERE mint = ? AND y = ? AND state = 'free'", mint, y
        )
        if row is not None:
            amounts[y] = int(row["amount"])
    return amounts


async def spend_held(tx: Transaction, op_id: str) -> None:
    """All inputs of an operation are gone."""
    await tx.execute("UPDATE wallet_proofs SET state = 'spent', held_by = NULL WHERE held_by = ?", op_id)


async def mark_spent(tx: Transaction, mint: str, seen: Iterable[tuple[str, str | None]]) -> None:
    """Coins that somebody else spent: (Y, the witness the mint shows for it)."""
    await tx.execute_many(
        "UPDATE wallet_proofs SET state = 'spent', held_by = NULL, witness = ? WHERE mint = ? AND y = ?",
        [(witness, mint, y) for y, witness in seen],
    )


async def let_go(tx: Transaction, op_id: str) -> None:
    """The inputs of an operation are again what they were before it."""
    await tx.execute(
        "UPDATE wallet_proofs SET state = 'free', held_by = NULL WHERE held_by = ? AND state = 'reserved'",
        op_id,
    )
    await tx.execute(
        "UPDATE wallet_proofs SET held_by = NULL, witness = NULL WHERE held_by = ? AND state = 'sent'", op_id
    )
    await tx.execute("DELETE FROM wallet_proofs WHERE held_by = ? AND state = 'foreign'", op_id)


async def spendable(db: Database) -> dict[str, int]:
    """Sat in free coins by mint."""
    rows = await db.all(
        "SELECT mint, SUM(amount) AS sat FROM wallet_proofs WHERE state = 'free'"
        " AND mint NOT IN (SELECT mint FROM wallet_abandoned) GROUP BY mint"
    )
    return {row["mint"]: int(row["sat"]) for row in rows}


# --- quotes -----------------------------------------------------------------------------------------------------------


async def insert_quote(tx: Transaction, quote: Quote, op_id: str, now: int) -> None:
    """Keep a quote before its invoice is shown to anybody."""
    await tx.execute(
        "INSERT INTO wallet_quotes (quote_id, op_id, mint, state, amount_sat, bolt11, expiry, job_id, created_at)"
        " VALUES (?, ?, ?, 'open', ?, ?, ?, ?, ?)",
        quote.id, op_id, quote.mint, quote.amount_sat, quote.bolt11, quote.expiry, quote.job_id, now,
    )  # fmt: skip


async def quote(db: Database, quote_id: str) -> tuple[Quote, str] | None:
    """A quote and the id of the operation that claims it."""
    row = await db.one("SELECT * FROM wallet_quotes WHERE quote_id = ?", quote_id)
    if row is None:
        return None
    names = ("quote_id", "mint", "amount_sat", "bolt11", "expiry", "job_id")
    return Quote(*(row[name] for name in names)), row["op_id"]


async def open_quotes(db: Database, *, of_jobs: bool = False, due_at: int | None = None) -> list[str]:
    """Ids of quotes that may still be paid and claimed; `of_jobs`: those made for jobs too.

    With `due_at` (unix), for whoever looks every minute: those whose invoices have expired are due every half hour.
    """
    due = "" if due_at is None else " AND (expiry IS NULL OR expiry >= ? OR created_at % 30 = ?)"
    times = () if due_at is None else (due_at - EXPIRED_LATELY_SECONDS, due_at // 60 % 30)
    rows = await db.all(
        "SELECT quote_id FROM wallet_quotes WHERE state = 'open' AND (job_id IS NULL OR ? = 1)"  # noqa: S608 - constants
        f" AND mint NOT IN (SELECT mint FROM wallet_abandoned){due}",
        int(of_jobs), *times,
    )  # fmt: skip
    return [row["quote_id"] for row in rows]


async def set_quote_state(tx: Transaction, quote_id: str, state: str) -> None:
    """open, claimed or expired."""
    await tx.execute("UPDATE wallet_quotes SET state = ? WHERE quote_id = ?", state, quote_id)
