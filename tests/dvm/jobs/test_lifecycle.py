"""The state machine of a job, every (state, input) pair of it, and the verdict on its payments."""

from itertools import product
from typing import Any

import pytest

from dvm.jobs.lifecycle import (
    ATTEMPTS_MAX,
    Arranged,
    Arrived,
    Cancelled,
    CoinsHeld,
    JobInput,
    JobState,
    KeySold,
    KeyUnsold,
    MoneyReturned,
    Next,
    NotArranged,
    OfferLapsed,
    PaymentAccepted,
    PaymentLost,
    PaymentRedeemed,
    PaymentRefused,
    PaymentReturning,
    PaymentState,
    Refused,
    WorkFailed,
    WorkFinished,
    WorkInterrupted,
    WorkSealed,
    WorkStarted,
    decide_job,
    judge_payment,
)
from dvm.nip90 import Status
from wallet.errors import Action

J = JobState
STOP = Action.GIVE_UP

JOB_INPUTS: dict[str, JobInput] = {
    "free": Arrived(0, has_payment=False),
    "free+token": Arrived(0, has_payment=True),
    "paid": Arrived(1000, has_payment=False),
    "paid+token": Arrived(1000, has_payment=True),
    "in escrow": Arrived(1000, has_payment=False, arranging=True),
    "arranged": Arranged(),
    "not arranged": NotArranged("no arbiter serves"),
    "held": CoinsHeld(),
    "held for a key": CoinsHeld(sealed=True),
    "on credit": Arrived(1000, has_payment=False, on_credit=True),
    "sealed": WorkSealed(offer_expires_at=1, locktime=2),
    "sold": KeySold(),
    "unsold": KeyUnsold(),
    "refused": Refused("no"),
    "accepted": PaymentAccepted(),
    "redeemed": PaymentRedeemed(),
    "refused by customer": PaymentRefused("bad", STOP, ends_job=True),
    "refused by stranger": PaymentRefused("bad", STOP, ends_job=False),
    "lost by customer": PaymentLost("spent", STOP, ends_job=True),
    "lost by stranger": PaymentLost("spent", STOP, ends_job=False),
    "too little from customer": PaymentReturning("too little", Action.TOP_UP, ends_job=True),
    "too little from stranger": PaymentReturning("too little", Action.TOP_UP, ends_job=False),
    "started": WorkStarted(1),
    "started again": WorkStarted(ATTEMPTS_MAX),
    "started too often": WorkStarted(ATTEMPTS_MAX + 1),
    "interrupted": WorkInterrupted(0),
    "finished": WorkFinished(),
    "failed, paid": WorkFailed("broke", paid=True),
    "failed, free": WorkFailed("broke", paid=False),
    "returned": MoneyReturned(),
    "lapsed": OfferLapsed(),
    "cancelled, priced": Cancelled(paid=True),
    "cancelled, free": Cancelled(paid=False),
}

