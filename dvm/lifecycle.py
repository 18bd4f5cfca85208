"""The life of a job, as its provider sees it and as its customer sees it: pure state machines.

`decide_job`, `judge_payment` and `decide_order` say what becomes of a job, a payment, an order, what the other side is
told and what is to be done next. They touch nothing: the drivers (`provider.py`, `payments.py`, `customer.py`) write
the new state and the events in one transaction, then act. A pair the tables do not know is answered by `None`:
nothing changes.

    job:    OFFERED ──▶ PAYING ──▶ QUEUED ──▶ RUNNING ──▶ DONE
             │    │        │         │           │
             ▼    └──┬─────┘         └─────┬─────┘
          EXPIRED    ▼                     ├ (paid) ──▶ RETURNING ──▶ RETURNED
                   FAILED ◀────────────────┘ (free)

    for an escrow: ARRANGING ──▶ OFFERED ──▶ QUEUED, or FAILED when no arbiter serves

    done before it is paid: QUEUED ──▶ RUNNING ──▶ DONE with an invoice, or, its result sealed,
    RUNNING ──▶ OFFERED ──▶ PAYING ──▶ DONE; EXPIRED when nobody buys the key

    taken back by its customer: ARRANGING, OFFERED, EXPIRED, RUNNING, QUEUED (free) ──▶ CANCELLED;
    QUEUED (paid) ──▶ RETURNING

    order:  REQUESTED ──▶ PAYING ──▶ PAID ──────▶ DONE
               │             │        │
               ▼             ▼        ▼
      EXPIRED, FAILED,     FAILED   AWAITING_REFUND ──▶ REFUNDED, LOST
         CANCELLED
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dvm.nip90 import Status
from wallet.errors import Action

ATTEMPTS_MAX: Final = 5  # a job whose work takes the process down with it is not tried for ever


class JobState(StrEnum):
    """Where a job stands at its provider."""

    ARRANGING = "arranging"  # an arbiter is asked whether it serves; there is no offer yet
    OFFERED = "offered"  # to be paid; payments that come are looked at, none is taken yet
    PAYING = "paying"  # one payment was found good and is being swapped to us
    QUEUED = "queued"  # free or paid: to be worked on
    RUNNING = "running"  # being worked on; after a crash, worked on again
    RETURNING = "returning"  # cannot be served; the money is on its way back
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    RETURNED = "returned"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing happens to such a job any more."""
        return self in (
            JobState.DONE,
            JobState.FAILED,
            JobState.EXPIRED,
            JobState.RETURNED,
            JobState.CANCELLED,
        )


class Next(StrEnum):
    """What the driver does once the decision is on disk."""

    PAY = "pay"  # look at the payment
    WORK = "work"
    PAY_AND_WORK = "pay_and_work"
    RETURN = "return"  # send back what was paid
    STOP = "stop"  # end the work that is under way
    NOTHING = "nothing"


@dataclass(frozen=True)
class Say:
    """A feedback event for the customer."""

    status: Status
    message: str = ""
    action: Action | None = None


# Inputs to a job. ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrived:
    """A good request came. `has_payment`: it carried a token. `arranging`: an arbiter is asked to serve an escrow."""

    price_msat: int
    has_payment: bool
    arranging: bool = False
    on_credit: bool = (
        False  # worked on before it is paid: an invoice rides on the result, or the result is sealed
    )


@dataclass(frozen=True)
class Arranged:
    """The arbiter's answer is there: an offer can be made, of an escrow or, if it declined, of what else will do."""


@dataclass(frozen=True)
class NotArranged:
    """No arbiter serves, and the customer wants no other way."""

    reason: str


@dataclass(frozen=True)
class CoinsHeld:
    """The coins of an escrow are locked as agreed and with us: the work can begin.

    `sealed`: it is done, they are for the key of its result, and from this commit on the mint is asked for them.
    """

    sealed: bool = False


@dataclass(frozen=True)
class Refused:
    """A request that will not be served, and why."""

    reason: str
    action: Action = Action.GIVE_UP


@dataclass(frozen=True)
class PaymentAccepted:
    """A payment was found good; from this commit on the wallet swaps it to us."""


@dataclass(frozen=True)
class PaymentRedeemed:
    """The mint has swapped the payment to us: now it counts. After a restore that may have been in an earlier life."""


@dataclass(frozen=True)
class PaymentRefused:
    """A payment cannot be accepted and nothing was taken. `ends_job`: the customer itself sent it."""

    reason: str
    action: Action
    ends_job: bool


