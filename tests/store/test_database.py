"""Transactions: shared commits, isolation by savepoint, what is durable when, and how it all ends."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from store import Database, Migration, StoreError, Transaction

INSERT = "INSERT INTO notes (id, text) VALUES (?, ?)"
FILL_THE_DISK = (INSERT, 9999, "x" * 200_000)


async def add(db: Database, number: int) -> None:
    async with db.transaction() as tx:
        await tx.execute(INSERT, number, "text")


async def ids(db: Database) -> list[int]:
    return [row["id"] for row in await db.all("SELECT id FROM notes ORDER BY id")]


def trace(db: Database) -> list[str]:
    """Every statement that SQLite runs on the writing connection from now on."""
    statements: list[str] = []
    db._writer.set_trace_callback(statements.append)
    return statements


async def limit_size(db: Database) -> None:
    """Stand in for a full disk: SQLite reports it, and undoes the transaction, in the same way."""
    async with db.transaction() as tx:
        row = await tx.one("PRAGMA page_count")
        assert row is not None
        await tx.one(f"PRAGMA max_page_count = {row['page_count'] + 2}")


async def is_usable(db: Database) -> None:
    """A later transaction writes, commits and leaves nothing open: savepoints and batches paired up."""
    async with asyncio.timeout(5):
        await add(db, 777_777)
    assert 777_777 in await ids(db)
    assert not db._writer.in_transaction
    async with db.transaction() as tx:
        await tx.execute("DELETE FROM notes WHERE id = 777777")


# -- opening


async def test_the_file_is_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        async with await Database.open(path) as db, db.transaction() as tx:
            await tx.execute("CREATE TABLE t (x TEXT)")
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                assert path.with_name(name).stat().st_mode & 0o777 == 0o600, name
    finally:
        os.umask(before)


async def test_durability_is_what_the_docstring_says(db: Database) -> None:
    async with db.transaction() as tx:
        for pragma, wanted in (("synchronous", 2), ("journal_mode", "wal"), ("foreign_keys", 1)):
            row = await tx.one(f"PRAGMA {pragma}")
            assert row is not None
            assert row[pragma] == wanted


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(StoreError, match="not a database"):
        await Database.open(path)
    assert path.read_bytes() == b"not a database " * 100


async def test_a_migration_that_fails_leaves_nothing_behind(path: Path) -> None:
    broken = Migration(
        "notes", 1, "0001_initial.sql", "CREATE TABLE notes (id BIGINT);\nINSERT INTO nowhere VALUES (1);\n"
    )
    with pytest.raises(StoreError, match="nowhere"):
        await Database.open(path, [broken])
    async with await Database.open(path) as db:
        assert [
            row["name"] for row in await db.all("SELECT name FROM sqlite_master WHERE name = 'notes'")
        ] == []


# -- reading and writing


async def test_statements_answer_in_the_shapes_promised(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute_many(INSERT, ((number, "old") for number in range(3)))
        assert await tx.execute("UPDATE notes SET text = ? WHERE id > ?", "new", 0) == 2
        row = await tx.one("UPDATE notes SET text = 'newest' WHERE id = 1 RETURNING text")
        assert row is not None
        assert row["text"] == "newest"
        assert await tx.one("SELECT id FROM notes WHERE id = 99") is None
        assert [row["text"] for row in await tx.all("SELECT text FROM notes ORDER BY id")] == [
            "old",
            "newest",
            "new",
        ]
    assert await db.one("SELECT id FROM notes WHERE id = 99") is None


async def test_readers_see_only_what_is_committed(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute(INSERT, 1, "text")
        assert await ids(db) == []
    assert await ids(db) == [1]


async def test_an_exception_undoes_the_block_and_is_handed_on(db: Database) -> None:
    with pytest.raises(LookupError, match="mine"):
        async with db.transaction() as tx:
            await tx.execute(INSERT, 1, "text")
            raise LookupError("mine")
    assert await ids(db) == []
    await is_usable(db)


async def test_a_caught_constraint_violation_undoes_only_its_statement(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute(INSERT, 1, "first")
        with pytest.raises(sqlite3.IntegrityError):
            await tx.execute(INSERT, 1, "again")
        await tx.execute(INSERT, 2, "second")
    assert await ids(db) == [1, 2]


async def test_a_transaction_kept_after_its_block_is_refused(db: Database) -> None:
    async with db.transaction() as tx:
        pass
    with pytest.raises(StoreError, match="over"):
        await tx.execute(INSERT, 1, "text")
    assert await ids(db) == []


# -- sharing commits


async def test_waiting_callers_share_one_commit_in_the_order_they_came(db: Database) -> None:
    statements = trace(db)
    arrived: list[int] = []

    async def caller(number: int) -> None:
        async with db.transaction() as tx:
            arrived.append(number)
            await tx.execute(INSERT, number, "text")

    await asyncio.gather(*(caller(number) for number in range(50)))
    assert arrived == list(range(50))
    assert await ids(db) == list(range(50))
    assert 1 <= statements.count("COMMIT") <= 3
    assert statements.count("SAVEPOINT caller") == statements.count("RELEASE caller") == 50


async def test_a_lone_caller_does_not_wait_for_company(db: Database) -> None:
    statements = trace(db)
    for number in range(3):
        await add(db, number)
    assert statements.count("COMMIT") == 3


async def test_one_failing_among_many_undoes_only_itself(db: Database) -> None:
    statements = trace(db)

    async def caller(number: int) -> None:
        async with db.transaction() as tx:
            await tx.execute(INSERT, number, "text")
            if number % 5 == 0:
                raise LookupError(number)

    answers = await asyncio.gather(*(caller(number) for number in range(20)), return_exceptions=True)
    assert [isinstance(answer, LookupError) for answer in answers] == [
        number % 5 == 0 for number in range(20)
    ]
    assert await ids(db) == [number for number in range(20) if number % 5]
    assert 1 <= statements.count("COMMIT") <= 3


async def test_an_endless_chain_of_callers_does_not_starve_the_commit(db: Database) -> None:
    statements = trace(db)
    chain: list[asyncio.Task[None]] = []

    async def link(number: int) -> None:
        async with db.transaction() as tx:
            await tx.execute(INSERT, number, "text")
            if not chain[0].done():
                chain.append(asyncio.create_task(link(number + 1)))  # there is always somebody waiting

    chain.append(asyncio.create_task(link(0)))
    async with asyncio.timeout(5):
        await chain[0]
        assert 1 <= statements.count("COMMIT") <= 3
        assert len(chain) < 10
        while not all(task.done() for task in chain):
            await asyncio.wait(chain)
    assert await ids(db) == list(range(len(chain)))


async def test_after_commit_runs_when_durable_and_only_then(db: Database, path: Path) -> None:
    seen: list[object] = []

    def look() -> None:
        with sqlite3.connect(path) as other:
            seen.extend(row[0] for row in other.execute("SELECT id FROM notes"))
        other.close()

    async with db.transaction() as tx:
        await tx.execute(INSERT, 1, "text")
        tx.after_commit(look)
        assert seen == []
    assert seen == [1]


async def test_after_commit_of_an_undone_block_never_runs(db: Database) -> None:
    seen: list[str] = []

    async def caller(name: str, *, fails: bool) -> None:
        async with db.transaction() as tx:
            tx.after_commit(lambda: seen.append(name))
            if fails:
                raise LookupError

    await asyncio.gather(caller("good", fails=False), caller("bad", fails=True), return_exceptions=True)
    assert seen == ["good"]


# -- cancellation: savepoints stay paired, whenever it comes


@pytest.mark.parametrize("times", [1, 2, 3], ids=["once", "twice", "thrice"])
@pytest.mark.parametrize("steps", range(14))
async def test_cancelled_after_any_number_of_steps(db: Database, steps: int, times: int) -> None:
    """The loop's steps lead through every phase: waiting, beginning, inside the block, releasing, committing."""
    before = asyncio.create_task(add(db, 1))
    victim = asyncio.create_task(add(db, 2))
    after = asyncio.create_task(add(db, 3))
    for _ in range(steps):
        await asyncio.sleep(
            0.0003
        )  # lets the database's thread work; the phase reached may vary, the claim may not
    for _ in range(times):
        victim.cancel()
        await asyncio.sleep(0)
    answers = await asyncio.gather(before, victim, after, return_exceptions=True)
    assert answers[0] is None
    assert answers[2] is None
    if answers[1] is None:
        assert await ids(db) == [1, 2, 3]
    else:
        assert isinstance(answers[1], asyncio.CancelledError)
        assert set(await ids(db)) in ({1, 3}, {1, 2, 3})
    await is_usable(db)


