"""Who calls: accounts, the keys and tickets by which they are known, and what each may do.

An account is first of all a number that follows from its key, so nobody signs up: its row is made when something is
left here. Others of its owner's keys may join it. Of tickets only hashes are kept.
"""

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from store import Clock, Database, Transaction
from tradepost.facade.callers import queries_callers as queries
from tradepost.facade.web.problems import Forbidden, Unauthorized
from wallet.errors import Action

NOSTR: Final = "nostr:"
TICKET: Final = "tpt_"
_TICKET_KEY: Final = "ticket:"
TIER_SECONDS_MAX: Final = 5
KNOWN_MAX: Final = 10_000


class Tier(StrEnum):
    """What limits hold for a caller."""

    ANONYMOUS = "anonymous"  # without credentials, or with a ticket that nobody paid for
    AUTHENTICATED = "authenticated"
    PAYING = "paying"  # brought sats, now or earlier
    OPERATOR = "operator"  # a Nostr key that the configuration names


@dataclass(frozen=True)
class Caller:
    """An account, and by which of its keys this request came: `nostr:<hex>`, `ed25519:<hex>`, `lnurl:<hex>`.

    The key of an account that is known by a ticket is `ticket:<sha256 of the ticket>`. `session`: the session's id, if
    the request came with an access token instead of a signature.
    """

    id: str
    key: str
    tier: Tier
    session: str | None = field(default=None, repr=False)

    @property
    def is_ticket(self) -> bool:
        """Whether it has no key."""
        return self.key.startswith(_TICKET_KEY)


@dataclass
class _Known:
    """What is remembered of a key."""

    id: str
    tier: Tier
    seen_at: int


class Callers:
    """Knows callers by their keys and tickets; one for each post. `operators` are hex public keys.

    What it remembers is exact as to which account a key is of, and at most `TIER_SECONDS_MAX` old as to tiers.
    """

    def __init__(self, db: Database, clock: Clock, operators: Collection[str]) -> None:
        self._db = db
        self._clock = clock
        self._operators = frozenset(NOSTR + key for key in operators)
        self._known: dict[str, _Known] = {}

    async def of_key(self, key: str) -> Caller:
        """Whose key this is, whether or not anything of theirs is here. That the key signed is the door's to check."""
        now = self._clock.now()
        found = self._known.get(key)
        if found is None or not 0 <= now - found.seen_at < TIER_SECONDS_MAX:
            found = await self._look_up(key, now)
        return Caller(found.id, key, found.tier)

    async def of_ticket(self, ticket: str) -> Caller:
        """Whose ticket this is. Raises `Unauthorized` if it is none of this post."""
        key = ticket_caller(ticket).key
        if key not in self._known and not await queries.is_ticket(self._db, key.removeprefix(_TICKET_KEY)):
            raise Unauthorized("this ticket is not known here; leave it out to be told what to pay")
        return await self.of_key(key)

    async def ensure(self, tx: Transaction, caller: Caller) -> None:
        """Make the account, unless it is there: first of all in every transaction that leaves something for a caller.

        Raises `Unauthorized` if its key went to another account since the request came, so that nothing is left where
        nobody would find it.
        """
        now = self._clock.now()
        if caller.is_ticket:
            ticket = caller.key.removeprefix(_TICKET_KEY)
            await queries.insert_caller(tx, caller.id, ticket, now)
            return
        linked = await queries.account_of(tx, caller.key)
        if linked is None:
            await queries.insert_caller(tx, caller.id, None, now)
            await queries.insert_key(tx, caller.key, caller.id, now)
        elif linked != caller.id:
            raise Unauthorized(
                "this key joined or left an account a moment ago; send the request again",
                action=Action.RETRY_AFTER,
                retry_after=1,
            )

    async def make_ticket(self, tx: Transaction) -> tuple[str, Caller]:
        """A new account without key, and the ticket, which is shown once: whoever has it has what is there."""
        ticket = TICKET + secrets.token_urlsafe(32)
        caller = ticket_caller(ticket)
        await self.ensure(tx, caller)
        return ticket, caller

    async def check_owner(self, source: Database | Transaction, caller: Caller) -> None:
        """Raise `Forbidden` unless the key may do all that its account can: one with a budget may only spend that.

        For what would get round budgets: withdrawing, seeing what was withdrawn, and changing keys.
        """
        row = await queries.key_row(source, caller.key)
        if row is not None and row.has_budget:
            raise Forbidden("this key has a budget: it may have jobs done, and nothing else; use another key")

    def check_may(self, caller: Caller | None, *, operator: bool = False) -> None:
        """Raise `Unauthorized` or `Forbidden` if that is for the post's operator, and `caller` is somebody else."""
        if not operator:
            return
        if caller is None:
            raise Unauthorized(
                "this is for the operator of this post: sign the request with an operator's key"
            )
        if caller.tier is not Tier.OPERATOR:
            raise Forbidden(
                "this is for the operator of this post (`operators` in tradepost.yaml names the keys)"
            )

    def forget(self, tx: Transaction, account: str | None = None) -> None:
        """Look all keys up anew, or those of one account, once `tx`, which changes what they are, is durable."""
        tx.after_commit(lambda: self._forget(account))

    def _forget(self, account: str | None) -> None:
        # A new one: a look-up that is under way leaves what it found in the old.
        self._known = {
            key: known for key, known in self._known.items() if account is not None and known.id != account
        }

    async def _look_up(self, key: str, now: int) -> _Known:
        known = self._known
        account = await queries.account_of(self._db, key) or account_of(key)
        found = _Known(account, await self._tier(account, key), now)
        if len(known) >= KNOWN_MAX:
            known.clear()
        known[key] = found
        return found

    async def _tier(self, account: str, key: str) -> Tier:
        if key in self._operators:
            return Tier.OPERATOR
        if await queries.has_paid(self._db, account):
            return Tier.PAYING
        return Tier.ANONYMOUS if key.startswith(_TICKET_KEY) else Tier.AUTHENTICATED


def ticket_caller(ticket: str) -> Caller:
    """Who is known by a ticket, whether or not there is an account yet: for those that are derived, and `ensure`d."""
    key = _TICKET_KEY + digest(ticket)
    return Caller(account_of(key), key, Tier.ANONYMOUS)


def account_of(key: str) -> str:
    """The account of a key that was never linked to another one."""
    return digest(f"caller:{key}")[:32]


def digest(secret: str) -> str:
    """What is kept of a ticket, code or token, and looked up by."""
    return hashlib.sha256(secret.encode()).hexdigest()