@dataclass(frozen=True)
class PaymentLost:
    """The accepted payment was spent elsewhere, or the mint refused it. `ends_job`: the customer itself sent it."""

    reason: str
    action: Action
    ends_job: bool


@dataclass(frozen=True)
class PaymentReturning:
    """A payment is good money but not enough: it goes back. `ends_job`: the customer itself sent it."""

    reason: str
    action: Action
    ends_job: bool


@dataclass(frozen=True)
class WorkStarted:
    """A runner takes the job. `attempts` counts this start too."""

    attempts: int


@dataclass(frozen=True)
class WorkInterrupted:
    """The post was stopped in the middle; `attempts` is what it was before this start."""

    attempts: int


@dataclass(frozen=True)
class WorkFinished:
    """The agent's function returned; the result event is written with this decision."""


@dataclass(frozen=True)
class WorkSealed:
    """The agent's function returned; the offer of the sealed result is written with this decision. Unix seconds."""

    offer_expires_at: int
    locktime: int


@dataclass(frozen=True)
class KeySold:
    """The coins for the key of a sealed result are ours."""


@dataclass(frozen=True)
class KeyUnsold:
    """The coins for the key of a sealed result will not be ours."""


@dataclass(frozen=True)
class WorkFailed:
    """The agent's function raised, took too long or answered too much. `paid`: there is money to send back."""

    reason: str
    paid: bool


@dataclass(frozen=True)
class MoneyReturned:
    """The coins for the customer are in the outbox with this decision."""


@dataclass(frozen=True)
class OfferLapsed:
    """Nobody paid in time."""


@dataclass(frozen=True)
class Cancelled:
    """The customer took its request back (NIP-09). `paid`: the job has a price; once it is queued, it is paid, unless
    it is done on credit.
    """

    paid: bool


JobInput = (
    Arrived | Arranged | NotArranged | CoinsHeld | Refused
    | PaymentAccepted | PaymentRedeemed | PaymentRefused | PaymentLost | PaymentReturning
    | WorkStarted | WorkInterrupted | WorkFinished | WorkSealed | KeySold | KeyUnsold | WorkFailed
    | MoneyReturned | OfferLapsed | Cancelled
)  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """What a job becomes, what the customer is told, what is done next. `offer` and `result` ask for those events."""

    state: JobState
    say: Say | None = None
    then: Next = Next.NOTHING
    offer: bool = False
    result: bool = False


