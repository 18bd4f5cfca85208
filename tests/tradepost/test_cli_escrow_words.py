"""What a person and a program are told of an escrow, wherever it stands; no process, no database."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from dvm import OrderState
from dvm.escrow.agreement import ruling_of
from dvm.escrow.standing import awards, possible
from dvm.queries import OrderRow
from identity import SecretKey, make_template, sign_event
from tradepost.cli import escrow_shown, escrow_words
from tradepost.cli.escrow_shown import Case, print_details, print_escrows
from tradepost.cli.escrow_words import (
    fee_told,
    fields,
    is_moving,
    is_unheard,
    next_step,
    refusal,
    ruled,
    when,
)
from wallet.escrow import Role, Stage
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method, Terms

NOW: Final = 1_793_966_400  # noon, UTC
CUSTOMER, PROVIDER, ARBITER = (SecretKey(number.to_bytes(32)) for number in (1, 2, 3))
REQUEST: Final = sign_event(make_template(5001, content="", created_at=NOW), CUSTOMER)
TERMS: Final = Terms(
    method=Method.ESCROW, request_id=REQUEST.id, mint="https://mint.test", price_sat=21,
    provider=PROVIDER.public_key, provider_key="02" * 33, customer=CUSTOMER.public_key, customer_key="03" * 33,
    deliver_by=NOW + 600, review_seconds=600, dispute_seconds=3600, locktime=NOW + 6000,
    arbiter=ARBITER.public_key, arbiter_key="02" * 33, arbiter_fee_sat=5,
)  # fmt: skip


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's clock, wherever the tests run."""
    monkeypatch.setattr(
        escrow_words,
        "local_time",
        lambda unix: datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M:%S"),
    )


def escrow(role: Role, stage: Stage, **columns: Any) -> EscrowRow:
    terms = replace(TERMS, **columns.pop("terms", {}))
    return EscrowRow(role, getattr(terms, role), REQUEST.id, stage, terms, REQUEST, NOW, NOW, **columns)


def ruling(provider_sat: int) -> str:
    template = ruling_of(
        TERMS, provider_sat=provider_sat, customer_sat=21 - provider_sat, statements=[], now=NOW
    )
    return sign_event(template, ARBITER).to_json().decode()


def fee_order(state: OrderState, reason: str = "") -> OrderRow:
    return OrderRow(
        id="ab" * 32, customer=TERMS.customer, provider=ARBITER.public_key, kind=5957, state=state, max_sat=5,
        price_sat=5, mint=None, lock_nonce="", locktime=None, op_id=None, refund_op_id=None, request=REQUEST,
        offer=None, result=None, reason=reason, deadline_at=NOW, version=0, created_at=NOW, updated_at=NOW,
    )  # fmt: skip


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("now", [NOW, NOW + 700, NOW + 90_000])
def test_what_comes_next_fits_a_line_of_80_columns(role: Role, stage: Stage, now: int) -> None:
    row = escrow(role, stage, delivered_at=NOW, wake_at=NOW + 60, amount_sat=20)
    for one in (row, replace(row, ruling=ruling(10))):
        told = next_step(one, None, now)
        assert 0 < len(told) <= 37 + 6 * (now > NOW + 700), told  # six more if the day is said
        fields(one, None, now)


def test_who_may_do_what_when() -> None:
    delivered = escrow(Role.CUSTOMER, Stage.DELIVERED, delivered_at=NOW)
    assert possible(delivered, NOW + 599) == ["accept", "dispute"]
    assert possible(delivered, NOW + 600) == ["accept"]
    assert possible(escrow(Role.PROVIDER, Stage.DELIVERED), NOW) == ["refund"]
    assert possible(escrow(Role.PROVIDER, Stage.DISPUTED), NOW) == ["answer", "refund"]
    assert possible(escrow(Role.ARBITER, Stage.DISPUTED), NOW) == ["rule"]
    assert possible(escrow(Role.ARBITER, Stage.DISPUTED), TERMS.claim_until) == []
    assert possible(escrow(Role.CUSTOMER, Stage.REFUNDED), NOW) == []


