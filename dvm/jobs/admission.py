"""Whose requests are looked at: rates, block and allow lists, what strangers owe. Pure: it counts, and touches nothing.

A *customer* is somebody who has paid the agent, or whom the operator allows; everybody else is a *stranger*, whose key
may have been made a second ago. Each key has a bucket of requests, and all strangers together have one more. When that
is below half, the emptier it is, the less of its own bucket a stranger may have used: many keys that ask much leave
room for one that asks little. Customers never wait for strangers.

Only verified events are judged and counted, or anybody could silence a customer by forging its key. `ignores` may be
asked about any event: it changes nothing, and is true only where the event would be dropped, genuine or not.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Final

from dvm.errors import Trouble
from dvm.limits import ProviderLimits
from identity import Event
from identity.event import Tag, Tags
from identity.nip13 import committed_difficulty
from wallet import Action

TOLD_SECONDS: Final = 60  # between two answers to one key that asks too much
MET_SECONDS: Final = 60  # until it is asked again whether a stranger has paid
OWN_SECONDS: Final = 240  # what a key does not ask for is kept so long
SHARED_SECONDS: Final = 5  # what all strangers do not ask for
TOLD_PER_MINUTE_MAX: Final = 600  # refusals to strangers: an answer costs more than a key
KEYS_MAX: Final = 10_000  # remembered of customers, and as many of strangers; some 3 MB each


@dataclass(frozen=True)
class Refusal:
    """What a customer is told. `reason` begins with one of NIP-01's machine-readable words."""

    reason: str
    action: Action
    code: str = Trouble.TOO_MANY_REQUESTS


@dataclass(frozen=True)
class Verdict:
    """What becomes of an event: it is admitted, or refused with an answer, or (both empty) dropped without."""

    admitted: bool = False
    refusal: Refusal | None = None


ADMITTED: Final = Verdict(admitted=True)
DROPPED: Final = Verdict()


def demands(limits: ProviderLimits) -> Tags:
    """What strangers owe, as tags of the announcement: `["strangers", "pow", bits]`, `["strangers", "amount", msat]`,
    `["strangers", "refused"]`.
    """
    tags: list[Tag] = []
    if not limits.stranger_requests_per_minute_max:
        tags.append(("strangers", "refused"))
    if limits.stranger_pow_bits:
        tags.append(("strangers", "pow", str(limits.stranger_pow_bits)))
    if limits.stranger_sat_min:
        tags.append(("strangers", "amount", str(1000 * limits.stranger_sat_min)))
    return tuple(tags)


def of_notices(limits: ProviderLimits) -> ProviderLimits:
    """The limits of what is no request: strangers owe nothing for it, and are heard though they may not ask."""
    per_minute = limits.stranger_requests_per_minute_max or ProviderLimits.stranger_requests_per_minute_max
    return replace(limits, stranger_pow_bits=0, stranger_requests_per_minute_max=per_minute)


class Bucket:
    """So many a minute, and what was not used is kept for some time: so much may come at once."""

    def __init__(self, per_minute: int, kept_seconds: int) -> None:
        self.per_minute = per_minute
        self._size = max(per_minute * kept_seconds / 60, min(per_minute, 1))
        self._left = self._size
        self._at = 0

    def left(self, now: int) -> float:
        """What could be taken at `now`. A clock that is set back adds nothing, and goes on from there."""
        self._left = min(self._size, self._left + max(now - self._at, 0) * self.per_minute / 60)
        self._at = now
        return self._left

    def fullness(self, now: int) -> float:
        """0 to 1."""
        return self.left(now) / self._size

    def take(self, now: int) -> None:
        """Take one, which must be there."""
        self._left = self.left(now) - 1

    def seconds_to_one(self, now: int) -> int:
        """How long until there is one; a whole number, and 1 at least."""
        return max(1, math.ceil((1 - self.left(now)) * 60 / max(self.per_minute, 1)))


@dataclass
class _Account:
    """What is remembered of one key. Whether a stranger has become a customer is asked anew after a minute."""

    is_customer: bool
    requests: Bucket
    met_at: int
    told_at: int = field(default=-TOLD_SECONDS)

    def was_told(self, now: int) -> bool:
        return 0 <= now - self.told_at < TOLD_SECONDS


