"""A job as its caller sees it: read from guarantee, orders and escrow, every time anew."""

from typing import Final, Literal

import msgspec

from dvm import Customer, OrderState
from dvm.escrow.standing import possible, review_until
from dvm.kinds import name_of
from dvm.orders.guarantee_lifecycle import CALLED_OFF, GuaranteeState
from dvm.orders.guarantees import trouble_of
from dvm.queries import OrderRow
from identity import encode_npub
from store import Clock
from tradepost.facade.jobs.hiring import Job
from tradepost.facade.money.queries_till import CallerJob
from wallet import ExposureExceeded, InsufficientFunds
from wallet.escrow import Stage
from wallet.queries_escrows import EscrowRow

RESULT_CHARS_MAX: Final = 16_384  # of a result that is in the job itself; a longer one is at `links.result`

_OURS: Final = (InsufficientFunds.code, ExposureExceeded.code)
_OUR_TROUBLE: Final = (
    "this post has not enough sats at any mint whose coins the agent takes; hire another one"
)

State = Literal["working", "done", "failed", "cancelled"]
Step = Literal["looking", "asked", "paying", "paid", "at_work", "refunding", "review", "disputed", "ended"]


class Attempt(msgspec.Struct, frozen=True):
    """One agent that was asked. `request` is the event id of what it was asked, which is the order's id everywhere.

    `kind` is the work by its NIP-90 number, `name` the same in words.
    `reason` and its `code` say what went wrong, if anything did.
    `state`: requested, paying, paid, awaiting_refund, done, failed, expired, refunded, lost, cancelled.
    """

    npub: str
    public_key: str
    request: str
    kind: int
    name: str
    state: str
    price_sat: int
    reason: str
    code: str
    created_at: int


class EscrowGlance(msgspec.Struct, frozen=True):
    """Where the escrow of a job stands; GET /v1/jobs/{id}/escrow tells all of it. `can`: accept, dispute."""

    stage: str
    price_sat: int
    review_until: int | None
    can: list[str]


class JobLinks(msgspec.Struct, frozen=True):
    """Where there is more of it."""

    self: str
    result: str
    events: str
    receipt: str
    escrow: str


class JobShown(msgspec.Struct, frozen=True):
    """A job.

    `state`: working, done, failed, cancelled; a result that comes late makes a failed one done. `step`: looking (for an
    agent), asked, paying, paid, at_work, refunding, review (you have to accept or dispute it), disputed, ended.
    `result` is None as long as there is none, and where it is longer than 16,384 characters: it is at `links.result`
    then. `confidence`: how sure the agent says that it is, 0 … 1.
    `reserved_sat` left your balance when it began, fees included, `cost_sat` is what it cost (None: not known yet);
    `money` says in words where the sats are, `reason` and its `code` why there is no result. `ticket`, once: keep it,
    it is how you come back to this job. `change`: what is left of the token that you sent, where the answer waited for
    the end; it is in the header X-Cashu, too.
    """

    id: str
    state: State
    step: Step
    result: str | None
    confidence: float | None
    price_sat: int
    max_sat: int
    reserved_sat: int
    cost_sat: int | None
    money: str
    reason: str
    code: str
    attempts: list[Attempt]
    escrow: EscrowGlance | None
    created_at: int
    deadline_at: int
    links: JobLinks
    ticket: str | None = None
    change: str | None = None

    def __repr__(self) -> str:
        return f"JobShown(id={self.id!r}, state={self.state!r})"


def state_of(job: Job) -> State:
    """Where a job stands; what was delivered after its end counts."""
    if job.row.state is GuaranteeState.OPEN:
        return "working"
    if result_order(job) is not None:
        return "done"
    return "cancelled" if job.row.reason == CALLED_OFF else "failed"


def result_order(job: Job) -> OrderRow | None:
    """The order that brought the result, whatever became of its money later; None as long as the job is open."""
    if job.row.state is GuaranteeState.OPEN:
        return None
    return next(
        (one for one in job.orders if one.id == job.row.order_id or one.state is OrderState.DONE), None
    )


def leading_order(job: Job) -> OrderRow | None:
    """The order that a job stands for: that of the result, else the last one."""
    return result_order(job) or (job.orders[-1] if job.orders else None)


def is_at_rest(job: Job) -> bool:
    """Whether it has ended, and nothing is waited for by any of its orders: `queries_guarantees` says it in SQL."""
    return job.row.state is not GuaranteeState.OPEN and all(
        order.state.is_final or order.mint in job.mints_gone for order in job.orders
    )