@pytest.mark.parametrize(
    ("row", "after_seconds", "told"),
    [
        (escrow(Role.CUSTOMER, Stage.HELD), 0, "result due by 12:10"),
        (escrow(Role.CUSTOMER, Stage.HELD), 600, "overdue: `tradepost settle` goes on"),
        (escrow(Role.CUSTOMER, Stage.HELD), 6001, "`tradepost settle` takes it back now"),
        (escrow(Role.CUSTOMER, Stage.DELIVERED, delivered_at=NOW), 9, "accept or dispute (5 sat) by 12:10"),
        (escrow(Role.CUSTOMER, Stage.DELIVERED, delivered_at=NOW), 600, "time is over: `tradepost settle` pays"),
        (escrow(Role.CUSTOMER, Stage.DISPUTED), 0, "ruling by 13:38, else sats back"),
        (escrow(Role.CUSTOMER, Stage.REFUNDED, amount_sat=20), 0, "20 of 21 sat came back"),
        (escrow(Role.PROVIDER, Stage.DISPUTED), 0, "answer or refund; ruling by 13:38"),
        (escrow(Role.ARBITER, Stage.DELIVERED, statements=({"by": "customer", "text": "no"},)), 0,
         "waits for your fee of 5 sat"),
        (escrow(Role.ARBITER, Stage.DISPUTED), 5880, "too late to rule since 13:38"),
        (escrow(Role.CUSTOMER, Stage.DISPUTED), 5880, "no ruling: sats back after 13:40"),
        (escrow(Role.ARBITER, Stage.RULED), 0, "no ruling was needed"),
    ],
)  # fmt: skip
def test_what_comes_next(row: EscrowRow, after_seconds: int, told: str) -> None:
    assert next_step(row, None, NOW + after_seconds) == told


def test_what_is_claimed_is_told_by_whom() -> None:
    assert next_step(escrow(Role.CUSTOMER, Stage.CLAIMING), None, NOW) == "`tradepost settle` takes your sats"
    assert next_step(escrow(Role.PROVIDER, Stage.CLAIMING), None, NOW) == "`tradepost up` takes your sats"
    assert next_step(escrow(Role.PROVIDER, Stage.PAID, amount_sat=20), None, NOW) == "20 of 21 sat are yours"


@pytest.mark.parametrize(
    ("row", "fee", "is_so"),
    [
        (escrow(Role.CUSTOMER, Stage.DELIVERED, wake_at=NOW + 1), None, False),
        (escrow(Role.CUSTOMER, Stage.DELIVERED, wake_at=NOW), None, True),
        (escrow(Role.CUSTOMER, Stage.HELD, wake_at=NOW + 1), None, False),
        (escrow(Role.CUSTOMER, Stage.HELD, terms={"method": Method.REVEAL}, wake_at=NOW + 1), None, True),
        (escrow(Role.CUSTOMER, Stage.DISPUTED), None, True),  # its fee is to be ordered
        (escrow(Role.CUSTOMER, Stage.DISPUTED, fee_order="ab" * 32), fee_order(OrderState.PAYING), True),
        (escrow(Role.CUSTOMER, Stage.DISPUTED, fee_order="ab" * 32), fee_order(OrderState.PAID), False),
        (escrow(Role.CUSTOMER, Stage.DISPUTED, terms={"arbiter_fee_sat": 0}), None, False),
        (escrow(Role.CUSTOMER, Stage.DISPUTED, terms={"arbiter_fee_sat": 0}, ruling="{}"), None, True),
        (escrow(Role.CUSTOMER, Stage.CLAIMING), None, True),
    ],
)
def test_what_waits_for_no_decision_is_moving(row: EscrowRow, fee: OrderRow | None, is_so: bool) -> None:
    assert is_moving(row, fee, NOW) is is_so


def test_a_refusal_says_where_the_escrow_stands_and_what_is_next() -> None:
    told = refusal(escrow(Role.CUSTOMER, Stage.HELD), "accept", None, NOW)
    assert "you cannot accept escrow 60c7f394240d, which is held; result due by 12:10" in told
    assert f"tradepost escrow show {REQUEST.id[:12]}" in told


def test_a_moment_of_another_day_has_its_day() -> None:
    assert (when(NOW, NOW), when(NOW + 86_400, NOW)) == ("12:00", "11-07 12:00")


