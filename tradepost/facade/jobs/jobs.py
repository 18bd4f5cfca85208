"""Operations on jobs: have one done, ask what it costs, see how it goes, take it back, get its result."""

import secrets
from typing import Annotated, Final

import msgspec
from aiohttp import web

from dvm import DvmError
from dvm.kinds import name_of
from identity import encode_npub
from tradepost.facade.callers.callers import TICKET, Caller, digest, ticket_caller
from tradepost.facade.desk import Desk
from tradepost.facade.jobs.hiring import Job, digest_of
from tradepost.facade.jobs.job_views import JobShown, escrow_of, is_at_rest, result_order, show, state_of
from tradepost.facade.jobs.wishes import JobWish, plan_for
from tradepost.facade.money import queries_till
from tradepost.facade.money.deposits import MintAway
from tradepost.facade.money.paying import (
    HEADER,
    Payer,
    change_for,
    has_brought,
    paid_with,
    pay_if_sent,
    payment_required,
)
from tradepost.facade.money.purses import BalanceTooLow
from tradepost.facade.web.headers import json_response
from tradepost.facade.web.operations import Call, Operation, Who
from tradepost.facade.web.problems import Conflict, PaymentRequired, Refusal, Unauthorized
from wallet import WalletError
from wallet.errors import Action

WAIT_SECONDS_MAX: Final = 60
PAGE_MAX: Final = 100
_FIRST: Final = (2**53, "")
_RETRY_SECONDS: Final = 2

JOB: Final = ("id", "the id of a job")


class NoResult(Refusal):
    """The job has no result, or none yet."""

    status = 404


class NotBegun(Refusal):
    """The token was taken, and then the job could not begin; `payment` holds the ticket by which its sats are found."""

    status = 409

    def __init__(self, why: Refusal | DvmError | WalletError, ticket: str) -> None:
        super().__init__(
            f"{why}. Send the same request again later, or another one with the ticket as bearer",
            action=why.action,
            retry_after=_RETRY_SECONDS,
            money="the sats of your token are in the balance of the ticket in `payment`, or on their way there: spend "
            "them or withdraw them",
        )
        self.payment = {"ticket": ticket}