def decide_job(state: JobState | None, event: JobInput) -> Decision | None:
    """What `event` makes of a job in `state` (None: not known yet); None if it changes nothing."""
    match state, event:
        case None, Arrived(price_msat=0, has_payment=has_payment):
            # A token on a request for free work is not ours to keep: `judge_payment` sends it back.
            return Decision(JobState.QUEUED, then=Next.PAY_AND_WORK if has_payment else Next.WORK)
        case None, Arrived(has_payment=True):
            return Decision(JobState.OFFERED, then=Next.PAY)
        case None, Arrived(on_credit=True):
            return Decision(JobState.QUEUED, then=Next.WORK)
        case None, Arrived(arranging=True):
            return Decision(JobState.ARRANGING)
        case None, Arrived():
            return Decision(JobState.OFFERED, offer=True)
        case JobState.ARRANGING, Arranged():
            return Decision(JobState.OFFERED, offer=True)
        case JobState.ARRANGING, NotArranged(reason=reason):
            return Decision(JobState.FAILED, Say(Status.ERROR, reason, Action.GIVE_UP))
        case None, Refused(reason=reason, action=action):
            return Decision(JobState.FAILED, Say(Status.ERROR, reason, action))

        case ((JobState.OFFERED | JobState.EXPIRED), PaymentAccepted()):
            return Decision(JobState.PAYING)  # a good payment that crossed the end of its offer is taken too
        case JobState.OFFERED, OfferLapsed():
            return Decision(JobState.EXPIRED)
        case JobState.OFFERED, PaymentReturning(reason=reason, action=action, ends_job=True):
            return Decision(JobState.FAILED, Say(Status.ERROR, f"{reason}; {_ON_ITS_WAY}", action))
        case JobState.OFFERED, PaymentRefused(reason=reason, action=action, ends_job=True):
            return Decision(JobState.FAILED, Say(Status.ERROR, f"{reason}; nothing was taken", action))

        case ((JobState.OFFERED | JobState.EXPIRED), CoinsHeld(sealed=True)):
            return Decision(JobState.PAYING)
        case JobState.PAYING, KeySold():
            return Decision(JobState.DONE)
        case ((JobState.OFFERED | JobState.PAYING), KeyUnsold()):
            return Decision(JobState.EXPIRED)

        case ((JobState.OFFERED | JobState.EXPIRED), CoinsHeld()):
            return Decision(JobState.QUEUED, then=Next.WORK)
        case ((JobState.OFFERED | JobState.EXPIRED | JobState.PAYING), PaymentRedeemed()):
            return Decision(JobState.QUEUED, then=Next.WORK)
        case JobState.PAYING, PaymentLost(reason=reason, action=action, ends_job=True):
            return Decision(JobState.FAILED, Say(Status.ERROR, f"{reason}; nothing was taken", action))
        case JobState.PAYING, PaymentLost():
            return Decision(JobState.OFFERED)

        case ((JobState.QUEUED | JobState.RUNNING), WorkStarted(attempts=attempts)) if (
            attempts <= ATTEMPTS_MAX
        ):
            return Decision(JobState.RUNNING, Say(Status.PROCESSING) if attempts == 1 else None)
        case JobState.RUNNING, WorkInterrupted():
            return Decision(JobState.QUEUED)
        case JobState.RUNNING, WorkFinished():
            return Decision(JobState.DONE, result=True)
        case JobState.RUNNING, WorkSealed():
            return Decision(JobState.OFFERED, offer=True)
        case ((JobState.QUEUED | JobState.RUNNING), WorkFailed(reason=reason, paid=True)):
            return Decision(
                JobState.RETURNING, Say(Status.ERROR, f"{reason}; {_ON_ITS_WAY}", Action.WAIT), Next.RETURN
            )
        case ((JobState.QUEUED | JobState.RUNNING), WorkFailed(reason=reason)):
            return Decision(JobState.FAILED, Say(Status.ERROR, reason, Action.GIVE_UP))

        case JobState.RETURNING, MoneyReturned():
            return Decision(JobState.RETURNED)

        case ((None | JobState.ARRANGING | JobState.OFFERED | JobState.EXPIRED), Cancelled()):
            return Decision(JobState.CANCELLED, Say(Status.ERROR, f"{_CANCELLED}; nothing was taken"))
        case JobState.QUEUED, Cancelled(paid=True):
            told = f"{_CANCELLED} before the work began; {_ON_ITS_WAY}"
            return Decision(JobState.RETURNING, Say(Status.ERROR, told, Action.WAIT), Next.RETURN)
        case JobState.RUNNING, Cancelled(paid=True):
            told = f"{_CANCELLED} when the work was under way; what you paid is not returned"
            return Decision(JobState.CANCELLED, Say(Status.ERROR, told), Next.STOP)
        case ((JobState.QUEUED | JobState.RUNNING), Cancelled(paid=False)):
            return Decision(JobState.CANCELLED, Say(Status.ERROR, _CANCELLED), Next.STOP)
        case _:
            return None


_CANCELLED: Final = "cancelled by you"
_ON_ITS_WAY: Final = "what you paid is on its way back in an encrypted message"


# Payments --------------------------------------------------------------------------------------------------------


class PaymentState(StrEnum):
    """Where ecash that was sent for a job stands at the provider."""

    RECEIVED = "received"  # stored, not yet judged: still the sender's
    REDEEMING = "redeeming"  # the mint is asked to swap it to us (and the change to the sender)
    REDEEMED = "redeemed"  # ours
    RETURNING = "returning"  # the mint is asked to make coins for the sender
    RETURNED = "returned"
    REFUSED = "refused"  # nothing was taken
    HELD = "held"  # locked for two of three: the escrow of the job has it from here


PAYMENT_OPEN: Final = frozenset({PaymentState.RECEIVED, PaymentState.REDEEMING, PaymentState.RETURNING})


@dataclass(frozen=True)
class Verdict:
    """What is to be done with good money: `state` is REDEEMING or RETURNING."""

    state: PaymentState
    reason: str = ""
    action: Action = Action.GIVE_UP


