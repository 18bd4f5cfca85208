"""Sats that callers bring, as ecash or by Lightning.

    record: the wallet's operation (or quote) and the row of the deposit, in one transaction
    act:    the wallet settles the operation, across restarts
    confirm: the row's end and the posting that credits it, in one transaction, once the operation is done

Whether something came is decided by that operation alone, never by an invoice's expiry. What is more than the post
wants to hold for anybody is refused before it comes; what came all the same is credited all the same.
"""

import asyncio
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

import structlog

from dvm import Post
from store import Database, Transaction
from tradepost.facade.callers.callers import Caller, Callers
from tradepost.facade.callers.queries_callers import has_paid
from tradepost.facade.money import queries_transfers as queries
from tradepost.facade.money.purses import balance_of, move, told
from tradepost.facade.money.queries_transfers import DepositRow, Transfer
from tradepost.facade.web.problems import Conflict, NotFound, Refusal, TooManyRequests
from tradepost.settings import Settings
from wallet import (
    ExposureExceeded,
    MintError,
    MintUnavailable,
    Outcome,
    Quote,
    State,
    Token,
    parse_token,
    queries_lnurl,
)
from wallet import queries as wallet_queries
from wallet.crypto import proof_y
from wallet.errors import Action
from wallet.invoice import parse_invoice
from wallet.ledger import Cause
from wallet.queries_lnurl import InvoiceRow

ECASH: Final = "ecash"
LIGHTNING: Final = "lightning"
UNPAID_INVOICES_MAX: Final = 1000  # of all, in an hour: the wallet asks for each until a day later
UNPAID_OF_ADDRESS_MAX: Final = 100  # within an hour
UNPAID_OF_ONE_MAX: Final = 20  # of one caller, at any time
FORGET_SECONDS: Final = 7 * 86_400  # after which no wallet pays an invoice that has expired
FORGET_MAX: Final = 100  # invoices at once
ARRIVED_MAX: Final = (
    5  # invoices of one caller that are asked for at once; the wallet asks for all, now and then
)
REUSE_SECONDS_MIN: Final = 60  # that an invoice is still good for, to be shown again

log = structlog.get_logger(__name__)


class CustodyFull(Refusal):
    """The post does not want to hold so much for anybody."""

    status = 403


class MintFull(Refusal):
    """The post has as much at that mint as it wants to have at one."""

    status = 503
    action = Action.RETRY_AFTER

    def __init__(self) -> None:
        super().__init__(
            "this post has as much at its mint as it wants to; bring less, or try again later", retry_after=60
        )


class NotTaken(Refusal):
    """The mint gave nothing for a token."""


class NoMint(Refusal):
    """The post trusts no mint, so it can hold nothing."""

    status = 503

    def __init__(self) -> None:
        super().__init__("this post trusts no mint (`mints` in tradepost.yaml), so it takes no sats")


class MintAway(Refusal):
    """The mint does not answer; what is under way goes on when it does. `payment` may hold the ticket it is for."""

    status = 503
    action = Action.RETRY_AFTER
    payment: dict[str, str] | None = None


@dataclass(frozen=True)
class Invoice:
    """A deposit by Lightning that is waited for. `verify_url` tells whether it is settled (LUD-21).

    `ticket` is that of a caller who was nobody before.
    """

    row: DepositRow
    bolt11: str
    verify_url: str
    ticket: str | None = field(default=None, repr=False)