# Every pair that is not here changes nothing. State, input → new state, status told, what comes next.
JOB_STEPS: dict[tuple[JobState | None, str], tuple[JobState, Status | None, Next]] = {
    (None, "free"): (J.QUEUED, None, Next.WORK),
    (None, "free+token"): (J.QUEUED, None, Next.PAY_AND_WORK),
    (None, "paid"): (J.OFFERED, None, Next.NOTHING),
    (None, "paid+token"): (J.OFFERED, None, Next.PAY),
    (None, "refused"): (J.FAILED, Status.ERROR, Next.NOTHING),
    (None, "in escrow"): (J.ARRANGING, None, Next.NOTHING),
    (J.ARRANGING, "arranged"): (J.OFFERED, None, Next.NOTHING),
    (J.ARRANGING, "not arranged"): (J.FAILED, Status.ERROR, Next.NOTHING),
    (None, "on credit"): (J.QUEUED, None, Next.WORK),
    (J.RUNNING, "sealed"): (J.OFFERED, None, Next.NOTHING),
    (J.OFFERED, "held for a key"): (J.PAYING, None, Next.NOTHING),
    (J.EXPIRED, "held for a key"): (J.PAYING, None, Next.NOTHING),
    (J.PAYING, "sold"): (J.DONE, None, Next.NOTHING),
    (J.PAYING, "unsold"): (J.EXPIRED, None, Next.NOTHING),
    (J.OFFERED, "unsold"): (J.EXPIRED, None, Next.NOTHING),
    (J.OFFERED, "held"): (J.QUEUED, None, Next.WORK),
    (J.EXPIRED, "held"): (J.QUEUED, None, Next.WORK),
    (J.OFFERED, "accepted"): (J.PAYING, None, Next.NOTHING),
    (J.EXPIRED, "accepted"): (J.PAYING, None, Next.NOTHING),
    (J.OFFERED, "too little from customer"): (J.FAILED, Status.ERROR, Next.NOTHING),
    (J.OFFERED, "refused by customer"): (J.FAILED, Status.ERROR, Next.NOTHING),
    (J.OFFERED, "lapsed"): (J.EXPIRED, None, Next.NOTHING),
    (J.PAYING, "redeemed"): (J.QUEUED, None, Next.WORK),
    (J.OFFERED, "redeemed"): (J.QUEUED, None, Next.WORK),
    (J.EXPIRED, "redeemed"): (J.QUEUED, None, Next.WORK),
    (J.PAYING, "lost by stranger"): (J.OFFERED, None, Next.NOTHING),
    (J.PAYING, "lost by customer"): (J.FAILED, Status.ERROR, Next.NOTHING),
    (J.QUEUED, "started"): (J.RUNNING, Status.PROCESSING, Next.NOTHING),
    (J.QUEUED, "started again"): (J.RUNNING, None, Next.NOTHING),
    (J.RUNNING, "started"): (J.RUNNING, Status.PROCESSING, Next.NOTHING),
    (J.RUNNING, "started again"): (J.RUNNING, None, Next.NOTHING),
    (J.RUNNING, "interrupted"): (J.QUEUED, None, Next.NOTHING),
    (J.RUNNING, "finished"): (J.DONE, None, Next.NOTHING),
    (J.QUEUED, "failed, paid"): (J.RETURNING, Status.ERROR, Next.RETURN),
    (J.RUNNING, "failed, paid"): (J.RETURNING, Status.ERROR, Next.RETURN),
    (J.QUEUED, "failed, free"): (J.FAILED, Status.ERROR, Next.NOTHING),
    (J.RUNNING, "failed, free"): (J.FAILED, Status.ERROR, Next.NOTHING),
    (J.RETURNING, "returned"): (J.RETURNED, None, Next.NOTHING),
    (J.QUEUED, "cancelled, priced"): (J.RETURNING, Status.ERROR, Next.RETURN),
    (J.QUEUED, "cancelled, free"): (J.CANCELLED, Status.ERROR, Next.STOP),
    (J.RUNNING, "cancelled, priced"): (J.CANCELLED, Status.ERROR, Next.STOP),
    (J.RUNNING, "cancelled, free"): (J.CANCELLED, Status.ERROR, Next.STOP),
} | {
    (state, name): (J.CANCELLED, Status.ERROR, Next.NOTHING)
    for state in (None, J.ARRANGING, J.OFFERED, J.EXPIRED)
    for name in ("cancelled, priced", "cancelled, free")
}


@pytest.mark.parametrize(("state", "name"), list(product([None, *JobState], JOB_INPUTS)))
def test_every_step_of_a_job(state: JobState | None, name: str) -> None:
    decision = decide_job(state, JOB_INPUTS[name])
    expected = JOB_STEPS.get((state, name))
    if expected is None:
        assert decision is None
        return
    assert decision is not None
    assert (decision.state, decision.say and decision.say.status, decision.then) == expected
    offered = {(None, "paid"), (J.ARRANGING, "arranged"), (J.RUNNING, "sealed")}
    assert decision.offer == ((state, name) in offered)
    assert decision.result == (name == "finished")


