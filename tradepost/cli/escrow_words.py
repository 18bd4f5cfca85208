"""An escrow in words and as fields: what comes next, what became of it. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from dvm import OrderState
from dvm.escrow.agreement import ARBITRATION
from dvm.escrow.parties import UNPAID, fee_is_due
from dvm.escrow.standing import awards, possible, review_until
from dvm.queries import OrderRow
from identity import encode_npub
from tradepost.cli.output import local_time
from wallet.escrow import Role, Stage
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method

_OPEN_FEE: Final = (OrderState.REQUESTED, OrderState.PAYING)
_PAID_FEE: Final = (OrderState.PAID, OrderState.DONE)


def refusal(row: EscrowRow, action: str, fee: OrderRow | None, now: int) -> str:
    """Why that cannot be done with it, and what comes instead."""
    short, what = row.request_id[:12], "rule on" if action == "rule" else action
    return (
        f"you cannot {what} escrow {short}, which is {row.stage}; {next_step(row, fee, now)}. "
        f"`tradepost escrow show {short}` tells more"
    )


def ruled(award_sat: Mapping[str, int] | None) -> str:
    """A ruling's `awards` in words; empty if there is none."""
    if award_sat is None:
        return ""
    return f"{award_sat['provider']} sat to the agent, {award_sat['customer']} sat to the customer"


def next_step(row: EscrowRow, fee: OrderRow | None, now: int) -> str:
    """What comes next, or what it came to: some 35 characters. `fee` is the customer's order of the hearing."""
    if (award_sat := awards(row)) and (row.stage.is_locked or row.stage in (Stage.RELEASED, Stage.RULED)):
        told = f"agent {award_sat['provider']} sat, customer {award_sat['customer']} sat"
        return told if row.stage is Stage.RULED else f"ruled: {told}"
    match row.role:
        case Role.CUSTOMER:
            return _customer(row, fee, now)
        case Role.PROVIDER:
            return _provider(row, now)
        case Role.ARBITER:
            return _arbiter(row, now)


def _customer(row: EscrowRow, fee: OrderRow | None, now: int) -> str:
    terms = row.terms
    back_at = when(terms.locktime, now)
    if row.stage.is_locked and row.stage is not Stage.DELIVERED and now > terms.locktime:
        return "`tradepost settle` takes it back now"
    match row.stage:
        case Stage.LOCKING:
            return "the mint is asked to lock the sats"
        case Stage.HELD if terms.method is Method.REVEAL:
            return f"key comes, or sats back after {back_at}"
        case Stage.HELD if now < terms.deliver_by:
            return f"result due by {when(terms.deliver_by, now)}"
        case Stage.HELD:
            return "overdue: `tradepost settle` goes on"
        case Stage.OVERDUE:
            return f"back from arbiter, or after {back_at}"
        case Stage.DELIVERED if now < (review_until(row) or 0):
            fee_sat = f" ({terms.arbiter_fee_sat} sat)" if terms.arbiter_fee_sat else ""
            return f"accept or dispute{fee_sat} by {when(review_until(row) or 0, now)}"
        case Stage.DELIVERED:
            return "time is over: `tradepost settle` pays"
        case Stage.DISPUTED if is_unheard(row, fee):
            return f"unheard: fee of {terms.arbiter_fee_sat} sat not paid"
        case Stage.DISPUTED if now >= terms.claim_until:
            return f"no ruling: sats back after {back_at}"
        case Stage.DISPUTED:
            return f"ruling by {when(terms.claim_until, now)}, else sats back"
        case Stage.CONCEDED:
            return "the agent may take it"
        case Stage.REFUNDED:
            return f"{row.amount_sat} of {terms.price_sat} sat came back"
        case Stage.RELEASED:
            return "went to the agent"
    return _either(row)


def _provider(row: EscrowRow, now: int) -> str:
    terms = row.terms
    match row.stage:
        case Stage.PROPOSED if terms.method is Method.REVEAL:
            return "to be worked on"
        case Stage.PROPOSED:
            return f"arbiter agrees by {when(terms.fund_until, now)}"
        case Stage.AGREED:
            return f"customer locks sats by {when(terms.fund_until, now)}"
        case Stage.HELD:
            return f"deliver by {when(terms.deliver_by, now)}"
        case Stage.DELIVERED if now < (review_until(row) or 0):
            return f"customer looks until {when(review_until(row) or 0, now)}"
        case Stage.DELIVERED:
            return f"arbiter signs by {when(terms.claim_until, now)}"
        case Stage.DISPUTED if now >= terms.claim_until:
            return f"no ruling: customer's after {when(terms.locktime, now)}"
        case Stage.DISPUTED:
            return f"answer or refund; ruling by {when(terms.claim_until, now)}"
        case Stage.PAID:
            return f"{row.amount_sat} of {terms.price_sat} sat are yours"
        case Stage.CONCEDED | Stage.YIELDED:
            return "you gave it back"
    return _either(row)


