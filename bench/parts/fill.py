"""Many finished jobs in a post's database, as the agent itself leaves them: copies of its own rows, under other ids.

The agent must have ended, with some jobs done. The tables that a job leaves rows in are all filled in the proportion
in which the agent filled them, whatever their columns are.
"""

import hashlib
import os
import sqlite3
from pathlib import Path

TABLES = {"jobs": "id", "inbox": "event_id", "outbox": "event_id", "outbox_relay": "event_id"}
SPREAD_SECONDS = 5 * 86_400  # nothing is old enough to be forgotten


def fill(database: Path, jobs: int) -> None:
    """Add `jobs` finished ones, dated over the five days before the agent's own."""
    db = sqlite3.connect(database, isolation_level=None)
    try:
        db.create_function("copied", 2, _copied, deterministic=True)
        db.execute("PRAGMA journal_mode=DELETE")
        # Nobody needs what a crash would leave of this.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "foreign_keys=OFF", "cache_size=-1000000"):
            db.execute(f"PRAGMA {pragma}")
        (templates,) = db.execute("SELECT COUNT(*) FROM jobs WHERE state = 'done'").fetchone()
        assert templates, "no finished job to copy"
        db.execute("BEGIN")
        for table, key in TABLES.items():
            _copy(db, table, key, jobs // templates)
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode=WAL")
    finally:
        db.close()
    with database.open("rb") as file:
        os.fsync(file.fileno())  # else the agent's own first commits would wait for all of this


def _copy(db: sqlite3.Connection, table: str, key: str, copies: int) -> None:
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    db.execute(f"CREATE TEMP TABLE template AS SELECT * FROM {table}")
    (rows,) = db.execute("SELECT COUNT(*) FROM template").fetchone()
    values = ", ".join(_value(name, key, copies, rows) for name in columns)
    db.execute(
        f"INSERT INTO {table} ({', '.join(columns)})"
        f" WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {copies})"
        f" SELECT {values} FROM numbers CROSS JOIN template"
    )
    db.execute("DROP TABLE template")


def _value(name: str, key: str, copies: int, rows: int) -> str:
    if name == key:
        return f"copied({name}, n)"
    if name == "position":
        return f"{name} + n * {rows}"
    if name.endswith("_at"):  # 0, NULL and never stay what they are
        earlier = f"(({copies} - n) * {SPREAD_SECONDS} / {copies})"
        return f"CASE WHEN {name} BETWEEN 1000000000 AND 10000000000 THEN {name} - {earlier} ELSE {name} END"
    return name


def _copied(key: str, number: int) -> str:
    """Another id for each copy, the same in all tables, and as random as event ids are."""
    return hashlib.sha256(f"{key} {number}".encode()).hexdigest()
