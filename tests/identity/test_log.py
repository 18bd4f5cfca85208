"""The log on disk: what is appended is there with what its transaction wrote, and can be proved."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from identity import log, merkle
from identity.merkle import leaf_hash, verify_consistency, verify_inclusion
from store import Database, Row, load_migrations
from store.transaction import Value


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with await Database.open(tmp_path / "test.db", load_migrations("identity")) as db:
        yield db


async def fill(db: Database, name: str, leaves: list[str], seed: int = 1) -> None:
    chance, left = random.Random(seed), list(leaves)
    while left:
        count = chance.randint(1, 9)
        async with db.transaction() as tx:
            await log.append(tx, name, left[:count])
        del left[:count]


async def test_what_was_appended_can_be_read_and_proved(db: Database) -> None:
    leaves = [f"leaf {number}" for number in range(77)]
    await fill(db, "a", leaves)
    await fill(db, "b", leaves[:3])
    assert await log.read_leaves(db, "a", 0) == leaves
    assert await log.read_leaves(db, "a", 70, 3) == leaves[70:73]
    root = (await log.read_frontier(db, "a")).root
    assert root == await log.read_root(db, "a", 77)
    for number, leaf in enumerate(leaves):
        path = await log.prove_inclusion(db, "a", number, 77)
        assert verify_inclusion(leaf_hash(leaf.encode()), number, 77, path, root)
        old_root, path = (
            await log.read_root(db, "a", number + 1),
            await log.prove_consistency(db, "a", number + 1, 77),
        )
        assert verify_consistency(number + 1, 77, path, old_root, root)
    assert (await log.read_frontier(db, "b")).root == await log.read_root(db, "a", 3)


async def test_an_append_is_undone_with_its_transaction(db: Database) -> None:
    await fill(db, "a", ["one", "two"])
    before = await log.read_frontier(db, "a")
    with pytest.raises(RuntimeError):
        async with db.transaction() as tx:
            await log.append(tx, "a", ["three"])
            raise RuntimeError
    assert await log.read_frontier(db, "a") == before
    assert await log.read_leaves(db, "a", 0) == ["one", "two"]


async def test_many_append_at_once_and_one_of_them_twice(db: Database) -> None:
    async def append(number: int) -> None:
        async with db.transaction() as tx:
            await log.append(tx, "a", [f"{number}, first"])
            await log.append(tx, "a", [f"{number}, then", f"{number}, last"])

    await asyncio.gather(*(append(number) for number in range(30)))
    leaves = await log.read_leaves(db, "a", 0)
    assert sorted(leaves[::3]) == sorted(f"{number}, first" for number in range(30))
    whole, _ = merkle.Frontier().extend(merkle.leaf_hashes(map(str.encode, leaves)))
    assert await log.read_frontier(db, "a") == whole


class Watched:
    """A database, and how many rows it was asked for."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.rows = 0

    async def all(self, sql: str, *values: Value) -> list[Row]:
        rows = await self._db.all(sql, *values)
        self.rows += len(rows)
        return rows

    async def one(self, sql: str, *values: Value) -> Row | None:
        return next(iter(await self.all(sql, *values)), None)


async def test_a_proof_reads_no_more_than_it_needs(db: Database) -> None:
    async with db.transaction() as tx:
        await log.append(tx, "a", [f"leaf {number}" for number in range(10_000)])
    watched = Watched(db)
    for size in (9_999, 8_192, 5_461):
        root = await log.read_root(cast(Database, watched), "a", size)
        path = await log.prove_inclusion(cast(Database, watched), "a", size // 3, size)
        assert verify_inclusion(leaf_hash(f"leaf {size // 3}".encode()), size // 3, size, path, root)
        await log.prove_consistency(cast(Database, watched), "a", size // 3, size)
    assert watched.rows < 9 * 2 * 14


async def test_an_empty_log_has_the_root_of_nothing(db: Database) -> None:
    assert (await log.read_frontier(db, "a")).root == merkle.EMPTY_ROOT == await log.read_root(db, "a", 0)
    assert await log.read_leaves(db, "a", 0) == []


async def test_more_than_there_is_cannot_be_proved(db: Database) -> None:
    await fill(db, "a", ["one", "two"])
    for question in (
        log.prove_inclusion(db, "a", 0, 3),
        log.read_root(db, "a", 3),
        log.prove_consistency(db, "a", 1, 4),
    ):
        with pytest.raises(ValueError, match="not as long"):
            await question
