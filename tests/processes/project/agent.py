"""The agent of the acceptance tests. GATE names a folder: `open` holds how many guarded jobs may pass it in all, and
`passed` has a file for each that did, so that a job that is done again passes again.
"""

import asyncio
import os
import time
from pathlib import Path

from tradepost import Agent, Job

GATE = Path(os.environ["GATE"])
SLOW_SECONDS = 2.0

agent = Agent("Acceptance", about="Works for tests")


def may_pass(job: Job) -> bool:
    """Whether the gate is open for this job."""
    mine = GATE / "passed" / job.id
    if not mine.exists() and len(list(mine.parent.iterdir())) >= int((GATE / "open").read_text()):
        return False
    mine.touch()
    return True


@agent.serves(kind=5001, price_sat=21)
async def guarded(job: Job) -> str:
    """Wait until the gate is open."""
    while not may_pass(job):
        await asyncio.sleep(0.02)
    return f"{job.text} is done"


@agent.serves(kind=5002)
async def quick(job: Job) -> str:
    """Answer at once, in a coroutine."""
    return job.text.upper()


@agent.serves(kind=5003)
def quick_in_a_thread(job: Job) -> str:
    """Answer at once, in a thread."""
    return job.text.upper()


@agent.serves(kind=5004)
async def slow(job: Job) -> str:
    """Take two seconds, in a coroutine."""
    await asyncio.sleep(SLOW_SECONDS)
    return job.text.upper()


@agent.serves(kind=5005)
def slow_in_a_thread(job: Job) -> str:
    """Take two seconds, in a thread."""
    time.sleep(SLOW_SECONDS)
    return job.text.upper()


@agent.serves(kind=5006)
async def guarded_and_free(job: Job) -> str:
    """As `guarded`, for nothing."""
    return await guarded(job)


@agent.serves(kind=5008)
def guarded_in_a_thread(job: Job) -> str:
    """As `guarded`, for nothing and in a thread."""
    while not may_pass(job):
        time.sleep(0.02)
    return f"{job.text} is done"


@agent.serves(kind=5007, price_sat=21)
async def quick_and_paid(job: Job) -> str:
    """As `quick`, for money."""
    return job.text.upper()
