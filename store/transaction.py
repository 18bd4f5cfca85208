"""What a caller holds while it writes: statements in, rows out."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import structlog

from store.errors import StoreError

log = structlog.get_logger(__name__)

Value = str | int | float | bytes | None
#: What else is to be written in somebody's transaction.
Also = Callable[["Transaction"], Awaitable[None]]


class Row(Protocol):
    """One row of an answer; values by column name."""

    def __getitem__(self, column: str, /) -> Any: ...


class Callbacks:
    """Who wants to hear how a transaction ended."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], None], Callable[[], None] | None]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, callback: Callable[[], None], undone: Callable[[], None] | None) -> None:
        """One more."""
        self._waiting.append((callback, undone))

    def take_over(self, others: "Callbacks") -> None:
        """Add all of the others."""
        self._waiting += others._waiting

    def committed(self) -> None:
        """It is durable."""
        for callback, _ in self._waiting:
            _call(callback)

    def undone(self, first: int = 0) -> None:
        """Nothing of it was kept; tell those from number `first` on, and forget them."""
        for _, undone in self._waiting[first:]:
            if undone is not None:
                _call(undone)
        del self._waiting[first:]


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:  # against its contract; the others and the writers who wait are told nevertheless
        log.exception("callback_failed")


class Transaction:
    """What a caller may do inside `Database.transaction`. Not to be kept after the block."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        #: What `after_commit` was given; for `Database`.
        self.callbacks = Callbacks()

    def after_commit(self, callback: Callable[[], None], undone: Callable[[], None] | None = None) -> None:
        """Call `callback` once the changes are durable, or `undone` if they never happened: always one of the two, also
        when whoever wrote them is cancelled. They must not raise or block.
        """
        self.callbacks.add(callback, undone)

    @asynccontextmanager
    async def part(self) -> AsyncIterator[None]:
        """An exception inside this block undoes what the block wrote, and the rest of the transaction can go on."""
        self._live().execute("SAVEPOINT part")
        callbacks = len(self.callbacks)
        try:
            yield
        except BaseException:
            self.callbacks.undone(callbacks)
            if self._connection.in_transaction:  # else a failing disk has undone more than this part
                self._connection.execute("ROLLBACK TO part")
                self._connection.execute("RELEASE part")
            raise
        self._live().execute("RELEASE part")

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