def step_of(job: Job, escrow: EscrowRow | None) -> Step:
    """What is going on."""
    if escrow is not None and escrow.stage is Stage.DISPUTED:
        return "disputed"
    if escrow is not None and escrow.stage is Stage.DELIVERED:
        return "review"
    if state_of(job) != "working":
        return "ended" if is_at_rest(job) else "refunding"
    order = job.orders[-1] if job.orders else None
    match order.state if order else None:
        case OrderState.REQUESTED:
            return "asked"
        case OrderState.PAYING:
            return "paying"
        case OrderState.PAID if order and order.heard_in == OrderState.PAID:
            return "at_work"
        case OrderState.PAID:
            return "paid"
        case OrderState.AWAITING_REFUND:
            return "refunding"
        case _:
            return "looking"


def money_of(job: Job, booked: CallerJob | None, escrow: EscrowRow | None) -> str:
    """Where a caller's sats are, in words."""
    reserved_sat = booked.reserved_sat if booked else 0
    if reserved_sat == 0:
        return "it is free: nothing was taken from your balance"
    parts = _held(job, escrow)
    lost_sat = sum(order.price_sat for order in job.orders if order.state is OrderState.LOST)
    if lost_sat:
        parts.append(f"{lost_sat} sat are lost: the agent took them and delivered nothing")
    if booked is None or booked.cost_sat is None:
        return "; ".join([f"{reserved_sat} sat of your balance are kept for this job", *parts])
    back_sat = reserved_sat - booked.cost_sat
    back = f", {back_sat} sat went back to your balance" if back_sat else ""
    return "; ".join([f"it cost {booked.cost_sat} sat, fees included{back}", *parts])


def _held(job: Job, escrow: EscrowRow | None) -> list[str]:
    told = []
    for order in job.orders:
        if order.mint in job.mints_gone and not order.state.is_final:
            told.append(
                f"{order.price_sat} sat are at a mint that is gone; what comes back if it returns is yours again"
            )
        elif escrow is not None and order.id == escrow.request_id and not escrow.stage.is_final:
            told.append(f"{order.price_sat} sat are in escrow")
        elif order.state in (OrderState.PAYING, OrderState.PAID):
            told.append(f"{order.price_sat} sat are locked for the agent")
        elif order.state is OrderState.AWAITING_REFUND:
            told.append(
                f"{order.price_sat} sat are asked back; what the agent has not taken is yours {_when(order)}"
            )
    return told


def _when(order: OrderRow) -> str:
    return f"again after {order.locktime}" if order.locktime else "again later"


async def escrow_of(customer: Customer, job: Job) -> EscrowRow | None:
    """The escrow of the order that a job stands for; None if it has none."""
    order = leading_order(job)
    return await customer.desk.get(order.id) if order is not None else None


def attempt(order: OrderRow) -> Attempt:
    """An order, as its caller sees it."""
    return Attempt(
        encode_npub(order.provider), order.provider, order.id, order.kind, name_of(order.kind), str(order.state),
        order.price_sat, _reason(order), order.code, order.created_at,
    )  # fmt: skip


def _reason(order: OrderRow) -> str:
    """Why an order failed; what this post's wallet holds is nobody's business."""
    return _OUR_TROUBLE if order.code in _OURS else order.reason


def _reason_of(job: Job) -> str:
    ours = any(order.code in _OURS for order in job.orders)
    return _OUR_TROUBLE if ours and job.row.state is GuaranteeState.FAILED else job.row.reason


def links(job_id: str) -> JobLinks:
    """The paths of a job."""
    path = f"/v1/jobs/{job_id}"
    return JobLinks(path, f"{path}/result", f"{path}/events", f"{path}/receipt", f"{path}/escrow")


def show(
    job: Job,
    booked: CallerJob | None,
    escrow: EscrowRow | None,
    *,
    result: str | None,
    clock: Clock,
) -> JobShown:
    """A job as it stands; `result` is its text, if that is to be shown."""
    order, state = leading_order(job), state_of(job)
    glance = None
    if escrow is not None:
        can = possible(escrow, clock.now())
        glance = EscrowGlance(str(escrow.stage), escrow.terms.price_sat, review_until(escrow), can)
    return JobShown(
        id=job.id, state=state, step=step_of(job, escrow),
        result=result if result is not None and len(result) <= RESULT_CHARS_MAX else None,
        confidence=order.confidence if order else None, price_sat=order.price_sat if order else 0,
        max_sat=job.row.max_sat, reserved_sat=booked.reserved_sat if booked else 0,
        cost_sat=booked.cost_sat if booked else None, money=money_of(job, booked, escrow), reason=_reason_of(job),
        code=trouble_of(job.row, job.orders) if state in ("failed", "cancelled") else "",
        attempts=[attempt(one) for one in job.orders], escrow=glance, created_at=job.row.created_at,
        deadline_at=job.row.deadline_at, links=links(job.id),
    )  # fmt: skip
