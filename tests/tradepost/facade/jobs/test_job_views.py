"""What a caller is told of a job, wherever it stands: no process, no database."""

from dataclasses import replace
from typing import Any

import pytest

from dvm import OrderState
from dvm.orders.guarantee_lifecycle import CALLED_OFF, GuaranteeState
from dvm.queries import OrderRow
from dvm.queries_guarantees import GuaranteeRow
from identity import SecretKey, make_template, sign_event
from tradepost.facade.jobs.hiring import Job
from tradepost.facade.jobs.job_views import RESULT_CHARS_MAX, money_of, show, state_of, step_of
from tradepost.facade.money.queries_till import CallerJob
from tradepost.testing import ManualClock
from wallet import InsufficientFunds
from wallet.escrow import Role, Stage
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method, Terms

NOW = 1_700_000_000
PROVIDER, CUSTOMER, ARBITER = (SecretKey(bytes([number]) * 32) for number in (1, 2, 3))
REQUEST = sign_event(make_template(5001, created_at=NOW), CUSTOMER)
OPEN, DONE, FAILED = GuaranteeState.OPEN, GuaranteeState.DONE, GuaranteeState.FAILED


def order(state: OrderState, number: int = 1, **more: Any) -> OrderRow:
    row = OrderRow(
        id=f"{number:064x}", customer=CUSTOMER.public_key, provider=PROVIDER.public_key, kind=5001, state=state,
        max_sat=21, price_sat=21, mint="https://mint.test", lock_nonce="", locktime=NOW + 3600, op_id=None,
        refund_op_id=None, request=REQUEST, offer=None, result=None, reason="", deadline_at=NOW + 60, version=0,
        created_at=NOW, updated_at=NOW,
    )  # fmt: skip
    return replace(row, **more)


def job(state: GuaranteeState, *orders: OrderRow, gone: tuple[str, ...] = (), **more: Any) -> Job:
    row = GuaranteeRow(
        id="ab" * 32, customer=CUSTOMER.public_key, state=state, task="", private=False, max_sat=21,
        deadline_at=NOW + 60, allowance="caller:x", job_id="nostr:x", order_id=None, reason="", created_at=NOW,
        updated_at=NOW,
    )  # fmt: skip
    return Job(replace(row, **more), orders, frozenset(gone))


def booked(cost_sat: int | None = None, reserved_sat: int = 25) -> CallerJob:
    return CallerJob("ab" * 32, "x", "nostr:x", "", reserved_sat, cost_sat, NOW)


def escrow(stage: Stage) -> EscrowRow:
    terms = Terms(
        method=Method.ESCROW, request_id=f"{1:064x}", mint="https://mint.test", price_sat=21,
        provider=PROVIDER.public_key, provider_key="", customer=CUSTOMER.public_key, customer_key="",
        deliver_by=NOW + 60, review_seconds=600, dispute_seconds=600, locktime=NOW + 6000, arbiter=ARBITER.public_key,
    )  # fmt: skip
    return EscrowRow(
        Role.CUSTOMER, CUSTOMER.public_key, f"{1:064x}", stage, terms, REQUEST, NOW, NOW, delivered_at=NOW
    )


@pytest.mark.parametrize(
    ("is_so", "state", "step"),
    [
        (job(OPEN), "working", "looking"),
        (job(OPEN, order(OrderState.REQUESTED)), "working", "asked"),
        (job(OPEN, order(OrderState.PAYING)), "working", "paying"),
        (job(OPEN, order(OrderState.PAID)), "working", "paid"),
        (job(OPEN, order(OrderState.PAID, heard_in="requested")), "working", "paid"),
        (job(OPEN, order(OrderState.PAID, heard_in="paid")), "working", "at_work"),
        (job(OPEN, order(OrderState.FAILED)), "working", "looking"),
        (job(OPEN, order(OrderState.AWAITING_REFUND)), "working", "refunding"),
        (job(OPEN, order(OrderState.AWAITING_REFUND), order(OrderState.REQUESTED, 2)), "working", "asked"),
        (job(OPEN, order(OrderState.DONE)), "working", "looking"),  # it ends in a moment
        (job(DONE, order(OrderState.DONE), order_id=f"{1:064x}"), "done", "ended"),
        (job(DONE, order(OrderState.REFUNDED), order_id=f"{1:064x}"), "done", "ended"),  # as an arbiter ruled
        (job(DONE, order(OrderState.AWAITING_REFUND), order(OrderState.DONE, 2)), "done", "refunding"),
        (job(FAILED), "failed", "ended"),
        (job(FAILED, order(OrderState.LOST)), "failed", "ended"),
        (job(FAILED, order(OrderState.AWAITING_REFUND)), "failed", "refunding"),
        (job(FAILED, order(OrderState.AWAITING_REFUND), gone=("https://mint.test",)), "failed", "ended"),
        (job(OPEN, order(OrderState.AWAITING_REFUND), gone=("https://mint.test",)), "working", "refunding"),
        (job(FAILED, order(OrderState.DONE)), "done", "ended"),  # it came late
        (job(FAILED, reason=CALLED_OFF), "cancelled", "ended"),
        (job(FAILED, order(OrderState.PAID), reason=CALLED_OFF), "cancelled", "refunding"),
        (job(FAILED, order(OrderState.DONE), reason=CALLED_OFF), "done", "ended"),
    ],
)
def test_state_and_step_follow_from_what_is_on_disk(is_so: Job, state: str, step: str) -> None:
    assert (state_of(is_so), step_of(is_so, None)) == (state, step)


