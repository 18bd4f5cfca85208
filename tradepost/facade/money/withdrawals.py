"""Sats that callers take away: as ecash, to an invoice, to a Lightning address or LNURL, or as an LNURL to withdraw.

    record: the debit, the row and the wallet's operation (or the promise to whoever shows the k1), in one transaction
    act:    the wallet settles the operation, across restarts
    confirm: the row's end and the posting of what it cost, in one transaction; what was kept beyond that comes back

What certainly failed puts the sats back, less what the mint took for it; what nobody knows the end of stays held.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

import structlog

from dvm import Post
from store import Transaction
from tradepost.facade.callers.callers import Caller, Callers
from tradepost.facade.money import queries_transfers as queries
from tradepost.facade.money.purses import Balance, BalanceTooLow, balance_of, hold, move
from tradepost.facade.money.queries_transfers import PayoutRow, Transfer
from tradepost.facade.web.problems import Conflict, IdempotencyKeyReused, NotFound, NotValid, Refusal
from tradepost.settings import Settings
from wallet import InsufficientFunds, LnurlClient, MintUnavailable, Outcome, Plan, State, Token, WalletError
from wallet.errors import Action
from wallet.invoice import parse_invoice
from wallet.ledger import Cause
from wallet.mint import CoinState
from wallet.queries_lnurl import Withdrawal, WithdrawalRow
from wallet.sweep import payable_sat
from wallet.withdrawals import Withdrawals

ECASH: Final = "ecash"
LIGHTNING: Final = "lightning"
LNURL: Final = "lnurl"
PROMISE_SECONDS: Final = 3600  # that an LNURL to withdraw is good for
ASKS_MAX: Final = 4  # until an amount and its fees fit into a balance
_INVOICE: Final = ("lnbc", "lntb")
_PURPOSE: Final = "a caller's withdrawal"

log = structlog.get_logger(__name__)


class TooFewCoins(Refusal):
    """The post's coins at one mint do not cover it at this moment."""

    status = 503
    action = Action.RETRY_AFTER

    def __init__(self) -> None:  # how many there are is nobody's business
        super().__init__(
            "this post has not so many coins at one mint at this moment; take less, or try again later",
            retry_after=60,
        )


