"""The agents of a project under development: started, watched, started again when their code changes."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

from store import SystemClock
from tradepost.agent_process import agent_process
from tradepost.settings import FILE, Settings

LOOK_SECONDS: Final = 0.5
FILES_MAX: Final = 2000

#: What happened: `open` with what an agent said of itself, `said` with a `line` on its stderr or by its own `print`,
#: `changed` with the name of a `file`, `ended` with an exit `code`.
Tell = Callable[[str, dict[str, Any]], None]


async def keep_running(project: Path, settings: Settings, tell: Tell) -> None:
    """Run the agents until cancelled. One that ends by itself, or cannot start, waits for the next change."""
    seen = snapshot(project)
    while True:
        watching = asyncio.create_task(_change(project, seen))
        try:
            async with agent_process(project, settings, stderr=asyncio.subprocess.PIPE) as process:
                reading = asyncio.create_task(_read(process, tell))
                await asyncio.wait((watching, reading), return_when=asyncio.FIRST_COMPLETED)
                if not watching.done():
                    tell("ended", {"code": await process.wait()})
                    await watching
            await reading
            seen, name = watching.result()
            tell("changed", {"file": name})
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching


def snapshot(project: Path) -> dict[str, tuple[int, int]]:
    """Name, date and size of the files whose change means a restart: Python files and the manifest."""
    found = {}
    for path in _files(project):
        with suppress(OSError):  # gone meanwhile
            stat = path.stat()
            found[str(path.relative_to(project))] = (stat.st_mtime_ns, stat.st_size)
    return found


def _files(project: Path) -> Iterator[Path]:
    """At most `FILES_MAX`; nothing in hidden folders, where environments and data are."""
    count = 0
    for folder, folders, names in os.walk(project):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        for name in names:
            if name.endswith(".py") or (name == FILE and Path(folder) == project):
                count += 1
                if count > FILES_MAX:
                    return
                yield Path(folder, name)


async def _change(project: Path, seen: dict[str, tuple[int, int]]) -> tuple[dict[str, tuple[int, int]], str]:
    """Wait until the files are not as they were `seen`, and are as they were a moment ago: editors write in pieces."""
    clock = SystemClock()
    before = seen
    while True:
        await clock.sleep(LOOK_SECONDS)
        now = await asyncio.to_thread(snapshot, project)
        if now != seen and now == before:
            return now, min(name for name, _ in now.items() ^ seen.items())
        before = now


async def _read(process: asyncio.subprocess.Process, tell: Tell) -> None:
    """Pass on what the agents say, until they have ended."""
    assert process.stdout is not None
    assert process.stderr is not None
    await asyncio.gather(_lines(process.stdout, tell), _lines(process.stderr, tell))


async def _lines(stream: asyncio.StreamReader, tell: Tell) -> None:
    while not stream.at_eof():
        try:
            raw = await stream.readline()
        except ValueError:  # a line of more than 64 KiB; it is dropped
            continue
        if not raw:
            break
        line = raw.decode(errors="replace").rstrip("\n")
        said = None
        with suppress(orjson.JSONDecodeError):
            said = orjson.loads(line)
        if isinstance(said, dict) and "npub" in said:
            tell("open", said)
        elif isinstance(said, dict) and "error" in said:
            tell("said", {"line": f"error: {said['error']}"})
        else:
            tell("said", {"line": line})
