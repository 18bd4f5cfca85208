"""Many finished jobs in a post's database, as the agent itself leaves them: copies of its own rows, under other ids.

The agent must have some jobs done. The tables that a job leaves rows in are all filled in the proportion in which the
agent filled them, whatever their columns are.
"""

import hashlib
import os
import sqlite3
from collections.abc import Collection, Mapping
from pathlib import Path

#: The columns of each table that name something of the job.
TABLES = {"jobs": ("id",), "inbox": ("event_id",), "outbox": ("event_id",), "outbox_relay": ("event_id",)}
#: What a job leaves at a front desk, and in its books.
DESK_TABLES = TABLES | {
    "guarantees": ("id", "order_id"),
    "orders": ("id", "guarantee_id"),
    "caller_jobs": ("id",),
    "postings": ("id", "job_id"),
    "ledger": ("posting_id",),
}
SPREAD_SECONDS = 5 * 86_400  # nothing is old enough to be forgotten


def fill(database: Path, jobs: int) -> None:
    """Add `jobs` finished ones, dated over the five days before the agent's own, which must have ended."""
    db = sqlite3.connect(database, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode=DELETE")
        # Nobody needs what a crash would leave of this.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "foreign_keys=OFF", "cache_size=-1000000"):
            db.execute(f"PRAGMA {pragma}")
        _copy_all(db, jobs, TABLES)
        db.execute("PRAGMA journal_mode=WAL")
    finally:
        db.close()
    with database.open("rb") as file:
        os.fsync(file.fileno())  # else the agent's own first commits would wait for all of this


def fill_desk(database: Path, jobs: int) -> None:
    """The same to a front desk that is running, and has nothing to do."""
    db = sqlite3.connect(database, isolation_level=None)
    try:
        _copy_all(db, jobs, DESK_TABLES)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # else its next commits would carry all of this over
    finally:
        db.close()


def _copy_all(db: sqlite3.Connection, jobs: int, tables: Mapping[str, Collection[str]]) -> None:
    db.create_function("copied", 2, _copied, deterministic=True)
    (templates,) = db.execute("SELECT COUNT(*) FROM jobs WHERE state = 'done'").fetchone()
    assert templates, "no finished job to copy"
    db.execute("BEGIN IMMEDIATE")
    for table, names in tables.items():
        _copy(db, table, names, jobs // templates)
    db.execute("COMMIT")


def _copy(db: sqlite3.Connection, table: str, names: Collection[str], copies: int) -> None:
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    db.execute(f"CREATE TEMP TABLE template AS SELECT * FROM {table}")
    (rows,) = db.execute("SELECT COUNT(*) FROM template").fetchone()
    values = ", ".join(_value(name, names, copies, rows) for name in columns)
    db.execute(
        f"INSERT INTO {table} ({', '.join(columns)})"
        f" WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {copies})"
        f" SELECT {values} FROM numbers CROSS JOIN template"
    )
    db.execute("DROP TABLE template")


def _value(name: str, names: Collection[str], copies: int, rows: int) -> str:
    if name in names:
        return f"copied({name}, n)"
    if name == "leaf":  # it is in the agent's log, or that would be busy with all of them
        return "COALESCE(leaf, 0)"
    if name == "position":
        return f"{name} + n * {rows}"
    if name.endswith("_at"):  # 0, NULL and never stay what they are
        earlier = f"(({copies} - n) * {SPREAD_SECONDS} / {copies})"
        return f"CASE WHEN {name} BETWEEN 1000000000 AND 10000000000 THEN {name} - {earlier} ELSE {name} END"
    return name


def _copied(key: str | None, number: int) -> str | None:
    """Another id for each copy, the same in all tables, and as random as event ids are."""
    return key and hashlib.sha256(f"{key} {number}".encode()).hexdigest()
