"""What the doctor reads of a post's database, on a connection that can write nothing."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

TOKENS_MAX = 500  # coins of tokens that a mint is asked about


@dataclass(frozen=True)
class Form:
    """Whether a file is whole, by SQLite's own complaints, and of which release: hashes of the migrations applied."""

    damage: tuple[str, ...]
    schema: dict[tuple[str, int], str]


@dataclass(frozen=True)
class Records:
    """What a database holds, as far as it matters to its health. Sats by mint; times are unix seconds."""

    owned_sat: dict[str, int]
    #: Operations that were begun and not ended: mint, how many, the oldest.
    open_operations: tuple[tuple[str, int, int], ...]
    open_invoices: int
    #: Orders whose sats are to come back: price and from when on.
    refunds: tuple[tuple[int, int], ...]
    #: Payments of customers that are on their way back to them.
    returning: int
    #: Events that wait for a relay, and since when the oldest does.
    unsent: int
    unsent_since: int
    #: Coins of tokens we made that nobody is known to have claimed: Y and amount, by mint.
    tokens: dict[str, dict[str, int]]


def read_form(path: Path) -> Form:
    """Blocks while SQLite checks the file, a second or so per gigabyte. Raises `sqlite3.Error`."""
    with closing(_open(path)) as db:
        damage = tuple(row[0] for row in db.execute("PRAGMA quick_check(5)") if row[0] != "ok")
        rows = db.execute("SELECT component, number, sha256 FROM schema_migrations")
        return Form(damage, {(row[0], row[1]): row[2] for row in rows})


def read_records(path: Path) -> Records:
    """Of a database that is whole and of a release we know. Raises `sqlite3.Error`."""
    with closing(_open(path)) as db:
        owned = db.execute(
            "SELECT mint, SUM(amount) FROM wallet_proofs WHERE state IN ('free', 'reserved') GROUP BY mint"
        )
        operations = db.execute(
            "SELECT mint, COUNT(*), MIN(created_at) FROM wallet_operations WHERE state = 'open' GROUP BY mint"
        )
        refunds = db.execute(
            "SELECT price_sat, COALESCE(locktime, 0) FROM orders WHERE state = 'awaiting_refund'"
        )
        unsent, since = db.execute(
            "SELECT COUNT(*), COALESCE(MIN(added_at), 0) FROM outbox WHERE state = 'open'"
        ).fetchone()
        return Records(
            owned_sat=dict(owned.fetchall()),
            open_operations=tuple(operations.fetchall()),
            open_invoices=_count(db, "SELECT COUNT(*) FROM wallet_quotes WHERE state = 'open'"),
            refunds=tuple(refunds.fetchall()),
            returning=_count(db, "SELECT COUNT(*) FROM payments WHERE state = 'returning'"),
            unsent=unsent,
            unsent_since=since,
            tokens=_tokens(db),
        )


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5)


def _count(db: sqlite3.Connection, sql: str) -> int:
    return int(db.execute(sql).fetchone()[0])


def _tokens(db: sqlite3.Connection) -> dict[str, dict[str, int]]:
    rows = db.execute(
        "SELECT p.mint, p.y, p.amount FROM wallet_proofs p JOIN wallet_operations o ON o.op_id = p.made_by"
        " WHERE p.state = 'sent' AND p.held_by IS NULL AND o.purpose = 'send' ORDER BY o.created_at DESC LIMIT ?",
        (TOKENS_MAX,),
    )
    found: dict[str, dict[str, int]] = {}
    for mint, y, amount in rows:
        found.setdefault(mint, {})[y] = amount
    return found
