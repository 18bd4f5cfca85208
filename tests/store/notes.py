"""What the tests of the database share: writing to its one table, and a disk that fills up."""

import asyncio

from store import Database

INSERT = "INSERT INTO notes (id, text) VALUES (?, ?)"
FILL_THE_DISK = (INSERT, 9999, "x" * 200_000)


async def add(db: Database, number: int) -> None:
    async with db.transaction() as tx:
        await tx.execute(INSERT, number, "text")


async def ids(db: Database) -> list[int]:
    return [row["id"] for row in await db.all("SELECT id FROM notes ORDER BY id")]


def trace(db: Database) -> list[str]:
    """Every statement that SQLite runs on the writing connection from now on."""
    statements: list[str] = []
    db._writer.set_trace_callback(statements.append)
    return statements


async def limit_size(db: Database) -> None:
    """Stand in for a full disk: SQLite reports it, and undoes the transaction, in the same way."""
    async with db.transaction() as tx:
        row = await tx.one("PRAGMA page_count")
        assert row is not None
        await tx.one(f"PRAGMA max_page_count = {row['page_count'] + 2}")


async def is_usable(db: Database) -> None:
    """A later transaction writes, commits and leaves nothing open: savepoints and batches paired up."""
    async with asyncio.timeout(5):
        await add(db, 777_777)
    assert 777_777 in await ids(db)
    assert not db._writer.in_transaction
    async with db.transaction() as tx:
        await tx.execute("DELETE FROM notes WHERE id = 777777")
