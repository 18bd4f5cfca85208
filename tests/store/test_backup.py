"""A database is copied before its schema changes, and at no other time."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from store import Database, Migration, StoreError
from store.backup import back_up

STEPS = [
    Migration("notes", 1, "0001_initial.sql", "CREATE TABLE notes (id BIGINT PRIMARY KEY);\n"),
    *(
        Migration("notes", number, f"000{number}_more.sql", f"ALTER TABLE notes ADD COLUMN c{number} TEXT;\n")
        for number in range(2, 6)
    ),
]


async def bring(path: Path, count: int) -> Path | None:
    copy = back_up(path, STEPS[:count])
    async with await Database.open(path, STEPS[:count]) as db, db.transaction() as tx:
        await tx.execute("INSERT INTO notes (id) VALUES (?)", count)
    return copy


def ids(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        return [number for (number,) in db.execute("SELECT id FROM notes ORDER BY id")]


async def test_it_is_copied_before_its_schema_changes_and_not_else(tmp_path: Path) -> None:
    path = tmp_path / "post.sqlite"
    assert await bring(path, 1) is None
    assert back_up(path, STEPS[:1]) is None
    copy = await bring(path, 3)
    assert copy == tmp_path / "post.sqlite.schema-1"
    assert (ids(copy), ids(path)) == ([1], [1, 3])
    assert copy.stat().st_mode & 0o777 == 0o600
    async with await Database.open(copy, STEPS[:1]):
        pass  # the earlier release can go on with it
    assert back_up(path, STEPS[:2]) is None, "of a later release: opening refuses it"


async def test_few_copies_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "post.sqlite"
    for count in range(1, 6):
        await bring(path, count)
    assert sorted(file.name for file in tmp_path.glob("*schema*")) == [
        "post.sqlite.schema-3",
        "post.sqlite.schema-4",
    ]


async def test_what_others_have_just_written_is_in_the_copy(tmp_path: Path) -> None:
    path = tmp_path / "post.sqlite"
    async with await Database.open(path, STEPS[:1]) as db:
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO notes (id) VALUES (?)", 7)
        copy = back_up(path, STEPS)
        assert copy is not None
        assert ids(copy) == [7]


async def test_nothing_is_migrated_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "post.sqlite"
    await bring(path, 1)
    tmp_path.joinpath("post.sqlite.schema-1").mkdir()  # in the way
    with pytest.raises(StoreError, match="could not be copied"):
        back_up(path, STEPS)
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_rubbish_and_nothing_are_left_to_whoever_opens_them(tmp_path: Path) -> None:
    assert back_up(tmp_path / "none", STEPS) is None
    assert not (tmp_path / "none").exists()
    (tmp_path / "rubbish").write_bytes(b"no database" * 100)
    assert back_up(tmp_path / "rubbish", STEPS) is None