def test_final_jobs_stay_final_except_for_a_payment_that_crossed_the_end_of_its_offer() -> None:
    moving = {(s, n) for (s, n) in JOB_STEPS if s is not None and s.is_final and "cancelled" not in n}
    paid = {
        (J.EXPIRED, "accepted"),
        (J.EXPIRED, "redeemed"),
        (J.EXPIRED, "held"),
        (J.EXPIRED, "held for a key"),
    }
    assert moving == paid


def test_an_error_says_what_to_do_and_where_the_money_is() -> None:
    refused = decide_job(J.OFFERED, JOB_INPUTS["refused by customer"])
    returning = decide_job(J.OFFERED, JOB_INPUTS["too little from customer"])
    assert refused is not None
    assert returning is not None
    assert refused.say is not None
    assert returning.say is not None
    assert "nothing was taken" in refused.say.message
    assert "on its way back" in returning.say.message
    assert returning.say.action is Action.TOP_UP


def test_a_cancelled_job_is_paid_back_only_if_its_work_was_not_begun() -> None:
    told = {state: decide_job(state, Cancelled(paid=True)) for state in (J.OFFERED, J.QUEUED, J.RUNNING)}
    said = {state: decision.say.message for state, decision in told.items() if decision and decision.say}
    assert "nothing was taken" in said[J.OFFERED]
    assert "on its way back" in said[J.QUEUED]
    assert "is not returned" in said[J.RUNNING]


def test_money_for_an_expired_request_goes_back() -> None:
    verdict = judge_payment(J.OFFERED, net_sat=99, price_sat=21, least_fee_sat=1, expired=True)
    assert verdict.state is PaymentState.RETURNING


@pytest.mark.parametrize("state", [None, *(s for s in JobState if s not in (J.OFFERED, J.EXPIRED))])
def test_money_for_a_job_that_awaits_none_goes_back(state: JobState | None) -> None:
    verdict = judge_payment(state, net_sat=100, price_sat=21, least_fee_sat=1)
    assert verdict.state is PaymentState.RETURNING
    assert verdict.reason


@pytest.mark.parametrize(
    ("net_sat", "state"),
    [(19, PaymentState.RETURNING), (20, PaymentState.REDEEMING), (99, PaymentState.REDEEMING)],
)
def test_we_bear_the_least_fee_and_no_more(net_sat: int, state: PaymentState) -> None:
    assert judge_payment(J.OFFERED, net_sat=net_sat, price_sat=21, least_fee_sat=1).state is state


def test_every_error_has_a_code_that_says_what_kind_it_is() -> None:
    codes = {}
    for state, name in JOB_STEPS:
        decision = decide_job(state, JOB_INPUTS[name])
        assert decision is not None
        if decision.say is not None:
            assert bool(decision.say.code) == (decision.say.status is Status.ERROR), (state, name)
            codes[name] = decision.say.code
    assert codes["refused"] == "bad_request"
    assert codes["not arranged"] == "no_arbiter"
    assert codes["refused by customer"] == codes["lost by customer"] == "payment_refused"
    assert codes["failed, paid"] == codes["failed, free"] == "job_failed"
    assert codes["cancelled, priced"] == codes["cancelled, free"] == "cancelled"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"job": J.DONE}, "payment_not_needed"),
        ({"job": J.OFFERED, "expired": True}, "request_expired"),
        ({"job": J.OFFERED, "net_sat": 1}, "payment_too_low"),
    ],
)
def test_a_verdict_on_money_has_one_too(options: dict[str, Any], code: str) -> None:
    verdict = judge_payment(**{"net_sat": 100, "price_sat": 21, "least_fee_sat": 1} | options)
    assert (verdict.state, verdict.code) == (PaymentState.RETURNING, code)
