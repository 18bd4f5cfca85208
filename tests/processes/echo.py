"""An agent that says what it is told, with default settings: `python -m tests.processes.echo RELAY FOLDER`.

It prints its public key once it is open, and runs until SIGTERM.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from dvm import Agent, Job, Post, Provider
from tradepost.api import serve
from tradepost.logs import configure_logs
from tradepost.settings import Settings

agent = Agent("echo")


@agent.serves(kind=5050)
async def echo(job: Job) -> str:
    return job.text


async def ready(providers: Sequence[Provider], _post: Post) -> None:
    print(providers[0].public_key, flush=True)


if __name__ == "__main__":
    configure_logs("error")
    asyncio.run(serve([agent], Settings(relays=(sys.argv[1],), data=Path(sys.argv[2])), on_ready=ready))
