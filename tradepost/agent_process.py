"""`tradepost up` on a project, in a process of its own that never outlives this one."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from tradepost.secrets import VARIABLES
from tradepost.settings import Settings

STOP_SECONDS_MAX: Final = 10.0  # then it is killed, which harms nothing: it goes on at the next start

# The child reads a pipe that only we hold: however we end, kill -9 included, it reads the end of it and closes. Not by
# `sys.stdin`, whose lock the interpreter wants when it ends.
_LAUNCHER: Final = """
import os, signal, sys, threading
def watch():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=watch, daemon=True).start()
from tradepost.cli import run
sys.exit(run(["up", sys.argv[1], "--json"]))
"""


@asynccontextmanager
async def agent_process(
    project: Path, settings: Settings, *, stderr: int | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the project's agents with relays, mints, rails, arbiters, data and `root_seconds` of `settings`.

    They end with the context. On its stdout it says one JSON line for each agent once they are open. Its stderr is
    ours, or what `stderr` says.
    """
    environment = {
        # Not the settings and keys of this person's own post: they would win over those given here.
        **{
            n: value
            for n, value in os.environ.items()
            if not n.startswith("TRADEPOST_") and n not in VARIABLES
        },
        "TRADEPOST_RELAYS": ",".join(settings.relays),
        "TRADEPOST_MINTS": ",".join(settings.mints),
        "TRADEPOST_RAILS": ",".join(settings.rails),
        "TRADEPOST_ARBITERS": ",".join(settings.arbiters),
        "TRADEPOST_DATA": str(settings.data),
        "TRADEPOST_ROOT_SECONDS": str(settings.root_seconds),
        "TRADEPOST_KEY": "",  # wins over the project's own, which may be with a remote signer
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _LAUNCHER, str(project),
        env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS_MAX)
            except TimeoutError:
                process.kill()
                await process.wait()
