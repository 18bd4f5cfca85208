"""What a caller holds while it writes: statements in, rows out."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from store.errors import StoreError

Value = str | int | bytes | None


class Row(Protocol):
    """One row of an answer; values by column name."""

    def __getitem__(self, column: str, /) -> Any: ...


class Transaction:
    """What a caller may do inside `Database.transaction`. Not to be kept after the block."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        #: What `after_commit` was given; for `Database`.
        self.callbacks: list[Callable[[], None]] = []

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` once the changes are durable, never if they are undone. It must not raise or block."""
        self.callbacks.append(callback)

    async def execute(self, sql: str, *values: Value) -> int:
        """Run one statement that answers nothing; returns how many rows it changed."""
        return self._live().execute(sql, values).rowcount

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Value]]) -> None:
        """Run one statement once per row of values."""
        self._live().executemany(sql, rows)

    async def all(self, sql: str, *values: Value) -> list[Row]:
        """Run one statement and return all rows, uncommitted changes of this transaction included."""
        return self._live().execute(sql, values).fetchall()

    async def one(self, sql: str, *values: Value) -> Row | None:
        """Like `all`, the first row or None."""
        rows = await self.all(sql, *values)
        return rows[0] if rows else None

    def _live(self) -> sqlite3.Connection:
        if not self._connection.in_transaction:  # what is written now would be committed at once, by itself
            raise StoreError("the transaction is over, or a failing disk has undone it")
        return self._connection
