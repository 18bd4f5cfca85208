"""What is done next for work that any agent may do, for every state of its orders."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvm.orders.guarantee_lifecycle import (
    PATIENCE_SECONDS,
    REFUND_SECONDS,
    TRIES_MAX,
    Ask,
    Attempt,
    Deliver,
    Fail,
    GiveUp,
    Nobody,
    Step,
    Wait,
    decide_guarantee,
    share_seconds,
)
from dvm.orders.lifecycle import OrderState

O = OrderState  # noqa: E741
NOW, DEADLINE = 1000, 1120
PRICE, BUDGET = 21, 50
PAID, BACK = 23, 19  # of a refund
OUT = (O.PAYING, O.PAID, O.AWAITING_REFUND, O.LOST, O.DONE, O.REFUNDED)
UNDER_WAY = (O.REQUESTED, O.PAYING, O.PAID)


def attempt(state: OrderState, name: str = "a", **changes: Any) -> Attempt:
    values: dict[str, Any] = {
        "max_sat": BUDGET,
        "price_sat": PRICE,
        "heard": False,
        "since": NOW,
        "deadline_at": 1060,
    }
    if state is O.REFUNDED:
        values |= {"paid_sat": PAID, "returned_sat": BACK}
    return Attempt(name, state, **(values | changes))


def decide(*attempts: Attempt, at: int = NOW, nobody: Nobody | None = None) -> Step:
    return decide_guarantee(attempts, max_sat=BUDGET, deadline_at=DEADLINE, now=at, nobody=nobody)


# What one order means: at once, when the patience for it is over, and when its own time is.
ONE: dict[OrderState, tuple[Step, Step, Step]] = {
    O.REQUESTED: (Wait(1030), GiveUp("a", BUDGET), Wait(DEADLINE + REFUND_SECONDS)),
    O.PAYING: (Wait(1060), Wait(1060), Ask(BUDGET - PRICE)),  # what is locked late is not sent
    O.PAID: (Wait(1030), GiveUp("a", BUDGET), Wait(DEADLINE + REFUND_SECONDS)),
    O.AWAITING_REFUND: (Wait(1015), Ask(BUDGET - PRICE), Ask(BUDGET - PRICE)),
    O.DONE: (Deliver("a"),) * 3,
    O.FAILED: (Ask(BUDGET),) * 3,
    O.EXPIRED: (Ask(BUDGET),) * 3,
    O.REFUNDED: (Ask(BUDGET - (PAID - BACK)),) * 3,
    O.LOST: (Ask(BUDGET - PRICE),) * 3,
    O.CANCELLED: (Ask(BUDGET),) * 3,
}


@pytest.mark.parametrize("state", O)
def test_one_order_in_every_state(state: OrderState) -> None:
    moments = (NOW, NOW + PATIENCE_SECONDS, 1060)
    assert tuple(decide(attempt(state), at=at) for at in moments) == ONE[state]


@pytest.mark.parametrize("state", O)
def test_at_the_deadline_nobody_is_asked(state: OrderState) -> None:
    step = decide(attempt(state, since=DEADLINE), at=DEADLINE)
    if state is O.DONE:
        assert step == Deliver("a")
    elif state in UNDER_WAY or state is O.AWAITING_REFUND:
        assert step == Wait(DEADLINE + REFUND_SECONDS)
    else:
        assert step == Fail()
    end = decide(attempt(state), at=DEADLINE + REFUND_SECONDS)
    assert end == (Deliver("a") if state is O.DONE else Fail())


def test_it_begins_with_all_of_the_budget() -> None:
    assert decide() == Ask(BUDGET)
    assert decide(at=DEADLINE) == Fail()


def test_a_sign_of_life_buys_the_time_of_the_order() -> None:
    for state in (O.REQUESTED, O.PAID):
        assert decide(attempt(state, heard=True), at=1059) == Wait(1060)


def test_a_short_order_is_silent_sooner() -> None:
    assert attempt(O.PAID, deadline_at=NOW + 10).silent_at == NOW + 5
    assert attempt(O.PAID, deadline_at=NOW + 1).silent_at == NOW + 1


def test_the_first_result_counts_even_of_an_agent_that_was_left() -> None:
    for state in O:
        assert decide(attempt(state), attempt(O.DONE, "b")) == Deliver("a" if state is O.DONE else "b")


def test_a_silent_agent_is_left_for_one_that_its_refund_can_pay_for() -> None:
    assert decide(attempt(O.PAID, paid_sat=PAID), at=1035) == GiveUp("a", BUDGET - (PAID - PRICE))


def test_nobody_is_left_for_nobody() -> None:
    nobody = Nobody(BUDGET, until=1040)
    assert decide(attempt(O.PAID), at=1035, nobody=nobody) == Wait(1040)
    assert decide(attempt(O.PAID), at=1040, nobody=nobody) == GiveUp("a", BUDGET)
    assert decide(attempt(O.PAID), at=1035, nobody=Nobody(BUDGET - 1, until=1040)) == GiveUp("a", BUDGET)


def test_without_anybody_money_is_waited_for_and_nothing_else() -> None:
    nobody = Nobody(BUDGET - PRICE, until=1040)
    assert decide(attempt(O.AWAITING_REFUND), at=1020, nobody=nobody) == Wait(1040)
    assert decide(attempt(O.AWAITING_REFUND), at=1040, nobody=nobody) == Ask(BUDGET - PRICE)
    left_sat = BUDGET - (PAID - BACK)
    assert decide(attempt(O.REFUNDED), at=1020, nobody=nobody) == Ask(left_sat)  # it can buy more now
    assert decide(attempt(O.LOST), at=1020, nobody=nobody) == Fail()


def test_so_many_and_no_more_are_asked() -> None:
    tried = [attempt(O.FAILED, str(n)) for n in range(TRIES_MAX - 1)]
    assert decide(*tried) == Ask(BUDGET)
    assert decide(*tried, attempt(O.FAILED)) == Fail()
    assert decide(*tried, attempt(O.AWAITING_REFUND), at=1020) == Wait(DEADLINE)
    assert decide(*tried, attempt(O.PAID), at=1035) == Wait(1060)  # there is nobody after it


def test_an_agent_has_half_of_the_time_if_there_is_another() -> None:
    assert share_seconds(120, others=True) == 60
    assert share_seconds(120, others=False) == 120
    assert share_seconds(19, others=True) == 19
    assert share_seconds(0, others=True) == 1


ATTEMPTS = st.lists(
    st.builds(
        Attempt,
        order_id=st.text("ab", max_size=3),
        state=st.sampled_from(list(O)),
        max_sat=st.integers(0, 60),
        price_sat=st.integers(0, 60),
        heard=st.booleans(),
        since=st.integers(900, 1200),
        deadline_at=st.integers(900, 1200),
        paid_sat=st.integers(0, 70),
        returned_sat=st.integers(0, 60),
    ),
    max_size=TRIES_MAX,
)


@given(
    ATTEMPTS,
    st.integers(900, 1200),
    st.none() | st.builds(Nobody, st.integers(0, 60), st.integers(900, 1200)),
)
def test_no_step_may_cost_more_than_is_left_or_stand_still(
    attempts: list[Attempt], now: int, nobody: Nobody | None
) -> None:
    step = decide(*attempts, at=now, nobody=nobody)
    match step:
        case Ask(sat=sat):
            assert not any(one.is_under_way(now, DEADLINE) for one in attempts)
            assert sat == BUDGET - sum(
                max(one.price_sat, one.paid_sat) - one.returned_sat for one in attempts if one.state in OUT
            )
            assert now < DEADLINE
        case GiveUp():
            assert now < DEADLINE + REFUND_SECONDS
        case Wait(until=until):
            assert until > now
        case Deliver(order_id=order_id):
            assert order_id in [one.order_id for one in attempts if one.state is O.DONE]
        case Fail():
            assert not any(one.state is O.DONE for one in attempts)


@given(
    st.integers(1, 60),
    st.lists(
        st.tuples(
            st.integers(1, 60),
            st.integers(0, 4),
            st.sampled_from([O.REFUNDED, O.LOST, O.AWAITING_REFUND, O.FAILED]),
            st.integers(0, 60),
        ),
        min_size=TRIES_MAX,
        max_size=TRIES_MAX,
    ),
)
def test_whatever_agents_do_the_budget_is_not_passed_by_more_than_the_fees_of_the_last(
    budget_sat: int, plays: list[tuple[int, int, OrderState, int]]
) -> None:
    """Each asks a price, costs fees, and then gives back what it likes."""
    attempts: list[Attempt] = []
    for price_sat, fee_sat, state, back_sat in plays:
        step = decide_guarantee(attempts, max_sat=budget_sat, deadline_at=DEADLINE, now=NOW + REFUND_SECONDS)
        if not isinstance(step, Ask):
            break
        if price_sat > step.sat:
            continue
        paid_sat = 0 if state is O.FAILED else price_sat + fee_sat
        returned_sat = min(back_sat, price_sat) if state is O.REFUNDED else 0
        attempts.append(
            attempt(
                state, price_sat=price_sat, paid_sat=paid_sat, returned_sat=returned_sat, max_sat=step.sat
            )
        )
    assert sum(one.paid_sat - one.returned_sat for one in attempts) <= budget_sat + 4