class Deposits:
    """What callers bring to one post."""

    def __init__(self, post: Post, settings: Settings, callers: Callers) -> None:
        self._post = post
        self._callers = callers
        self._url = settings.gateway_address
        self.cap_sat = settings.custodial_sat_max
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def custodial(self) -> str:
        """What whoever sees a balance must know: who holds the sats, how many at most, how to take them away."""
        mints = ", ".join(self._post.wallet.mints) or "none"
        return (
            f"Custodial: this post and its mints ({mints}) hold your sats until a job is paid with them or you take "
            f"them away; {self.cap_sat} sat are the most that they hold for anybody. Take them away at any time, by "
            "ecash or Lightning: POST /v1/balance/withdrawals."
        )

    async def check_room(
        self, source: Database | Transaction, caller_id: str, more_sat: int, *, invoices: bool
    ) -> None:
        """Raise `CustodyFull` if so much more would be more than the post holds for anybody.

        `invoices`: those that may still be paid count, too. For a token they do not: a 402 offers both for one payment.
        """
        balance = await balance_of(source, caller_id)
        now = self._post.clock.now()
        coming_sat = await queries.coming_sat(source, caller_id, now, invoices=invoices)
        if balance.all_sat + coming_sat + more_sat > self.cap_sat:
            coming = f", {coming_sat} sat are on their way" if coming_sat else ""
            raise CustodyFull(
                f"{more_sat} sat more are too many: this post holds at most {self.cap_sat} sat for anybody, "
                f"{told(balance)}{coming}; bring less, or withdraw some first",
                money=told(balance),
            )

    # Ecash ------------------------------------------------------------------------------------------------------------

    async def bring_token(self, caller: Caller, text: str) -> DepositRow:
        """Redeem a token for a caller. The same coins again are the same deposit, with the same answer.

        Raises `InvalidToken` and its kind, `UnknownMint`, `AlreadySpent`, `WrongLock`, `CustodyFull`, `Conflict` for
        coins that somebody else brought, `NotTaken`, `MintFull`, `MintUnavailable`, and `MintAway`: it is on disk,
        and goes on.
        """
        token = parse_token(text)
        deposit_id = coins_id(token)
        async with self._locks.setdefault(deposit_id, asyncio.Lock()):
            row = await queries.deposit(self._post.db, deposit_id)
            if row is None or row.state is Transfer.FAILED:
                row = await self._begin(caller, token, deposit_id)
            if row.caller != caller.id:
                raise Conflict("this token was brought before, by another caller; send a fresh one")
            if row.state is Transfer.OPEN:
                await self._finish(row)
        row = await self._written(deposit_id)
        if row.state is Transfer.FAILED:
            raise NotTaken(f"nothing came of this token: {row.reason}; send a fresh one")
        return row

    async def _begin(self, caller: Caller, token: Token, deposit_id: str) -> DepositRow:
        amount_sat = sum(proof.amount for proof in token.proofs)
        await self.check_room(self._post.db, caller.id, amount_sat, invoices=False)
        op_id = f"caller-deposit:{deposit_id}:{secrets.token_hex(4)}"
        row = DepositRow(
            deposit_id, caller.id, ECASH, op_id, None, amount_sat, Transfer.OPEN, self._post.clock.now()
        )
        try:
            plan = await self._post.wallet.plan_redeem(token, op_id=op_id, purpose="a caller's deposit")
        except ExposureExceeded:
            raise MintFull from None
        try:
            async with self._post.db.transaction() as tx:
                await self._callers.ensure(tx, caller)
                await self.check_room(tx, caller.id, amount_sat, invoices=False)
                if not await queries.insert_deposit(tx, row):
                    raise Conflict("this token is being redeemed at this moment; send the request again")
                await self._post.wallet.record(tx, plan)
        except BaseException:
            await self._post.wallet.release(plan)
            raise
        return row

    async def _finish(self, row: DepositRow) -> None:
        try:
            outcome = await self._post.wallet.settle(row.op_id)
        except MintUnavailable as error:
            raise MintAway(
                f"the mint gives no clear answer yet: {error}",
                retry_after=5,
                money=f"your {row.amount_sat} sat are being redeemed; they are in your balance as soon as the mint "
                f"says so: send the same request again, or GET /v1/balance/deposits/{row.id}, as bearer of the "
                "ticket in `payment` if there is one",
            ) from None
        await self._end(row, outcome)

    # Lightning --------------------------------------------------------------------------------------------------------

    async def ask(
        self, caller: Caller | None, amount_sat: int, *, client: str, reuse: bool = False
    ) -> Invoice:
        """An invoice over `amount_sat`, on disk when this returns; a caller who is nobody yet is given a ticket.

        `client` is the address that asks. `reuse`: the invoice of the same amount that the caller was shown before will
        do. Raises `CustodyFull`, `TooManyRequests` if too many are unpaid, `NoMint`, `MintFull`, `MintError`,
        `MintUnavailable`.
        """
        now = self._post.clock.now()
        unpaid = await self._unpaid(caller, now) if caller else []
        for row in unpaid if reuse else []:
            if row.amount_sat == amount_sat and (row.expires_at or 0) >= now + REUSE_SECONDS_MIN:
                return await self.invoice(row)
        await self.check_room(self._post.db, caller.id if caller else "", amount_sat, invoices=True)
        if len(unpaid) >= UNPAID_OF_ONE_MAX:
            raise _too_many("of yours")
        if caller is None or not await has_paid(self._post.db, caller.id):
            of_all, of_address = await queries.unpaid_invoices(self._post.db, client, now - 3600)
            if of_address >= UNPAID_OF_ADDRESS_MAX:
                raise _too_many("from your address")
            if of_all >= UNPAID_INVOICES_MAX:
                raise _too_many("here")
        quote = await self._quote(amount_sat)
        found = await wallet_queries.quote(self._post.db, quote.id)
        assert found is not None
        told_by = parse_invoice(quote.bolt11)
        ticket = None
        async with self._post.db.transaction() as tx:
            if caller is None:
                ticket, caller = await self._callers.make_ticket(tx)
            await self._callers.ensure(tx, caller)
            await self.check_room(tx, caller.id, amount_sat, invoices=True)
            row = DepositRow(
                told_by.payment_hash, caller.id, LIGHTNING, found[1], quote.id, amount_sat, Transfer.OPEN, now,
                told_by.expires_at,
            )  # fmt: skip
            await queries.insert_deposit(tx, row, client)
            await queries_lnurl.insert_invoice(tx, InvoiceRow(row.id, quote.id, "", "", "", now))
        return Invoice(row, quote.bolt11, self._verify_url(row), ticket)

    async def _quote(self, sat: int) -> Quote:
        """From the first mint of ours that has room for so much and answers."""
        wallet = self._post.wallet
        mints = await wallet.mints_with_room(sat)
        if not mints:
            raise MintFull if wallet.mints else NoMint
        for mint in mints:
            try:
                return await wallet.mint_quote(mint, sat)
            except MintUnavailable as error:
                away = error
            except ExposureExceeded:
                raise MintFull from None
        raise away

    async def _unpaid(self, caller: Caller, now: int) -> list[DepositRow]:
        rows = await queries.open_deposits(self._post.db, caller.id)
        return [row for row in rows if row.expires_at is not None and row.expires_at >= now]

    async def invoice(self, row: DepositRow) -> Invoice:
        """The invoice of a deposit by Lightning."""
        found = await wallet_queries.quote(self._post.db, row.quote_id or "")
        assert found is not None
        return Invoice(row, found[0].bolt11, self._verify_url(row))

    def _verify_url(self, row: DepositRow) -> str:
        return f"{self._url}/lnurl/verify/{row.id}"

    async def arrived(self, caller_id: str) -> None:
        """Credit what a caller has paid by now: for whoever comes back at once after paying."""
        for row in (await queries.open_deposits(self._post.db, caller_id))[:ARRIVED_MAX]:
            await self._claim(row)

    async def find(self, caller_id: str, deposit_id: str) -> DepositRow:
        """One deposit of a caller, as it stands now. Raises `NotFound`."""
        row = await queries.deposit(self._post.db, deposit_id)
        if row is None or row.caller != caller_id:
            raise NotFound("you have no deposit of that id here")
        if row.state in (Transfer.OPEN, Transfer.EXPIRED):
            await self._claim(row)
        return await self._written(deposit_id)

    async def _claim(self, row: DepositRow) -> None:
        """Ask the mint; if it does not answer, it is asked again by others."""
        wallet = self._post.wallet
        try:
            outcome = await (wallet.claim(row.quote_id) if row.quote_id else wallet.settle(row.op_id))
        except (MintUnavailable, MintError) as error:
            log.info("deposit_waits", op_id=row.op_id, reason=str(error))
            return
        if outcome is not None:
            await self._end(row, outcome)

    # The end of both --------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Credit what came, by whoever's doing; also what an earlier process had no time for."""
        for row in await queries.deposits_that_ended(self._post.db):
            try:
                await self._look_at(row)
            except Exception:  # one that is stuck holds up no other; the next round tries again
                log.exception("deposit_stuck", op_id=row.op_id)

    async def forget(self) -> None:
        """Delete old invoices that nobody paid, some at a time; their tickets go when `Pruner` comes."""
        before = self._post.clock.now() - FORGET_SECONDS
        async with self._post.db.transaction() as tx:
            await queries.delete_unpaid(tx, before, FORGET_MAX)

    async def _look_at(self, row: DepositRow) -> None:
        outcome = await self._post.wallet.outcome(row.op_id)
        if outcome is not None:
            await self._end(row, outcome)
        else:
            async with self._post.db.transaction() as tx:
                await queries.end_deposit(tx, row, Transfer.EXPIRED)

    async def _end(self, row: DepositRow, outcome: Outcome) -> None:
        """The end of a deposit is that of its operation."""
        now = self._post.clock.now()
        async with self._post.db.transaction() as tx:
            if outcome.state is not State.DONE:
                await queries.end_deposit(
                    tx, row, Transfer.FAILED, reason=outcome.error or "the mint gave no coins"
                )
                return
            sat = outcome.received_sat
            owner = await queries.end_deposit(tx, row, Transfer.DONE, credited_sat=sat)
            if owner is None:
                return
            await move(tx, owner, f"deposit:{row.id}", Cause.DEPOSIT, now=now, free_sat=sat, op_id=row.op_id)
            self._callers.forget(tx, owner)  # who has paid is limited otherwise from now on
        log.info("deposit_credited", caller=owner, way=row.way, sat=sat)

    async def _written(self, deposit_id: str) -> DepositRow:
        row = await queries.deposit(self._post.db, deposit_id)
        assert row is not None
        return row


def _too_many(whose: str) -> TooManyRequests:
    return TooManyRequests(
        f"too many invoices {whose} are unpaid; pay one, send ecash, or try again later", retry_after=60
    )


def coins_id(token: Token) -> str:
    """The id of a deposit of these coins, in whatever order they come."""
    ys = sorted(proof_y(proof.secret) for proof in token.proofs)
    return hashlib.sha256("".join(ys).encode()).hexdigest()[:32]
