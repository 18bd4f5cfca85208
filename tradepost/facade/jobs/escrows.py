"""Operations on the escrow of a job: where it stands, accept what was delivered, or dispute it before the arbiter."""

from typing import Annotated, Final

import msgspec

from dvm import BadRequest
from dvm.escrow.messages import Wishes
from dvm.escrow.parties import STATEMENT_BYTES_MAX
from dvm.escrow.standing import awards, possible, review_until
from dvm.queries import get_order
from identity import encode_npub
from store import Also, Transaction
from tradepost.facade.agents.agents import Sat
from tradepost.facade.desk import Desk
from tradepost.facade.jobs.hiring import Job
from tradepost.facade.jobs.job_views import escrow_of
from tradepost.facade.jobs.jobs import JOB, found_job
from tradepost.facade.web.operations import Call, Operation, Who
from tradepost.facade.web.problems import Conflict, NotFound, NotValid
from wallet.escrow import Stage
from wallet.queries_escrows import EscrowRow


class EscrowParty(msgspec.Struct, frozen=True):
    """Somebody by the key."""

    npub: str
    public_key: str


class EscrowAction(msgspec.Struct, frozen=True):
    """What you can do at present: `accept` or `dispute`, until when (unix seconds), and what that costs besides."""

    action: str
    until: int
    cost_sat: int


class EscrowStatement(msgspec.Struct, frozen=True):
    """What a party told the arbiter. `by`: customer or provider."""

    by: str
    text: str


class EscrowAward(msgspec.Struct, frozen=True):
    """How the arbiter ruled."""

    agent_sat: int
    customer_sat: int


class Escrow(msgspec.Struct, frozen=True):
    """The escrow of a job: coins that two of agent, customer (this post, for you) and arbiter can move.

    `stage`: locking, held (the agent is at work), delivered (look at the result), disputed, overdue (nothing came: they
    are asked back), conceded, claiming; released (to the agent), refunded, lost, void. The result is due by
    `deliver_by`; if you neither accept nor dispute it by `review_until`, it is paid. A dispute is ruled on by
    `rule_by`, else all comes back after `locktime`. `fee_state` is that of the order that pays for the hearing.
    `received_sat` came back.
    """

    job: str
    request: str
    stage: str
    price_sat: int
    mint: str
    agent: EscrowParty
    arbiter: EscrowParty | None
    arbiter_fee_sat: int
    fee_state: str | None
    deliver_by: int
    delivered_at: int | None
    review_until: int | None
    rule_by: int
    locktime: int
    received_sat: int
    awarded: EscrowAward | None
    statements: tuple[EscrowStatement, ...]
    reason: str
    can: tuple[EscrowAction, ...]


