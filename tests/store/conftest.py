"""A small database for the tests of the store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from store import Database, Migration

NOTES = Migration("notes", 1, "0001_initial.sql", "CREATE TABLE notes (id BIGINT PRIMARY KEY, text TEXT);\n")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "post.db"


@pytest.fixture
async def db(path: Path) -> AsyncIterator[Database]:
    async with await Database.open(path, [NOTES]) as database:
        yield database
