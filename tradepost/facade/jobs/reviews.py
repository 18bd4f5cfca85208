"""Operations on what is left of a job for others to see: its review, and its receipt."""

from typing import Annotated, Final

import msgspec

from dvm import BadRequest
from dvm.orders.lifecycle import OrderState
from dvm.queries import OrderRow
from dvm.queries_reputation import review_of
from identity import Event, encode_npub
from identity.errors import InvalidReceipt
from identity.receipts import RATING_MAX, TEXT_CHARS_MAX, parse_review
from tradepost.errors import TradepostError
from tradepost.facade.agents.reputations import ReceiptDocument, SignedEvent
from tradepost.facade.desk import Desk
from tradepost.facade.jobs.job_views import escrow_of, leading_order
from tradepost.facade.jobs.jobs import JOB, found_job
from tradepost.facade.web.operations import Call, Operation, Who
from tradepost.facade.web.problems import Conflict, NotFound, Refusal
from wallet.errors import Action
from wallet.escrow import Stage

_RETRY_SECONDS: Final = 2


class ReviewWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What you say of a job, for all to read: `rating` is 1 to 5, the best."""

    rating: Annotated[int, msgspec.Meta(ge=1, le=RATING_MAX)]
    text: Annotated[str, msgspec.Meta(max_length=TEXT_CHARS_MAX)] = ""


class JobReview(msgspec.Struct, frozen=True):
    """A review, as it was published. `evidence` is what shows in it that the job was paid: spent coins, an invoice's
    preimage, or none.
    """

    rating: int
    text: str
    evidence: str
    event: SignedEvent


class JobReceipt(msgspec.Struct, frozen=True):
    """What shows that a job was done: what this post signed (`asked`), what the agent signed (`offer`, `result`), the
    `review`, and `proof`: the job's leaf in the agent's log, under its published root. Where there is no proof,
    `missing` says why. Check a proof with POST /v1/verify, or offline.
    """

    job: str
    request: str
    npub: str
    public_key: str
    asked: SignedEvent
    offer: SignedEvent | None
    result: SignedEvent | None
    review: JobReview | None
    proof: ReceiptDocument | None
    missing: str | None


async def review_job(call: Call) -> JobReview:
    """Publish a review. A job has one: the same again is the same event."""
    desk = call.desk
    job = await found_job(call)
    order = leading_order(job)
    if order is None:
        raise Conflict("no agent was asked, so there is nothing to review")
    escrow = await escrow_of(desk.customer, job)
    if escrow is not None and escrow.stage is Stage.DELIVERED:
        raise Conflict("the result is not paid yet: accept or dispute it first, and review it then")
    try:
        event = await desk.customer.review(order.id, call.body.rating, call.body.text)
    except BadRequest as error:
        if error.action is not Action.WAIT:
            raise Conflict(str(error)) from None
        raise Conflict(
            f"the sats of this job are not settled yet ({order.state}): review it in a moment",
            action=Action.WAIT, retry_after=_RETRY_SECONDS,
        ) from None  # fmt: skip
    return _review(event)


async def get_receipt(call: Call) -> JobReceipt:
    """All that there is to show for a job."""
    desk = call.desk
    job = await found_job(call)
    order = leading_order(job)
    if order is None:
        raise NotFound("no agent was asked yet, so there is nothing to show")
    known = await review_of(desk.post.db, order.provider, order.id)
    proof, missing = await _proof(desk, order, call.client)
    return JobReceipt(
        job=job.id, request=order.id, npub=encode_npub(order.provider), public_key=order.provider,
        asked=_signed(order.request), offer=_signed(order.offer) if order.offer else None,
        result=_signed(order.result) if order.result else None, review=_review(known.event) if known else None,
        proof=proof, missing=missing,
    )  # fmt: skip


async def _proof(desk: Desk, order: OrderRow, client: str) -> tuple[ReceiptDocument | None, str | None]:
    """The file that proves the job's leaf, or why there is none."""
    if order.state in (OrderState.REQUESTED, OrderState.PAYING, OrderState.PAID):
        return None, "the job has not ended"
    if order.price_sat == 0:
        return None, "agents keep no leaf of what was free, and of what was not paid"
    try:
        file = (await desk.readings.read(order.provider, client)).reading.prove(order.id)
    except (TradepostError, InvalidReceipt, Refusal) as error:
        return None, f"{error}; agents publish their roots every few minutes"
    return msgspec.json.decode(file.to_json(), type=ReceiptDocument), None


def _review(event: Event) -> JobReview:
    told = parse_review(event)
    return JobReview(told.rating, told.text, str(told.evidence_class), _signed(event))


def _signed(event: Event) -> SignedEvent:
    return msgspec.convert(event.to_dict(), SignedEvent)


OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        name="review_job",
        method="POST",
        path="/v1/jobs/{id}/review",
        about="Review a job\n\nFor all to read, signed by this post, with the proof that it was paid. It stays.",
        handler=review_job,
        answer=JobReview,
        body=ReviewWish,
        status=201,
        who=Who.CALLER,
        costly=True,
        parts=(JOB,),
        problems=("not_found", "conflict", "mint_unavailable"),
        group="Reputation",
    ),
    Operation(
        name="get_receipt",
        method="GET",
        path="/v1/jobs/{id}/receipt",
        about="Get the receipt of a job\n\nWhat was signed, the review, and the proof that the agent's log has it.",
        handler=get_receipt,
        answer=JobReceipt,
        who=Who.CALLER,
        costly=True,
        parts=(JOB,),
        problems=("not_found",),
        group="Reputation",
    ),
)
