"""The one database of a post: SQLite in WAL mode, one writer, commits shared by everyone who waits.

A caller writes inside `async with db.transaction() as tx`. Callers take turns on the one writing connection;
those who were already waiting when the first of them finished go into the same SQLite transaction, each behind
a savepoint of its own, and one `COMMIT` (one fsync) makes them all durable. Leaving the block therefore means:
what was written is on disk (`synchronous=FULL`). An exception inside a block undoes that block and no other.

Statements run on the event loop: against SQLite's cache they take microseconds, less than a hop to a thread and back.
Only what waits for the disk, the `COMMIT`, runs in a thread. So keep statements small: each reads by an index, and
answers a bounded number of rows.

The SQL is kept to what PostgreSQL also understands (`?` placeholders aside), so a second engine can follow.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from store.errors import StoreError
from store.migrations import Migration, migrate
from store.transaction import Row, Transaction, Value

_BUSY_SECONDS_MAX = 5
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    f"PRAGMA busy_timeout={_BUSY_SECONDS_MAX * 1000}",
    "PRAGMA temp_store=MEMORY",
)


class _Batch:
    """One SQLite transaction shared by several callers, who wait until it is on disk."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.commit_task: asyncio.Task[None] | None = None
        self.after_commit: list[Callable[[], None]] = []

    def end(self, error: Exception | None = None) -> None:
        """Tell everyone who waits."""
        for callback in [] if error else self.after_commit:
            callback()
        for caller in self.waiting:
            if caller.done():  # cancelled meanwhile
                continue
            if error is None:
                caller.set_result(None)
            else:
                caller.set_exception(error)


class Database:
    """Open with `Database.open`; close with `close`. Safe for any number of concurrent callers on one loop."""

    def __init__(self, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._turn = asyncio.Lock()  # FIFO: callers write in the order in which they came
        self._batch: _Batch | None = None
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._closed = False

    @classmethod
    async def open(cls, path: Path | str, migrations: Iterable[Migration] = ()) -> "Database":
        """Open or create the file (mode 0600: it holds money) and bring its schema up to date.

        Raises `MigrationError` if this release cannot read it, `StoreError` if it is no database; the file is then
        unchanged.
        """
        path = Path(path)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            with ExitStack() as undo:
                writer, reader = [await _connect(path, undo) for _ in range(2)]
                undo.pop_all()
        except sqlite3.Error as error:
            raise StoreError(f"cannot open the database {path}: {error}") from error
        database = cls(writer, reader)
        try:
            async with database.transaction() as tx:
                await migrate(tx, migrations)
        except BaseException as error:
            await database.close()
            if isinstance(error, sqlite3.Error):
                raise StoreError(f"cannot open the database {path}: {error}") from error
            raise
        return database

    async def close(self) -> None:
        """Wait for open transactions, then close; nothing new is begun meanwhile. Closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        while self._batch is not None or self._turn.locked():
            async with self._turn:
                pass
            if (batch := self._batch) is not None and batch.commit_task is not None:
                await asyncio.wait([batch.commit_task])
                if self._batch is batch:  # the loop is ending, and cancelled the commit before it began
                    break
        self._disk.shutdown()
        self._reader.close()
        self._writer.close()

    async def __aenter__(self) -> "Database":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def all(self, sql: str, *values: Value) -> list[Row]:
        """Read committed rows; never waits for writers."""
        if self._closed:
            raise StoreError("the database is closed")
        return self._reader.execute(sql, values).fetchall()

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
            batch = self._begin()
            tx = Transaction(self._writer)
            try:
                yield tx
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK TO caller")
                    self._release(batch)
                else:
                    self._lose(batch)
                raise
            if not self._writer.in_transaction:
                raise self._lose(batch)
            self._release(batch)
            batch.after_commit += tx.callbacks
            committed = asyncio.get_running_loop().create_future()
            batch.waiting.append(committed)
        await committed

    def _begin(self) -> _Batch:
        if self._batch is None:
            if self._closed:
                raise StoreError("the database is closed")
            self._writer.execute("BEGIN IMMEDIATE")
            self._batch = _Batch()
        self._writer.execute("SAVEPOINT caller")
        return self._batch

    def _release(self, batch: _Batch) -> None:
        self._writer.execute("RELEASE caller")
        if batch.commit_task is None:
            # Queued now, the commit takes its turn behind everyone who is already waiting: they share it.
            batch.commit_task = asyncio.create_task(self._commit(batch))

    def _lose(self, batch: _Batch) -> StoreError:
        """When the disk is full or fails, SQLite undoes the whole transaction by itself, all callers' parts of it."""
        error = StoreError("the database could not be written; nothing of this batch was kept")
        self._batch = None
        batch.end(error)
        return error

    async def _commit(self, batch: _Batch) -> None:
        async with self._turn:
            if self._batch is not batch:  # undone by SQLite before its turn came
                return
            error: Exception | None = StoreError("the loop ended while the database was written")
            try:
                await asyncio.get_running_loop().run_in_executor(self._disk, self._writer.execute, "COMMIT")
                error = None
            except sqlite3.Error as failure:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                error = failure
            finally:
                self._batch = None
                batch.end(error)


async def _connect(path: Path, undo: ExitStack) -> sqlite3.Connection:
    # Used by the loop's thread and, only while the loop waits for it, by the committing thread.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
    undo.callback(connection.close)
    connection.row_factory = sqlite3.Row
    deadline = time.monotonic() + _BUSY_SECONDS_MAX
    for pragma in _PRAGMAS:
        while True:
            try:
                connection.execute(pragma)
                break
            except sqlite3.OperationalError as error:
                # Two processes that turn a new file into WAL mode at once: SQLite does not wait there by itself.
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.01)
    return connection
