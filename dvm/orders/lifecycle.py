"""The life of a job as its customer sees it, an order: a pure state machine, the counterpart of `jobs/lifecycle.py`.

`decide_order` says what becomes of an order; `book.py` writes it down, then acts. A pair the table does not know
is answered by `None`: nothing changes.

    order:  REQUESTED ──▶ PAYING ──▶ PAID ──────▶ DONE
               │             │        │
               ▼             ▼        ▼
      EXPIRED, FAILED,     FAILED   AWAITING_REFUND ──▶ REFUNDED, LOST
         CANCELLED
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dvm.errors import JobFailed, Trouble

NOT_NEEDED: Final = "it was not needed any more when the coins were locked"


class OrderState(StrEnum):
    """Where a job stands at its customer."""

    REQUESTED = "requested"  # the request is out; nothing is paid
    PAYING = "paying"  # our coins are being locked for the provider
    PAID = "paid"  # the locked coins are with the provider
    AWAITING_REFUND = "awaiting_refund"  # no result will come: by refund or, after the locktime, by ourselves
    DONE = "done"
    FAILED = "failed"  # ended without money at stake
    EXPIRED = "expired"
    REFUNDED = "refunded"
    LOST = "lost"  # the provider took the money and gave nothing
    CANCELLED = "cancelled"  # by us, before anything was paid

    @property
    def is_final(self) -> bool:
        """Whether nothing is waited for any more (a late result or refund is still taken)."""
        return self in (
            OrderState.DONE,
            OrderState.FAILED,
            OrderState.EXPIRED,
            OrderState.REFUNDED,
            OrderState.LOST,
            OrderState.CANCELLED,
        )


@dataclass(frozen=True)
class OfferArrived:
    """The provider asks for money. `obstacle`: why we cannot or will not pay it, empty if we do."""

    obstacle: str
    code: str = Trouble.OFFER_REFUSED


@dataclass(frozen=True)
class CoinsLocked:
    """The mint has locked our coins for the provider; the message that carries them is written with this decision."""


@dataclass(frozen=True)
class NotNeeded:
    """The mint has locked our coins, and nobody needs the work any more: they are not sent, and come back."""


@dataclass(frozen=True)
class PaymentImpossible:
    """Our coins could not be locked; they are still ours."""

    reason: str
    code: str = Trouble.PAYMENT_FAILED


@dataclass(frozen=True)
class ResultArrived:
    """The provider's 6xxx event."""


@dataclass(frozen=True)
class ErrorArrived:
    """The provider's 7000 `error`."""

    reason: str
    code: str = JobFailed.code


@dataclass(frozen=True)
class DeadlinePassed:
    """Our patience is over."""


@dataclass(frozen=True)
class MoneyBack:
    """What we paid is ours again: sent back by the provider, or taken back after the locktime."""


@dataclass(frozen=True)
class MoneyGone:
    """The locked coins were spent, and not by us."""


@dataclass(frozen=True)
class FalselySealed:
    """The key we paid for opens no result as promised. `reason` says where the proof is."""

    reason: str


@dataclass(frozen=True)
class TakenBack:
    """We take the request back; the event that says so (NIP-09) is written with this decision."""


@dataclass(frozen=True)
class GivenUp:
    """We wait for this agent no longer; the event that takes the request back is written with this decision."""

    reason: str
    code: str = Trouble.GIVEN_UP


OrderInput = (
    OfferArrived | CoinsLocked | NotNeeded | PaymentImpossible | ResultArrived
    | ErrorArrived | DeadlinePassed | MoneyBack | MoneyGone | FalselySealed | TakenBack | GivenUp
)  # fmt: skip


@dataclass(frozen=True)
class OrderDecision:
    """What an order becomes. `reason` and its `code` are kept with it and shown."""

    state: OrderState
    reason: str = ""
    code: str = ""


def decide_order(
    state: OrderState, event: OrderInput, *, has_result: bool = False, was_sent: bool = True
) -> OrderDecision | None:
    """What `event` makes of an order in `state`; None if it changes nothing.

    `has_result`: one was delivered early. `was_sent`: if there are coins, they were sent to the agent.
    """
    match state, event:
        case OrderState.REQUESTED, OfferArrived(obstacle=""):
            return OrderDecision(OrderState.PAYING)
        case OrderState.REQUESTED, OfferArrived(obstacle=obstacle, code=code):
            return OrderDecision(OrderState.FAILED, obstacle, code)
        case OrderState.REQUESTED, ErrorArrived(reason=reason, code=code):
            return OrderDecision(OrderState.FAILED, reason, code)
        case OrderState.REQUESTED, DeadlinePassed():
            return OrderDecision(OrderState.EXPIRED, "nobody answered in time", Trouble.NO_ANSWER)

        case OrderState.PAYING, CoinsLocked():
            # Delivered before it was paid: we pay what we agreed to.
            return OrderDecision(OrderState.DONE if has_result else OrderState.PAID)
        case OrderState.PAYING, NotNeeded():
            return OrderDecision(OrderState.AWAITING_REFUND, NOT_NEEDED, Trouble.GIVEN_UP)
        case OrderState.PAYING, TakenBack():
            # With this reason the coins are not sent.
            return OrderDecision(state, "cancelled", Trouble.CANCELLED)
        case OrderState.PAYING, ResultArrived():
            return OrderDecision(OrderState.PAYING)
        case OrderState.PAYING, PaymentImpossible(reason=reason, code=code):
            return OrderDecision(OrderState.FAILED, reason, code)

        case OrderState.AWAITING_REFUND, ResultArrived() if not was_sent:
            return None  # else nobody would take the coins back
        case OrderState.PAID, ErrorArrived(reason=reason, code=code):
            return OrderDecision(OrderState.AWAITING_REFUND, reason, code)
        case OrderState.PAID, DeadlinePassed():
            return OrderDecision(OrderState.AWAITING_REFUND, "no result came in time", Trouble.NO_RESULT)
        # DONE: what was delivered was disputed, and the arbiter gave the money back.
        case (
            (OrderState.PAID | OrderState.AWAITING_REFUND | OrderState.LOST | OrderState.DONE),
            MoneyBack(),
        ):
            return OrderDecision(OrderState.REFUNDED)
        case OrderState.AWAITING_REFUND, MoneyGone():
            return OrderDecision(OrderState.LOST)  # the reason why no result came stays
        case OrderState.PAID, MoneyGone():
            return OrderDecision(
                OrderState.LOST, "the coins were spent, and nothing was delivered", Trouble.COINS_GONE
            )
        case ((OrderState.PAID | OrderState.AWAITING_REFUND), FalselySealed(reason=reason)):
            return OrderDecision(OrderState.LOST, reason, Trouble.FALSE_SEAL)

        case OrderState.REQUESTED, TakenBack():
            return OrderDecision(OrderState.CANCELLED, "cancelled", Trouble.CANCELLED)
        case OrderState.PAID, TakenBack():
            return OrderDecision(state)  # the agent says what becomes of the money, or the deadline does
        case OrderState.REQUESTED, GivenUp(reason=reason, code=code):
            return OrderDecision(OrderState.CANCELLED, reason, code)
        case OrderState.PAID, GivenUp(reason=reason, code=code):
            return OrderDecision(OrderState.AWAITING_REFUND, reason, code)

        case (
            (OrderState.REQUESTED | OrderState.PAID | OrderState.AWAITING_REFUND | OrderState.LOST),
            ResultArrived(),
        ):
            return OrderDecision(OrderState.DONE)
        case _:
            return None
