"""Numbered, forward-only migrations.

Each package that keeps tables has a folder `migrations/` of files `0001_what.sql`, `0002_…`. Every database,
new or old, reaches the present schema by the same files in the same order, so a fresh schema and a migrated
one cannot differ. A released file is never edited: its hash is stored and checked at each start.
"""

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

from store.errors import MigrationError
from store.transaction import Transaction

_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    component TEXT NOT NULL,
    number BIGINT NOT NULL,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (component, number)
)
"""


@dataclass(frozen=True)
class Migration:
    """One step of one package's schema."""

    component: str
    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Hash of the text, by which an edited release is noticed."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations(package: str) -> tuple[Migration, ...]:
    """Read `<package>/migrations/*.sql` in order. Raises `MigrationError` on a gap or a misnamed file."""
    found: list[Migration] = []
    for entry in resources.files(package).joinpath("migrations").iterdir():
        if not entry.name.endswith(".sql"):
            continue
        match = _NAME.match(entry.name)
        if match is None:
            raise MigrationError(f"{package}/migrations/{entry.name}: expected a name like 0001_initial.sql")
        found.append(Migration(package, int(match[1]), entry.name, entry.read_text(encoding="utf-8")))
    found.sort(key=lambda step: step.number)
    if [step.number for step in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"{package}/migrations: numbers must run 1, 2, 3, … without a gap")
    return tuple(found)


async def migrate(tx: Transaction, migrations: Iterable[Migration]) -> None:
    """Bring the database to the given schema inside the caller's transaction: all of it or nothing.

    Raises `MigrationError` when the database was written by a later release, or by a file edited since.
    """
    await tx.execute(_TABLE)
    wanted = list(migrations)
    applied = {
        (row["component"], row["number"]): row
        for row in await tx.all("SELECT component, number, name, sha256 FROM schema_migrations")
    }
    known = {(step.component, step.number) for step in wanted}
    components = {step.component for step in wanted}
    for (component, number), later in applied.items():
        if component in components and (component, number) not in known:
            raise MigrationError(
                f"the database holds {component} schema {number} ({later['name']}), which this release does not know: "
                "it was written by a later release. Upgrade tradepost; nothing was changed."
            )
    for step in wanted:
        row = applied.get((step.component, step.number))
        if row is None:
            for statement in split_statements(step.sql):
                await tx.execute(statement)
            await tx.execute(
                "INSERT INTO schema_migrations (component, number, name, sha256) VALUES (?, ?, ?, ?)",
                step.component, step.number, step.name, step.sha256,
            )  # fmt: skip
        elif row["sha256"] != step.sha256:
            raise MigrationError(
                f"{step.component}/migrations/{step.name} was edited after it was applied here"
            )


def split_statements(script: str) -> Sequence[str]:
    """Split SQL text into statements; each must end in `;` at the end of a line."""
    statements: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if line.rstrip().endswith(";") and sqlite3.complete_statement(pending):
            statements.append(pending.strip())
            pending = ""
    if re.sub(r"--[^\n]*", "", pending).strip():
        raise MigrationError(f"unfinished SQL statement: {pending.strip()[:80]!r}")
    return statements
