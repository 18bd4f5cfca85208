"""Runs an agent's function on one job, within its limits, and turns what comes out into text."""

import asyncio
import contextvars
import inspect
import threading
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from dvm.agent import Job, Work
from dvm.errors import JobFailed, JobTimeout
from dvm.limits import ProviderLimits

log = structlog.get_logger(__name__)


async def run(work: Work, job: Job, limits: ProviderLimits) -> str:
    """Do the job; returns the result's text (anything but text is written as JSON).

    `async` functions run on the loop, others in a thread of their own (which goes on after a timeout: a thread cannot
    be stopped; its answer is then ignored). Raises `JobFailed`, whose message is for the customer; never anything else.
    """
    deadline = asyncio.timeout(limits.job_seconds_max)
    try:
        async with deadline:
            if inspect.iscoroutinefunction(work):
                answer = await work(job)
            else:
                answer = await _in_thread(work, job)
                if inspect.isawaitable(answer):
                    answer = await answer
        text = answer if isinstance(answer, str) else msgspec.json.encode(answer).decode()
        text.encode()  # raises for what no event can carry
    except JobFailed:
        raise
    except asyncio.CancelledError as error:
        if (task := asyncio.current_task()) and task.cancelling():
            raise  # the post is stopping; else the work itself awaited something that was cancelled
        raise JobFailed("the agent failed on this job") from error
    except Exception as error:
        if deadline.expired():
            raise JobTimeout(
                f"the work took longer than {limits.job_seconds_max} s and was stopped"
            ) from None
        # The agent's own code may raise anything; its text may hold what is not for the customer's eyes, or, of a
        # private job, what is for nobody else's.
        log.error(
            "work_failed", job=job.id, kind=job.kind, error=type(error).__name__, exc_info=not job.private
        )
        raise JobFailed("the agent failed on this job") from error
    return text


async def _in_thread(work: Work, job: Job) -> Any:
    """Call `work` in a new thread.

    Not in the loop's pool: that has a few threads more than the machine has cores, so some slow jobs would stop all
    others and the wallet, which works there too. And the process may end while a thread of ours is still at work.
    """
    loop = asyncio.get_running_loop()
    ending: asyncio.Future[tuple[Any, Exception | None]] = loop.create_future()
    context = contextvars.copy_context()

    def end(answer: Any, error: Exception | None) -> None:
        if not ending.done():  # else nobody waits any more
            ending.set_result((answer, error))

    def call() -> None:
        answer, failure = None, None
        try:
            answer = context.run(work, job)
        except Exception as error:  # noqa: BLE001 - raised again where it is awaited
            failure = error
        except BaseException as error:  # noqa: BLE001 - sys.exit() ends the job, not the agent
            failure = RuntimeError(f"the work raised {type(error).__name__}")
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(end, answer, failure)

    threading.Thread(target=call, name=f"job {job.id[:8]}", daemon=True).start()
    answer, failure = await ending
    if failure is not None:
        raise failure
    return answer