@dataclass(frozen=True)
class Wish:
    """What a caller wants to take away. `amount_sat` arrives, None: all there is. `to`: an invoice, a Lightning address
    or an LNURL. `key`: the same one is the same withdrawal.
    """

    way: str
    to: str = ""
    amount_sat: int | None = None
    key: str = ""

    @property
    def hash(self) -> str:
        """What it is told apart by."""
        return hashlib.sha256(repr((self.way, self.to, self.amount_sat)).encode()).hexdigest()

    def id(self, caller_id: str) -> str:
        """Of the withdrawal."""
        if not self.key:
            return secrets.token_hex(16)
        return hashlib.sha256(f"withdrawal:{caller_id}:{self.key}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class _Planned:
    """A payment of the wallet's that fits into the balance: `held_sat` is the most that it costs."""

    plan: Plan
    held_sat: int
    bolt11: str | None = None


class Payouts:
    """What callers of one post take away."""

    def __init__(self, post: Post, settings: Settings, callers: Callers) -> None:
        self._post = post
        self._callers = callers
        self._lnurl = LnurlClient(post.fetcher, allow_private=settings.allow_private_urls)
        self._promises = Withdrawals(post.db, post.wallet, post.clock)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def begin(self, caller: Caller, wish: Wish) -> PayoutRow:
        """Take sats away; on disk before anything is paid. The same key again is the same withdrawal.

        Open when this returns: the mint gave no clear answer yet, or an LNURL waits to be scanned.
        Raises `BalanceTooLow`, `NotValid`, `IdempotencyKeyReused`, `Conflict` for an invoice that is paid already,
        `Forbidden` for a key with a budget, `TooFewCoins`; for `to` what `LnurlClient` and `Wallet.plan_pay` raise.
        """
        payout_id = wish.id(caller.id)
        async with self._locks.setdefault(payout_id, asyncio.Lock()):
            row = await queries.payout(self._post.db, payout_id)
            if row is None:
                await self._begin(caller, wish, payout_id)
            elif row.wish != wish.hash:
                raise IdempotencyKeyReused(
                    "this Idempotency-Key was used for another withdrawal; take a fresh one"
                )
            return await self._seen_through(payout_id)

    async def find(self, caller_id: str, payout_id: str) -> PayoutRow:
        """One withdrawal of a caller, as it stands now. Raises `NotFound`."""
        row = await queries.payout(self._post.db, payout_id)
        if row is None or row.caller != caller_id:
            raise NotFound("you have no withdrawal of that id here")
        return await self._seen_through(payout_id)

    async def all_of(self, caller_id: str, limit: int) -> list[PayoutRow]:
        """A caller's withdrawals, the newest first."""
        return await queries.payouts_of(self._post.db, caller_id, limit)

    async def token(self, row: PayoutRow) -> Token | None:
        """The ecash of a withdrawal, for as long as it is unclaimed; also while the mint does not say."""
        outcome = await self._post.wallet.outcome(row.op_id) if row.op_id else None
        if outcome is None or outcome.token is None:
            return None
        try:
            secrets_ = [proof.secret for proof in outcome.token.proofs]
            states = await self._post.wallet.states(outcome.token.mint, secrets_)
        except WalletError:
            return outcome.token
        is_claimed = all(answer.state is CoinState.SPENT for answer in states.values())
        return None if is_claimed else outcome.token

    async def promised(self, row: PayoutRow) -> WithdrawalRow | None:
        """What an LNURL to withdraw is good for; None for other ways."""
        return await self._promises.find(row.k1) if row.k1 else None

    # The begin --------------------------------------------------------------------------------------------------------

    async def _begin(self, caller: Caller, wish: Wish, payout_id: str) -> None:
        balance = await balance_of(self._post.db, caller.id)
        if wish.amount_sat is not None and wish.amount_sat > balance.balance_sat:
            raise BalanceTooLow(wish.amount_sat, balance)
        if balance.balance_sat == 0:
            raise BalanceTooLow(1, balance)
        try:
            if wish.way == LNURL:
                await self._promise(caller, wish, payout_id, balance)
                return
            planned = await self._plan(wish, f"caller-payout:{payout_id}", balance)
        except InsufficientFunds:
            raise TooFewCoins from None
        try:
            async with self._post.db.transaction() as tx:
                await self._write(tx, caller, wish, payout_id, planned)
        except BaseException:
            await self._post.wallet.release(planned.plan)
            raise

    async def _plan(self, wish: Wish, op_id: str, balance: Balance) -> _Planned:
        if wish.way == ECASH:
            return await self._fit(wish.amount_sat, balance, lambda sat: self._plan_token(sat, op_id))
        to = wish.to.strip().lower().removeprefix("lightning:")
        if to.startswith(_INVOICE):
            sat = parse_invoice(to).amount_sat
            if wish.amount_sat not in (None, sat):
                raise NotValid(f"the invoice is over {sat} sat, not {wish.amount_sat}; leave amount_sat out")
            return await self._fit(sat, balance, lambda _: self._plan_invoice(to, op_id))
        most_sat = wish.amount_sat or payable_sat(balance.balance_sat)
        return await self._fit(
            wish.amount_sat, balance, lambda sat: self._plan_address(wish.to, min(sat, most_sat), op_id)
        )

    async def _fit(
        self, amount_sat: int | None, balance: Balance, plan: Callable[[int], Awaitable[_Planned]]
    ) -> _Planned:
        """A plan that the balance covers, fees included; of all there is, as much as leaves room for them.

        Raises `BalanceTooLow`.
        """
        sat = held_sat = amount_sat or balance.balance_sat
        if sat > balance.balance_sat:  # asking would tell what coins the post has
            raise BalanceTooLow(sat, balance)
        for _ in range(ASKS_MAX):
            try:
                planned = await plan(sat)
            except InsufficientFunds as error:
                if amount_sat is not None or not 0 < error.available_sat < sat:
                    raise
                # Hardly any coins but the caller's are here, and sending them costs some.
                sat = error.available_sat
                continue
            held_sat = planned.held_sat
            over_sat = held_sat - balance.balance_sat
            if over_sat <= 0:
                return planned
            await self._post.wallet.release(planned.plan)
            sat = planned.plan.send_sat - over_sat
            if amount_sat is not None or sat <= 0:
                break
        raise BalanceTooLow(held_sat, balance)

    async def _plan_token(self, sat: int, op_id: str) -> _Planned:
        plan = await self._at_a_mint(
            lambda mint: self._post.wallet.plan_send(mint, sat, op_id=op_id, purpose=_PURPOSE)
        )
        return _Planned(plan, plan.send_sat + plan.fee_sat)

    async def _plan_invoice(self, bolt11: str, op_id: str) -> _Planned:
        plan = await self._at_a_mint(
            lambda mint: self._post.wallet.plan_pay(mint, bolt11, op_id=op_id, purpose=_PURPOSE)
        )
        return _Planned(plan, plan.send_sat + plan.reserve_sat + plan.fee_sat, bolt11)

    async def _plan_address(self, to: str, sat: int, op_id: str) -> _Planned:
        if sat <= 0:
            raise NotValid("so few sats do not pay for a Lightning payment; take them as ecash")
        payable = await self._lnurl.resolve(to, 1000 * sat)
        return await self._plan_invoice(payable.bolt11.lower(), op_id)

    async def _at_a_mint(self, plan: Callable[[str], Awaitable[Plan]]) -> Plan:
        """A plan at the mint where most of our coins are, or while that is away, at the next one."""
        for mint in await self._mints():
            try:
                return await plan(mint)
            except MintUnavailable as error:
                away = error
        raise away

    async def _mints(self) -> list[str]:
        """Where our coins are, first where most of them are. Raises `InsufficientFunds` if there are none."""
        sats = await self._post.wallet.balance()
        if not sats:
            raise InsufficientFunds(needed_sat=1, available_sat=0)
        return sorted(sats, key=lambda mint: sats[mint], reverse=True)

    async def _write(
        self, tx: Transaction, caller: Caller, wish: Wish, payout_id: str, planned: _Planned
    ) -> None:
        now, plan = self._post.clock.now(), planned.plan
        await self._debit(tx, caller, payout_id, planned.held_sat)
        row = PayoutRow(
            payout_id, caller.id, wish.way, wish.hash, plan.op_id, None, planned.bolt11, plan.send_sat,
            planned.held_sat, Transfer.OPEN, now,
        )  # fmt: skip
        if not await queries.insert_payout(tx, row):
            raise Conflict("this invoice was paid from here before, or is being paid; take a fresh one")
        await self._post.wallet.record(tx, plan)

    async def _debit(self, tx: Transaction, caller: Caller, payout_id: str, held_sat: int) -> None:
        await self._callers.ensure(tx, caller)
        await self._callers.check_owner(tx, caller)
        await hold(tx, caller.id, held_sat, name=f"debit:{payout_id}", now=self._post.clock.now())

    async def _promise(self, caller: Caller, wish: Wish, payout_id: str, balance: Balance) -> None:
        """Keep sats for whoever shows the k1, for an hour."""
        owed_sat = balance.balance_sat if wish.amount_sat is None else _owed_for(wish.amount_sat)
        if payable_sat(owed_sat) < 1:
            raise NotValid("so few sats do not pay for a Lightning payment; take them as ecash")
        (mint, *_), now = await self._mints(), self._post.clock.now()
        async with self._post.db.transaction() as tx:
            await self._debit(tx, caller, payout_id, owed_sat)
            about = "your balance at this post"
            k1 = await self._promises.promise(tx, mint=mint, owed_sat=owed_sat, description=about)
            row = PayoutRow(
                payout_id, caller.id, LNURL, wish.hash, None, k1, None, payable_sat(owed_sat), owed_sat, Transfer.OPEN,
                now, now + PROMISE_SECONDS,
            )  # fmt: skip
            await queries.insert_payout(tx, row)

    # The end ----------------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """End what has ended, by whoever's doing; also what an earlier process had no time for."""
        for row in await queries.open_payouts(self._post.db):
            try:
                if row.k1:
                    await self._look_at_promise(row)
                elif row.op_id and (outcome := await self._post.wallet.outcome(row.op_id)):
                    await self._end(row, outcome)
            except Exception:  # one that is stuck holds up no other; the next round tries again
                log.exception("payout_stuck", payout=row.id)

    async def _seen_through(self, payout_id: str) -> PayoutRow:
        """A withdrawal after one try to bring it to its end."""
        row = await self._written(payout_id)
        if row.state is not Transfer.OPEN:
            return row
        if row.k1:
            await self._look_at_promise(row)
        elif row.op_id:
            try:
                await self._end(row, await self._post.wallet.settle(row.op_id))
            except MintUnavailable as error:  # the wallet goes on with it, and `look` sees what came of it
                log.warning("payout_unclear", op_id=row.op_id, reason=str(error))
        return await self._written(payout_id)

    async def _look_at_promise(self, row: PayoutRow) -> None:
        promised = await self._promises.find(row.k1 or "")
        if promised.state is Withdrawal.PAID and promised.op_id:
            outcome = await self._post.wallet.outcome(promised.op_id)
            assert outcome is not None
            await self._end(row, outcome, lost_sat=row.held_sat - promised.owed_sat)
        elif row.expires_at is not None and row.expires_at <= self._post.clock.now():
            async with self._post.db.transaction() as tx:
                left_sat = await self._promises.take_back(tx, promised.k1)
                if left_sat is not None:
                    fee_sat, why = row.held_sat - left_sat, "nobody withdrew it in time"
                    await self._close(tx, row, Transfer.FAILED, sent_sat=0, fee_sat=fee_sat, reason=why)

    async def _end(self, row: PayoutRow, outcome: Outcome, *, lost_sat: int = 0) -> None:
        """The end of a withdrawal is that of its operation. `lost_sat` went to the mint for earlier tries."""
        is_done = outcome.state is State.DONE
        async with self._post.db.transaction() as tx:
            await self._close(
                tx, row, Transfer.DONE if is_done else Transfer.FAILED, sent_sat=outcome.sent_sat,
                fee_sat=outcome.fee_sat + lost_sat, reason="" if is_done else outcome.error or "the mint did not do it",
            )  # fmt: skip

    async def _close(
        self, tx: Transaction, row: PayoutRow, state: Transfer, *, sent_sat: int, fee_sat: int, reason: str
    ) -> None:
        gone_sat = min(sent_sat + fee_sat, row.held_sat)
        if not await queries.end_payout(
            tx, row.id, state, fee_sat=gone_sat - min(sent_sat, gone_sat), amount_sat=sent_sat or row.amount_sat,
            reason=reason,
        ):  # fmt: skip
            return
        await move(
            tx, row.caller, f"withdrawn:{row.id}", Cause.WITHDRAWAL, now=self._post.clock.now(),
            free_sat=row.held_sat - gone_sat, held_sat=-row.held_sat,
        )  # fmt: skip
        if sent_sat + fee_sat > gone_sat:
            log.warning("payout_cost_more", payout=row.id, beyond_sat=sent_sat + fee_sat - gone_sat)

    async def _written(self, payout_id: str) -> PayoutRow:
        row = await queries.payout(self._post.db, payout_id)
        assert row is not None
        return row


def _owed_for(amount_sat: int) -> int:
    """The least that has to be there so that so much is paid out."""
    owed_sat = amount_sat + amount_sat // 99
    while payable_sat(owed_sat) < amount_sat:
        owed_sat += 1
    return owed_sat
