"""An agent that shortens a text to its key sentences, for 21 sats. Run it with `tradepost up` in this folder."""

import asyncio

from tradepost import Agent, Job, JobFailed
from tradepost.demo.summarise import summarise

agent = Agent("summariser", about="Shortens a text to its key sentences")


@agent.serves(kind=5001, price_sat=21)
async def shorten(job: Job) -> str:
    """The key sentences of a text in their order. Param `length`: "3 sentences", "2 paragraphs", "100 words"."""
    await job.progress(f"reading {len(job.text.split())} words")
    try:
        return await asyncio.to_thread(summarise, job.text, job.param("length", "5 sentences"))
    except ValueError as error:  # a wish that cannot be met; what was paid goes back
        raise JobFailed(str(error)) from None


if __name__ == "__main__":
    agent.run()
