"""Durable one-row writes by many callers at once through `store`, against bare sqlite3 with a commit for each."""

import asyncio
import itertools
import sqlite3
import time

from bench.measure import ROUNDS, Figure, folder, line, per_second, side_by_side
from store import Database, Migration

CALLERS = 400
SCHEMA = "CREATE TABLE notes (id BIGINT PRIMARY KEY, text TEXT);\n"


def measure(rounds: int = ROUNDS, callers: int = CALLERS) -> Figure:
    """So many rows in a round, on each side; both with `synchronous=FULL` in WAL mode."""
    numbers = itertools.count()
    with folder() as data, asyncio.Runner() as loop:
        db = loop.run(
            Database.open(data / "ours.sqlite", [Migration("bench", 1, "0001_initial.sql", SCHEMA)])
        )
        alone = sqlite3.connect(data / "alone.sqlite", isolation_level=None)
        alone.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {SCHEMA}")

        async def write() -> None:
            async with db.transaction() as tx:
                await tx.execute("INSERT INTO notes VALUES (?, ?)", next(numbers), "text")

        async def write_all() -> float:
            started = time.perf_counter()
            await asyncio.gather(*(write() for _ in range(callers)))
            return callers / (time.perf_counter() - started)

        def write_alone() -> object:
            return alone.execute("INSERT INTO notes VALUES (?, ?)", (next(numbers), "text"))

        pairs = side_by_side(lambda: loop.run(write_all()), lambda: per_second(write_alone, callers), rounds)
        alone.close()
        loop.run(db.close())
    return Figure(
        "commits",
        "Durable writes",
        (line(f"{callers} callers at once, against one commit each", "/s", pairs),),
        notes=(
            "Above 1.0 the shared fsyncs outweigh the hops between threads; where an fsync is cheap they do not.",
        ),
    )
