"""Postings through `wallet.ledger.post`, against bare inserts of the same rows. One transaction for many on both sides:
what a commit costs is told by `commits`.
"""

import asyncio
import itertools
import sqlite3
import time

from bench.measure import ROUNDS, Figure, folder, line, side_by_side
from store import Database, load_migrations
from wallet.ledger import Cause, Posting, post, settle_entries

POSTINGS, BATCH = 20_000, 200
AGENT = "ab" * 32


def measure(rounds: int = ROUNDS, postings: int = POSTINGS) -> Figure:
    """So many settlements in a round on each side: three entries each, of a job of its own."""
    numbers = itertools.count()
    with folder() as data, asyncio.Runner() as loop:
        db = loop.run(Database.open(data / "ours.sqlite", load_migrations("wallet")))
        loop.run(loop.run(Database.open(data / "alone.sqlite", load_migrations("wallet"))).close())
        alone = sqlite3.connect(data / "alone.sqlite", isolation_level=None)
        alone.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")

        async def post_all() -> float:
            started = time.perf_counter()
            for _ in range(postings // BATCH):
                async with db.transaction() as tx:
                    for number in itertools.islice(numbers, BATCH):
                        name = f"{number:064x}"
                        entries = settle_entries(f"jobs/{name}", AGENT, 21_000, 500)
                        await post(tx, Posting(f"settle:{name}", Cause.SETTLEMENT, entries, 1, name, name))
            return postings / (time.perf_counter() - started)

        def insert_all() -> float:
            started = time.perf_counter()
            for _ in range(postings // BATCH):
                alone.execute("BEGIN")
                for number in itertools.islice(numbers, BATCH):
                    _insert(alone, f"{number:064x}")
                alone.execute("COMMIT")
            return postings / (time.perf_counter() - started)

        pairs = side_by_side(lambda: loop.run(post_all()), insert_all, rounds)
        alone.close()
        loop.run(db.close())
    return Figure(
        "ledger",
        "Postings",
        (line(f"settlements, {BATCH} to a transaction, against bare inserts of the same rows", "/s", pairs),),
        notes=("A posting is a head, three entries, and three accounts that are kept at their sums.",),
    )


def _insert(db: sqlite3.Connection, name: str) -> None:
    entries = ((f"jobs/{name}", 21_000), (f"agent/{AGENT}", -19_950), ("fees/post", -1_050))
    db.execute("INSERT INTO postings VALUES (?, 'settlement', ?, ?, 1)", (f"settle:{name}", name, name))
    db.executemany("INSERT INTO ledger VALUES (?, ?, ?)", [(f"settle:{name}", *entry) for entry in entries])
    db.executemany(
        "INSERT INTO accounts VALUES (?, ?) ON CONFLICT (account)"
        " DO UPDATE SET balance_msat = balance_msat + excluded.balance_msat",
        entries,
    )
