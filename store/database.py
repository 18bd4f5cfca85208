"""The one database of a post: SQLite in WAL mode, one writer, commits shared by everyone who waits.

A caller writes inside `async with db.transaction() as tx`. Callers take turns on the one writing connection;
those who were already waiting when the first of them finished go into the same SQLite transaction, each behind
a savepoint of its own, and one `COMMIT` (one fsync) makes them all durable. Leaving the block therefore means:
what was written is on disk (`synchronous=FULL`). An exception inside a block undoes that block and no other.

The SQL is kept to what PostgreSQL also understands (`?` placeholders aside), so a second engine can follow.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiosqlite

from store.errors import StoreError
from store.migrations import Migration, migrate
from store.transaction import Row, Transaction, Value

_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA busy_timeout=5000",
    "PRAGMA temp_store=MEMORY",
)


class _Batch:
    """One SQLite transaction shared by several callers; `committed` resolves when it is on disk."""

    def __init__(self) -> None:
        self.committed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.commit_task: asyncio.Task[None] | None = None
        self.after_commit: list[Callable[[], None]] = []


class Database:
    """Open with `Database.open`; close with `close`. Safe for any number of concurrent callers on one loop."""

    def __init__(self, writer: aiosqlite.Connection, reader: aiosqlite.Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._turn = asyncio.Lock()  # FIFO: callers write in the order in which they came
        self._batch: _Batch | None = None
        self._closed = False

    @classmethod
    async def open(cls, path: Path | str, migrations: Iterable[Migration] = ()) -> "Database":
        """Open or create the file (mode 0600: it holds money) and bring its schema up to date.

        Raises `MigrationError` if this release cannot read it, `StoreError` if it is no database; the file is then
        unchanged.
        """
        path = Path(path)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        async with AsyncExitStack() as undo:
            try:
                connections = [aiosqlite.connect(path, isolation_level=None) for _ in range(2)]
                for connection in connections:
                    await undo.enter_async_context(connection)
                    connection.row_factory = aiosqlite.Row
                    for pragma in _PRAGMAS:
                        await connection.execute(pragma)
                database = cls(*connections)
                undo.push_async_callback(database.close)
                async with database.transaction() as tx:
                    await migrate(tx, migrations)
            except sqlite3.Error as error:
                raise StoreError(f"cannot open the database {path}: {error}") from error
            undo.pop_all()
        return database

    async def close(self) -> None:
        """Wait for open transactions, then close; nothing new is begun meanwhile. Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        while self._batch is not None or self._turn.locked():
            async with self._turn:
                pass
            if self._batch is not None:
                await asyncio.wait([self._batch.committed])
        await self._reader.close()
        await self._writer.close()

    async def __aenter__(self) -> "Database":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def all(self, sql: str, *values: Value) -> list[Row]:
        """Read committed rows; never waits for writers."""
        if self._closed:
            raise StoreError("the database is closed")
        return list(await self._reader.execute_fetchall(sql, values))

    async def one(self, sql: str, *values: Value) -> Row | None:
        """Like `all`, the first row or None."""
        rows = await self.all(sql, *values)
        return rows[0] if rows else None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Write atomically. On leaving, the changes are durable; on an exception none of them happened.

        Keep the block short and never await the network inside: all other writers are waiting. If the caller is
        cancelled while the commit is under way the changes may be durable nevertheless, as with a crash.
        """
        async with self._turn:
            if self._closed and self._batch is None:
                raise StoreError("the database is closed")
            beginning = asyncio.ensure_future(self._begin())
            tx = Transaction(self._writer)
            try:
                await asyncio.shield(beginning)
                yield tx
            except BaseException:
                await self._finish(self._undo(beginning))
                raise
            batch = beginning.result()
            batch.after_commit += tx.callbacks
            await self._finish(self._release(batch))
        await asyncio.shield(batch.committed)

    async def _begin(self) -> _Batch:
        if self._batch is None:
            await self._writer.execute("BEGIN IMMEDIATE")
            self._batch = _Batch()
        await self._writer.execute("SAVEPOINT caller")
        return self._batch

    async def _undo(self, beginning: "asyncio.Future[_Batch]") -> None:
        await asyncio.wait([beginning])
        if beginning.exception() is None:
            if self._writer.in_transaction:
                await self._writer.execute("ROLLBACK TO caller")
            await self._release(beginning.result())

    async def _release(self, batch: _Batch) -> None:
        if not self._writer.in_transaction:
            # When the disk is full or fails, SQLite undoes the whole transaction by itself, all callers' parts of it.
            self._end(batch, StoreError("the database could not be written; nothing of this batch was kept"))
            return
        await self._writer.execute("RELEASE caller")
        if batch.commit_task is None:
            # Queued now, the commit takes its turn behind everyone who is already waiting: they share it.
            batch.commit_task = asyncio.create_task(self._commit(batch))

    async def _commit(self, batch: _Batch) -> None:
        async with self._turn:
            if batch.committed.done():  # undone by SQLite before its turn came
                return
            try:
                await self._writer.execute("COMMIT")
            except sqlite3.Error as error:
                if self._writer.in_transaction:
                    await self._writer.execute("ROLLBACK")
                self._end(batch, error)
            else:
                self._end(batch)

    def _end(self, batch: _Batch, error: Exception | None = None) -> None:
        self._batch = None
        if error is not None:
            batch.committed.set_exception(error)
            batch.committed.exception()  # callers may all be gone; asyncio must not warn of it then
            return
        batch.committed.set_result(None)
        for callback in batch.after_commit:
            callback()

    @staticmethod
    async def _finish(step: Coroutine[None, None, None]) -> None:
        """See `step` through even if the caller is cancelled meanwhile, so that savepoints always pair up."""
        task = asyncio.ensure_future(step)
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
        task.result()
        if cancelled is not None:
            raise cancelled
