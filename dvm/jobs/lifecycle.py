"""The life of a job and of its payments, as their provider sees them: pure state machines.

`decide_job` and `judge_payment` say what becomes of a job and of a payment, what the customer is told and what is to be
done next. They touch nothing: the drivers (`provider.py`, `payments.py`) write the new state and the events in one
transaction, then act. A pair the tables do not know is answered by `None`: nothing changes. The customer's side is
`orders/lifecycle.py`.

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
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dvm.errors import BadRequest, JobFailed, Trouble
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
    def is_given_up(self) -> bool:
        """Whether no work is done for such a job any more."""
        return self.is_final or self is JobState.RETURNING

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
    code: str = ""  # of an error, see docs/errors.md


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
    code: str = Trouble.NO_ARBITER


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
    code: str = BadRequest.code


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
    code: str = Trouble.PAYMENT_REFUSED


@dataclass(frozen=True)
class PaymentLost:
    """The accepted payment was spent elsewhere, or the mint refused it. `ends_job`: the customer itself sent it."""

    reason: str
    action: Action
    ends_job: bool
    code: str = Trouble.PAYMENT_REFUSED


@dataclass(frozen=True)
class PaymentReturning:
    """A payment is good money but not enough: it goes back. `ends_job`: the customer itself sent it."""

    reason: str
    action: Action
    ends_job: bool
    code: str = Trouble.PAYMENT_REFUSED


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
    """The agent's function returned; the result event is written with this decision. `confidence`: as it stated it."""

    confidence: float | None = None


@dataclass(frozen=True)
class WorkSealed:
    """The agent's function returned; the offer of the sealed result is written with this decision. Unix seconds."""

    offer_expires_at: int
    locktime: int
    confidence: float | None = None


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
    code: str = JobFailed.code


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
        case _, Cancelled(paid=paid):
            return _cancelled(state, paid)
        case None, _:
            return _new(event)
        case ((JobState.ARRANGING | JobState.OFFERED | JobState.EXPIRED | JobState.PAYING), _):
            return _for_sale(state, event)
        case ((JobState.QUEUED | JobState.RUNNING), _):
            return _in_work(state, event)
        case JobState.RETURNING, MoneyReturned():
            return Decision(JobState.RETURNED)
        case _:
            return None


def _new(event: JobInput) -> Decision | None:
    match event:
        case Arrived(price_msat=0, has_payment=has_payment):
            # A token on a request for free work is not ours to keep: `judge_payment` sends it back.
            return Decision(JobState.QUEUED, then=Next.PAY_AND_WORK if has_payment else Next.WORK)
        case Arrived(has_payment=True):
            return Decision(JobState.OFFERED, then=Next.PAY)
        case Arrived(on_credit=True):
            return Decision(JobState.QUEUED, then=Next.WORK)
        case Arrived(arranging=True):
            return Decision(JobState.ARRANGING)
        case Arrived():
            return Decision(JobState.OFFERED, offer=True)
        case Refused(reason=reason, action=action, code=code):
            return Decision(JobState.FAILED, Say(Status.ERROR, reason, action, code))
        case _:
            return None


def _for_sale(state: JobState, event: JobInput) -> Decision | None:
    """Before the work is paid for. That it may be done already, and sealed, is told by the input."""
    match state, event:
        case JobState.ARRANGING, Arranged():
            return Decision(JobState.OFFERED, offer=True)
        case JobState.ARRANGING, NotArranged(reason=reason, code=code):
            return Decision(JobState.FAILED, Say(Status.ERROR, reason, Action.GIVE_UP, code))

        case ((JobState.OFFERED | JobState.EXPIRED), PaymentAccepted()):
            return Decision(JobState.PAYING)  # a good payment that crossed the end of its offer is taken too
        case JobState.OFFERED, OfferLapsed():
            return Decision(JobState.EXPIRED)
        case JobState.OFFERED, PaymentReturning(reason=reason, action=action, ends_job=True, code=code):
            return Decision(JobState.FAILED, Say(Status.ERROR, f"{reason}; {_ON_ITS_WAY}", action, code))
        case JobState.OFFERED, PaymentRefused(reason=reason, action=action, ends_job=True, code=code):
            return Decision(JobState.FAILED, Say(Status.ERROR, f"{reason}; nothing was taken", action, code))

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
        case JobState.PAYING, PaymentLost(reason=reason, action=action, ends_job=True, code=code):
            return Decision(JobState.FAILED, Say(Status.ERROR, f"{reason}; nothing was taken", action, code))
        case JobState.PAYING, PaymentLost():
            return Decision(JobState.OFFERED)
        case _:
            return None


def _in_work(state: JobState, event: JobInput) -> Decision | None:
    match state, event:
        case _, WorkStarted(attempts=attempts) if attempts <= ATTEMPTS_MAX:
            return Decision(JobState.RUNNING, Say(Status.PROCESSING) if attempts == 1 else None)
        case JobState.RUNNING, WorkInterrupted():
            return Decision(JobState.QUEUED)
        case JobState.RUNNING, WorkFinished():
            return Decision(JobState.DONE, result=True)
        case JobState.RUNNING, WorkSealed():
            return Decision(JobState.OFFERED, offer=True)
        case _, WorkFailed(reason=reason, paid=True, code=code):
            told = Say(Status.ERROR, f"{reason}; {_ON_ITS_WAY}", Action.WAIT, code)
            return Decision(JobState.RETURNING, told, Next.RETURN)
        case _, WorkFailed(reason=reason, code=code):
            return Decision(JobState.FAILED, Say(Status.ERROR, reason, Action.GIVE_UP, code))
        case _:
            return None


def _cancelled(state: JobState | None, paid: bool) -> Decision | None:
    match state:
        case None | JobState.ARRANGING | JobState.OFFERED | JobState.EXPIRED:
            return Decision(JobState.CANCELLED, _say_cancelled("; nothing was taken"))
        case JobState.QUEUED if paid:
            told = _say_cancelled(f" before the work began; {_ON_ITS_WAY}", Action.WAIT)
            return Decision(JobState.RETURNING, told, Next.RETURN)
        case JobState.RUNNING if paid:
            told = _say_cancelled(" when the work was under way; what you paid is not returned")
            return Decision(JobState.CANCELLED, told, Next.STOP)
        case JobState.QUEUED | JobState.RUNNING:
            return Decision(JobState.CANCELLED, _say_cancelled(), Next.STOP)
        case _:
            return None


def _say_cancelled(more: str = "", action: Action | None = None) -> Say:
    return Say(Status.ERROR, CANCELLED + more, action, Trouble.CANCELLED)


CANCELLED: Final = "cancelled by you"  # what a job's reason begins with when its customer took it back
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
    code: str = Trouble.PAYMENT_NOT_NEEDED


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
        return Verdict(PaymentState.RETURNING, "the request has expired", code=Trouble.REQUEST_EXPIRED)
    if net_sat < price_sat - least_fee_sat:
        reason = f"the price is {price_sat} sat, but only {net_sat} sat arrived after the mint's fee"
        return Verdict(PaymentState.RETURNING, reason, Action.TOP_UP, Trouble.PAYMENT_TOO_LOW)
    return Verdict(PaymentState.REDEEMING)
