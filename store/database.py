"""The one database of a post: SQLite in WAL mode, one writer, commits shared by everyone who waits.

A caller writes inside `async with db.transaction() as tx`. Callers take turns on the one writing connection, each
behind a savepoint of its own; when all who were ready to write have written, one `COMMIT` (one fsync) makes it all
durable. Leaving the block therefore means: what was written is on disk (`synchronous=FULL`). An exception inside a
block undoes that block and no other.

Statements run on the event loop: against SQLite's cache they take microseconds, less than a hop to a thread and back.
So does the commit while the disk is quick; on a slow one it runs in a thread, as checkpoints always do. So keep
statements small: each reads by an index, and answers a bounded number of rows.

The SQL is kept to what PostgreSQL also understands (`?` placeholders aside), so a second engine can follow.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from store.errors import StoreError
from store.migrations import Migration, migrate
from store.snapshot import Snapshot, open_snapshot
from store.transaction import Callbacks, Row, Transaction, Value
from store.turns import Turns

_BUSY_SECONDS_MAX = 5
_BATCH_CALLERS_MAX = 200
_HERE_SECONDS_MAX = 0.001
_PARTS_UNCHECKPOINTED_MAX = 200  # about 2,000 pages, 8 MB

_T = TypeVar("_T")
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    f"PRAGMA busy_timeout={_BUSY_SECONDS_MAX * 1000}",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA wal_autocheckpoint=0",  # we do that in a thread
)


class _Batch:
    """One SQLite transaction shared by several callers, who wait until it is on disk."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.is_planned = False
        self.callbacks = Callbacks()

    def end(self, error: Exception | None = None) -> None:
        """Tell everyone who waits."""
        if error is None:
            self.callbacks.committed()
        else:
            self.callbacks.undone()
        for caller in self.waiting:
            if caller.done():  # cancelled meanwhile
                continue
            if error is None:
                caller.set_result(None)
            else:
                caller.set_exception(error)


class Database:
    """Open with `Database.open`; close with `close`. Safe for any number of concurrent callers on one loop."""

    def __init__(self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._turn = Turns(1)
        self._batch: _Batch | None = None
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._commit_seconds = 0.0  # what a commit takes lately
        self._parts = 0  # callers' parts written since the last checkpoint
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
        database = cls(path, writer, reader)
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
        await self._turn.take()  # behind all who wait, and behind the commit under way
        if self._batch is not None:
            self._commit(self._batch)
            await self._turn.take()
        self._disk.shutdown()
        self._reader.close()
        self._writer.close()
        self._turn.release()

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

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """Read what is committed now with several statements, or long ones: `async with db.snapshot() as rows`."""
        return open_snapshot(self._path)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Write atomically. On leaving, the changes are durable; on an exception none of them happened.

        Keep the block short and never await the network inside: all other writers are waiting. If the caller is
        cancelled while the commit is under way the changes may be durable nevertheless, as with a crash.
        """
        await self._take_turn()
        try:
            batch = self._begin()
            tx = Transaction(self._writer)
            try:
                yield tx
            except BaseException:
                tx.callbacks.undone()
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK TO caller")
                    self._writer.execute("RELEASE caller")
                else:
                    self._lose(batch)
                raise
            batch.callbacks.take_over(tx.callbacks)
            if not self._writer.in_transaction:
                raise self._lose(batch)
            self._writer.execute("RELEASE caller")
            committed = asyncio.get_running_loop().create_future()
            batch.waiting.append(committed)
        finally:
            self._leave()
        await committed

    async def _take_turn(self) -> None:
        try:
            await self._turn.take()
        except asyncio.CancelledError:
            self._plan_commit()
            raise

    def _leave(self) -> None:
        if self._batch is not None and len(self._batch.waiting) >= _BATCH_CALLERS_MAX:
            self._commit(self._batch)
        else:
            self._turn.release()
            self._plan_commit()

    def _begin(self) -> _Batch:
        if self._batch is None:
            if self._closed:
                raise StoreError("the database is closed")
            self._writer.execute("BEGIN IMMEDIATE")
            self._batch = _Batch()
        self._writer.execute("SAVEPOINT caller")
        return self._batch

    def _lose(self, batch: _Batch) -> StoreError:
        """When the disk is full or fails, SQLite undoes the whole transaction by itself, all callers' parts of it."""
        error = StoreError("the database could not be written; nothing of this batch was kept")
        self._batch = None
        batch.end(error)
        return error

    def _plan_commit(self) -> None:
        """Commit once all who are ready to write now have written."""
        if self._batch is not None and not self._batch.is_planned:
            self._batch.is_planned = True
            asyncio.get_running_loop().call_soon(self._commit_if_idle)

    def _commit_if_idle(self) -> None:
        if self._batch is None:
            return
        self._batch.is_planned = False
        if self._turn.take_now():  # else somebody is writing, and plans it anew
            self._commit(self._batch)

    def _commit(self, batch: _Batch) -> None:
        """Commit; the turn is given back when that is done, whoever is cancelled meanwhile."""
        if self._commit_seconds < _HERE_SECONDS_MAX:
            self._committed(batch, self._run_commit())
        else:
            self._in_thread(self._run_commit, partial(self._committed, batch))

    def _run_commit(self) -> sqlite3.Error | None:
        started = time.perf_counter()
        try:
            self._writer.execute("COMMIT")
        except sqlite3.Error as failure:
            return failure
        self._commit_seconds += (time.perf_counter() - started - self._commit_seconds) / 8
        return None

    def _committed(self, batch: _Batch, error: sqlite3.Error | None) -> None:
        if error is not None and self._writer.in_transaction:
            with suppress(
                sqlite3.Error
            ):  # the disk fails here, too; SQLite undoes what is left when it is opened again
                self._writer.execute("ROLLBACK")
        self._batch = None
        self._parts += len(batch.waiting)
        if self._parts < _PARTS_UNCHECKPOINTED_MAX:
            self._turn.release()
        else:
            self._parts = 0
            self._in_thread(self._checkpoint, lambda _done: self._turn.release())
        batch.end(error)

    def _checkpoint(self) -> None:
        # Nobody writes meanwhile, so it gets to the end, and SQLite overwrites the log from its beginning: syncing a
        # file that does not grow takes half the time. A failure is no harm: the log grows until the next one.
        with suppress(sqlite3.Error):
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _in_thread(self, work: Callable[[], _T], then: Callable[[_T], None]) -> None:
        loop = asyncio.get_running_loop()

        def run() -> None:
            answer = work()
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(then, answer)

        self._disk.submit(run)


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
