"""How a job ended that money came for, as the agent's log says it. Pure."""

from collections.abc import Sequence
from enum import Enum, auto

from dvm.escrow.agreement import award_of
from dvm.jobs.lifecycle import PAYMENT_OPEN, JobState, PaymentState
from dvm.post import WRAP_MARGIN_SECONDS
from dvm.queries import JobRow, PaymentRow
from dvm.queries_invoices import InvoiceRow, InvoiceStage
from identity import parse_event
from identity.receipts import JobLeaf, Outcome
from wallet.escrow import Role, Stage
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method


class Not(Enum):
    """Why there is no leaf for a job."""

    YET = auto()  # its money is still under way
    EVER = auto()  # none came for it


def leaf_of(
    job: JobRow,
    payments: Sequence[PaymentRow],
    escrow: EscrowRow | None,
    invoice: InvoiceRow | None,
    *,
    lock: str,
    now: int,
) -> JobLeaf | Not:
    """What the log is to say of a job that has ended. `lock` is the agent's one-job key for it."""
    own = [payment for payment in payments if not payment.is_surplus]
    if any(payment.state in (*PAYMENT_OPEN, PaymentState.HELD) for payment in own):
        return Not.YET
    if escrow is not None and not escrow.stage.is_final:
        return Not.YET
    is_owed = invoice is not None and invoice.on_credit and invoice.state is InvoiceStage.OPEN
    # Brought back from the relays, which may give the payment again: done for nothing is no job that has a price.
    is_restored = not (own or escrow or invoice) and now < job.updated_at + WRAP_MARGIN_SECONDS
    received = [payment for payment in own if payment.state is PaymentState.REDEEMED]
    outcome = _outcome(job, escrow, is_paid=bool(received))
    if outcome is None:
        return Not.YET if job.state is JobState.DONE and (is_owed or is_restored) else Not.EVER
    by_invoice = any(payment.by_invoice for payment in received or own)
    return JobLeaf(
        request=job.id, result=job.result_id, customer=job.customer, kind=job.kind, confidence=job.confidence,
        method=Method.INVOICE if by_invoice else escrow.terms.method if escrow else Method.PREPAID,
        outcome=outcome, amount_msat=_kept_msat(job, escrow, outcome),
        at=max(job.updated_at, escrow.updated_at if escrow else 0),
        disputed=escrow is not None and bool(escrow.ruling or escrow.statements),
        lock="" if by_invoice else lock, hash=invoice.payment_hash if by_invoice and invoice else None,
    )  # fmt: skip


def _outcome(job: JobRow, escrow: EscrowRow | None, *, is_paid: bool) -> Outcome | None:
    match job.state:
        case JobState.RETURNED:
            return Outcome.RETURNED
        case JobState.CANCELLED if is_paid:
            return Outcome.CANCELLED
        case JobState.DONE if escrow is not None and escrow.stage is Stage.YIELDED:
            return Outcome.REFUNDED
        case JobState.DONE if escrow is not None and escrow.stage is Stage.LOST:
            return Outcome.LOST
        case JobState.DONE if is_paid:
            award_sat = _award_sat(escrow)
            return Outcome.SPLIT if award_sat is not None and award_sat < job.price_sat else Outcome.PAID
        case _:
            return None


def _kept_msat(job: JobRow, escrow: EscrowRow | None, outcome: Outcome) -> int:
    """What the agent was paid: the price, or what a ruling left of it. What mints took of it is not told."""
    match outcome:
        case Outcome.PAID | Outcome.CANCELLED:
            return job.price_msat
        case Outcome.SPLIT:
            return 1000 * (_award_sat(escrow) or 0)
        case _:
            return 0


def _award_sat(escrow: EscrowRow | None) -> int | None:
    if escrow is None or escrow.ruling is None:
        return None
    return award_of(parse_event(escrow.ruling), Role.PROVIDER)
