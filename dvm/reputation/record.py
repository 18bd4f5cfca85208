"""An agent's log: what has ended comes into it, and what came into it is published.

Inbox: jobs that have ended, reviews that came. Duty: each has its leaf, once, in the transaction that notes the leaf's
number with it; and the relays have every leaf under a root, some minutes after it came. The log is only
ever added to, so whatever dies meanwhile, the next root continues the last one.
"""

from collections.abc import Sequence
from typing import Final

import structlog

from dvm import queries, queries_invoices
from dvm import queries_reputation as logged
from dvm.escrow.parties import provider_key
from dvm.post import Post
from dvm.queries_reputation import ReviewRow
from dvm.reputation.endings import Not, leaf_of
from dvm.reputation.keys import first_leaf
from identity import Event, InvalidReceipt
from identity import log as logs
from identity.receipts import JobLeaf, Leaf, ReviewLeaf, parse_review, write_leaf
from relay_bridge import Delivery
from store import Transaction
from wallet import queries_escrows
from wallet.escrow import Role

AT_ONCE: Final = 200
REVIEWS_MAX: Final = 8  # of one job: readers may find that the first ones do not hold

log = structlog.get_logger(__name__)


class Record:
    """What one agent brings into the log. `name` is the log's: its first key."""

    def __init__(self, post: Post, agent: str, name: str) -> None:
        self._post = post
        self._agent = agent
        self.name = name

    async def has_news(self) -> bool:
        """Whether anything has ended that is not looked at yet, or a review is not in the log."""
        return bool(
            await logged.unlogged_jobs(self._post.db, self._agent, (0, ""), 1)
            or await logged.unlogged_reviews(self._post.db, self._agent, 1)
        )

    async def enter(self) -> int:
        """Append what is to be told of jobs that have ended, then of reviews; returns how many leaves that were."""
        return await self._enter_jobs() + await self._enter_reviews()

    async def _enter_jobs(self) -> int:
        entered, after = 0, (0, "")
        while jobs := await logged.unlogged_jobs(self._post.db, self._agent, after, AT_ONCE):
            found = [(job_id, await self._leaf(job_id)) for _, job_id in jobs]
            async with self._post.db.transaction() as tx:
                numbers = await self._append(tx, [leaf for _, leaf in found if isinstance(leaf, JobLeaf)])
                for job_id, leaf in found:
                    if leaf is not Not.YET:
                        await logged.log_job(tx, self._agent, job_id, numbers.get(job_id, logged.NEVER))
            entered += len(numbers)
            after = jobs[-1]
        return entered

    async def _append(self, tx: Transaction, leaves: Sequence[JobLeaf | ReviewLeaf]) -> dict[str, int]:
        """Append what the log does not have of these leaves; the numbers of all of them, by subject.

        A log begins with the leaf of its key.
        """
        size = (await logs.read_frontier(tx, self.name)).size
        new: list[Leaf] = []
        if leaves and not size:
            new.append(first_leaf(self._post.seed, self.name, self._post.clock.now()))
        numbers = {}
        for leaf in leaves:
            subject = subject_of(leaf)
            number = await logged.number_of(tx, self.name, subject)
            if number is None:
                number = size + len(new)
                for one in subjects_of(leaf):
                    await logged.note_leaf(tx, self.name, one, number)
                new.append(leaf)
            numbers[subject] = number
        if new:
            await logs.append(tx, self.name, [write_leaf(leaf) for leaf in new])
        return numbers

    async def _leaf(self, job_id: str) -> JobLeaf | Not:
        db = self._post.db
        job = await queries.get_job(db, self._agent, job_id)
        assert job is not None
        return leaf_of(
            job,
            await queries.payments_of(db, self._agent, job_id),
            await queries_escrows.get(db, Role.PROVIDER, self._agent, job_id),
            await queries_invoices.get_invoice(db, self._agent, job_id),
            lock=provider_key(self._post, self._agent, job_id),
            now=self._post.clock.now(),
        )

    async def _enter_reviews(self) -> int:
        entered = 0
        while reviews := await logged.unlogged_reviews(self._post.db, self._agent, AT_ONCE):
            async with self._post.db.transaction() as tx:
                leaves = [_leaf_of(review, self._post.clock.now()) for review in reviews]
                numbers = await self._append(tx, leaves)
                for review, leaf in zip(reviews, leaves, strict=True):
                    await logged.log_review(tx, review, numbers[subject_of(leaf)])
            entered += len(reviews)
        return entered

    # Reviews that come ---------------------------------------------------------------------------------------

    async def on_review(self, delivery: Delivery) -> None:
        """Keep a customer's review of a job that it paid for, or one of its next. Any other is not for us."""
        review = self._read(delivery.event)
        if review is None:
            return
        job = await queries.get_job(self._post.db, self._agent, review.request_id)
        if job is None or job.customer != delivery.event.pubkey or not job.price_msat:
            return
        async with self._post.db.transaction() as tx:
            if await logged.insert_review(tx, review, most=REVIEWS_MAX):
                log.info("review_came", job=job.id, review=review.id)
            await delivery.done(tx)

    def _read(self, event: Event) -> ReviewRow | None:
        try:
            review = parse_review(event)
        except InvalidReceipt as error:
            log.info("review_ignored", review=event.id, reason=str(error))
            return None
        if review.provider != self._agent:
            return None
        return ReviewRow(event.id, self._agent, review.request_id, event, "", None, self._post.clock.now())


def subject_of(leaf: JobLeaf | ReviewLeaf) -> str:
    """What a leaf is about: no log has two of one subject."""
    match leaf:
        case JobLeaf():
            return leaf.request
        case ReviewLeaf():
            return f"{leaf.review}/answer" if leaf.answer else leaf.review


def subjects_of(leaf: JobLeaf | ReviewLeaf) -> tuple[str, ...]:
    """All that a leaf tells of: an answer also that the review was seen."""
    first = leaf.review if isinstance(leaf, ReviewLeaf) else leaf.request
    return tuple(dict.fromkeys((first, subject_of(leaf))))


def _leaf_of(review: ReviewRow, now: int) -> ReviewLeaf:
    return ReviewLeaf(review=review.id, request=review.request_id, at=now, answer=review.answer)
