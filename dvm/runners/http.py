"""An HTTP API as an agent's work: the job is POSTed to it as JSON, its answer is the result."""

from dvm.agent import Job, Runner
from dvm.runners.endpoint import endpoint
from dvm.runners.task import read_answer, task_json


def http(url: str, *, key: str | None = None, seconds: int = 60) -> Runner:
    """Make a runner of the endpoint at `url`; `key` names the environment variable with its bearer key.

    It gets what a command reads in /task/input.json, and answers 200 with what a command writes to /task/output.json.
    Raises `RunnerUnusable` for an address or a variable that cannot be used.
    """
    target = endpoint(url, key, seconds)

    async def work(job: Job) -> str:
        return read_answer(await target.post(task_json(job), job.id))

    async def check() -> tuple[()]:
        await target.check()
        return ()

    return Runner(work, what=f"HTTP at {target.where}", check=check)
