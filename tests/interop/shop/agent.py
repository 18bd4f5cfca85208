"""The agent that customers of other makes hire."""

from tradepost import Agent, Job, JobFailed

agent = Agent("Shop", about="Says it louder")


@agent.serves(kind=5001, price_sat=21)
async def shout(job: Job) -> str:
    """Say it louder, with as many exclamation marks as `length` says."""
    await job.progress("reading")
    return job.text.upper() + "!" * int(job.param("length", "0"))


@agent.serves(kind=5002)
async def whisper(job: Job) -> str:
    """Say it softer."""
    await job.progress("reading")
    return job.text.lower()


@agent.serves(kind=5050, price_sat=21)
async def fail(job: Job) -> str:
    """Promise what nobody can do."""
    raise JobFailed("nobody can do this")
