"""What an arbiter signs with its identity: that it serves an escrow, and how it ruled (escrow §1, §2). Pure.

Neither event carries anything that is not in the terms, so whoever knows the terms rebuilds the event and checks the
signature: an offer needs to name no more than the arbiter, its key for the job, a date and a signature.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from identity import Event, EventTemplate, InvalidEvent, make_rumor, make_template
from wallet.terms import Terms

ACCEPTANCE: Final = 3955  # regular events in a range that no NIP has taken
RULING: Final = 3956
ARBITRATION: Final = 5957  # a job: hear a dispute; its result is the ruling
_SATS: Final = re.compile("[0-9]{1,16}")  # Python raises over thousands of digits


@dataclass(frozen=True)
class Signed:
    """When an arbiter signed, and its signature: what an offer carries of an acceptance."""

    created_at: int
    sig: str


class Agreement(NamedTuple):
    """What a customer's coins are locked for: what an arbiter has signed, or the key of a ciphertext (base64)."""

    terms: Terms
    signed: Signed | None = None
    ciphertext: str | None = None


def acceptance_of(terms: Terms, created_at: int) -> EventTemplate:
    """The event by which the arbiter of these terms says that it serves them."""
    tags: list[tuple[str, ...]] = [
        ("e", terms.request_id),
        ("p", terms.provider, "", "provider"),
        ("p", terms.customer, "", "customer"),
        ("lock", terms.provider_key, terms.customer_key, terms.arbiter_key or ""),
        ("mint", terms.mint),
        ("amount", str(1000 * terms.price_sat)),
        ("deliver_by", str(terms.deliver_by)),
        ("review", str(terms.review_seconds)),
        ("dispute", str(terms.dispute_seconds)),
        ("locktime", str(terms.locktime)),
        ("fee", str(1000 * terms.arbiter_fee_sat)),
    ]
    if terms.arbiter_relays:
        tags.append(("relays", *terms.arbiter_relays))
    return make_template(ACCEPTANCE, tags=tags, created_at=created_at)


def check_acceptance(terms: Terms, signed: Signed) -> bool:
    """Whether the arbiter of these terms signed them."""
    if terms.arbiter is None:
        return False
    rumor = make_rumor(acceptance_of(terms, signed.created_at), terms.arbiter)
    event = Event(
        id=rumor.id, pubkey=rumor.pubkey, created_at=rumor.created_at, kind=rumor.kind, tags=rumor.tags,
        content=rumor.content, sig=signed.sig,
    )  # fmt: skip
    try:
        event.verify()
    except InvalidEvent:
        return False
    return True


def is_ruling(event: Event, terms: Terms) -> bool:
    """Whether an event is a ruling on these terms, by their arbiter."""
    try:
        event.verify()
    except InvalidEvent:
        return False
    return (event.kind, event.pubkey, event.tag("e")) == (RULING, terms.arbiter, terms.request_id)


def award_of(ruling: Event, party: str) -> int:
    """How many sat a ruling awards to the `provider` or the `customer`; 0 if it does not say so."""
    said = [tag[2] for tag in ruling.tags_named("award") if tag[1:2] == (party,) and len(tag) > 2]
    return int(said[0]) if len(said) == 1 and _SATS.fullmatch(said[0]) else 0


def ruling_of(
    terms: Terms, *, provider_sat: int, customer_sat: int, statements: Sequence[str], now: int
) -> EventTemplate:
    """The public ruling: who gets how much, and hashes of what was said, never what was said."""
    tags = [
        ("e", terms.request_id),
        ("p", terms.provider, "", "provider"),
        ("p", terms.customer, "", "customer"),
        ("award", "provider", str(provider_sat)),
        ("award", "customer", str(customer_sat)),
        *(("x", hashlib.sha256(text.encode()).hexdigest()) for text in statements),
    ]
    return make_template(RULING, tags=tags, created_at=now)
