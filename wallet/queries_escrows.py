"""The SQL of escrows, and their row. Table: migrations/0006_escrows.sql, 0008_arbitration.sql, 0009_concessions.sql."""

from dataclasses import dataclass, field
from typing import Any

import orjson

from identity import Event, parse_event
from store import Database, Row, Transaction
from wallet.escrow import Role, Stage
from wallet.terms import Terms, read_terms


@dataclass(frozen=True)
class EscrowRow:
    """One party's view of one escrow. `token` is money and shows in no `repr`; `coins` are (secret, sat) pairs."""

    role: Role
    party: str
    request_id: str
    stage: Stage
    terms: Terms
    request: Event
    created_at: int
    updated_at: int
    acceptance: str | None = None
    op_id: str | None = None
    lock_nonce: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    coins: tuple[tuple[str, int], ...] = field(default=(), repr=False)
    signatures: dict[str, list[str]] = field(default_factory=dict, repr=False)
    ciphertext: str | None = field(default=None, repr=False)
    preimage: str | None = field(default=None, repr=False)
    result: Event | None = field(default=None, repr=False)
    delivered_at: int | None = None
    statements: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    ruling: str | None = None
    awarded: tuple[str, ...] = field(default=(), repr=False)
    attempts: int = 0
    amount_sat: int = 0
    reason: str = ""
    wake_at: int | None = None
    reported: dict[str, Any] | None = field(default=None, repr=False)
    fee_order: str | None = None
    conceded: str = ""  # arbiter: the role of the party that told us that it gives in
    version: int = 0

    @property
    def key(self) -> tuple[Role, str, str]:
        """What tells it from all others."""
        return self.role, self.party, self.request_id


_JSON = frozenset({"coins", "signatures", "statements", "awarded", "reported"})
_COLUMNS = tuple(EscrowRow.__dataclass_fields__)
_WHERE = "WHERE role = ? AND party = ? AND request_id = ?"
_FINALS = ", ".join(f"'{stage}'" for stage in Stage if stage.is_final)
#: Which have not ended; the very words of the index `escrows_open`, which serves no others.
OPEN = f"stage NOT IN ({_FINALS})"


def _row(row: Row) -> EscrowRow:
    values = {name: row[name] for name in _COLUMNS} | {
        "role": Role(row["role"]),
        "stage": Stage(row["stage"]),
        "terms": read_terms(orjson.loads(row["terms"])),
        "request": parse_event(row["request"]),
        "result": None if row["result"] is None else parse_event(row["result"]),
        "coins": tuple((secret, sat) for secret, sat in orjson.loads(row["coins"] or "[]")),
        "signatures": orjson.loads(row["signatures"]),
        "statements": tuple(orjson.loads(row["statements"])),
        "awarded": tuple(orjson.loads(row["awarded"])),
        "reported": orjson.loads(row["reported"] or "null"),
    }
    return EscrowRow(**values)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Terms | Event):
        return orjson.dumps(value.to_dict()).decode()
    return orjson.dumps(value).decode() if name in _JSON else value


async def insert(tx: Transaction, row: EscrowRow) -> bool:
    """False if there is one of that key."""
    values = [_plain(name, getattr(row, name)) for name in _COLUMNS]
    places = ", ".join("?" for _ in _COLUMNS)
    return bool(
        await tx.execute(
            f"INSERT INTO escrows ({', '.join(_COLUMNS)}) VALUES ({places}) ON CONFLICT DO NOTHING",  # noqa: S608 - our names
            *values,
        )
    )


async def get(db: Database | Transaction, role: Role, party: str, request_id: str) -> EscrowRow | None:
    """One escrow."""
    row = await db.one(
        f"SELECT * FROM escrows {_WHERE}",  # noqa: S608
        role,
        party,
        request_id,
    )
    return None if row is None else _row(row)


async def update(tx: Transaction, row: EscrowRow, **columns: Any) -> bool:
    """Change it if it is as it was read; False if somebody was quicker."""
    names = ", ".join(f"{name} = ?" for name in columns)
    values = [_plain(name, value) for name, value in columns.items()]
    return bool(
        await tx.execute(
            f"UPDATE escrows SET {names}, version = version + 1 {_WHERE} AND version = ?",  # noqa: S608
            *values, *row.key, row.version,
        )
    )  # fmt: skip


async def of_hearing(db: Database | Transaction, order_id: str) -> EscrowRow | None:
    """The customer's escrow whose dispute that order has heard."""
    row = await db.one("SELECT * FROM escrows WHERE role = ? AND fee_order = ?", Role.CUSTOMER, order_id)
    return None if row is None else _row(row)


async def open_escrows(db: Database, party: str, role: Role) -> list[EscrowRow]:
    """Those that have not ended, the oldest first."""
    rows = await db.all(
        f"SELECT * FROM escrows WHERE party = ? AND role = ? AND {OPEN} ORDER BY created_at",  # noqa: S608
        party, role,
    )  # fmt: skip
    return [_row(row) for row in rows]


async def count_open(db: Database, party: str, role: Role) -> int:
    """How many have not ended."""
    row = await db.one(
        f"SELECT COUNT(*) AS cases FROM escrows WHERE party = ? AND role = ? AND {OPEN}",  # noqa: S608
        party, role,
    )  # fmt: skip
    assert row is not None
    return int(row["cases"])


async def newest(db: Database, limit: int) -> list[EscrowRow]:
    """The newest first, of all parties."""
    return [
        _row(row) for row in await db.all("SELECT * FROM escrows ORDER BY created_at DESC LIMIT ?", limit)
    ]


async def find(db: Database, prefix: str) -> list[EscrowRow]:
    """All views of escrows whose job's id begins so, the newest first."""
    end = prefix + "g"  # ids are hex
    rows = await db.all(
        "SELECT * FROM escrows WHERE request_id >= ? AND request_id < ? ORDER BY created_at DESC", prefix, end
    )
    return [_row(row) for row in rows]


async def reserve_coins(tx: Transaction, row: EscrowRow, ys: list[str]) -> bool:
    """Note that these coins fund this escrow; False if one of them funds another."""
    for y in ys:
        await tx.execute(
            "INSERT INTO escrow_coins (mint, y, party, request_id) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            row.terms.mint, y, row.party, row.request_id,
        )  # fmt: skip
        found = await tx.one(
            "SELECT party, request_id FROM escrow_coins WHERE mint = ? AND y = ?", row.terms.mint, y
        )
        if found is None or (found["party"], found["request_id"]) != (row.party, row.request_id):
            return False
    return True
