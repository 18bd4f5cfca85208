"""What no test inside one process can show: a real SIGKILL, and two processes on one file."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from store import Database

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]

_PROGRAM = """
import asyncio, sys
from store import Database, Migration

NOTES = Migration("notes", 1, "0001_initial.sql", "CREATE TABLE notes (id TEXT PRIMARY KEY);\\n")
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])

async def writer(db, number):
    turn = 0
    while turn != count:
        async with db.transaction() as tx:
            await tx.execute("INSERT INTO notes (id) VALUES (?)", f"{name}-{number}-{turn}")
        print(f"{name}-{number}-{turn}", flush=True)
        turn += 1

async def main():
    async with await Database.open(path, [NOTES]) as db:
        await asyncio.gather(*(writer(db, number) for number in range(8)))

asyncio.run(main())
"""


async def start(path: Path, name: str, *, count: int) -> asyncio.subprocess.Process:
    """Eight tasks, each writing `count` rows (-1: without end) and printing a row's id once its block is left."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROGRAM, str(path), name, str(count),
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


async def test_everything_whose_block_was_left_survives_sigkill(path: Path) -> None:
    process = await start(path, "a", count=-1)
    assert process.stdout is not None
    told = [await process.stdout.readline() for _ in range(300)]
    process.send_signal(signal.SIGKILL)
    told += [line for line in (await process.stdout.read()).splitlines(keepends=True) if line.endswith(b"\n")]
    await process.communicate()
    async with await Database.open(path) as db:
        kept = {row["id"] for row in await db.all("SELECT id FROM notes")}
        check = await db.one("PRAGMA integrity_check")
    assert check is not None
    assert check[0] == "ok"
    assert {line.decode().strip() for line in told} <= kept
    assert len(told) >= 300


async def test_two_processes_on_one_file_wait_for_each_other(path: Path) -> None:
    """Both open it at the same time, too: one makes the schema, the other finds it."""
    both = await asyncio.gather(start(path, "a", count=40), start(path, "b", count=40))
    answers = await asyncio.gather(*(process.communicate() for process in both))
    assert [(process.returncode, stderr) for process, (_, stderr) in zip(both, answers, strict=True)] == [
        (0, b"")
    ] * 2
    async with await Database.open(path) as db:
        row = await db.one("SELECT count(*) AS number FROM notes")
    assert row is not None
    assert row["number"] == 2 * 8 * 40


async def test_a_writer_waits_for_another_process_to_finish(db: Database, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(0.2, lambda: other.execute("COMMIT")).start()
        async with db.transaction() as tx:
            assert not other.in_transaction
            await tx.execute("INSERT INTO notes (id, text) VALUES (1, 'text')")
    assert await db.one("SELECT id FROM notes") is not None
