"""`tradepost answer`: what an agent says to a customer's review, for all to read."""

import asyncio
from typing import Annotated

import typer

from dvm import queries
from dvm import queries_reputation as reviews
from identity.receipts import TEXT_CHARS_MAX
from store import Database
from tradepost.cli.jobs import JobId, review_words, reviewed
from tradepost.cli.output import AsJson, print_json, quoted, say
from tradepost.errors import TradepostError
from tradepost.post import read_database
from tradepost.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(answer)


def answer(
    job_id: JobId,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the agent has to say to it.")],
    as_json: AsJson = False,
) -> None:
    """Answer a customer's review of a job of your agent.

    It comes into the agent's log, and is published with the next root while the agent runs. It stays.

    Example: `tradepost answer 2e98eae4846c "mended, and thank you for telling"`
    """
    if not 0 < len(text) <= TEXT_CHARS_MAX:
        raise TradepostError(f"an answer has 1 … {TEXT_CHARS_MAX} characters")
    review = asyncio.run(_answer(job_id.lower(), text))
    if as_json:
        print_json({"job": review.request_id, "answer": text, "review": reviewed(review.event)})
    else:
        say(f"[green]● answered: {quoted(review_words(reviewed(review.event)))}[/]")


async def _answer(prefix: str, text: str) -> reviews.ReviewRow:
    async with read_database(Settings.load()) as db:
        review = await _review_of(db, prefix)
        async with db.transaction() as tx:
            if not await reviews.answer_review(tx, review, text):
                raise TradepostError(f"the review of job {review.request_id[:12]} is answered already")
    return review


async def _review_of(db: Database, prefix: str) -> reviews.ReviewRow:
    jobs = await queries.find_jobs(db, prefix)
    found = [review for job in jobs if (review := await reviews.review_of(db, job.agent, job.id))]
    if len(found) == 1:
        return found[0]
    if found:
        raise TradepostError(f"several reviewed jobs begin with {prefix!r}; give more of its digits")
    told = "nobody has reviewed it yet" if jobs else "`tradepost jobs` lists those of your agents"
    raise TradepostError(f"no review of a job that begins with {prefix!r}: {told}")