def test_a_ruling_is_told_to_all() -> None:
    row = escrow(Role.CUSTOMER, Stage.REFUNDED, amount_sat=11, ruling=ruling(10))
    assert awards(row) == {"provider": 10, "customer": 11} == fields(row, None, NOW)["awarded_sat"]
    assert ruled(awards(row)) == "10 sat to the agent, 11 sat to the customer"
    assert next_step(row, None, NOW) == "11 of 21 sat came back"
    for role, stage in (
        (Role.ARBITER, Stage.RULED), (Role.CUSTOMER, Stage.DISPUTED), (Role.CUSTOMER, Stage.RELEASED),
    ):  # fmt: skip
        assert "agent 10 sat, customer 11 sat" in next_step(escrow(role, stage, ruling=ruling(10)), None, NOW)
    assert (awards(escrow(Role.ARBITER, Stage.RULED)), ruled(None)) == (None, "")


@pytest.mark.parametrize(
    ("state", "unheard", "told"),
    [
        (OrderState.REQUESTED, False, "5 sat, ordered and not paid yet"),
        (OrderState.PAYING, False, "5 sat, ordered and not paid yet"),
        (OrderState.PAID, False, "5 sat, paid"),
        (OrderState.DONE, False, "5 sat, paid"),
        (OrderState.FAILED, True, "5 sat, not paid: too dear"),
        (OrderState.EXPIRED, True, "5 sat, not paid: too dear"),
        (OrderState.CANCELLED, True, "5 sat, not paid: too dear"),
        (OrderState.AWAITING_REFUND, True, "5 sat, to come back: too dear"),
        (OrderState.REFUNDED, True, "5 sat, came back: too dear"),
        (OrderState.LOST, True, "5 sat, lost: too dear"),
    ],
)
def test_what_became_of_the_fee_is_told(state: OrderState, unheard: bool, told: str) -> None:
    row, fee = escrow(Role.CUSTOMER, Stage.DISPUTED, fee_order="ab" * 32), fee_order(state, "too dear")
    assert (is_unheard(row, fee), fee_told(row, fee)) == (unheard, told)
    assert ("unheard: fee of 5 sat not paid" in next_step(row, fee, NOW)) is unheard
    assert (fields(row, fee, NOW)["fee_state"], fields(row, fee, NOW)["fee_reason"]) == (state, "too dear")


def test_a_fee_that_nobody_was_asked_for_is_not_owed() -> None:
    assert fee_told(escrow(Role.CUSTOMER, Stage.DELIVERED), None) == "5 sat, if the customer disputes"
    assert fee_told(escrow(Role.CUSTOMER, Stage.RELEASED), None) == "5 sat, not asked for"
    assert "tradepost settle" in fee_told(escrow(Role.CUSTOMER, Stage.DISPUTED), None)
    assert fee_told(escrow(Role.ARBITER, Stage.DELIVERED), None) == "5 sat, not paid"
    assert fee_told(escrow(Role.CUSTOMER, Stage.HELD, terms={"arbiter_fee_sat": 0}), None) == ""


def test_a_person_sees_it_within_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noon:
        def now(self) -> int:
            return NOW

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(escrow_shown, "SystemClock", Noon)
    ruled_on = escrow(
        Role.ARBITER, Stage.DISPUTED, statements=({"by": "customer", "text": "no [red]\x1b good"},)
    )
    failed = Case(escrow(Role.CUSTOMER, Stage.DISPUTED, fee_order="ab" * 32), fee_order(OrderState.FAILED))
    print_escrows([Case(ruled_on, None), failed], as_json=False)
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "as", "by", "stage", "sat", "next"]
    assert first.split(maxsplit=5)[1:] == ["arbiter", "escrow", "disputed", "21", "rule by 13:38"]
    assert second.endswith("unheard: fee of 5 sat not paid")
    print_details(Case(ruled_on, None))
    shown = capsys.readouterr().out
    assert max(map(len, [head, first, second, *shown.splitlines()])) <= 80
    assert f"tradepost escrow rule {REQUEST.id[:12]} --provider SAT" in shown
    assert "customer: no [red]\ufffd good" in shown
