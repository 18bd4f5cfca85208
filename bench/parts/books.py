"""The books of many finished jobs: copies, under other ids, of the rows that real ones left in a wallet's database."""

import hashlib
import os
import sqlite3
from pathlib import Path
from typing import Final

#: What tells a job's rows from another's, in the tables that a settled job leaves rows in.
TABLES: Final = ("wallet_operations", "wallet_outputs", "wallet_proofs", "postings", "ledger")
_KEYS: Final = frozenset(
    {"op_id", "plan_id", "job_id", "id", "posting_id", "made_by", "held_by", "y", "secret", "c", "blinded"}
)


def fill_books(database: Path, jobs: int) -> None:
    """Make `jobs` jobs of those whose operations are called `redeem:…`; nobody may have the database open."""
    db = sqlite3.connect(database, isolation_level=None)
    try:
        db.create_function("copied", 2, _copied, deterministic=True)
        db.execute("PRAGMA journal_mode=DELETE")
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "foreign_keys=OFF", "cache_size=-1000000"):
            db.execute(f"PRAGMA {pragma}")
        (templates,) = db.execute(
            "SELECT COUNT(*) FROM wallet_operations WHERE op_id LIKE 'redeem:%'"
        ).fetchone()
        assert templates, "no job to copy"
        db.execute("BEGIN")
        for table in TABLES:
            _copy(db, table, jobs // templates - 1)
        db.execute("DELETE FROM accounts")
        db.execute("INSERT INTO accounts SELECT account, SUM(amount_msat) FROM ledger GROUP BY account")
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode=WAL")
    finally:
        db.close()
    with database.open("rb") as file:
        os.fsync(file.fileno())


def _copy(db: sqlite3.Connection, table: str, copies: int) -> None:
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(_value(table, name) for name in columns)
    db.execute(
        f"INSERT INTO {table} ({', '.join(columns)})"
        f" WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {copies})"
        f" SELECT {values} FROM numbers CROSS JOIN (SELECT * FROM {table} WHERE {_of_a_job(columns)})"
    )


def _of_a_job(columns: list[str]) -> str:
    """Which rows a job left: those of its operation, of its settlement, and its coins."""
    wanted = [f"{name} LIKE 'redeem:%'" for name in ("op_id", "made_by", "posting_id") if name in columns]
    if "posting_id" in columns:
        wanted.append("posting_id LIKE 'settle:%'")
    if "held_by" in columns:
        wanted.append("state = 'spent'")
    return " OR ".join(wanted)


def _value(table: str, name: str) -> str:
    if table == "ledger" and name == "account":
        return (
            "CASE WHEN account LIKE 'jobs/%' THEN 'jobs/' || copied(substr(account, 6), n) ELSE account END"
        )
    if name == "counter":
        return "counter + n * 1000"
    return f"copied({name}, n)" if name in _KEYS else name


def _copied(key: str | None, number: int) -> str | None:
    """Another id for each copy, the same in all tables, and as random as ids are; nothing stays nothing."""
    return None if key is None else hashlib.sha256(f"{key} {number}".encode()).hexdigest()
