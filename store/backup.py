"""Copies of the database: for a backup, and before its schema changes, to go back to an earlier release."""

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Final

from store.errors import StoreError
from store.migrations import Migration

COPIES_MAX: Final = 2


def back_up(path: Path, migrations: Iterable[Migration]) -> Path | None:
    """Copy the database at `path` beside it (mode 0600) if `migrations` go beyond it; returns the copy, else None.

    The copy is whole, and on disk when this returns, also while other processes write. Of several the newest
    `COPIES_MAX` are kept. Raises `StoreError` if it cannot be written.
    """
    if not path.exists():
        return None
    with closing(sqlite3.connect(path, timeout=5)) as source:
        applied = _applied(source)
        if not _is_behind(applied, migrations):
            return None  # nothing to migrate, or nothing that opening it will not refuse
        copy = path.with_name(f"{path.name}.schema-{len(applied)}")
        try:
            _write(source, copy)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"{path} could not be copied before its schema changes: {error}; make room on the disk"
            ) from None
    copies = sorted(path.parent.glob(f"{path.name}.schema-*"), key=lambda one: one.stat().st_mtime_ns)
    for old in copies[:-COPIES_MAX]:
        old.unlink(missing_ok=True)
    return copy


def copy_database(path: Path, copy: Path) -> None:
    """Copy the database at `path`, whole and as of one moment, while others write. Raises `StoreError`."""
    try:
        with closing(sqlite3.connect(path, timeout=5)) as source:
            _write(source, copy)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"{path} could not be copied: {error}; make room on the disk, then try again"
        ) from None


def is_of_earlier_release(path: Path, migrations: Iterable[Migration]) -> bool:
    """Whether opening the database at `path` would change its schema. Changes nothing, makes no file."""
    if not path.exists():
        return False
    with closing(sqlite3.connect(path, timeout=5)) as source:
        return _is_behind(_applied(source), migrations)


def _is_behind(applied: set[tuple[str, int]], migrations: Iterable[Migration]) -> bool:
    return bool(applied) and applied < {(step.component, step.number) for step in migrations}


def _applied(source: sqlite3.Connection) -> set[tuple[str, int]]:
    try:
        return set(source.execute("SELECT component, number FROM schema_migrations"))
    except sqlite3.DatabaseError:  # empty, or no database: opening it says so
        return set()


def _write(source: sqlite3.Connection, copy: Path) -> None:
    """All or nothing: written under another name first."""
    aside = copy.with_name(f".{copy.name}.{os.getpid()}")
    try:
        os.close(os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
        with closing(sqlite3.connect(aside)) as target:
            source.backup(target)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(copy)
    finally:
        aside.unlink(missing_ok=True)
