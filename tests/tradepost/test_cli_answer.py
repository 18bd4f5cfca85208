"""`tradepost answer`, beside whatever runs there."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dvm import queries
from dvm import queries_reputation as reviews
from dvm.jobs.lifecycle import JobState
from dvm.queries import JobRow
from identity import SecretKey, make_template, sign_event
from identity.receipts import Review
from tradepost.post import open_database
from tradepost.settings import Settings

if TYPE_CHECKING:
    from conftest import AsyncCli

AGENT, CUSTOMER = "aa" * 32, SecretKey.generate()


@pytest.fixture
async def job(cli_beside: "AsyncCli") -> JobRow:
    """A job of an agent of this post, and another one, which nobody has reviewed."""
    Settings.load().data.mkdir(parents=True)
    async with await open_database(Settings.load()) as db, db.transaction() as tx:
        request = sign_event(make_template(5001, created_at=10), CUSTOMER)
        job = JobRow(
            agent=AGENT, id=request.id, kind=5001, customer=CUSTOMER.public_key, state=JobState.DONE, price_msat=21_000,
            request=request, relay="", reason="", attempts=1, locktime=None, offer_expires_at=None, created_at=10,
            updated_at=20,
        )  # fmt: skip
        await queries.insert_job(tx, job)
        await queries.insert_job(tx, replace(job, agent="bb" * 32))
        said = Review(
            request_id=job.id,
            provider=AGENT,
            kind=5001,
            method="prepaid",
            amount_msat=21_000,
            rating=2,
            text="late",
        )
        event = sign_event(said.to_template(30), CUSTOMER)
        await reviews.insert_review(tx, reviews.ReviewRow(event.id, AGENT, job.id, event, "", 7, 40))
    return job


async def test_a_review_is_answered_once(cli_beside: "AsyncCli", job: JobRow) -> None:
    answered = await cli_beside("answer", job.id[:12], "sorry", "--json")
    assert answered.code == 0, answered.err
    (told,) = answered.lines
    assert (told["job"], told["answer"], told["review"]["rating"]) == (job.id, "sorry", 2)
    async with await open_database(Settings.load()) as db:
        row = await reviews.review_of(db, AGENT, job.id)
    assert row is not None
    assert (row.answer, row.leaf) == ("sorry", None)  # it comes into the log again
    shown = (await cli_beside("job", job.id)).out
    assert "2 of 5, evidence none: late" in " ".join(shown.split())
    assert "sorry" in shown
    again = await cli_beside("answer", job.id[:12], "or not")
    assert (again.code, "is answered already" in again.err) == (1, True)


async def test_what_there_is_nothing_to_answer_to(cli_beside: "AsyncCli", job: JobRow) -> None:
    assert "nobody has reviewed" not in (await cli_beside("answer", job.id, "thanks")).err
    async with await open_database(Settings.load()) as db, db.transaction() as tx:
        await tx.execute("DELETE FROM reviews")
    assert "nobody has reviewed it yet" in (await cli_beside("answer", job.id, "thanks")).err
    assert "`tradepost jobs`" in (await cli_beside("answer", "0123", "thanks")).err.replace("\n", " ")
    assert "1 … 2000" in (await cli_beside("answer", job.id, "x" * 2001)).err
