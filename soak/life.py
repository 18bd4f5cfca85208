"""One process of one party, from its start to its death; and the points at which it could die."""

import asyncio
import contextvars
import hashlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

from store import Clock, Database, Snapshot, Transaction
from store.database import _connect

_CURRENT: Final[contextvars.ContextVar["Life | None"]] = contextvars.ContextVar("life", default=None)


class Dead(asyncio.CancelledError):
    """What everything answers that a dead process would still ask."""


class Trace:
    """What happened, in order: the same seed gives the same digest."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    def add(self, line: str) -> None:
        """One more."""
        self.lines.append(f"{asyncio.get_running_loop().time():.3f} {line}")

    def wrote(self, name: str) -> None:
        """Tell those who wait that a party has written something."""
        for waiting in self._waiting.pop(name, ()):
            if not waiting.done():
                waiting.set_result(None)

    async def changed(self, name: str) -> None:
        """Wait until a party writes something to its disk."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, []).append(waiting)
        await waiting

    @property
    def digest(self) -> str:
        """Of all of it."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()


class Fate:
    """Counts the points of a party's life, and ends it at one of them. It goes on counting in the next life."""

    def __init__(self, struck: Callable[[], None]) -> None:
        """`struck` is called at that point."""
        self.dies_at: int | None = None
        self.points: list[str] = []
        self._struck = struck

    def strikes(self, name: str) -> bool:
        """Note a point; True if the process dies there."""
        self.points.append(name)
        strikes = len(self.points) - 1 == self.dies_at
        if strikes:
            self._struck()
        return strikes


class Life:
    """One process: its tasks and its open database. Once it is dead nothing of it acts any more."""

    def __init__(self, name: str, clock: Clock, fate: Fate, trace: Trace) -> None:
        self.name = name
        self.clock = clock
        self.died = asyncio.Event()
        self.errors: list[BaseException] = []
        self.db: Database
        self.disk_seconds: Callable[[], float] = lambda: 0.0
        self._fate = fate
        self._trace = trace
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def check(self) -> None:
        """Raise if it is dead."""
        if self.died.is_set():
            raise Dead

    def pass_point(self, name: str, what: str = "") -> None:
        """A write or an outside call is done. The process may die here: then nothing after it happens."""
        self.check()
        self._trace.add(f"{self.name} {name} {what}")
        if self._fate.strikes(name):
            self.died.set()
            raise Dead

    def wrote(self) -> None:
        """Something is on disk."""
        self._trace.wrote(self.name)

    def complain(self, error: BaseException) -> None:
        """An error that no code of ours expects."""
        self.errors.append(error)
        self._trace.add(f"{self.name} error {type(error).__name__}")

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """A task of this process."""
        return contextvars.copy_context().run(self._spawn, work)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        _CURRENT.set(self)
        return asyncio.get_running_loop().create_task(work)

    def own(self, task: "asyncio.Task[Any]") -> None:
        """Remember a task as one of this process."""
        self._tasks[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) and not self.died.is_set():
            self.complain(error)

    async def end(self) -> None:
        """kill -9: nothing is committed, sent or asked any more."""
        self.died.set()
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1)
        self.db.drop()  # type: ignore[attr-defined]  # a `SimDatabase`


def adopt_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Let every task belong to the life in whose context it is made."""

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        if life := _CURRENT.get():
            life.own(task)
        return task

    loop.set_task_factory(make)


class InlineDatabase(Database):
    """A database without a thread of its own."""

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """See `Database.snapshot`: nobody writes while somebody reads, on a virtual loop."""
        yield Snapshot(self._reader, self._disk)

    def _in_thread(self, work: Any, then: Any) -> None:
        then(work())


class SimDatabase(InlineDatabase):
    """A database that dies with its process: what is not committed by then never was."""

    def __init__(
        self, life: Life, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection
    ) -> None:
        super().__init__(path, writer, reader)
        self._life = life

    @classmethod
    async def open_for(cls, life: Life, path: Path) -> Self:
        """Open a file that has the schema already."""
        with ExitStack() as undo:
            writer, reader = [await _connect(path, undo) for _ in range(2)]
            undo.pop_all()
        writer.execute("PRAGMA synchronous=OFF")  # processes die here, machines do not
        return cls(life, path, writer, reader)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """See `Database.transaction`; leaving it is a point."""
        await asyncio.sleep(self._life.disk_seconds())
        self._life.check()
        async with super().transaction() as tx:
            yield tx
            self._life.check()
        self._life.wrote()
        self._life.pass_point("commit")

    def drop(self) -> None:
        """Close the files as a dead process does."""
        self._closed = True
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")
        self._reader.close()
        self._writer.close()

    def _commit_if_idle(self) -> None:
        if not self._life.died.is_set():
            super()._commit_if_idle()
