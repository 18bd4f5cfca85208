"""One job's function on its own: what it may return and raise, and what it may not stop."""

import asyncio
import threading
from typing import Any

import pytest

from dvm import Job, JobFailed, JobTimeout, ProviderLimits
from dvm.agent import Work
from dvm.nip90 import parse_request
from dvm.runners.function import run
from identity import SecretKey, make_template, sign_event


async def do(work: Work, **limits: Any) -> str:
    """Run `work` on a job with the text "some text"."""
    template = make_template(5001, tags=[("i", "some text", "text")], created_at=1)
    request = parse_request(sign_event(template, SecretKey.generate()))

    async def report(message: str, content: str) -> None: ...

    return await run(work, Job(request, report), ProviderLimits(**limits))


async def test_functions_of_both_kinds() -> None:
    async def shout(job: Job) -> str:
        return job.text.upper()

    def shout_later(job: Job) -> Any:
        return shout(job)

    def count(job: Job) -> dict[str, int]:
        return {"words": len(job.text.split())}

    assert await do(shout) == "SOME TEXT"
    assert await do(count) == '{"words":2}'
    assert await do(shout_later) == "SOME TEXT"


async def test_any_number_of_functions_work_in_threads_at_once() -> None:
    together = threading.Barrier(50)

    def meet(job: Job) -> str:
        together.wait(10)
        return "met"

    assert await asyncio.gather(*(do(meet) for _ in range(50))) == ["met"] * 50


@pytest.mark.parametrize("error", [RuntimeError("hunter2"), TimeoutError(), StopIteration(), SystemExit()])
async def test_what_a_thread_raises_fails_the_job(error: BaseException) -> None:
    def fail(job: Job) -> str:
        raise error

    with pytest.raises(JobFailed, match="the agent failed on this job"):
        await do(fail)


async def test_a_cancellation_of_its_own_making_fails_the_job() -> None:
    async def give_up(job: Job) -> str:
        part = asyncio.create_task(asyncio.Event().wait())
        part.cancel()
        await part
        return ""

    with pytest.raises(JobFailed, match="the agent failed on this job"):
        await do(give_up)


async def test_a_cancelled_job_is_cancelled() -> None:
    begun = asyncio.Event()

    async def wait(job: Job) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    running = asyncio.create_task(do(wait))
    await begun.wait()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


async def test_a_thread_that_takes_too_long_is_waited_for_no_more() -> None:
    go_on = threading.Event()
    with pytest.raises(JobTimeout):
        await do(lambda job: str(go_on.wait(60)), job_seconds_max=0)
    go_on.set()


async def test_a_reason_of_the_agents_own_is_told() -> None:
    def refuse(job: Job) -> str:
        raise JobFailed("too short")

    with pytest.raises(JobFailed, match="too short"):
        await do(refuse)
