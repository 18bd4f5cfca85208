"""Our side of the comparison: `python -m bench.parts.agent RELAY[,RELAY…] FOLDER [AGENTS]`.

Default settings, so everything is durable; but one stranger may ask as often as all customers together.
Prints its public key (those of several agents with commas) once it is open, and runs until SIGTERM.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from dvm import Agent, Job, Post, Provider
from tradepost.api import serve
from tradepost.logs import configure_logs
from tradepost.settings import Settings

RATE = 1_000_000


async def echo(job: Job) -> str:
    return job.text


def make(number: int) -> Agent:
    agent = Agent(f"echo {number}")
    agent.serves(kind=5050)(echo)
    return agent


async def ready(providers: Sequence[Provider], _post: Post) -> None:
    print(",".join(provider.public_key for provider in providers), flush=True)


if __name__ == "__main__":
    configure_logs("warning")
    settings = Settings(
        relays=tuple(sys.argv[1].split(",")),
        data=Path(sys.argv[2]),
        stranger_requests_per_minute_max=RATE,
        strangers_requests_per_minute_max=RATE,
    )
    agents = [make(number) for number in range(int(sys.argv[3]) if len(sys.argv) > 3 else 1)]
    asyncio.run(serve(agents, settings, on_ready=ready))
