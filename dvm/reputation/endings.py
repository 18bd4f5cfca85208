"""How a job ended that money came for, as the agent's log says it. Pure."""

from collections.abc import Sequence
from enum import Enum, auto

from dvm.jobs.lifecycle import CANCELLED, PAYMENT_OPEN, JobState, PaymentState
from dvm.post import WRAP_MARGIN_SECONDS
from dvm.queries import JobRow, PaymentRow
from dvm.queries_invoices import InvoiceRow, InvoiceStage
from identity import SecretKey
from identity.receipts import JobLeaf, Outcome, claim_lock
from wallet.escrow import Stage
from wallet.invoice import parse_invoice
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
    lock: SecretKey,
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
    went_back = any(payment.state is PaymentState.RETURNED for payment in own)
    outcome = _outcome(job, escrow, is_paid=bool(received), went_back=went_back)
    if outcome is None:
        return Not.YET if job.state is JobState.DONE and (is_owed or is_restored) else Not.EVER
    bolt11 = next((payment.token for payment in received or own if payment.by_invoice), None)
    return JobLeaf(
        request=job.id, result=job.result_id, customer=job.customer, kind=job.kind, confidence=job.confidence,
        method=Method.INVOICE if bolt11 else escrow.terms.method if escrow else Method.PREPAID,
        outcome=outcome, amount_msat=_kept_msat(job, escrow, outcome),
        at=max(job.updated_at, escrow.updated_at if escrow else 0),
        disputed=escrow is not None and bool(escrow.ruling or escrow.statements),
        lock="" if bolt11 else lock.compressed_public_key,
        lock_sig="" if bolt11 else claim_lock(lock, job.agent, job.id),
        hash=parse_invoice(bolt11).payment_hash if bolt11 else None,
    )  # fmt: skip


def _outcome(job: JobRow, escrow: EscrowRow | None, *, is_paid: bool, went_back: bool) -> Outcome | None:
    match job.state:
        case JobState.RETURNED if job.reason.startswith(CANCELLED):
            return Outcome.SENT_BACK
        case JobState.RETURNED:
            return Outcome.RETURNED
        case JobState.CANCELLED if is_paid:
            return Outcome.CANCELLED
        case JobState.DONE if escrow is not None and escrow.stage is Stage.YIELDED:
            return Outcome.REFUNDED
        case JobState.DONE if escrow is not None and escrow.stage is Stage.LOST:
            return Outcome.LOST
        case JobState.DONE if is_paid:
            return Outcome.PAID if _got_sat(job, escrow) == job.price_sat else Outcome.SPLIT
        case JobState.FAILED | JobState.CANCELLED | JobState.EXPIRED if went_back:
            return Outcome.SENT_BACK
        case _:
            return None


def _kept_msat(job: JobRow, escrow: EscrowRow | None, outcome: Outcome) -> int:
    """What the agent was paid. What mints took of it is not told, but of a part of the price."""
    match outcome:
        case Outcome.PAID | Outcome.CANCELLED:
            return job.price_msat
        case Outcome.SPLIT:
            return 1000 * _got_sat(job, escrow)
        case _:
            return 0


def _got_sat(job: JobRow, escrow: EscrowRow | None) -> int:
    """The price, or what came out of an escrow that was ruled on: not what is in the ruling, as a party may give in."""
    is_ruled = escrow is not None and escrow.ruling is not None
    return min(job.price_sat, escrow.amount_sat) if escrow and is_ruled else job.price_sat
