"""The money of one job in escrow, as each of its parties sees it: a pure state machine.

`decide` says what becomes of an escrow when something happens, and what its party must then do. It touches nothing: the
driver (`escrows.py`) writes the new stage and all that follows from it in one transaction, then acts. A pair the table
does not know is answered by `None`: nothing changes. Who can do what when, in words: docs/escrow.md.

    customer:  LOCKING ──▶ HELD ──▶ DELIVERED ──▶ RELEASED
                  │         │  ╲         │              ▲
                  ▼         ▼   ╲        ▼              │
                VOID     OVERDUE ──▶  DISPUTED ──▶ CONCEDED
                            └────┬──────┘               │   (if a ruling met the acceptance half-way)
                              CLAIMING ◀────────────────┘
                                 └──▶ REFUNDED, LOST

    provider:  PROPOSED ──▶ AGREED ──▶ HELD ──▶ DELIVERED ──▶ CLAIMING ──▶ PAID, LOST
                   └────┬────┘          │        │    │       ▲   ▲
                      VOID              │        │  DISPUTED ─┘   │
                                        ▼        ▼    ▼           │   (if the customer accepted meanwhile,
                                     YIELDED ◀─ CONCEDED ─────────┘    or the arbiter ruled)

    provider, of a sealed result:  PROPOSED (to be worked on) ──▶ AGREED (offered) ──▶ CLAIMING ──▶ PAID, LOST, VOID

    arbiter:   AGREED ──▶ DELIVERED ──▶ DISPUTED ──▶ RULED
                  └──▶ OVERDUE ──┴─────────────────────▲          (and from each to VOID before the locktime)
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from wallet.terms import MARGIN_SECONDS, Method, Terms


class Role(StrEnum):
    """Whose view of the escrow it is."""

    CUSTOMER = "customer"
    PROVIDER = "provider"
    ARBITER = "arbiter"


class Stage(StrEnum):
    """Where the money stands for one party."""

    PROPOSED = "proposed"  # provider: the arbiter is asked to serve
    AGREED = "agreed"  # the terms are signed; no coins are known
    LOCKING = "locking"  # customer: the mint is asked to lock our coins
    HELD = "held"  # locked, checked, and with the provider; the work is under way
    OVERDUE = "overdue"  # nothing came in time, says the customer: it has asked the arbiter for the money
    DELIVERED = "delivered"  # the result is out; the customer may look at it
    DISPUTED = "disputed"  # the customer will not pay for it; the arbiter hears both
    CONCEDED = "conceded"  # our signatures for the other side are out, but the arbiter may be ruling just now
    CLAIMING = "claiming"  # enough signatures, or the locktime has passed: our swap is under way

    PAID = "paid"  # provider: the coins are ours
    YIELDED = "yielded"  # provider: our signatures for the customer are out
    RELEASED = "released"  # customer: our signatures for the provider are out, or the arbiter's were used
    REFUNDED = "refunded"  # customer: the coins are ours again
    RULED = "ruled"  # arbiter: our signatures are out
    LOST = "lost"  # provider, customer: somebody else took the coins
    VOID = "void"  # it ended before there was anything to decide

    @property
    def is_final(self) -> bool:
        """Whether nothing is waited for any more."""
        return self in FINAL

    @property
    def is_locked(self) -> bool:
        """Whether the coins are known to be locked, and nobody takes them yet."""
        return self in (Stage.HELD, Stage.OVERDUE, Stage.DELIVERED, Stage.DISPUTED)


FINAL: Final = frozenset(
    {Stage.PAID, Stage.YIELDED, Stage.RELEASED, Stage.REFUNDED, Stage.RULED, Stage.LOST, Stage.VOID}
)


class Effect(StrEnum):
    """What the party does once the decision is on disk. Every message is written with the decision itself."""

    NONE = "none"
    REPORT = "report"  # provider: tell the arbiter what was delivered, and which secrets it may have to sign
    SIGN_FOR_PROVIDER = "sign_for_provider"
    SIGN_FOR_CUSTOMER = "sign_for_customer"
    SIGN_AS_RULED = "sign_as_ruled"
    ASK_BACK = "ask_back"  # customer: tell the arbiter that nothing came
    DISPUTE = "dispute"  # customer: tell the arbiter and the provider why
    ANSWER = "answer"  # provider: send the arbiter and the customer its evidence
    REDELIVER = "redeliver"  # arbiter: show the customer the result
    CLAIM = "claim"  # swap what the signatures open
    REFUND = "refund"  # customer: swap with the refund key alone
    TELL_KEY = "tell_key"  # provider: tell the customer the key it has bought; the mint knows it already


# What happens. ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """Provider: the terms are whole: the arbiter has signed them, or the result is sealed."""


@dataclass(frozen=True)
class Funded:
    """Customer: the mint locked our coins, the message with them is in the outbox. Provider: they are checked."""


@dataclass(frozen=True)
class NotFunded:
    """Customer: the coins could not be locked. Provider: no arbiter serves."""


@dataclass(frozen=True)
class ResultOut:
    """The result is published; a party knows it from the event itself. `by_arbiter`: it had to show it to us."""

    by_arbiter: bool = False


@dataclass(frozen=True)
class Accepted:
    """The customer is content."""


@dataclass(frozen=True)
class Contested:
    """The customer is not."""


@dataclass(frozen=True)
class Answered:
    """Provider: it says why the result is good."""


@dataclass(frozen=True)
class AskedBack:
    """Arbiter: the customer says that nothing came."""


@dataclass(frozen=True)
class SignaturesCame:
    """Signatures of another party that, with ours, open coins for us; they are checked and kept with the escrow."""

    by: Role


@dataclass(frozen=True)
class GivesBack:
    """Provider: the work failed, or it lets the customer have the money."""


@dataclass(frozen=True)
class Ruling:
    """Arbiter: who gets which coins is decided, and written down."""


@dataclass(frozen=True)
class Taken:
    """The mint has swapped the coins to us."""


@dataclass(frozen=True)
class Gone:
    """All coins that were left are spent, and not by us. `by_right`: with the signatures that the lock asks for."""

    by_right: bool


@dataclass(frozen=True)
class TooLate:
    """Provider: near the locktime the mint is not asked any more, for it would learn the key and we perhaps nothing."""


@dataclass(frozen=True)
class Tick:
    """Time passed; see `wakes_at`."""


EscrowInput = (
    Served | Funded | NotFunded | ResultOut | Accepted | Contested | Answered | AskedBack | SignaturesCame
    | GivesBack | Ruling | Taken | Gone | TooLate | Tick
)  # fmt: skip


@dataclass(frozen=True)
class Decision:
    """What an escrow becomes, and what is to be done."""

    stage: Stage
    then: Effect = Effect.NONE


def decide(
    role: Role, stage: Stage, event: EscrowInput, terms: Terms, *, now: int, delivered_at: int | None = None
) -> Decision | None:
    """What `event` makes of an escrow at `now`, the mint's clock; None if it changes nothing.

    `delivered_at`: when this party itself saw the result, never what an event's `created_at` claims.
    """
    match role:
        case Role.CUSTOMER:
            return _customer(stage, event, terms, now, delivered_at)
        case Role.PROVIDER:
            return _provider(stage, event, terms, now)
        case Role.ARBITER:
            return _arbiter(stage, event, terms, now, delivered_at)


def wakes_at(role: Role, stage: Stage, terms: Terms, delivered_at: int | None) -> int | None:
    """When time alone will next change an escrow, so that a `Tick` is due; None if it never does."""
    reviewed_at = None if delivered_at is None else delivered_at + terms.review_seconds
    match role, stage:
        case Role.CUSTOMER, Stage.HELD if terms.method is Method.ESCROW:
            return terms.deliver_by
        case Role.CUSTOMER, Stage.DELIVERED:
            return reviewed_at
        case ((Role.CUSTOMER | Role.PROVIDER), Stage.CONCEDED):
            return terms.deliver_by  # from then on it looks now and then whether the coins are taken
        case (Role.CUSTOMER, (Stage.HELD | Stage.OVERDUE | Stage.DISPUTED)) | (
            Role.PROVIDER,
            (Stage.HELD | Stage.DELIVERED | Stage.DISPUTED),
        ):
            return (
                terms.locktime + 1
            )  # it must lie behind us (NUT-11); the provider then looks whose the coins are
        case Role.ARBITER, Stage.DELIVERED if reviewed_at is not None:
            return min(reviewed_at + MARGIN_SECONDS, terms.claim_until)
        case Role.PROVIDER, (Stage.PROPOSED | Stage.AGREED):
            return terms.fund_until
        case Role.ARBITER, Stage.OVERDUE:
            return terms.deliver_by + MARGIN_SECONDS + 1
        case Role.ARBITER, (Stage.AGREED | Stage.DISPUTED):
            return terms.claim_until
    return None


def _customer(
    stage: Stage, event: EscrowInput, terms: Terms, now: int, delivered_at: int | None
) -> Decision | None:
    match stage, event:
        case Stage.LOCKING, Funded():
            return Decision(Stage.HELD)
        case Stage.LOCKING, NotFunded():
            return Decision(Stage.VOID)

        # Late results are owed nothing; what the arbiter shows was in time, or it would not show it.
        case ((Stage.HELD | Stage.OVERDUE), ResultOut(by_arbiter=by_arbiter)) if (
            by_arbiter or now <= terms.deliver_by + MARGIN_SECONDS
        ):
            return Decision(Stage.DELIVERED)
        case Stage.DELIVERED, Accepted():
            return Decision(Stage.RELEASED, Effect.SIGN_FOR_PROVIDER)
        case Stage.DELIVERED, Tick() if _reviewed(terms, now, delivered_at):
            return Decision(
                Stage.RELEASED, Effect.SIGN_FOR_PROVIDER
            )  # the arbiter would sign now in our place
        case Stage.DELIVERED, Contested() if not _reviewed(terms, now, delivered_at):
            return Decision(Stage.DISPUTED, Effect.DISPUTE)
        case Stage.OVERDUE, Contested() if (
            now < terms.claim_until
        ):  # it was shown a result that it cannot have
            return Decision(Stage.DISPUTED, Effect.DISPUTE)

        case Stage.HELD, Tick() if (
            terms.method is Method.ESCROW and terms.deliver_by <= now <= terms.locktime
        ):
            return Decision(Stage.OVERDUE, Effect.ASK_BACK)
        case ((Stage.OVERDUE | Stage.DISPUTED), Accepted()):  # a late result, or one that is good after all
            return Decision(Stage.CONCEDED, Effect.SIGN_FOR_PROVIDER)
        case Stage.CONCEDED, Tick() if now >= terms.claim_until:  # no ruling comes any more
            return Decision(Stage.RELEASED)
        case ((Stage.HELD | Stage.OVERDUE | Stage.DELIVERED | Stage.DISPUTED), SignaturesCame(Role.PROVIDER)) | (
            # Which we have asked; a ruling that met our acceptance half-way leaves no coin without an owner.
            (Stage.OVERDUE | Stage.DISPUTED | Stage.CONCEDED), SignaturesCame(Role.ARBITER),
        ):  # fmt: skip
            return Decision(Stage.CLAIMING, Effect.CLAIM)
        case ((Stage.HELD | Stage.OVERDUE | Stage.DISPUTED), Tick()) if now > terms.locktime:
            return Decision(Stage.CLAIMING, Effect.REFUND)

        case Stage.CLAIMING, Taken():
            return Decision(Stage.REFUNDED)
        case (
            (Stage.HELD | Stage.OVERDUE | Stage.DELIVERED | Stage.DISPUTED | Stage.CONCEDED | Stage.CLAIMING),
            Gone(by_right=by_right),
        ):
            # Coins that need two signatures, one the arbiter's, went as it ruled; a key was bought for the others.
            return Decision(Stage.RELEASED if by_right else Stage.LOST)
        case _:
            return None


def _provider(stage: Stage, event: EscrowInput, terms: Terms, now: int) -> Decision | None:
    match stage, event:
        case Stage.AGREED, Funded() if terms.method is Method.REVEAL:
            return Decision(Stage.CLAIMING, Effect.CLAIM) if now < terms.fund_until else None
        case Stage.AGREED, Funded():
            return Decision(Stage.HELD) if now < terms.fund_until else None
        case Stage.PROPOSED, Served():
            return Decision(Stage.AGREED)
        case Stage.PROPOSED, NotFunded():  # an arbiter that has signed was not too late
            return Decision(Stage.VOID)
        case ((Stage.PROPOSED | Stage.AGREED), Tick()) if now >= terms.fund_until:
            return Decision(Stage.VOID)  # coins that come from now on are not taken

        case Stage.HELD, ResultOut():
            return Decision(Stage.DELIVERED, Effect.REPORT)
        case Stage.HELD, GivesBack():
            return Decision(Stage.YIELDED, Effect.SIGN_FOR_CUSTOMER)
        case ((Stage.DELIVERED | Stage.DISPUTED), GivesBack()):
            return Decision(Stage.CONCEDED, Effect.SIGN_FOR_CUSTOMER)
        case Stage.CONCEDED, Tick() if now >= terms.claim_until:  # no ruling comes any more
            return Decision(Stage.YIELDED)
        case Stage.CONCEDED, Gone():
            return Decision(Stage.YIELDED)
        case Stage.DELIVERED, Contested():  # whoever disputes what it cannot have seen stops no delivery
            return Decision(Stage.DISPUTED, Effect.ANSWER)
        case Stage.DISPUTED, Answered():
            return Decision(Stage.DISPUTED, Effect.ANSWER)
        # A customer that accepts while we give back has given in too: somebody must take the coins.
        case (
            (Stage.HELD | Stage.DELIVERED | Stage.DISPUTED | Stage.CONCEDED | Stage.YIELDED),
            SignaturesCame(Role.CUSTOMER),
        ) | ((Stage.DELIVERED | Stage.DISPUTED | Stage.CONCEDED), SignaturesCame(Role.ARBITER)):
            return Decision(Stage.CLAIMING, Effect.CLAIM)

        case Stage.CLAIMING, Taken() if terms.method is Method.REVEAL:
            return Decision(Stage.PAID, Effect.TELL_KEY)
        case Stage.CLAIMING, Taken():
            return Decision(Stage.PAID)
        case Stage.CLAIMING, TooLate():
            return Decision(Stage.VOID)
        case ((Stage.HELD | Stage.DELIVERED | Stage.DISPUTED | Stage.CLAIMING), Gone()):
            return Decision(Stage.LOST)
        case _:
            return None


def _arbiter(
    stage: Stage, event: EscrowInput, terms: Terms, now: int, delivered_at: int | None
) -> Decision | None:
    if now >= terms.claim_until:  # a ruling that is not used before the locktime is none
        return Decision(Stage.VOID) if isinstance(event, Tick) and not stage.is_final else None
    match stage, event:
        case ((Stage.AGREED | Stage.OVERDUE), ResultOut()) if now <= terms.deliver_by + MARGIN_SECONDS:
            return Decision(Stage.DELIVERED, Effect.REDELIVER)
        case Stage.AGREED, AskedBack() if now >= terms.deliver_by - MARGIN_SECONDS // 2:
            return Decision(Stage.OVERDUE)
        case Stage.OVERDUE, Tick() if now > terms.deliver_by + MARGIN_SECONDS:
            return Decision(Stage.RULED, Effect.SIGN_FOR_CUSTOMER)
        # A dispute that was written in time may come a little later.
        case Stage.DELIVERED, Tick() if _reviewed(terms, now - MARGIN_SECONDS, delivered_at):
            return Decision(Stage.RULED, Effect.SIGN_FOR_PROVIDER)
        case (
            (Stage.AGREED | Stage.OVERDUE | Stage.DELIVERED),
            Contested(),
        ):  # it may overtake the provider's report
            return Decision(Stage.DISPUTED)
        # A party gives in: no ruling is needed.
        case ((Stage.OVERDUE | Stage.DELIVERED | Stage.DISPUTED), Accepted()):
            return Decision(Stage.RULED, Effect.SIGN_FOR_PROVIDER)
        case ((Stage.OVERDUE | Stage.DELIVERED | Stage.DISPUTED), GivesBack()):
            return Decision(Stage.RULED, Effect.SIGN_FOR_CUSTOMER)
        case Stage.DISPUTED, Ruling():
            return Decision(Stage.RULED, Effect.SIGN_AS_RULED)
        case _:
            return None


def _reviewed(terms: Terms, now: int, delivered_at: int | None) -> bool:
    return delivered_at is not None and now >= delivered_at + terms.review_seconds