async def test_cancelled_while_waiting_for_its_turn(db: Database) -> None:
    async with db.transaction() as tx:
        victim = asyncio.create_task(add(db, 2))
        await asyncio.sleep(0)
        victim.cancel()
        await tx.execute(INSERT, 1, "text")
    with pytest.raises(asyncio.CancelledError):
        await victim
    assert await ids(db) == [1]
    await is_usable(db)


async def test_cancelled_inside_the_block_undoes_it_even_if_cancelled_again(db: Database) -> None:
    inside = asyncio.Event()

    async def caller() -> None:
        async with db.transaction() as tx:
            await tx.execute(INSERT, 2, "text")
            inside.set()
            await asyncio.Event().wait()

    victim = asyncio.create_task(caller())
    await inside.wait()
    neighbour = asyncio.create_task(add(db, 3))
    while not victim.done():
        victim.cancel()
        await asyncio.sleep(0)
    await neighbour
    assert await ids(db) == [3]
    await is_usable(db)


async def test_cancelled_at_the_commit_is_durable_and_calls_back(db: Database) -> None:
    seen: list[int] = []
    leaving = asyncio.Event()

    async def caller() -> None:
        async with db.transaction() as tx:
            await tx.execute(INSERT, 1, "text")
            tx.after_commit(lambda: seen.append(1))
            leaving.set()

    victim = asyncio.create_task(caller())
    await leaving.wait()
    victim.cancel()
    with pytest.raises(asyncio.CancelledError):
        await victim
    await add(db, 2)
    assert await ids(db) == [1, 2]
    assert seen == [1]


