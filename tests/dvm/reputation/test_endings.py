"""What the log says of a job, by every way in which jobs and their money end."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from dvm.jobs.lifecycle import CANCELLED, JobState, PaymentState
from dvm.queries import SURPLUS, JobRow, PaymentRow
from dvm.queries_invoices import InvoiceRow, InvoiceStage
from dvm.reputation.endings import Not, leaf_of
from identity import SecretKey, make_template, sign_event
from identity.receipts import JobLeaf, Outcome, is_lock_of
from tradepost.testing import MemoryMint
from wallet.escrow import Role, Stage
from wallet.invoice import parse_invoice
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method, Terms

KEY = SecretKey.generate()
LOCK = KEY.compressed_public_key
REQUEST = sign_event(make_template(5001, tags=[("i", "x", "text")], created_at=10), KEY)
JOB = JobRow(
    agent="aa" * 32, id=REQUEST.id, kind=5001, customer=KEY.public_key, state=JobState.DONE, price_msat=21_000,
    request=REQUEST, relay="", reason="", attempts=1, locktime=None, offer_expires_at=None, created_at=10,
    updated_at=20, result_id="bb" * 32, confidence=0.8,
)  # fmt: skip
TERMS = Terms(
    method=Method.ESCROW, request_id=JOB.id, provider=JOB.agent, provider_key=LOCK, customer=JOB.customer,
    customer_key=LOCK, mint="https://mint.example", price_sat=21, deliver_by=100, review_seconds=10,
    dispute_seconds=10, locktime=1000, arbiter="dd" * 32, arbiter_key=LOCK,
)  # fmt: skip
PAYMENT = PaymentRow(
    id="p", agent=JOB.agent, job_id=JOB.id, payer=KEY.public_key, public=False, state=PaymentState.REDEEMED,
    token="cashuB", amount_sat=21, op_id=None, reason="", created_at=11,
)  # fmt: skip
INVOICE = InvoiceRow(
    agent=JOB.agent, job_id=JOB.id, customer=JOB.customer, name="n", bolt11="lnbc1", payment_hash="cc" * 32,
    price_msat=21_000, on_credit=True, state=InvoiceStage.OPEN, created_at=11, ask_at=0, expires_at=99,
)  # fmt: skip


def escrow(stage: Stage, *, got_sat: int = 22, ruled: bool = False, said: bool = False) -> EscrowRow:
    return EscrowRow(
        Role.PROVIDER, JOB.agent, JOB.id, stage, TERMS, REQUEST, 10, 25, ruling="{}" if ruled else None,
        amount_sat=got_sat if stage is Stage.PAID else 0,
        statements=({"by": "customer", "text": "no"},) if said else (),
    )  # fmt: skip


def leaf(
    job: JobRow = JOB,
    *payments: PaymentRow,
    escrow: EscrowRow | None = None,
    invoice: InvoiceRow | None = None,
    now: int = 50,
) -> JobLeaf | Not:
    return leaf_of(job, payments, escrow, invoice, lock=KEY, now=now)


def told(found: JobLeaf | Not) -> tuple[str, str, int, bool]:
    assert isinstance(found, JobLeaf)
    return found.outcome, found.method, found.amount_msat, found.disputed


def test_ecash_that_was_paid_before() -> None:
    found = leaf(JOB, PAYMENT)
    assert isinstance(found, JobLeaf)
    assert is_lock_of(LOCK, found.lock_sig, JOB.agent, JOB.id)
    assert not is_lock_of(LOCK, found.lock_sig, JOB.customer, JOB.id)
    assert msgspec.structs.replace(found, lock_sig="") == JobLeaf(
        request=JOB.id, result="bb" * 32, customer=JOB.customer, kind=5001, method="prepaid", confidence=0.8,
        outcome=Outcome.PAID, amount_msat=21_000, at=20, lock=LOCK,
    )  # fmt: skip


def test_an_invoice() -> None:
    bolt11 = MemoryMint().invoice(21)  # perhaps another one than was offered: a zap
    paid = replace(PAYMENT, token=bolt11)
    found = leaf(JOB, paid, invoice=replace(INVOICE, state=InvoiceStage.PAID))
    assert isinstance(found, JobLeaf)
    assert (found.method, found.hash, found.lock) == ("invoice", parse_invoice(bolt11).payment_hash, "")


@pytest.mark.parametrize(
    ("stage", "changes", "expected"),
    [
        (Stage.PAID, {}, (Outcome.PAID, "escrow", 21_000, False)),
        (Stage.PAID, {"said": True}, (Outcome.PAID, "escrow", 21_000, True)),
        (Stage.PAID, {"ruled": True}, (Outcome.PAID, "escrow", 21_000, True)),  # or the customer gave in
        (Stage.PAID, {"ruled": True, "got_sat": 8}, (Outcome.SPLIT, "escrow", 8_000, True)),
        (Stage.YIELDED, {"said": True}, (Outcome.REFUNDED, "escrow", 0, True)),
        (Stage.LOST, {}, (Outcome.LOST, "escrow", 0, False)),
    ],
)
def test_an_escrow_that_has_ended(stage: Stage, changes: dict[str, Any], expected: tuple[Any, ...]) -> None:
    state = PaymentState.REDEEMED if stage is Stage.PAID else PaymentState.RETURNED
    payment = replace(PAYMENT, state=state)
    assert told(leaf(JOB, payment, escrow=escrow(stage, **changes))) == expected


def test_work_that_failed_and_was_paid_back() -> None:
    back = replace(PAYMENT, state=PaymentState.RETURNED)
    assert told(leaf(replace(JOB, state=JobState.RETURNED), back)) == (Outcome.RETURNED, "prepaid", 0, False)


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED])
def test_money_that_was_not_taken_settles_nothing(state: JobState) -> None:
    back = replace(PAYMENT, state=PaymentState.RETURNED)
    assert told(leaf(replace(JOB, state=state), back)) == (Outcome.SENT_BACK, "prepaid", 0, False)


def test_a_customer_that_takes_its_job_back_before_it_is_begun_tells_nothing_of_the_agent() -> None:
    back = replace(PAYMENT, state=PaymentState.RETURNED)
    taken = replace(JOB, state=JobState.RETURNED, reason=f"{CANCELLED} before the work began")
    assert told(leaf(taken, back)) == (Outcome.SENT_BACK, "prepaid", 0, False)


def test_a_job_that_was_taken_back_when_it_was_under_way() -> None:
    taken = replace(JOB, state=JobState.CANCELLED)
    assert told(leaf(taken, PAYMENT)) == (Outcome.CANCELLED, "prepaid", 21_000, False)
    assert leaf(taken) is Not.EVER


@pytest.mark.parametrize("state", [PaymentState.RECEIVED, PaymentState.REDEEMING, PaymentState.RETURNING])
def test_money_under_way_is_waited_for(state: PaymentState) -> None:
    assert leaf(JOB, PAYMENT, replace(PAYMENT, id="q", state=state)) is Not.YET


@pytest.mark.parametrize("stage", [stage for stage in Stage if not stage.is_final])
def test_an_escrow_that_is_open_is_waited_for(stage: Stage) -> None:
    assert leaf(JOB, replace(PAYMENT, state=PaymentState.HELD), escrow=escrow(stage)) is Not.YET


def test_what_was_paid_twice_is_one_payment() -> None:
    surplus = replace(PAYMENT, id="q", state=PaymentState.RETURNING, reason=SURPLUS)
    assert told(leaf(JOB, PAYMENT, surplus)) == (Outcome.PAID, "prepaid", 21_000, False)


def test_work_on_credit_that_nobody_paid() -> None:
    assert leaf(JOB, invoice=INVOICE) is Not.YET
    assert leaf(JOB, invoice=replace(INVOICE, state=InvoiceStage.EXPIRED)) is Not.EVER


def test_the_payment_of_a_job_that_was_restored_may_come_back_too() -> None:
    assert leaf() is Not.YET
    assert leaf(now=10**6) is Not.EVER


def test_nothing_came_for_it() -> None:
    assert leaf(replace(JOB, state=JobState.FAILED)) is Not.EVER
    assert leaf(JOB, replace(PAYMENT, state=PaymentState.REFUSED)) is Not.EVER
    assert leaf(JOB, invoice=replace(INVOICE, on_credit=False)) is Not.EVER
