"""One account, several keys: how another key joins, what each may spend, and how one is removed.

All keys are equal but for budgets: a key that has one may have jobs done for so many sats, and nothing else.
"""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from store import Transaction
from tradepost.facade.callers import queries_callers as queries
from tradepost.facade.callers import queries_sessions
from tradepost.facade.callers.callers import Caller, Tier, account_of, digest
from tradepost.facade.callers.queries_callers import KeyRow
from tradepost.facade.desk import Desk
from tradepost.facade.web.operations import Call, Operation, Who
from tradepost.facade.web.problems import Conflict, Forbidden, NotFound, NotValid
from wallet.terms import PRICE_SAT_MAX

CODE: Final = "tpl_"
CODE_SECONDS: Final = 300
KEYS_MAX: Final = 16

Sat = Annotated[int, Meta(ge=0, le=PRICE_SAT_MAX)]
KeyName = Annotated[str, Meta(max_length=64)]
Secret = Annotated[str, Meta(max_length=256)]


class AccountKey(msgspec.Struct, frozen=True):
    """A key of an account. `job_sat`: what it may spend on one job; `day_sat`: on a day (UTC); null for all there is.

    `this`: the request came with it.
    """

    key: str
    name: str
    job_sat: int | None
    day_sat: int | None
    added_at: int
    this: bool


class Account(msgspec.Struct, frozen=True):
    """Who calls. `ticket`: the request came with a ticket, which opens the account besides its keys."""

    id: str
    tier: Tier
    ticket: bool
    keys: tuple[AccountKey, ...]


class LinkCode(msgspec.Struct, frozen=True):
    """Whoever has it may let one key join the account, once, until `expires_at`."""

    code: str
    expires_at: int

    def __repr__(self) -> str:
        return f"LinkCode(expires_at={self.expires_at})"