def judge_payment(
    job: JobState | None, *, net_sat: int, price_sat: int, least_fee_sat: int, expired: bool = False
) -> Verdict:
    """Whether money the mint vouches for is taken or goes back; `net_sat` is its worth after the mint's fee.

    `expired`: the request itself has (NIP-40), so the work would not be begun.

    `least_fee_sat` is what the mint takes when the price comes in the fewest coins: so much of the fee we bear, as
    wallets that answer a payment request send just its amount. Small change beyond that pays its own fee. More than
    the price is taken too: the change goes back with the same swap.
    """
    if job not in (JobState.OFFERED, JobState.EXPIRED):
        reason = (
            "this job needs no payment any more" if job is not None else "the payment names no job of ours"
        )
        return Verdict(PaymentState.RETURNING, reason)
    if expired:
        return Verdict(PaymentState.RETURNING, "the request has expired")
    if net_sat < price_sat - least_fee_sat:
        reason = f"the price is {price_sat} sat, but only {net_sat} sat arrived after the mint's fee"
        return Verdict(PaymentState.RETURNING, reason, Action.TOP_UP)
    return Verdict(PaymentState.REDEEMING)


# Orders ----------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class CoinsLocked:
    """The mint has locked our coins for the provider; the message that carries them is written with this decision."""


@dataclass(frozen=True)
class PaymentImpossible:
    """Our coins could not be locked; they are still ours."""

    reason: str


@dataclass(frozen=True)
class ResultArrived:
    """The provider's 6xxx event."""


@dataclass(frozen=True)
class ErrorArrived:
    """The provider's 7000 `error`."""

    reason: str


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


OrderInput = (
    OfferArrived | CoinsLocked | PaymentImpossible | ResultArrived
    | ErrorArrived | DeadlinePassed | MoneyBack | MoneyGone | FalselySealed | TakenBack
)  # fmt: skip


@dataclass(frozen=True)
class OrderDecision:
    """What an order becomes. `reason` is kept with it and shown."""

    state: OrderState
    reason: str = ""


def decide_order(state: OrderState, event: OrderInput, *, has_result: bool = False) -> OrderDecision | None:
    """What `event` makes of an order in `state`; None if it changes nothing. `has_result`: one was delivered early."""
    match state, event:
        case OrderState.REQUESTED, OfferArrived(obstacle=""):
            return OrderDecision(OrderState.PAYING)
        case OrderState.REQUESTED, OfferArrived(obstacle=obstacle):
            return OrderDecision(OrderState.FAILED, obstacle)
        case OrderState.REQUESTED, ErrorArrived(reason=reason):
            return OrderDecision(OrderState.FAILED, reason)
        case OrderState.REQUESTED, DeadlinePassed():
            return OrderDecision(OrderState.EXPIRED, "nobody answered in time")

        case OrderState.PAYING, CoinsLocked():
            # Delivered before it was paid: we pay what we agreed to.
            return OrderDecision(OrderState.DONE if has_result else OrderState.PAID)
        case OrderState.PAYING, ResultArrived():
            return OrderDecision(OrderState.PAYING)
        case OrderState.PAYING, PaymentImpossible(reason=reason):
            return OrderDecision(OrderState.FAILED, reason)

        case OrderState.PAID, ErrorArrived(reason=reason):
            return OrderDecision(OrderState.AWAITING_REFUND, reason)
        case OrderState.PAID, DeadlinePassed():
            return OrderDecision(OrderState.AWAITING_REFUND, "no result came in time")
        # DONE: what was delivered was disputed, and the arbiter gave the money back.
        case (
            (OrderState.PAID | OrderState.AWAITING_REFUND | OrderState.LOST | OrderState.DONE),
            MoneyBack(),
        ):
            return OrderDecision(OrderState.REFUNDED)
        case OrderState.AWAITING_REFUND, MoneyGone():
            return OrderDecision(OrderState.LOST)  # the reason why no result came stays
        case OrderState.PAID, MoneyGone():
            return OrderDecision(OrderState.LOST, "the coins were spent, and nothing was delivered")
        case ((OrderState.PAID | OrderState.AWAITING_REFUND), FalselySealed(reason=reason)):
            return OrderDecision(OrderState.LOST, reason)

        case OrderState.REQUESTED, TakenBack():
            return OrderDecision(OrderState.CANCELLED, "cancelled")
        case ((OrderState.PAYING | OrderState.PAID), TakenBack()):
            return OrderDecision(state)  # the agent says what becomes of the money, or the deadline does

        case (
            (OrderState.REQUESTED | OrderState.PAID | OrderState.AWAITING_REFUND | OrderState.LOST),
            ResultArrived(),
        ):
            return OrderDecision(OrderState.DONE)
        case _:
            return None
