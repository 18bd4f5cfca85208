"""Migrations: every road to the present schema ends in the same place, and a wrong database is left as it was."""

import ast
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from store import Database, Migration, MigrationError, StoreError, load_migrations
from store.migrations import split_statements

ROOT = Path(__file__).parents[2]
PACKAGES = [
    name
    for name in ("store", "identity", "relay_bridge", "wallet", "storefront", "dvm", "tradepost")
    if any((ROOT / name / "migrations").glob("*.sql"))
]

STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")
FIRST = Migration("notes", 1, "0001_initial.sql", "CREATE TABLE notes (id BIGINT PRIMARY KEY);\n")
SECOND = Migration("notes", 2, "0002_text.sql", "ALTER TABLE notes ADD COLUMN text TEXT;\n")


def schema(path: Path) -> list[tuple[str, ...]]:
    """What SQLite says the schema is, with spacing evened out."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master ORDER BY type, name"
        )
        return [tuple(re.sub(r"\s+", " ", value).strip() for value in row) for row in rows]


def content(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


async def bring(path: Path, *migrations: Migration) -> None:
    async with await Database.open(path, migrations):
        pass


@pytest.mark.parametrize("package", PACKAGES)
async def test_fresh_equals_migrated_from_every_earlier_release(package: str, tmp_path: Path) -> None:
    steps = load_migrations(package)
    await bring(tmp_path / "fresh.db", *steps)
    for count in range(len(steps)):
        old = tmp_path / f"from{count}.db"
        await bring(old, *steps[:count])
        await bring(old, *steps)
        assert schema(old) == schema(tmp_path / "fresh.db"), f"{package}: migrated from {count}"


async def test_all_packages_share_one_database_in_any_order(tmp_path: Path) -> None:
    steps = [load_migrations(package) for package in PACKAGES]
    await bring(tmp_path / "up.db", *(step for package in steps for step in package))
    await bring(tmp_path / "down.db", *(step for package in reversed(steps) for step in package))
    assert schema(tmp_path / "up.db") == schema(tmp_path / "down.db")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_sql_stays_portable(package: str) -> None:
    """PostgreSQL is to become a second engine: nothing that only SQLite understands."""
    only_sqlite = re.compile(
        r"\b(AUTOINCREMENT|WITHOUT ROWID|INSERT OR|UPDATE OR|REPLACE INTO|PRAGMA|ROWID|STRFTIME|DATETIME|"
        r"JULIANDAY|UNIXEPOCH|IFNULL|GROUP_CONCAT|JSON_EXTRACT|GLOB|INTEGER)\b",
        re.IGNORECASE,
    )
    statements = [step.sql for step in load_migrations(package)]
    queries = ROOT / package / "queries.py"
    if queries.exists():
        strings = [
            node.value for node in ast.walk(ast.parse(queries.read_text())) if isinstance(node, ast.Constant)
        ]
        statements += [text for text in strings if isinstance(text, str) and STATEMENT.match(text)]
    for text in statements:
        assert only_sqlite.findall(re.sub(r"--[^\n]*", "", text)) == [], text


async def test_an_old_database_is_brought_up_to_date_and_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "post.db"
    async with await Database.open(path, [FIRST]) as db, db.transaction() as tx:
        await tx.execute("INSERT INTO notes (id) VALUES (?)", 1)
    async with await Database.open(path, [FIRST, SECOND]) as db:
        rows = [(row["id"], row["text"]) for row in await db.all("SELECT id, text FROM notes")]
    assert rows == [(1, None)]


async def test_a_file_edited_since_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "post.db"
    await bring(path, FIRST, SECOND)
    before = content(path)
    edited = replace(FIRST, sql=FIRST.sql + "CREATE TABLE more (id BIGINT);\n")
    with pytest.raises(MigrationError, match=r"0001_initial\.sql was edited"):
        await bring(path, edited, SECOND)
    assert content(path) == before


async def test_a_later_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "post.db"
    await bring(path, FIRST, SECOND)
    before = content(path)
    newcomer = Migration("other", 1, "0001_initial.sql", "CREATE TABLE other (id BIGINT);\n")
    with pytest.raises(MigrationError, match=r"notes schema 2 \(0002_text.sql\).*Upgrade"):
        await bring(path, newcomer, FIRST)
    assert content(path) == before


async def test_a_step_that_fails_undoes_the_steps_before_it(tmp_path: Path) -> None:
    path = tmp_path / "post.db"
    await bring(path, FIRST)
    before = content(path)
    broken = Migration("notes", 3, "0003_broken.sql", "ALTER TABLE nowhere ADD COLUMN x TEXT;\n")
    with pytest.raises(StoreError, match="nowhere"):
        await bring(path, FIRST, SECOND, broken)
    assert content(path) == before


# -- reading the files


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The migrations folder of a package made for the test, named `notes`."""
    folder = tmp_path / "notes" / "migrations"
    folder.mkdir(parents=True)
    monkeypatch.setattr(resources, "files", lambda name: tmp_path / name)
    return folder


def test_files_are_read_in_order(package: Path) -> None:
    for step in (SECOND, FIRST):
        (package / step.name).write_text(step.sql)
    (package / "README").write_text("not a migration")
    assert load_migrations("notes") == (FIRST, SECOND)


@pytest.mark.parametrize(
    "names", [["0002_b.sql"], ["0001_a.sql", "0003_c.sql"], ["0001_a.sql", "0001_b.sql"]]
)
def test_a_gap_or_a_double_is_refused(package: Path, names: list[str]) -> None:
    for name in names:
        (package / name).write_text("SELECT 1;\n")
    with pytest.raises(MigrationError, match="without a gap"):
        load_migrations("notes")


@pytest.mark.parametrize("name", ["1_a.sql", "0001-a.sql", "0001_A.sql", "initial.sql"])
def test_a_misnamed_file_is_refused(package: Path, name: str) -> None:
    (package / name).write_text("SELECT 1;\n")
    with pytest.raises(MigrationError, match="expected a name like"):
        load_migrations("notes")


def test_statements_are_split_at_line_ends_outside_of_strings() -> None:
    script = "-- a; comment\nCREATE TABLE a (x TEXT DEFAULT ';\n');\nSELECT 1; SELECT 2;\n-- end\n"
    assert split_statements(script) == [
        "-- a; comment\nCREATE TABLE a (x TEXT DEFAULT ';\n');",
        "SELECT 1; SELECT 2;",
    ]


def test_an_unfinished_statement_is_refused() -> None:
    with pytest.raises(MigrationError, match="unfinished"):
        split_statements("CREATE TABLE a (x TEXT)\n")
