"""What the parties of an escrow agree on before any coin is locked: plain values, and what makes them sound.

Identities are x-only public keys, one-job keys 33-byte compressed ones, both in lowercase hex. Times are unix seconds
on the mint's clock.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from wallet.errors import WrongLock, WrongTerms
from wallet.locks import check_terms
from wallet.proofs import Lock

MARGIN_SECONDS: Final = (
    120  # nobody claims later than this before the locktime, no clock is off by half of it
)
LOCK_SECONDS_MAX: Final = 30 * 86_400
PRICE_SAT_MAX: Final = 10_000_000
ARBITER_RELAYS_MAX: Final = 4
RELAY_CHARS_MAX: Final = 512


class Method(StrEnum):
    """How a job is settled: the values of a `settle` tag."""

    PREPAID = "prepaid"
    ESCROW = "escrow"
    REVEAL = "reveal"
    INVOICE = "invoice"


@dataclass(frozen=True)
class Terms:
    """One job's agreement. The arbiter's fields are set for `escrow`, `hash` (hex) for `reveal`.

    The result is due at `deliver_by`; then the customer has `review_seconds` to dispute it, the arbiter
    `dispute_seconds` to rule, and after `locktime` the customer may take the coins back alone. `arbiter_fee_sat` is
    what hearing a dispute costs whoever begins it; it is no part of the price. `arbiter_relays` are where it reads.
    """

    method: Method
    request_id: str
    provider: str
    provider_key: str
    customer: str
    customer_key: str
    mint: str
    price_sat: int
    deliver_by: int
    review_seconds: int
    dispute_seconds: int
    locktime: int
    arbiter: str | None = None
    arbiter_key: str | None = None
    hash: str | None = None
    arbiter_fee_sat: int = 0
    arbiter_relays: tuple[str, ...] = ()

    @property
    def lock(self) -> Lock:
        """The one lock that coins for this job may have (escrow §2, §3)."""
        refund = (self.customer_key,)
        if self.method is Method.ESCROW:
            assert self.arbiter_key is not None
            others = (self.customer_key, self.arbiter_key)
            return Lock(self.provider_key, self.locktime, refund, pubkeys=others, n_sigs=2)
        return Lock(self.provider_key, self.locktime, refund, hash=self.hash)

    @property
    def claim_until(self) -> int:
        """The last moment for the provider, or an arbiter, to act: later the customer may be quicker."""
        return self.locktime - MARGIN_SECONDS

    @property
    def fund_until(self) -> int:
        """The last moment at which the provider takes coins: a sealed result is there already, work needs its time."""
        return self.claim_until if self.method is Method.REVEAL else self.deliver_by

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `read_terms` of it is equal again."""
        return asdict(self)


def read_terms(raw: dict[str, Any]) -> Terms:
    """From `Terms.to_dict` out of our own database."""
    relays = tuple(raw.get("arbiter_relays", ()))
    return Terms(**(raw | {"method": Method(raw["method"]), "arbiter_relays": relays}))


def check_agreement(terms: Terms, now: int) -> None:
    """Raise `WrongTerms`, saying what is wrong, unless every party could sign these terms at `now`."""
    parties = [key for key in (terms.provider, terms.customer, terms.arbiter) if key is not None]
    keys = [key for key in (terms.provider_key, terms.customer_key, terms.arbiter_key) if key is not None]
    if len(set(parties)) != len(parties):
        raise WrongTerms("the provider, the customer and the arbiter are not three different parties")
    xs = [key[-64:] for key in keys]
    if len({*xs, *parties}) != len(xs) + len(parties):
        raise WrongTerms("a one-job key is there twice, or is somebody's identity")
    if (terms.arbiter is None) != (terms.arbiter_key is None) or (
        (terms.arbiter is None) == (terms.method is Method.ESCROW)
    ):
        raise WrongTerms("an escrow has an arbiter with a key of its own, and nothing else has one")
    if (terms.hash is None) == (terms.method is Method.REVEAL):
        raise WrongTerms("a sealed result has the hash of its key, and nothing else has one")
    if not 0 <= terms.arbiter_fee_sat <= (PRICE_SAT_MAX if terms.arbiter else 0):
        raise WrongTerms(f"a fee is 0 … {PRICE_SAT_MAX} sat, and an arbiter's")
    relays = terms.arbiter_relays
    if len(relays) > ARBITER_RELAYS_MAX or any(len(url) > RELAY_CHARS_MAX for url in relays):
        raise WrongTerms(
            f"an arbiter names at most {ARBITER_RELAYS_MAX} relays of {RELAY_CHARS_MAX} characters each"
        )
    if not 0 < terms.price_sat <= PRICE_SAT_MAX:
        raise WrongTerms(f"a price is 1 … {PRICE_SAT_MAX} sat")
    if min(terms.review_seconds, terms.dispute_seconds) < 0:
        raise WrongTerms("the times for review and dispute are not below zero")
    if terms.deliver_by <= now:
        raise WrongTerms("the time of delivery has passed")
    # Late by a margin: the word of a delivery, the arbiter's patience with a customer, and whoever claims in the end.
    needed = terms.deliver_by + terms.review_seconds + terms.dispute_seconds + 3 * MARGIN_SECONDS
    if terms.locktime < needed:
        raise WrongTerms(
            "the locktime comes too early: it leaves no room for delivery, review, a dispute and the margin"
        )
    if terms.locktime > now + LOCK_SECONDS_MAX:
        raise WrongTerms(f"the coins would be locked for more than {LOCK_SECONDS_MAX // 86_400} days")
    try:
        check_terms(terms.lock)
    except WrongLock as error:
        raise WrongTerms(str(error)) from None
