"""The state machine of an order, every (state, input) pair of it."""

from itertools import product

import pytest

from dvm.orders.lifecycle import (
    CoinsLocked,
    DeadlinePassed,
    ErrorArrived,
    FalselySealed,
    GivenUp,
    MoneyBack,
    MoneyGone,
    OfferArrived,
    OrderInput,
    OrderState,
    PaymentImpossible,
    ResultArrived,
    TakenBack,
    decide_order,
)

O = OrderState  # noqa: E741
ORDER_INPUTS: dict[str, OrderInput] = {
    "good offer": OfferArrived(""),
    "bad offer": OfferArrived("too dear"),
    "locked": CoinsLocked(),
    "impossible": PaymentImpossible("no funds"),
    "result": ResultArrived(),
    "error": ErrorArrived("sorry"),
    "deadline": DeadlinePassed(),
    "money back": MoneyBack(),
    "money gone": MoneyGone(),
    "false seal": FalselySealed("the key does not open it"),
    "taken back": TakenBack(),
    "given up": GivenUp("no sign of life"),
}
ORDER_STEPS: dict[tuple[OrderState, str], OrderState] = {
    (O.REQUESTED, "good offer"): O.PAYING,
    (O.REQUESTED, "bad offer"): O.FAILED,
    (O.REQUESTED, "error"): O.FAILED,
    (O.REQUESTED, "deadline"): O.EXPIRED,
    (O.REQUESTED, "result"): O.DONE,
    (O.PAYING, "locked"): O.PAID,
    (O.PAYING, "result"): O.PAYING,
    (O.PAYING, "impossible"): O.FAILED,
    (O.PAID, "error"): O.AWAITING_REFUND,
    (O.PAID, "deadline"): O.AWAITING_REFUND,
    (O.PAID, "result"): O.DONE,
    (O.PAID, "money back"): O.REFUNDED,
    (O.AWAITING_REFUND, "money back"): O.REFUNDED,
    (O.AWAITING_REFUND, "money gone"): O.LOST,
    (O.PAID, "money gone"): O.LOST,
    (O.AWAITING_REFUND, "false seal"): O.LOST,
    (O.PAID, "false seal"): O.LOST,
    (O.AWAITING_REFUND, "result"): O.DONE,
    (O.LOST, "result"): O.DONE,
    (O.DONE, "money back"): O.REFUNDED,
    (O.LOST, "money back"): O.REFUNDED,
    (O.REQUESTED, "taken back"): O.CANCELLED,
    (O.REQUESTED, "given up"): O.CANCELLED,
    (O.PAID, "given up"): O.AWAITING_REFUND,
    (O.PAYING, "taken back"): O.PAYING,
    (O.PAID, "taken back"): O.PAID,
}


@pytest.mark.parametrize(("state", "name"), list(product(OrderState, ORDER_INPUTS)))
def test_every_step_of_an_order(state: OrderState, name: str) -> None:
    decision = decide_order(state, ORDER_INPUTS[name])
    assert (decision.state if decision else None) == ORDER_STEPS.get((state, name))


def test_an_order_that_was_delivered_early_is_done_when_it_is_paid() -> None:
    decision = decide_order(O.PAYING, CoinsLocked(), has_result=True)
    assert decision is not None
    assert decision.state is O.DONE


def test_an_order_that_failed_keeps_the_reason() -> None:
    for state, name in ORDER_STEPS:
        decision = decide_order(state, ORDER_INPUTS[name])
        assert decision is not None
        if decision.state in (O.FAILED, O.EXPIRED, O.AWAITING_REFUND, O.CANCELLED):
            assert decision.reason
        if decision.state is O.LOST:
            # Why there was no result was kept before.
            assert bool(decision.reason) == (state is O.PAID or name == "false seal")
        assert bool(decision.code) == bool(decision.reason)