# -- a full disk


async def test_a_full_disk_fails_all_of_the_batch_and_keeps_nothing_of_it(db: Database) -> None:
    await limit_size(db)
    seen: list[int] = []

    async def small(number: int) -> None:
        async with db.transaction() as tx:
            await tx.execute(INSERT, number, "text")
            tx.after_commit(lambda: seen.append(number))

    async def large() -> None:
        async with db.transaction() as tx:
            await tx.execute(*FILL_THE_DISK)

    async with asyncio.timeout(5):
        earlier, full, later = await asyncio.gather(small(1), large(), small(2), return_exceptions=True)
    assert isinstance(earlier, StoreError)
    assert isinstance(full, sqlite3.OperationalError)
    assert later is None  # it began after the disaster, in a batch of its own
    assert await ids(db) == [2]
    assert seen == [2]
    await is_usable(db)


async def test_a_block_that_swallows_the_full_disk_writes_nothing_either(db: Database) -> None:
    await limit_size(db)

    async def stubborn(tx: Transaction) -> None:
        with pytest.raises(sqlite3.OperationalError, match="full"):
            await tx.execute(*FILL_THE_DISK)
        with pytest.raises(StoreError, match="undone"):
            await tx.execute(INSERT, 1, "text")

    with pytest.raises(StoreError, match="nothing of this batch"):
        async with db.transaction() as tx:
            await stubborn(tx)
    assert await ids(db) == []
    await is_usable(db)