def _arbiter(row: EscrowRow, now: int) -> str:
    terms = row.terms
    match row.stage:
        case Stage.AGREED if now > terms.deliver_by:
            return f"nobody called; ends {when(terms.claim_until, now)}"
        case Stage.AGREED:
            return f"result due by {when(terms.deliver_by, now)}"
        case Stage.DELIVERED if (
            not row.conceded
            and terms.arbiter_fee_sat
            and any(one["by"] == "customer" for one in row.statements)
        ):
            return f"waits for your fee of {terms.arbiter_fee_sat} sat"
        case Stage.OVERDUE | Stage.DELIVERED:
            party = "the agent" if row.stage is Stage.DELIVERED else "the customer"
            return f"signs for {party} at {when(row.wake_at or terms.claim_until, now)}"
        case Stage.DISPUTED if now >= terms.claim_until:
            return f"too late to rule since {when(terms.claim_until, now)}"
        case Stage.DISPUTED:
            return f"rule by {when(terms.claim_until, now)}"
        case Stage.RULED:
            return "no ruling was needed"
        case Stage.VOID:
            return "ended without a ruling"
    return _either(row)


def _either(row: EscrowRow) -> str:
    """What a stage means for customer and provider alike."""
    match row.stage:
        case Stage.CLAIMING:
            return f"`tradepost {'up' if row.role is Role.PROVIDER else 'settle'}` takes your sats"
        case Stage.LOST:
            return "somebody else took the sats"
        case _:
            return "ended before any sat moved"


def when(unix: int, now: int) -> str:
    """A moment as the reader's clock shows it: without the day if that is today."""
    moment = local_time(unix)
    return moment[11:16] if moment[:10] == local_time(now)[:10] else moment[5:16]


# The fee of a dispute --------------------------------------------------------------------------------------------


def is_unheard(row: EscrowRow, fee: OrderRow | None) -> bool:
    """Whether our dispute waits for a fee, and the order that was to pay it will not."""
    costs = row.role is Role.CUSTOMER and row.stage is Stage.DISPUTED and row.terms.arbiter_fee_sat > 0
    return costs and row.ruling is None and fee is not None and fee.state not in (*_OPEN_FEE, *_PAID_FEE)


def is_settled(fee: OrderRow | None) -> bool:
    """Whether it is known what became of the order of a fee."""
    return fee is not None and fee.state not in _OPEN_FEE


def is_moving(row: EscrowRow, fee: OrderRow | None, now: int) -> bool:
    """Whether the customer's process has something to do for it: it does not only wait for somebody's decision."""
    if row.stage in (Stage.DELIVERED, Stage.DISPUTED) or (row.stage, row.terms.method) == (
        Stage.HELD,
        Method.ESCROW,
    ):
        is_due = row.wake_at is not None and row.wake_at <= now
        is_fee_open = fee_is_due(row) or (row.fee_order is not None and not is_settled(fee))
        return is_due or is_fee_open or bool(row.signatures or row.ruling)
    return True


def pay_command(row: EscrowRow, fee: OrderRow | None) -> str:
    """The command that pays the fee of a dispute whose hearing is not ordered, or was ordered in vain."""
    if fee is None or fee.state in UNPAID:
        return "tradepost settle"
    return (
        f"tradepost ask {encode_npub(row.terms.arbiter or '')} {row.request_id} --kind {ARBITRATION} "
        f"--max-sat {row.terms.arbiter_fee_sat} --private"
    )


def fee_told(row: EscrowRow, fee: OrderRow | None) -> str:
    """What a dispute costs, or cost, and whether that was paid; empty if there is no fee."""
    sat = f"{row.terms.arbiter_fee_sat} sat"
    if not row.terms.arbiter_fee_sat:
        return ""
    if row.role is Role.ARBITER:
        return f"{sat}, paid" if row.fee_order else f"{sat}, not paid"
    if row.role is Role.PROVIDER or (row.fee_order is None and row.stage is not Stage.DISPUTED):
        return f"{sat}, if the customer disputes" if not row.stage.is_final else f"{sat}, not asked for"
    match fee.state if fee else None:
        case None:
            return f"{sat}, not paid yet: `tradepost settle` orders the hearing"
        case OrderState.REQUESTED | OrderState.PAYING:
            return f"{sat}, ordered and not paid yet"
        case OrderState.PAID | OrderState.DONE:
            return f"{sat}, paid"
        case OrderState.REFUNDED:
            return f"{sat}, came back: {_reason(fee)}"
        case OrderState.AWAITING_REFUND:
            return f"{sat}, to come back: {_reason(fee)}"
        case OrderState.LOST:
            return f"{sat}, lost: {_reason(fee)}"
    return f"{sat}, not paid: {_reason(fee)}"


def _reason(fee: OrderRow | None) -> str:
    return (fee and fee.reason) or "the arbiter did not say why"


# For programs ----------------------------------------------------------------------------------------------------


def fields(row: EscrowRow, fee: OrderRow | None, now: int) -> dict[str, Any]:
    """An escrow as programs see it: no coins, no signatures."""
    terms = row.terms
    return {
        "id": row.request_id, "role": row.role, "stage": row.stage, "method": terms.method,
        "price_sat": terms.price_sat, "mint": terms.mint, "deliver_by": terms.deliver_by,
        "delivered_at": row.delivered_at, "review_until": review_until(row),
        "rule_by": terms.claim_until if terms.arbiter else None, "locktime": terms.locktime,
        "provider": terms.provider, "customer": terms.customer, "arbiter": terms.arbiter,
        "arbiter_fee_sat": terms.arbiter_fee_sat, "fee_order": row.fee_order, "fee_state": fee and fee.state,
        "fee_reason": fee and fee.reason, "received_sat": row.amount_sat, "awarded_sat": awards(row),
        "reason": row.reason, "possible": possible(row, now),
        "next_at": None if row.stage.is_final else row.wake_at, "created_at": row.created_at,
    }  # fmt: skip