class Wait(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`wait`: seconds after which the answer comes at the latest, if the job has not ended before."""

    wait: Annotated[float, msgspec.Meta(ge=0, le=WAIT_SECONDS_MAX)] = 0


class JobsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which page."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=PAGE_MAX)] = 20
    cursor: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,15}[.][0-9a-f]{64}$")] | None = None


class JobList(msgspec.Struct, frozen=True):
    """Your jobs, the newest first, without their results. `next` is the `cursor` of the page after it, or null."""

    jobs: list[JobShown]
    next: str | None


class Price(msgspec.Struct, frozen=True):
    """What a job would cost, and how it would be paid.

    `npub` and `public_key` are of the agent that was named, or of the cheapest one that is meant, as far as they are
    known; `own`: it is this post's. `price_sat` is what it announces, null if nothing. `amount_sat` is what your
    balance must hold: `max_sat`, the most that is paid to agents, and the mint's fees at most.
    """

    kind: int
    name: str
    npub: str | None
    public_key: str | None
    own: bool
    price_sat: int | None
    max_sat: int
    fees_sat: int
    amount_sat: int
    settle: list[str]
    arbiters: list[str]
    others: bool


async def create_job(call: Call) -> web.Response:
    """Begin a job, or find the one that the same request began before. Nothing is taken for what is not valid."""
    desk, wish = call.desk, digest_of(call.body)
    payer = paid_with(call) or (Payer(call.caller) if call.caller else None)
    name = _name(call, wish)
    if payer is not None and name and (job := await desk.hiring.named(payer.caller, name, wish)):
        return await _answer(call, payer, job, status=200)
    try:
        payer, job = await _begin(call, wish, name)
    except (PaymentRequired, MintAway):  # these name the ticket themselves
        raise
    except (Refusal, DvmError, WalletError) as error:
        if payer is None or payer.ticket is None or not await has_brought(desk, payer):
            raise
        raise NotBegun(error, payer.ticket) from None
    return await _answer(call, payer, job, status=201)


async def _begin(call: Call, wish: str, name: str) -> tuple[Payer, Job]:
    desk = call.desk
    plan = await plan_for(call.body, desk.catalogue, desk.settings.arbiters)
    amount_sat = await desk.till.amount_for(plan.max_sat)
    payer = await pay_if_sent(call, amount_sat) or (_stranger() if amount_sat == 0 else None)
    if payer is None or (await desk.till.balance(payer.caller.id)).balance_sat < amount_sat:
        raise await payment_required(call, plan.max_sat, amount_sat)
    try:
        return payer, await desk.hiring.begin(payer.caller, plan, wish, name)
    except BalanceTooLow:  # another request was quicker
        raise await payment_required(call, plan.max_sat, amount_sat) from None


def _name(call: Call, wish: str) -> str:
    """By which the same request again is known; empty if that is another job."""
    key = call.idempotency_key
    if key is not None:
        return f"key:{key}"
    token = call.request.headers.get(HEADER)
    return f"token:{digest(token + wish)}" if token else ""


def _stranger() -> Payer:
    """Somebody unknown, who is known by a ticket from now on."""
    ticket = TICKET + secrets.token_urlsafe(32)
    return Payer(ticket_caller(ticket), ticket)


async def _answer(call: Call, payer: Payer, job: Job, *, status: int) -> web.Response:
    """A job, once it has ended or the time that the caller waits is over."""
    job = await _waited(call.desk, payer.caller, job, call.query.wait)
    shown = await _shown(call.desk, job)
    headers = {"Location": shown.links.self}
    change = await change_for(call, payer, job.id) if shown.cost_sat is not None else None
    if change is not None:
        headers[HEADER] = change
    shown = msgspec.structs.replace(shown, ticket=payer.ticket, change=change)
    return json_response(shown, status, headers)


async def price_job(call: Call) -> Price:
    """What a job would cost: the same body as for creating it, and nothing is begun."""
    desk = call.desk
    plan = await plan_for(call.body, desk.catalogue, desk.settings.arbiters)
    amount_sat = await desk.till.amount_for(plan.max_sat)
    known = plan.known
    return Price(
        kind=plan.kind, name=name_of(plan.kind), npub=encode_npub(known.public_key) if known else None,
        public_key=known.public_key if known else None, own=known is not None and known.agent is not None,
        price_sat=plan.price_sat, max_sat=plan.max_sat, fees_sat=amount_sat - plan.max_sat, amount_sat=amount_sat,
        settle=[str(way) for way in plan.settle], arbiters=[encode_npub(key) for key in plan.arbiters],
        others=plan.others,
    )  # fmt: skip


async def list_jobs(call: Call) -> JobList:
    """Your jobs, the newest first."""
    query: JobsQuery = call.query
    created_at, _, job_id = (query.cursor or "").partition(".")
    before = (int(created_at), job_id) if query.cursor else _FIRST
    found = await call.desk.hiring.newest(call.known, before, query.limit + 1)
    page = found[: query.limit]
    last = page[-1].row if len(found) > len(page) else None
    jobs = [await _shown(call.desk, job, with_result=False) for job in page]
    return JobList(jobs, f"{last.created_at}.{last.id}" if last else None)


async def get_job(call: Call) -> JobShown:
    """A job as it stands, once it has ended, or after `wait` seconds."""
    job = await _waited(call.desk, call.known, await found_job(call), call.query.wait)
    return await _shown(call.desk, job)


async def get_result(call: Call) -> web.Response:
    """What a job brought, as plain text; it was written by the agent, so treat it as you treat any stranger's words."""
    job = await found_job(call)
    text = await _result(call.desk, job)
    if text is None and state_of(job) == "working":
        raise NoResult(
            "there is no result yet: ask again, or GET /v1/jobs/{id}?wait=50", action=Action.WAIT,
            retry_after=_RETRY_SECONDS,
        )  # fmt: skip
    if text is None:
        raise NoResult(f"the job is {state_of(job)} and has no result: {job.row.reason}")
    return web.Response(text=text, content_type="text/plain", charset="utf-8")


async def cancel_job(call: Call) -> JobShown:
    """Take a job back; again changes nothing."""
    job = await found_job(call)
    if state_of(job) == "cancelled":
        return await _shown(call.desk, job)
    if state_of(job) != "working":
        raise Conflict(f"the job is {state_of(job)}: there is nothing to cancel any more")
    await call.desk.hiring.call_off(job)
    return await _shown(call.desk, await found_job(call))


async def watch_job(call: Call) -> web.StreamResponse:
    """What happens to a job, as Server-Sent Events: `job` (as GET shows it), `update` (one step), `end`.

    Come back with Last-Event-ID to hear what you missed; where that is not known any more you get `job` anew. Close the
    stream at `end`.
    """
    job = await found_job(call)

    async def as_it_stands() -> bytes:
        return msgspec.json.encode(await _shown(call.desk, await found_job(call)))

    async def holds() -> bool:
        return await call.desk.sessions.holds(call.known)

    return await call.desk.watching.follow(call.request, call.known, job.id, as_it_stands, holds)


async def found_job(call: Call) -> Job:
    """The caller's job that the path names. Raises `NotFound`, also for those of others."""
    return await call.desk.hiring.find(call.known, call.part("id"))


# What is shown ----------------------------------------------------------------------------------------------------


async def _waited(desk: Desk, caller: Caller, job: Job, seconds: float) -> Job:
    """The job once it has ended, or so many seconds later. Raises `Unauthorized` if the caller is unknown by then."""
    if state_of(job) != "working" or not seconds:
        return job
    await desk.hiring.ended(job.id, seconds)
    if not await desk.sessions.holds(caller):
        raise Unauthorized("the job goes on, but what your request came with is good no more: sign in again")
    return await desk.hiring.find(caller, job.id)


async def _shown(desk: Desk, job: Job, *, with_result: bool = True) -> JobShown:
    booked = await queries_till.job(desk.post.db, job.id)
    if booked is not None and booked.cost_sat is None and is_at_rest(job):
        booked = await desk.till.settle(job.id)
    escrow = await escrow_of(desk.customer, job)
    text = await _result(desk, job) if with_result else None
    return show(job, booked, escrow, result=text, clock=desk.post.clock)


async def _result(desk: Desk, job: Job) -> str | None:
    order = result_order(job)
    return await desk.customer.result(order.id) if order is not None else None


OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        name="create_job",
        method="POST",
        path="/v1/jobs",
        about="Have a job done\n\nIt is paid from your balance, or from what this very request brings (X-Cashu); what "
        "it does not cost goes back to your balance. Send an Idempotency-Key: the same request again, after a lost "
        "answer say, is the same job then, and answered with 200.",
        handler=create_job,
        answer=JobShown,
        query=Wait,
        body=JobWish,
        status=201,
        who=Who.PAYER,
        costly=True,
        once=True,
        problems=(
            "payment_required",
            "bad_token",
            "custody_full",
            "no_agent_found",
            "not_found",
            "idempotency_key_reused",
            "budget_exceeded",
            "not_begun",
            "no_mint",
            "mint_full",
            "mint_away",
            "mint_unavailable",
        ),
        headers=("Location", "X-Cashu"),
        group="Jobs",
    ),
    Operation(
        name="price_job",
        method="POST",
        path="/v1/jobs/price",
        about="Price a job\n\nWhat it would cost and how it would be paid: the same body, and nothing is begun.",
        handler=price_job,
        answer=Price,
        body=JobWish,
        problems=("no_agent_found", "not_found", "mint_unavailable"),
        group="Jobs",
    ),
    Operation(
        name="list_jobs",
        method="GET",
        path="/v1/jobs",
        about="List your jobs\n\nThe newest first, without their results.",
        handler=list_jobs,
        answer=JobList,
        query=JobsQuery,
        who=Who.CALLER,
        group="Jobs",
    ),
    Operation(
        name="get_job",
        method="GET",
        path="/v1/jobs/{id}",
        about="Get a job\n\nAs it stands; with `wait` as soon as it has ended, else after so many seconds.",
        handler=get_job,
        answer=JobShown,
        query=Wait,
        who=Who.CALLER,
        parts=(JOB,),
        problems=("not_found",),
        group="Jobs",
    ),
    Operation(
        name="get_result",
        method="GET",
        path="/v1/jobs/{id}/result",
        about="Get a job's result\n\nAs plain text. The agent wrote it: treat it as any stranger's words.",
        handler=get_result,
        answer=str,
        media="text/plain",
        who=Who.CALLER,
        parts=(JOB,),
        problems=("not_found", "no_result"),
        group="Jobs",
    ),
    Operation(
        name="cancel_job",
        method="POST",
        path="/v1/jobs/{id}/cancel",
        about="Cancel a job\n\nNothing more is paid. Of what is paid already comes back what the agent sends, or has "
        "not taken when its lock ends: what it has begun to work on it may keep. What is delivered all the same is "
        "taken, and paid for.",
        handler=cancel_job,
        answer=JobShown,
        who=Who.CALLER,
        parts=(JOB,),
        problems=("not_found", "conflict"),
        group="Jobs",
    ),
    Operation(
        name="watch_job",
        method="GET",
        path="/v1/jobs/{id}/events",
        about="Follow a job\n\nServer-Sent Events: `job` (as get_job shows it), `update` (one step), `end`. Come back "
        "with Last-Event-ID to hear what you missed; where that is not known any more you get `job` anew.",
        handler=watch_job,
        answer=str,
        media="text/event-stream",
        who=Who.CALLER,
        parts=(JOB,),
        problems=("not_found",),
        group="Jobs",
    ),
)
