"""The database: how it opens, reads, writes and closes, and transactions that are isolated by savepoints."""

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from store import Database, Migration, StoreError
from tests.store.notes import INSERT, add, ids, is_usable

# -- opening


async def test_the_file_is_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        async with await Database.open(path) as db, db.transaction() as tx:
            await tx.execute("CREATE TABLE t (x TEXT)")
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                assert path.with_name(name).stat().st_mode & 0o777 == 0o600, name
    finally:
        os.umask(before)


async def test_durability_is_what_the_docstring_says(db: Database) -> None:
    async with db.transaction() as tx:
        for pragma, wanted in (("synchronous", 2), ("journal_mode", "wal"), ("foreign_keys", 1)):
            row = await tx.one(f"PRAGMA {pragma}")
            assert row is not None
            assert row[pragma] == wanted


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(StoreError, match="not a database"):
        await Database.open(path)
    assert path.read_bytes() == b"not a database " * 100


async def test_a_migration_that_fails_leaves_nothing_behind(path: Path) -> None:
    broken = Migration(
        "notes", 1, "0001_initial.sql", "CREATE TABLE notes (id BIGINT);\nINSERT INTO nowhere VALUES (1);\n"
    )
    with pytest.raises(StoreError, match="nowhere"):
        await Database.open(path, [broken])
    async with await Database.open(path) as db:
        assert [
            row["name"] for row in await db.all("SELECT name FROM sqlite_master WHERE name = 'notes'")
        ] == []


# -- reading and writing


async def test_statements_answer_in_the_shapes_promised(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute_many(INSERT, ((number, "old") for number in range(3)))
        assert await tx.execute("UPDATE notes SET text = ? WHERE id > ?", "new", 0) == 2
        row = await tx.one("UPDATE notes SET text = 'newest' WHERE id = 1 RETURNING text")
        assert row is not None
        assert row["text"] == "newest"
        assert await tx.one("SELECT id FROM notes WHERE id = 99") is None
        assert [row["text"] for row in await tx.all("SELECT text FROM notes ORDER BY id")] == [
            "old",
            "newest",
            "new",
        ]
    assert await db.one("SELECT id FROM notes WHERE id = 99") is None


async def test_readers_see_only_what_is_committed(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute(INSERT, 1, "text")
        assert await ids(db) == []
    assert await ids(db) == [1]


async def test_an_exception_undoes_the_block_and_is_handed_on(db: Database) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with db.transaction() as tx:
            await tx.execute(INSERT, 1, "text")
            raise LookupError("mine")
    assert await ids(db) == []
    await is_usable(db)


async def test_a_caught_constraint_violation_undoes_only_its_statement(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute(INSERT, 1, "first")
        with pytest.raises(sqlite3.IntegrityError):
            await tx.execute(INSERT, 1, "again")
        await tx.execute(INSERT, 2, "second")
    assert await ids(db) == [1, 2]


async def test_a_transaction_kept_after_its_block_is_refused(db: Database) -> None:
    async with db.transaction() as tx:
        pass
    with pytest.raises(StoreError, match="over"):
        await tx.execute(INSERT, 1, "text")
    assert await ids(db) == []


# -- closing


async def test_closing_waits_for_those_inside_and_refuses_those_after(db: Database, path: Path) -> None:
    async with db.transaction() as tx:
        closing = asyncio.create_task(db.close())
        await asyncio.sleep(0)
        late = asyncio.create_task(add(db, 2))
        await tx.execute(INSERT, 1, "text")
        assert not closing.done()
    await closing
    await asyncio.gather(late, return_exceptions=True)
    async with await Database.open(path) as again:
        assert 1 in await ids(again)


async def test_a_closed_database_says_so(db: Database) -> None:
    await db.close()
    await db.close()
    with pytest.raises(StoreError, match="closed"):
        await add(db, 1)
    with pytest.raises(StoreError, match="closed"):
        await db.all("SELECT id FROM notes")
    with pytest.raises(StoreError, match="closed"):
        await db.one("SELECT id FROM notes")


async def test_the_log_does_not_grow_with_the_number_of_transactions(db: Database, path: Path) -> None:
    log = path.with_name(path.name + "-wal")
    sizes = []
    for round_ in range(6):
        for number in range(200):
            await add(db, round_ * 200 + number)
        sizes.append(log.stat().st_size)
    assert sizes[-1] < 1.5 * sizes[1]
    assert len(await ids(db)) == 1200