class Joining(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The code of the account to join, and what the key is to be called there."""

    code: Secret
    name: KeyName = ""

    def __repr__(self) -> str:
        return f"Joining(name={self.name!r})"


class KeyChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be different; what is left out stays as it is. A budget of null is none."""

    name: KeyName | UnsetType = UNSET
    job_sat: Sat | UnsetType | None = UNSET
    day_sat: Sat | UnsetType | None = UNSET


async def get_account(call: Call) -> Account:
    """See `OPERATIONS`."""
    caller = call.known
    rows = await queries.keys_of(call.desk.post.db, caller.id)
    if not rows and not caller.is_ticket:  # nothing was left here yet
        rows = [KeyRow(caller.key, caller.id, "", None, None, call.desk.post.clock.now())]
    return _account(caller, rows)


async def make_link(call: Call) -> LinkCode:
    """See `OPERATIONS`. The codes made before are good no more."""
    now, code = call.desk.post.clock.now(), CODE + secrets.token_urlsafe(32)
    expires_at = now + CODE_SECONDS
    async with call.desk.post.db.transaction() as tx:
        await _begin_change(call, tx)
        await queries.delete_links(tx, call.known.id, now)
        await queries.insert_link(tx, digest(code), call.known.id, expires_at)
    return LinkCode(code, expires_at)


async def join_account(call: Call) -> Account:
    """See `OPERATIONS`."""
    desk, caller, wish = call.desk, call.known, call.body
    if caller.is_ticket:
        raise Forbidden("a ticket has no key that could join; withdraw what it holds, and deposit it there")
    async with desk.post.db.transaction() as tx:
        account = await queries.take_link(tx, digest(wish.code), desk.post.clock.now())
        if account is None:
            raise NotFound("no such code here, or it has expired: make one with another key of the account")
        await link_key(desk, tx, caller.key, account, _name(wish.name))
        rows = await queries.keys_of(tx, account)
    return _account(await desk.callers.of_key(caller.key), rows)


async def change_key(call: Call) -> Account:
    """See `OPERATIONS`."""
    desk, wish = call.desk, call.body
    async with desk.post.db.transaction() as tx:
        await _begin_change(call, tx)
        row = await _own_key(tx, call)
        changes = {
            field: value for field, value in msgspec.structs.asdict(wish).items() if value is not UNSET
        }
        if "name" in changes:
            changes["name"] = _name(changes["name"])
        await queries.put_key(tx, changed := replace(row, **changes))
        if changed.has_budget and not row.has_budget:
            await _check_left(tx, call.known)
            await _close_doors(tx, call)
        rows = await queries.keys_of(tx, call.known.id)
    return _account(call.known, rows)


async def remove_key(call: Call) -> Account:
    """See `OPERATIONS`. A key that returns later begins anew, with an account in which there is nothing."""
    desk, caller, now = call.desk, call.known, call.desk.post.clock.now()
    async with desk.post.db.transaction() as tx:
        await _begin_change(call, tx)
        row = await _own_key(tx, call)
        fresh = secrets.token_hex(16)
        await queries.insert_caller(tx, fresh, None, now)
        await queries.put_key(tx, KeyRow(row.key, fresh, "", None, None, now))
        await _check_left(tx, caller)
        await _close_doors(tx, call)
        await desk.sessions.end_of_key(tx, caller.id, row.key)
        desk.callers.forget(tx)
        rows = await queries.keys_of(tx, caller.id)
    return _account(caller, rows)


async def link_key(desk: Desk, tx: Transaction, key: str, account: str, name: str = "") -> None:
    """Let a key join an account. Its sessions end, since they are of the account it leaves.

    Raises `Conflict` if it is there already, if there is no room, and if anything of the account it leaves would be
    lost: sats, or jobs with their results and receipts.
    """
    left = await queries.account_of(tx, key) or account_of(key)
    if left == account:
        raise Conflict("this key is one of that account's already")
    held = await queries.holdings(tx, left)
    if held.balance_msat or held.under_way:
        raise Conflict(
            "this key has an account of its own with sats in it, or on their way: withdraw them, or use another key",
            money=f"{held.balance_msat // 1000} sat are still in this key's own account",
        )
    if held.jobs:
        raise Conflict(
            "this key has jobs in an account of its own, which would be lost to it: use another key"
        )
    if len(await queries.keys_of(tx, account)) >= KEYS_MAX:
        raise Conflict(f"an account has at most {KEYS_MAX} keys: remove one first")
    await queries.put_key(tx, KeyRow(key, account, name, None, None, desk.post.clock.now()))
    if not await queries.keys_of(tx, left):
        await queries.hand_on_invoices(tx, left, account)
    await desk.sessions.end_of_key(tx, left, key)
    desk.callers.forget(tx)


async def _begin_change(call: Call, tx: Transaction) -> None:
    await call.desk.callers.ensure(tx, call.known)
    await call.desk.callers.check_owner(tx, call.known)


async def _own_key(tx: Transaction, call: Call) -> KeyRow:
    row = await queries.key_row(tx, call.part("key"))
    if row is None or row.caller != call.known.id:
        raise NotFound("this account has no such key; GET /v1/account lists those it has")
    return row


async def _check_left(tx: Transaction, caller: Caller) -> None:
    """Raise `Conflict` if with the keys that are left nobody could take the sats that are here, or change keys."""
    if caller.is_ticket:
        return
    rows = await queries.keys_of(tx, caller.id)
    if not rows:
        held = await queries.holdings(tx, caller.id)
        if held.balance_msat or held.under_way:
            raise Conflict(
                "this is the account's last key, and there are sats in it, or on their way: withdraw them first",
                money=f"{held.balance_msat // 1000} sat are in this account",
            )
    elif all(row.has_budget for row in rows):
        raise Conflict("one key must be without a budget, or nobody could withdraw or change anything")


async def _close_doors(tx: Transaction, call: Call) -> None:
    """No key joins any more by what the one that lost its rights may have prepared."""
    await queries.delete_links(tx, call.known.id, call.desk.post.clock.now())
    await queries_sessions.delete_links_by_login(tx, call.known.id)


def _account(caller: Caller, rows: Sequence[KeyRow]) -> Account:
    keys = (
        AccountKey(row.key, row.name, row.job_sat, row.day_sat, row.created_at, row.key == caller.key)
        for row in rows
    )
    return Account(caller.id, caller.tier, caller.is_ticket, tuple(keys))


def _name(name: str) -> str:
    if not name.isprintable():
        raise NotValid("the name of a key is printable text, on one line")
    return name


_KEY: Final = ("key", "as GET /v1/account shows it: `nostr:…`, `ed25519:…` or `lnurl:…`")
_GROUP: Final = "Account"

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        name="get_account",
        method="GET",
        path="/v1/account",
        about="Get your account\n\nBy which keys you are known here, and what each of them may spend.",
        handler=get_account,
        answer=Account,
        who=Who.CALLER,
        group=_GROUP,
    ),
    Operation(
        name="make_link",
        method="POST",
        path="/v1/account/links",
        about="Make a code for another key\n\nThe other key joins your account with it (POST /v1/account/keys), once, "
        "within five minutes. From then on it may do all that yours may: give it a budget if it is not to.",
        handler=make_link,
        answer=LinkCode,
        status=201,
        who=Who.CALLER,
        costly=True,
        problems=("forbidden",),
        group=_GROUP,
    ),
    Operation(
        name="join_account",
        method="POST",
        path="/v1/account/keys",
        about="Join an account\n\nThe key that signs this request becomes one of the account that made the code. A key "
        "whose own account holds sats or jobs is refused, and nothing of it is lost. Its sessions end.",
        handler=join_account,
        body=Joining,
        answer=Account,
        status=201,
        who=Who.CALLER,
        problems=("forbidden", "not_found", "conflict"),
        group=_GROUP,
    ),
    Operation(
        name="change_key",
        method="PATCH",
        path="/v1/account/keys/{key}",
        about="Change a key\n\nIts name, and its budgets: `job_sat` for one job, `day_sat` for a day (UTC). A key with "
        "a budget can have jobs done, and neither withdraw nor change keys; one key must be without.",
        handler=change_key,
        body=KeyChange,
        answer=Account,
        who=Who.CALLER,
        parts=(_KEY,),
        problems=("forbidden", "not_found", "conflict"),
        group=_GROUP,
    ),
    Operation(
        name="remove_key",
        method="DELETE",
        path="/v1/account/keys/{key}",
        about="Remove a key\n\nIt is of this account no more, its sessions end, and codes that were not used yet are "
        "good no more. The last key stays while there are sats here.",
        handler=remove_key,
        answer=Account,
        who=Who.CALLER,
        parts=(_KEY,),
        problems=("forbidden", "not_found", "conflict"),
        group=_GROUP,
    ),
)
