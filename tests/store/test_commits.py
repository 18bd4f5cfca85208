"""Commits: shared, durable when said so, told to callbacks, whoever is cancelled and whatever the disk does."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from store import Database, StoreError, Transaction
from tests.store.notes import FILL_THE_DISK, INSERT, add, ids, is_usable, limit_size, trace

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


# -- callbacks


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


# -- a slow disk


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
