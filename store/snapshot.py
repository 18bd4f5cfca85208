"""Reading all of a database at one moment, beside everybody who writes."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from store.transaction import Row, Value

_BUSY_SECONDS_MAX: Final = 5


class Snapshot:
    """What was committed when the first statement ran. Statements may take seconds: they run in a thread."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        """Use `Database.snapshot`."""
        self._connection = connection
        self._thread = thread

    async def all(self, sql: str, *values: Value) -> list[Row]:
        """Run one statement and return all rows."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, lambda: self._connection.execute(sql, values).fetchall()
        )

    async def one(self, sql: str, *values: Value) -> Row | None:
        """Like `all`, the first row or None."""
        rows = await self.all(sql, *values)
        return rows[0] if rows else None


@asynccontextmanager
async def open_snapshot(path: Path) -> AsyncIterator[Snapshot]:
    """A connection of its own, which holds up neither the loop nor any writer."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=_BUSY_SECONDS_MAX
    )
    thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
    try:
        connection.row_factory = sqlite3.Row
        for statement in ("PRAGMA query_only=ON", "PRAGMA temp_store=MEMORY", "BEGIN"):
            connection.execute(statement)
        yield Snapshot(connection, thread)
    finally:
        connection.interrupt()  # a statement whose caller was cancelled
        thread.submit(connection.close)
        thread.shutdown()