@pytest.mark.parametrize(
    ("stage", "step"),
    [(Stage.DELIVERED, "review"), (Stage.DISPUTED, "disputed"), (Stage.RELEASED, "ended")],
)
def test_a_result_in_escrow_waits_for_its_caller(stage: Stage, step: str) -> None:
    done = job(DONE, order(OrderState.DONE), order_id=f"{1:064x}")
    assert (state_of(done), step_of(done, escrow(stage))) == ("done", step)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (money_of(job(OPEN), booked(reserved_sat=0), None), ["free"]),
        (money_of(job(OPEN), None, None), ["free"]),
        (money_of(job(OPEN, order(OrderState.PAID)), booked(), None), ["25 sat of your balance are kept", "21 sat are locked"]),
        (
            money_of(job(FAILED, order(OrderState.AWAITING_REFUND)), booked(), None),
            ["25 sat of your balance are kept", "21 sat are asked back", str(NOW + 3600)],
        ),
        (
            money_of(job(FAILED, order(OrderState.AWAITING_REFUND), gone=("https://mint.test",)), booked(23), None),
            ["it cost 23 sat", "21 sat are at a mint that is gone"],
        ),
        (money_of(job(DONE, order(OrderState.DONE)), booked(23), None), ["it cost 23 sat", "2 sat went back"]),
        (money_of(job(DONE, order(OrderState.DONE)), booked(25), None), ["it cost 25 sat"]),
        (money_of(job(FAILED, order(OrderState.LOST)), booked(23), None), ["it cost 23 sat", "21 sat are lost"]),
        (
            money_of(job(DONE, order(OrderState.DONE)), booked(23), escrow(Stage.DELIVERED)),
            ["it cost 23 sat", "21 sat are in escrow"],
        ),
    ],
)  # fmt: skip
def test_money_is_told_in_words(told: str, words: list[str]) -> None:
    for word in words:
        assert word in told
    assert "tradepost" not in told


def test_a_result_is_shown_up_to_a_size() -> None:
    done = job(DONE, order(OrderState.DONE), order_id=f"{1:064x}")
    for text, shown in (("x" * RESULT_CHARS_MAX, True), ("x" * (RESULT_CHARS_MAX + 1), False)):
        told = show(done, booked(23), escrow(Stage.DELIVERED), result=text, clock=ManualClock(NOW))
        assert (told.result is not None) is shown
    assert told.escrow is not None
    assert told.escrow.can == ["accept", "dispute"]
    assert told.escrow.review_until == NOW + 600


def test_why_a_job_failed_says_nothing_of_this_posts_wallet() -> None:
    poor = InsufficientFunds(needed_sat=23, available_sat=7)
    failed = order(OrderState.FAILED, reason=str(poor), code=poor.code)
    is_so = job(FAILED, failed, reason=f"no result from 1 agent: npub1x: {poor}")
    told = show(is_so, booked(0), None, result=None, clock=ManualClock(NOW))
    assert (told.code, told.attempts[0].code) == (poor.code, poor.code)
    for reason in (told.reason, told.attempts[0].reason):
        assert "7 sat" not in reason
        assert "not enough sats" in reason
    theirs = order(OrderState.FAILED, reason="out of ideas", code="job_failed")
    told = show(
        job(FAILED, theirs, reason="x: out of ideas"), booked(0), None, result=None, clock=ManualClock(NOW)
    )
    assert (told.reason, told.code, told.attempts[0].reason) == (
        "x: out of ideas",
        "job_failed",
        "out of ideas",
    )
