"""The wallet: our coins at a few mints, and the one way by which they move: plan → record → settle."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self
from weakref import WeakValueDictionary

import structlog

from identity import SecretKey
from store import Clock, Database, Transaction
from wallet import books, operations_foreign, queries
from wallet.abandon import abandon, take_back
from wallet.books import AuditReport
from wallet.crypto import proof_y
from wallet.errors import AlreadySpent, MintUnavailable, WalletError
from wallet.exposure import Caps, exposure_sat
from wallet.keyring import Keyring
from wallet.locks import check_terms
from wallet.mint import (
    HttpTransport,
    MintInfo,
    MintTransport,
    ProofStateAnswer,
)
from wallet.operations import Enforced, Examined, HistoryEntry, Kind, Outcome, Plan, Quote, State
from wallet.operations_desk import Desk, nothing_uncredited
from wallet.operations_foreign import unclaimed
from wallet.operations_plan import Planner, Request, send_amounts
from wallet.operations_quote import settle_melt, settle_mint
from wallet.operations_swap import settle_swap
from wallet.probe import Prober
from wallet.proofs import Lock, Proof, Token
from wallet.queries import Operation
from wallet.quotes import ask_invoice, ask_price, begin_claim, pays_itself
from wallet.restore import Restored, restore, restore_sent, settle_restored
from wallet.seed import Seed
from wallet.selection import split_amount
from wallet.sweep import sweepable

RECOVERIES_MAX: Final = 8  # operations settled at the same time by `recover`

log = structlog.get_logger(__name__)


class Wallet:
    """Coins at the given mints. Safe for any number of concurrent callers on one loop.

    The database must hold the migrations of `wallet`. Call `recover` at start. An operation's `op_id` is the caller's
    name for it (unique, at most 200 characters); the same name never moves money twice.
    """

    def __init__(self, desk: Desk) -> None:
        """Use `open`."""
        self._desk = desk
        self._planner = Planner(desk)
        self._prober = Prober(desk, self._planner, self.settle)
        self._started = False
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @classmethod
    def open(
        cls,
        db: Database,
        seed: Seed,
        *,
        clock: Clock,
        mints: Sequence[str],
        transport: Callable[[str], MintTransport] = HttpTransport,
        caps: Caps | None = None,
        uncredited: Callable[[Database], Awaitable[int]] = nothing_uncredited,
    ) -> "Wallet":
        """Make a wallet; asks nobody yet. Use as `async with Wallet.open(…) as wallet`.

        `uncredited` tells how many sat of its coins are others', and not in the books as theirs yet: never swept.
        """
        keyring = Keyring(db, clock=clock, mints=mints, transport=transport)
        return cls(Desk(db, seed, clock, keyring, caps or Caps(), uncredited))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections to the mints; the database stays the caller's."""
        await self._desk.keyring.close()

    @property
    def mints(self) -> tuple[str, ...]:
        """The mints we trust, normalised URLs, in the order of the configuration."""
        return self._desk.keyring.mints

    async def recover(self) -> list[str]:
        """Release every plan that an earlier process left, settle every open operation, claim every paid quote.

        Returns the ids of operations that stay open because their mint gives no clear answer; call again later.
        A mint that was given up is asked whether it is back; while it is not, what is open there stays as it is.
        """
        await take_back(self._desk)
        for op in await queries.live_operations(self._desk.db, State.PLANNED):
            if op.plan_id not in self._planner.in_hand:
                await self._planner.release(op.op_id, op.plan_id)
        is_first = not self._started
        if not self._started and not self._locks:  # nobody is settling, and between two transactions of it
            self._started = True
            # Else plans that a process died with would leave gaps, and a restore looks over gaps of 300 counters only.
            async with self._desk.db.transaction() as tx:
                await queries.give_back_counters(tx)
        limit = asyncio.Semaphore(RECOVERIES_MAX)
        live = await queries.live_operations(self._desk.db, State.OPEN)
        open_ids = [op.op_id for op in live if op.mint not in self._desk.keyring.abandoned]
        due_at = None if is_first else self._desk.clock.now()
        quote_ids = await queries.open_quotes(self._desk.db, of_jobs=is_first, due_at=due_at)
        settled = await asyncio.gather(*(self._try(limit, self.settle(op_id), op_id) for op_id in open_ids))
        await asyncio.gather(*(self._try(limit, self.claim(quote_id), "claim") for quote_id in quote_ids))
        return [op_id for op_id, done in zip(open_ids, settled, strict=True) if not done]

    async def restore(self, mint: str) -> Restored:
        """Find the coins of our seed at a mint and book those that are unspent and new to us. Idempotent.

        Open operations are settled first. What the mint does not answer is in `Restored.trouble`. Raises `UnknownMint`.
        """
        mint = self._desk.keyring.trusted(mint)
        await self.recover()
        return await restore(self._desk, mint)

    async def restore_sent(self, token: Token, *, op_id: str, job_id: str | None = None) -> bool:
        """Remember a token that an earlier life of this wallet sent, so that `plan_reclaim(op_id)` can take it back.

        False if there is an operation of that name.
        """
        return await restore_sent(self._desk, token, op_id, job_id)

    async def plan_send(
        self,
        mint: str,
        amount_sat: int,
        *,
        op_id: str,
        purpose: str,
        lock: Lock | None = None,
        job_id: str | None = None,
        include_fees: bool = False,
        amounts: Sequence[int] | None = None,
        record: bool = False,
    ) -> Plan:
        """Prepare a token of `amount_sat` out of our coins, locked or plain; the rest comes back as change.

        With `include_fees` the token is larger by what its receiver pays to swap it: they get `amount_sat` net.
        `amounts` are those of its coins, powers of two that sum to `amount_sat` (`escrow_amounts` finds some); the fee
        is then coins beside them, under the same lock. Without, the coins are the fewest.
        With `record` the transaction that makes the plan records it, for callers with nothing to write beside it.
        Waits for change of operations under way if that will do. Raises `InsufficientFunds`, `UnknownMint`,
        `MintUnavailable`.
        """
        mint = self._desk.keyring.trusted(mint)
        if amount_sat <= 0:
            raise ValueError("an amount to send is above zero")
        if lock is not None:
            check_terms(lock)
            await self._desk.keyring.check_knows(mint, lock)
        keysets = await self._desk.keyring.keysets(mint)
        keyset = await self._desk.keyring.active(mint, lock)
        coins = send_amounts(amount_sat, amounts, keyset, include_fees=include_fees)
        request = Request(
            op_id, Kind.SEND, mint, purpose, job_id, lock, send_sat=sum(coins), amounts=coins, record=record
        )
        return await self._planner.plan_own(request, keysets)

    async def plan_redeem(
        self,
        token: Token,
        *,
        keys: Sequence[SecretKey] = (),
        op_id: str,
        purpose: str,
        job_id: str | None = None,
        ask_first: bool = True,
        record: bool = False,
    ) -> Plan:
        """Prepare to swap foreign coins to our own; locked ones are signed with `keys`; `record` as in `plan_send`.

        The mint is asked first whether they are unspent, for a swap in vain uses up counters. `ask_first` False is for
        coins just examined: that they were spent, or are being spent, is then told by `settle`, as after any plan.
        Raises `UnknownMint`, `InvalidToken`, `InvalidProof`, `WrongLock` (these keys cannot spend it now),
        `AlreadySpent`, `MintUnavailable`.
        """
        now = self._desk.clock.now()
        mint, coins, keysets = await operations_foreign.acceptable(
            self._desk.keyring, token, keys, now, ask=ask_first
        )
        request = Request(op_id, Kind.REDEEM, mint, purpose, job_id, record=record, is_capped=True)
        return await self._planner.plan_foreign(request, coins, keysets)

    async def plan_return(
        self,
        token: Token,
        *,
        keys: Sequence[SecretKey] = (),
        lock: Lock | None,
        op_id: str,
        purpose: str,
        job_id: str | None = None,
        keep_sat: int = 0,
        ask_first: bool = True,
    ) -> Plan:
        """Prepare to swap foreign coins to a token for somebody else, less the fee and `keep_sat` for us.

        Errors as `plan_redeem`; `InvalidToken` if nothing would be left.
        """
        if keep_sat < 0:
            raise ValueError("an amount to keep is not below zero")
        if lock is not None:
            check_terms(lock)
        now = self._desk.clock.now()
        mint, coins, keysets = await operations_foreign.acceptable(
            self._desk.keyring, token, keys, now, ask=ask_first
        )
        request = Request(
            op_id, Kind.RETURN, mint, purpose, job_id, lock, keep_sat=keep_sat, is_capped=keep_sat > 0
        )
        return await self._planner.plan_foreign(request, coins, keysets)

    async def plan_reclaim(
        self,
        sent_op_id: str,
        *,
        op_id: str,
        purpose: str,
        key: SecretKey | None = None,
        job_id: str | None = None,
        signatures: Mapping[str, Sequence[str]] | None = None,
    ) -> Plan:
        """Prepare to take back what is unclaimed of a token that `sent_op_id` made.

        Plain coins need no key; locked ones the refund key, after the locktime, or `signatures` of others, by secret:
        then only the coins that have some. Coins already claimed are left out.
        Raises `AlreadySpent` if all are claimed, `WrongLock` if `key` cannot spend them (yet), `MintUnavailable`.
        """
        sent, left = await unclaimed(self._desk, sent_op_id, () if key is None else (key,), signatures or {})
        keysets = await self._desk.keyring.keysets(sent.mint)
        request = Request(op_id, Kind.RECLAIM, sent.mint, purpose, job_id or sent.job_id)
        return await self._planner.plan_foreign(request, left, keysets)

    async def record(self, tx: Transaction, plan: Plan) -> None:
        """Decide for a plan inside the caller's transaction: once that commits, the operation is open.

        Raises `WalletError` if the plan was released or replaced meanwhile; the transaction must then be undone.
        """
        await self._planner.record(tx, plan)

    async def release(self, plan: Plan) -> None:
        """Give up a plan that was not recorded: its coins are free again. Harmless if it was recorded or released."""
        await self._planner.release(plan.op_id, plan.plan_id)

    async def settle(self, op_id: str) -> Outcome:
        """Drive a recorded operation to its end; a closed one answers at once. Idempotent, safe concurrently.

        Coins in and out, the operation's end and its ledger posting are one transaction. Raises `MintUnavailable`
        when the mint gives no clear answer: the operation stays open, settle again later. Raises `WalletError` for
        an operation that was never recorded.
        """
        lock = self._locks.setdefault(op_id, asyncio.Lock())
        async with lock:
            op = await queries.operation(self._desk.db, op_id)
            if op is not None and op.state is State.OPEN:
                try:
                    await self._drive(op, fresh=self._planner.take_fresh(op_id))
                finally:
                    self._planner.settled(op.plan_id)
        outcome = await self.outcome(op_id)
        if outcome is None:
            raise WalletError(f"operation {op_id} was never recorded; plan and record it first")
        return outcome

    async def is_recorded(self, op_id: str) -> bool:
        """Whether an operation of that name was recorded, open or closed: it can be settled, and not planned again."""
        op = await queries.operation(self._desk.db, op_id)
        return op is not None and op.state is not State.PLANNED

    async def outcome(self, op_id: str) -> Outcome | None:
        """How an operation ended; None while it is open or if there is none."""
        op = await queries.operation(self._desk.db, op_id)
        if op is None or op.state in (State.PLANNED, State.OPEN):
            return None
        proofs = await queries.token_proofs(self._desk.db, op_id)
        token = Token(op.mint, proofs) if proofs else None
        return Outcome(op_id, op.state, op.received_sat, op.sent_sat, op.paid_fee_sat, token, op.error)

    async def examine(
        self, token: Token | Sequence[Proof], *, mint: str, lock: Lock | None, now: int
    ) -> Examined:
        """Check foreign coins without taking them: at `mint`, a mint of ours; locked exactly by `lock` (None: plain).

        Coins must be genuine (DLEQ, which locked coins must carry; plain ones may come without, and then only a swap
        tells), no coin twice, at most 100, of known sat keysets that outlive the locktime by a day, UNSPENT.
        Raises `UnknownMint`, `InvalidToken`, `InvalidProof`, `InvalidKeyset`, `WrongLock`, `AlreadySpent`,
        `LimitExceeded`, `MintUnavailable`.
        """
        return await operations_foreign.examine(self._desk.keyring, token, mint=mint, lock=lock, now=now)

    async def redeemed_by(self, token: Token, key: SecretKey) -> int | None:
        """What a token was worth, after the mint's fee, if `key` signed when its coins were spent; else None.

        The mint shows the signatures (NUT-07), so this tells our own redemption after its record was lost. None for
        coins that this database knows: what became of those is written there. Raises as `examine`.
        """
        net_sat = await operations_foreign.redeemed_by(self._desk.keyring, token, key)
        ys = [proof_y(proof.secret) for proof in token.proofs]
        known = await queries.known_coins(self._desk.db, self._desk.keyring.trusted(token.mint), ys)
        return None if known else net_sat

    async def states(self, mint: str, secrets: Sequence[str]) -> dict[str, ProofStateAnswer]:
        """What became of coins, by their secrets (NUT-07). Raises `UnknownMint`, `MintUnavailable`.

        UNSPENT is no proof that there is such a coin: an unknown one is unspent, too.
        """
        by_y = {proof_y(secret): secret for secret in secrets}
        found = await self._desk.keyring.client(self._desk.keyring.trusted(mint)).check_state(list(by_y))
        return {by_y[y]: state for y, state in found.items()}

    async def enforces(self, mint: str) -> Enforced:
        """Which locks `probe` saw this mint enforce in its present version. Raises `UnknownMint`, `MintUnavailable`."""
        return await self._prober.known(self._desk.keyring.trusted(mint))

    async def probe(self, mint: str) -> Enforced:
        """Lock a few sats of ours at a mint and try to take them wrongly, unless this version of it was probed before.

        Costs the input fees of six swaps. Cut short at any line it loses nothing: `recover`, then probe again. Raises
        `InsufficientFunds`, `UnknownMint`, `MintUnavailable`, `WalletError` (a mint that does not even make coins).
        """
        mint = self._desk.keyring.trusted(mint)
        async with self._locks.setdefault(f"probe:{mint}", asyncio.Lock()):
            return await self._prober.probe(mint)

    async def clock_offset(self, mint: str) -> int:
        """By how many seconds the mint's clock is ahead of ours; 0 if it does not tell (NUT-06).

        Raises `UnknownMint`, `MintUnavailable`.
        """
        return await self._desk.keyring.clock_offset(self._desk.keyring.trusted(mint))

    async def least_fee(self, mint: str, amount_sat: int) -> int:
        """What the mint takes, in sat, when `amount_sat` in the fewest coins is swapped.

        Raises `UnknownMint`, `MintUnavailable`.
        """
        mint = self._desk.keyring.trusted(mint)
        await self._desk.keyring.keysets(mint)
        keyset = await self._desk.keyring.active(mint)
        return -(-len(split_amount(amount_sat)) * keyset.input_fee_ppk // 1000)

    async def highest_fee(self, coins: int) -> int:
        """What the dearest of our mints takes, in sat, when so many coins are swapped, as far as they told before.

        They are asked only if none ever did. Raises `MintUnavailable`.
        """
        fees_ppk = await self._fees_ppk()
        if not fees_ppk:
            keyring = self._desk.keyring
            await asyncio.gather(*(keyring.refresh(mint) for mint in self.mints), return_exceptions=True)
            fees_ppk = await self._fees_ppk()
        if not fees_ppk:
            raise MintUnavailable(
                "none of our mints has told its fees yet, and none does now; try again later"
            )
        return -(-coins * max(fees_ppk) // 1000)

    async def _fees_ppk(self) -> list[int]:
        fees_ppk = []
        for mint in self.mints:
            with suppress(MintUnavailable):  # no keyset of it is known
                fees_ppk.append((await self._desk.keyring.active(mint)).input_fee_ppk)
        return fees_ppk

    async def mint_info(self, mint: str) -> MintInfo:
        """What a mint says of itself (NUT-06). Raises `UnknownMint`, `MintUnavailable`."""
        return await self._desk.keyring.client(self._desk.keyring.trusted(mint)).info()

    async def fee_of(self, mint: str, coins: int) -> int:
        """What the mint takes, in sat, when so many coins are swapped. Raises `UnknownMint`, `MintUnavailable`."""
        mint = self._desk.keyring.trusted(mint)
        await self._desk.keyring.keysets(mint)
        return -(-coins * (await self._desk.keyring.active(mint)).input_fee_ppk // 1000)

    async def mint_quote(self, mint: str, amount_sat: int, *, job_id: str | None = None) -> Quote:
        """Ask for an invoice that funds this wallet. The quote is stored, locked to a key of ours (NUT-20).

        What is paid for a job is booked for it, and claimed by whoever does the job: `recover` asks for it only once.
        """
        return await ask_invoice(self._desk, mint, amount_sat, job_id)

    async def pays_itself(self, mint: str, amount_sat: int) -> bool:
        """Whether the mint calls an invoice paid that nobody was shown: its Lightning is faked, its sats are for play.

        The invoice it is tried with is forgotten. Raises `UnknownMint`, `MintUnavailable`, `MintError`.
        """
        return await pays_itself(self._desk, mint, amount_sat)

    async def claim(self, quote_id: str) -> Outcome | None:
        """Turn a paid quote into coins, whatever its expiry; None while it is unpaid. Idempotent."""
        found = await queries.quote(self._desk.db, quote_id)
        if found is None:
            raise WalletError("there is no such quote in this wallet")
        quote, op_id = found
        async with self._locks.setdefault(quote_id, asyncio.Lock()):
            op = await queries.operation(self._desk.db, op_id)
            if (op is None or op.state is State.PLANNED) and not await begin_claim(
                self._desk, self._planner, quote, op_id
            ):
                return None
        return await self.settle(op_id)

    async def send(
        self, mint: str, amount_sat: int, *, lock: Lock | None = None, include_fees: bool = False
    ) -> Token:
        """Plan, record and settle a token in one go. Raises as `plan_send` and `settle`."""
        op_id = f"send:{secrets.token_hex(16)}"
        plan = await self.plan_send(
            mint, amount_sat, op_id=op_id, purpose="send", lock=lock, include_fees=include_fees, record=True
        )
        outcome = await self.settle(plan.op_id)
        if outcome.token is None:
            raise WalletError(f"no token was made: {outcome.error}")
        return outcome.token

    async def receive(self, token: Token, keys: Sequence[SecretKey] = ()) -> Outcome:
        """Plan, record and settle the redemption of a token in one go. Raises as `plan_redeem` and `settle`.

        Whether the coins are unspent, the swap tells: if not all are, none is taken.
        """
        op_id = f"receive:{secrets.token_hex(16)}"
        plan = await self.plan_redeem(
            token, keys=keys, op_id=op_id, purpose="receive", ask_first=False, record=True
        )
        outcome = await self.settle(plan.op_id)
        if outcome.state is State.LOST:
            raise AlreadySpent(f"nothing was received, {outcome.error}; ask for a fresh token")
        return outcome

    async def plan_pay(
        self,
        mint: str,
        bolt11: str,
        *,
        op_id: str,
        purpose: str,
        job_id: str | None = None,
        total_sat_max: int | None = None,
        record: bool = False,
    ) -> Plan:
        """Prepare to pay a Lightning invoice; overpaid fees come back (NUT-08); `record` as in `plan_send`.

        `total_sat_max` bounds the invoice and the mint's fee reserve together; the input fee comes on top.
        Raises `InvalidRequest` for an invoice that is none, has expired, or would cost another amount than it names;
        `LimitExceeded`, `InsufficientFunds`, `UnknownMint`, `MintError`, `MintUnavailable`.
        """
        mint = self._desk.keyring.trusted(mint)
        keysets = await self._desk.keyring.keysets(mint)
        quote = await ask_price(self._desk, mint, bolt11, total_sat_max)
        request = Request(
            op_id, Kind.MELT, mint, purpose, job_id,
            quote_id=quote.quote, send_sat=quote.amount, reserve_sat=quote.fee_reserve, record=record,
        )  # fmt: skip
        return await self._planner.plan_own(request, keysets)

    async def pay(self, mint: str, bolt11: str) -> Outcome:
        """Plan, record and settle a payment in one go. `failed`: the coins are ours again. Raises as `plan_pay`.

        `MintUnavailable` also while the payment is in flight or unclear: `recover` finishes it.
        """
        op_id = f"pay:{secrets.token_hex(16)}"
        plan = await self.plan_pay(mint, bolt11, op_id=op_id, purpose="pay", record=True)
        return await self.settle(plan.op_id)

    async def preimage(self, op_id: str) -> str | None:
        """What the mint says is the preimage of an invoice that it paid for us (NUT-05): not checked.

        None if it tells none.
        Raises `MintError`, `MintUnavailable`.
        """
        op = await queries.operation(self._desk.db, op_id)
        if op is None or op.kind is not Kind.MELT or op.quote_id is None:
            return None
        return (await self._desk.keyring.client(op.mint).melt_quote_state(op.quote_id)).payment_preimage

    async def abandon(self, mint: str) -> int:
        """Write off to `lost` what is at a mint, and use it no more; returns the sat written off. Idempotent.

        If it ever answers `recover` again, the reverse is posted and it is one of ours again. Raises `UnknownMint`.
        """
        return await abandon(self._desk, mint)

    async def mints_with_room(self, more_sat: int) -> tuple[str, ...]:
        """The mints where `more_sat` more would not pass the cap, in the order of the configuration."""
        held = {mint: await exposure_sat(self._desk.db, mint) for mint in self.mints}
        return tuple(mint for mint, sat in held.items() if sat + more_sat <= self._desk.caps.of(mint))

    async def sweepable(self) -> dict[str, int]:
        """Sat by mint that are more than a sweep leaves there and can be spent; none while a payment is under way."""
        return await sweepable(self._desk)

    async def balance(self) -> dict[str, int]:
        """Sat by mint that can be spent now; coins inside open operations are not counted."""
        return await queries.spendable(self._desk.db)

    async def history(self, limit: int = 100) -> list[HistoryEntry]:
        """The newest operations first."""
        return [op.entry() for op in await queries.newest_operations(self._desk.db, limit)]

    async def audit(self, *, ask_mints: bool = False) -> AuditReport:
        """Check the books: postings balance, each has its operation, coins in hand are what the accounts say.

        With `ask_mints` also that each mint calls our free coins unspent; one that does not answer is a finding.
        Reads beside everybody who writes. Raises nothing for what it finds.
        """
        return await books.audit(self._desk.db, self._desk.keyring, ask_mints=ask_mints)

    @staticmethod
    async def _try(limit: asyncio.Semaphore, step: Awaitable[object], name: str) -> bool:
        async with limit:
            try:
                await step
            except WalletError as error:
                log.warning("recovery_postponed", op_id=name, reason=str(error))
                return False
        return True

    async def _drive(self, op: Operation, *, fresh: bool) -> None:
        match op.kind:
            case Kind.MINT:
                await settle_mint(self._desk, op, fresh=fresh)
            case Kind.MELT:
                await settle_melt(self._desk, op, fresh=fresh)
            case Kind.RESTORE:
                await settle_restored(self._desk, op)
            case _:
                await settle_swap(self._desk, op, fresh=fresh)