class Dispute(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why you do not pay: the arbiter and the agent read it, nobody else. `fee_max_sat`: what you pay for the hearing,
    at most; with the mint's fees it leaves your balance at once.
    """

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=STATEMENT_BYTES_MAX)]
    fee_max_sat: Sat = 0


async def get_escrow(call: Call) -> Escrow:
    """Where the escrow of a job stands."""
    job = await found_job(call)
    return await _shown(call.desk, job, await _escrow(call.desk, job))


async def accept_result(call: Call) -> Escrow:
    """Sign the sats over to the agent. What was accepted stays so; accepting it again changes nothing."""
    job = await found_job(call)
    row = await _escrow(call.desk, job)
    if row.stage not in (Stage.RELEASED, Stage.CONCEDED):
        _check_can(call.desk, row, "accept")
        await _do(call.desk, row, Wishes("accept"))
    return await _shown(call.desk, job, await _escrow(call.desk, job))


async def dispute_result(call: Call) -> Escrow:
    """Call the arbiter, in the transaction that takes its fee from the caller's balance."""
    desk, wish, caller = call.desk, call.body, call.known
    job = await found_job(call)
    row = await _escrow(desk, job)
    if row.stage is Stage.DISPUTED:
        return await _shown(desk, job, row)
    _check_can(desk, row, "dispute")
    fee_sat = row.terms.arbiter_fee_sat
    if fee_sat > wish.fee_max_sat:
        raise NotValid(
            f"the arbiter takes {fee_sat} sat for hearing it: say `fee_max_sat` if you will pay that"
        )
    amount_sat = await desk.till.amount_for(fee_sat)

    async def charge(tx: Transaction) -> None:
        if amount_sat:
            await desk.till.charge_fee(tx, caller, row.request_id, amount_sat)

    await _do(desk, row, Wishes("dispute", wish.reason), charge)
    return await _shown(desk, job, await _escrow(desk, job))


async def _escrow(desk: Desk, job: Job) -> EscrowRow:
    row = await escrow_of(desk.customer, job)
    if row is None:
        raise NotFound(
            "this job has no escrow: it is free, was paid in advance, or its agent has made no offer yet"
        )
    return row


def _check_can(desk: Desk, row: EscrowRow, action: str) -> None:
    if action not in possible(row, desk.post.clock.now()):
        raise Conflict(f"the escrow is {row.stage}: you cannot {action} now; GET it to see what comes next")


async def _do(desk: Desk, row: EscrowRow, wish: Wishes, also: Also | None = None) -> None:
    try:
        await desk.customer.desk.wish(row.request_id, wish, also=also)
    except BadRequest:
        _check_can(
            desk, await desk.customer.desk.get(row.request_id) or row, wish.action
        )  # it moved meanwhile
        raise


async def _shown(desk: Desk, job: Job, row: EscrowRow) -> Escrow:
    terms, ruled = row.terms, awards(row)
    fee = await get_order(desk.post.db, row.fee_order) if row.fee_order else None
    return Escrow(
        job=job.id, request=row.request_id, stage=str(row.stage), price_sat=terms.price_sat, mint=terms.mint,
        agent=_party(terms.provider), arbiter=_party(terms.arbiter) if terms.arbiter else None,
        arbiter_fee_sat=terms.arbiter_fee_sat, fee_state=str(fee.state) if fee else None, deliver_by=terms.deliver_by,
        delivered_at=row.delivered_at, review_until=review_until(row), rule_by=terms.claim_until,
        locktime=terms.locktime, received_sat=row.amount_sat,
        awarded=EscrowAward(ruled["provider"], ruled["customer"]) if ruled else None,
        statements=tuple(EscrowStatement(one["by"], one["text"]) for one in row.statements), reason=row.reason,
        can=await _possible(desk, row),
    )  # fmt: skip


async def _possible(desk: Desk, row: EscrowRow) -> tuple[EscrowAction, ...]:
    terms, now = row.terms, desk.post.clock.now()
    until = {"accept": terms.claim_until, "dispute": terms.claim_until}
    if row.stage is Stage.DELIVERED and (reviewed := review_until(row)) is not None:
        until = {"accept": reviewed, "dispute": reviewed}  # then it is paid
    fee_sat = await desk.till.amount_for(terms.arbiter_fee_sat)
    costs = {"accept": 0, "dispute": fee_sat}
    return tuple(EscrowAction(action, until[action], costs[action]) for action in possible(row, now))


def _party(public_key: str) -> EscrowParty:
    return EscrowParty(encode_npub(public_key), public_key)


_PROBLEMS: Final = ("not_found", "conflict")

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        name="get_escrow",
        method="GET",
        path="/v1/jobs/{id}/escrow",
        about="Get the escrow of a job\n\nWhere it stands, its deadlines, and what you can do.",
        handler=get_escrow,
        answer=Escrow,
        who=Who.CALLER,
        parts=(JOB,),
        problems=("not_found",),
        group="Escrow",
    ),
    Operation(
        name="accept_result",
        method="POST",
        path="/v1/jobs/{id}/escrow/accept",
        about="Accept a result\n\nThe sats go to the agent, and that cannot be taken back. Again changes nothing.",
        handler=accept_result,
        answer=Escrow,
        who=Who.CALLER,
        parts=(JOB,),
        problems=_PROBLEMS,
        group="Escrow",
    ),
    Operation(
        name="dispute_result",
        method="POST",
        path="/v1/jobs/{id}/escrow/dispute",
        about="Dispute a result\n\nThe arbiter hears you and the agent, and rules who gets the sats. What it takes for "
        "that leaves your balance at once. Again changes nothing.",
        handler=dispute_result,
        answer=Escrow,
        body=Dispute,
        who=Who.CALLER,
        parts=(JOB,),
        problems=(*_PROBLEMS, "balance_too_low"),
        group="Escrow",
    ),
)