class Admission:
    """The customers and strangers of one agent. Times are unix seconds."""

    def __init__(self, limits: ProviderLimits, *, keys_max: int = KEYS_MAX) -> None:
        self._limits = limits
        self._blocked = frozenset(limits.blocked)
        self._allowed = frozenset(limits.allowed)
        self._strangers = Bucket(limits.strangers_requests_per_minute_max, SHARED_SECONDS)
        self._refusals = Bucket(TOLD_PER_MINUTE_MAX, 60)
        self._keys_max = keys_max
        # Apart, so that no number of strangers makes us forget a customer. To be forgotten brings a stranger nothing:
        # a new key has a full bucket too, and both draw on the same one besides.
        self._known: dict[bool, dict[str, _Account]] = {True: {}, False: {}}

    def knows(self, key: str, now: int) -> bool:
        """Whether it is known of a key if it is a customer; if not, tell it by `meet`."""
        account = self._account(key)
        return account is not None and (account.is_customer or 0 <= now - account.met_at < MET_SECONDS)

    def is_customer(self, key: str) -> bool:
        """Whether a key is known as a customer's."""
        return key in self._known[True]

    def is_allowed(self, key: str) -> bool:
        """Whether the operator says that this is a customer."""
        return key in self._allowed

    def forget_stranger(self, key: str) -> None:
        """The key has paid, as it seems: it is to be met anew."""
        self._known[False].pop(key, None)

    def meet(self, key: str, now: int, *, is_customer: bool) -> None:
        """Tell what is known of a key. A stranger who is still one keeps the bucket it has."""
        account = self._known[False].pop(key, None)
        if account is None or is_customer:
            limits = self._limits
            per_minute = (
                limits.customer_requests_per_minute_max
                if is_customer
                else limits.stranger_requests_per_minute_max
            )
            account = _Account(is_customer, Bucket(per_minute, OWN_SECONDS), now)
        account.met_at = now
        self._remember(key, account)

    def ignores(self, event: Event, now: int) -> bool:
        """Whether the event would be dropped without an answer, even if it is genuine."""
        if event.pubkey in self._blocked:
            return True
        if not self.knows(event.pubkey, now):
            return False
        account = self._known_account(event.pubkey)
        return not self._may_tell(account, now) and self._refusal(account, event, now) is not None

    def judge(self, event: Event, now: int) -> Verdict:
        """What becomes of a verified event; its author is met, or blocked."""
        if event.pubkey in self._blocked:
            return DROPPED
        account = self._known_account(event.pubkey)
        self._remember(event.pubkey, account)
        refusal = self._refusal(account, event, now)
        if refusal is None:
            account.requests.take(now)
            if not account.is_customer:
                self._strangers.take(now)
            return ADMITTED
        if not self._may_tell(account, now):
            return DROPPED
        account.told_at = now
        if not account.is_customer:
            self._refusals.take(now)
        return Verdict(refusal=refusal)

    def owed(self, event: Event) -> Refusal | None:
        """What an event of a key that was met lacks, if that is a stranger's."""
        return None if self.is_customer(event.pubkey) else self._lacks(event)

    def _refusal(self, account: _Account, event: Event, now: int) -> Refusal | None:
        own = account.requests
        if not account.is_customer and (refusal := self._lacks(event)):
            return refusal
        if own.left(now) < 1:
            seconds = own.seconds_to_one(now)
            reason = f"rate-limited: {own.per_minute} requests a minute; try again in {seconds} s"
            return Refusal(reason, Action.RETRY_AFTER)
        if not account.is_customer and self._is_crowded(own, now):
            reason = "rate-limited: many new customers ask just now; try again in a minute"
            return Refusal(reason, Action.RETRY_AFTER)
        return None

    def _lacks(self, event: Event) -> Refusal | None:
        """What a stranger's request lacks, however seldom it asks."""
        limits, bits = self._limits, self._limits.stranger_pow_bits
        if not limits.stranger_requests_per_minute_max:
            return Refusal(
                "restricted: this agent works for customers it knows", Action.GIVE_UP, Trouble.FORBIDDEN
            )
        if bits and committed_difficulty(event) < bits:
            reason = f"pow: {bits} bits of proof of work (NIP-13) are asked of new customers"
            return Refusal(reason, Action.GIVE_UP, Trouble.WORK_PROOF_MISSING)
        return None

    def _is_crowded(self, own: Bucket, now: int) -> bool:
        """Whether too many strangers ask for one that has used so much of its own bucket."""
        shared = self._strangers
        return shared.left(now) < 1 or 2 * shared.fullness(now) < 1 - own.fullness(now)

    def _may_tell(self, account: _Account, now: int) -> bool:
        """Whether an answer may be spent on the key: one a minute, and on strangers so many in all."""
        return not account.was_told(now) and (account.is_customer or self._refusals.left(now) >= 1)

    def _account(self, key: str) -> _Account | None:
        return self._known[True].get(key) or self._known[False].get(key)

    def _known_account(self, key: str) -> _Account:
        account = self._account(key)
        assert account is not None, "meet it first"
        return account

    def _remember(self, key: str, account: _Account) -> None:
        """As the one seen last; whoever was not seen for the longest time is forgotten."""
        accounts = self._known[account.is_customer]
        accounts.pop(key, None)
        accounts[key] = account
        if len(accounts) > self._keys_max:
            del accounts[next(iter(accounts))]