async def test_a_commit_that_fails_is_told_to_every_caller(db: Database) -> None:
    async with db.transaction() as tx:
        await tx.execute("CREATE TABLE child (id BIGINT REFERENCES notes (id) DEFERRABLE INITIALLY DEFERRED)")

    async def orphan() -> None:
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO child (id) VALUES (404)")  # noticed at COMMIT, not before

    async with asyncio.timeout(5):
        answers = await asyncio.gather(add(db, 1), orphan(), add(db, 2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [sqlite3.IntegrityError] * 3
    assert await ids(db) == []
    await is_usable(db)


# -- closing


async def test_closing_waits_for_those_inside_and_refuses_those_after(db: Database, path: Path) -> None:
    async with db.transaction() as tx:
        closing = asyncio.create_task(db.close())
        await asyncio.sleep(0)
        late = asyncio.create_task(add(db, 2))
        await tx.execute(INSERT, 1, "text")
        assert not closing.done()
    await closing
    await asyncio.gather(late, return_exceptions=True)
    async with await Database.open(path) as again:
        assert 1 in await ids(again)


async def test_a_closed_database_says_so(db: Database) -> None:
    await db.close()
    await db.close()
    with pytest.raises(StoreError, match="closed"):
        await add(db, 1)
    with pytest.raises(StoreError, match="closed"):
        await db.all("SELECT id FROM notes")
    with pytest.raises(StoreError, match="closed"):
        await db.one("SELECT id FROM notes")


@pytest.fixture
def slow_disk(db: Database) -> Callable[[], None]:
    """From the call on commits take long, so that they run in the thread; `db._gate` lets them end."""
    commit, db._gate = db._run_commit, threading.Event()  # type: ignore[attr-defined]

    def slow() -> sqlite3.Error | None:
        db._gate.wait(5)  # type: ignore[attr-defined]
        return commit()

    def begin() -> None:
        db._commit_seconds = 1.0
        db._run_commit = slow  # type: ignore[method-assign]

    return begin


async def test_a_slow_disk_stops_nobody_but_writers(db: Database, slow_disk: Callable[[], None]) -> None:
    await add(db, 1)
    slow_disk()
    writing = [asyncio.create_task(add(db, number)) for number in (2, 3, 4)]
    while not db._batch:
        await asyncio.sleep(0)
    later = asyncio.create_task(add(db, 5))
    assert await ids(db) == [1]
    assert not any(task.done() for task in (*writing, later))
    db._gate.set()  # type: ignore[attr-defined]
    await asyncio.gather(*writing, later)
    assert await ids(db) == [1, 2, 3, 4, 5]


async def test_a_writer_cancelled_during_its_commit_leaves_the_turn_to_the_next(
    db: Database, slow_disk: Callable[[], None]
) -> None:
    ends: list[str] = []
    slow_disk()

    async def write() -> None:
        async with db.transaction() as tx:
            await tx.execute(INSERT, 1, "text")
            tx.after_commit(lambda: ends.append("durable"), lambda: ends.append("undone"))

    writing = asyncio.create_task(write())
    while not db._batch:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    next_one = asyncio.create_task(add(db, 2))
    db._gate.set()  # type: ignore[attr-defined]
    await next_one
    assert await ids(db) == [1, 2]
    assert ends == ["durable"]


async def test_one_of_the_two_callbacks_is_called_whatever_happens(db: Database) -> None:
    ends: list[str] = []

    def note(tx: Transaction, name: str) -> None:
        tx.after_commit(lambda: ends.append(f"{name} durable"), lambda: ends.append(f"{name} undone"))

    async with db.transaction() as tx:
        note(tx, "kept")
        with pytest.raises(LookupError):
            async with tx.part():
                await tx.execute(INSERT, 1, "text")
                note(tx, "part")
                raise LookupError
        assert ends == ["part undone"]
        async with tx.part():
            await tx.execute(INSERT, 2, "text")
    with pytest.raises(LookupError):
        async with db.transaction() as tx:
            note(tx, "block")
            raise LookupError
    assert ends == ["part undone", "kept durable", "block undone"]
    assert await ids(db) == [2]


async def test_a_callback_that_raises_keeps_nobody_waiting(db: Database) -> None:
    told: list[str] = []

    def fail() -> None:
        raise RuntimeError("a bug")

    async with asyncio.timeout(5), db.transaction() as tx:
        await tx.execute(INSERT, 1, "text")
        tx.after_commit(fail)
        tx.after_commit(lambda: told.append("the next one"))
    assert told == ["the next one"]
    await is_usable(db)


async def test_callbacks_hear_of_a_failing_disk(db: Database) -> None:
    await limit_size(db)
    ends: list[str] = []
    with pytest.raises(sqlite3.OperationalError):
        async with db.transaction() as tx:
            tx.after_commit(lambda: ends.append("durable"), lambda: ends.append("undone"))
            async with tx.part():
                await tx.execute(*FILL_THE_DISK)
    assert ends == ["undone"]
    await is_usable(db)


async def test_the_log_does_not_grow_with_the_number_of_transactions(db: Database, path: Path) -> None:
    log = path.with_name(path.name + "-wal")
    sizes = []
    for round_ in range(6):
        for number in range(200):
            await add(db, round_ * 200 + number)
        sizes.append(log.stat().st_size)
    assert sizes[-1] < 1.5 * sizes[1]
    assert len(await ids(db)) == 1200
