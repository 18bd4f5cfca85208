"""Planning: reserve coins, use up counters, derive outputs. No mint is told anything that matters yet."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

from store import Transaction
from wallet import queries
from wallet.errors import Action, AlreadySpent, InsufficientFunds, InvalidToken, LimitExceeded, WalletError
from wallet.exposure import check_room
from wallet.keysets import Keyset, input_fee
from wallet.operations import AMOUNT_SAT_MAX, OP_ID_CHARS_MAX, Kind, Plan, Role, State, share
from wallet.operations_coins import make_outputs, wanted_coins
from wallet.operations_desk import Desk, active_keyset, are_shared, dump_lock
from wallet.proofs import Coin, Lock, Proof
from wallet.queries import Operation
from wallet.selection import fee_amounts, select, split_amount

INPUTS_MAX: Final = 250  # our own coins in one transaction; mints take 1000
CHANGE_SECONDS_MAX: Final = 30

Choose = Callable[[Transaction], Awaitable[Collection[Coin]]]


@dataclass(frozen=True)
class Request:
    """What a caller wants to plan. `send_sat` and `keep_sat`: the one that its kind fixes (`operations.share`).

    `amounts`: of the coins that a send makes, which sum to `send_sat`.
    `record`: it is decided already, so the plan is recorded in the transaction that makes it.
    """

    op_id: str
    kind: Kind
    mint: str
    purpose: str
    job_id: str | None = None
    lock: Lock | None = None
    quote_id: str | None = None
    send_sat: int = 0
    amounts: tuple[int, ...] = ()
    keep_sat: int = 0
    reserve_sat: int = 0  # of a payment, beyond send_sat
    record: bool = False
    is_capped: bool = False  # what we keep of it counts against the mint's cap, and may be refused


class Planner:
    """Makes plans for one wallet, and knows which change is on its way."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._coming: dict[str, tuple[str, int]] = {}  # mint and sat
        self._fresh: set[str] = set()  # recorded by this process, and no mint was asked yet
        self._arrival = asyncio.Event()

    @property
    def in_hand(self) -> frozenset[str]:
        """Ids of plans made by this process and not settled yet."""
        return frozenset(self._coming)

    def settled(self, plan_id: str) -> None:
        """The change of an operation came, or will not come soon: whoever waits for change may look again."""
        if self._coming.pop(plan_id, None) is not None:
            self._arrival.set()
            self._arrival = asyncio.Event()

    async def plan_own(self, request: Request, keysets: Mapping[str, Keyset]) -> Plan:
        """Plan with our own coins; waits for change under way if the free coins do not reach.

        Raises `InsufficientFunds`.
        """
        amount = request.send_sat + request.reserve_sat

        async def choose(tx: Transaction) -> Collection[Coin]:
            coins = select(await queries.free_coins(tx, request.mint, INPUTS_MAX), amount, keysets)
            await queries.reserve(tx, request.op_id, request.mint, [coin.y for coin in coins])
            return coins

        deadline = self._desk.clock.now() + CHANGE_SECONDS_MAX
        while True:
            arrival = self._arrival
            try:
                return await self._plan(request, choose, keysets)
            except InsufficientFunds as error:
                coming = sum(sat for mint, sat in self._coming.values() if mint == request.mint)
                left = deadline - self._desk.clock.now()
                if error.available_sat + coming < error.needed_sat or left <= 0:
                    raise
            await self._wait(arrival, left)

    async def plan_foreign(
        self, request: Request, coins: dict[str, Proof], keysets: Mapping[str, Keyset]
    ) -> Plan:
        """Plan with somebody else's coins, or coins we sent. Raises `AlreadySpent` if an operation has or had one."""

        async def choose(tx: Transaction) -> Collection[Coin]:
            if request.is_capped and not are_shared(
                coins.values()
            ):  # else there was room when they were locked
                fee = input_fee(coins.values(), keysets)
                total = sum(proof.amount for proof in coins.values()) - fee
                keep = request.keep_sat if request.kind is Kind.RETURN else total
                await check_room(tx, self._desk.caps, request.mint, keep)
            for row in await queries.known_coins(tx, request.mint, list(coins)):
                if row["held_by"] is not None:
                    raise AlreadySpent(
                        f"operation {row['held_by']} has these coins already", action=Action.WAIT
                    )
                if row["state"] != "sent":
                    raise AlreadySpent("these coins were taken before; ask for fresh ones")
            await queries.hold_foreign(tx, request.op_id, request.mint, coins)
            return coins.values()

        return await self._plan(request, choose, keysets)

    async def plan_mint(self, request: Request) -> Plan:
        """Plan the coins of a paid quote."""

        async def choose(_tx: Transaction) -> Collection[Coin]:
            return ()

        return await self._plan(request, choose, {})

    async def record(self, tx: Transaction, plan: Plan) -> None:
        """See `Wallet.record`."""
        if not await queries.open_operation(tx, plan.op_id, plan.plan_id):
            raise WalletError(f"the plan of operation {plan.op_id} was given up or replaced; plan again")
        await queries.insert_outputs(tx, plan.op_id, plan.outputs)
        tx.after_commit(lambda: self._fresh.add(plan.op_id))

    def take_fresh(self, op_id: str) -> bool:
        """Whether the mint was certainly never asked for this operation. True only once: now it may be asked."""
        fresh = op_id in self._fresh
        self._fresh.discard(op_id)
        return fresh

    async def release(self, op_id: str, plan_id: str) -> None:
        """See `Wallet.release`."""
        async with self._desk.db.transaction() as tx:
            await queries.release_plan(tx, op_id, plan_id)
        self.settled(plan_id)

    async def _plan(self, request: Request, choose: Choose, keysets: Mapping[str, Keyset]) -> Plan:
        """One transaction for the coins, the counters and the row."""
        if not 0 < len(request.op_id) <= OP_ID_CHARS_MAX:
            raise WalletError(f"an operation's id has 1 … {OP_ID_CHARS_MAX} characters")
        keyset = await active_keyset(self._desk, request.mint, request.lock)
        plan_id = secrets.token_hex(8)
        try:
            async with self._desk.db.transaction() as tx:
                await self._make_room(tx, request.op_id)
                coins = await choose(tx)
                send, keep, fee, wanted = _divide(request, coins, keysets)
                await queries.insert_operation(tx, self._row(request, plan_id, send, keep, fee))
                counter = await queries.take_counters(tx, keyset.id, len(wanted))
                self._coming[plan_id] = request.mint, keep
                outputs = make_outputs(
                    self._desk.seed, keyset.id, wanted, first_counter=counter, attempt=0, lock=request.lock
                )
                plan = Plan(
                    request.op_id,
                    plan_id,
                    request.kind,
                    request.mint,
                    send,
                    keep,
                    fee,
                    outputs,
                    request.reserve_sat,
                )
                if request.record:
                    await self.record(tx, plan)
        except BaseException as error:
            refused = isinstance(error, WalletError) and plan_id not in self._coming
            if not refused:  # else the transaction was undone, and there is nothing to release
                await self.release(request.op_id, plan_id)
            raise
        return plan

    def _row(self, request: Request, plan_id: str, send: int, keep: int, fee: int) -> Operation:
        return Operation(
            op_id=request.op_id, plan_id=plan_id, kind=request.kind, state=State.PLANNED, mint=request.mint,
            purpose=request.purpose, job_id=request.job_id, quote_id=request.quote_id, send_sat=send, keep_sat=keep,
            fee_sat=fee, locked=dump_lock(request.lock), created_at=self._desk.clock.now(),
        )  # fmt: skip

    @staticmethod
    async def _make_room(tx: Transaction, op_id: str) -> None:
        """An earlier plan of the same name gives way; an operation that was recorded does not."""
        old = await queries.operation(tx, op_id)
        if old is None:
            return
        if old.state is not State.PLANNED:
            raise WalletError(f"operation {op_id} is {old.state} already; settle it or ask for its outcome")
        await queries.release_plan(tx, op_id, old.plan_id)

    async def _wait(self, arrival: asyncio.Event, seconds: float) -> None:
        tasks = [
            asyncio.ensure_future(arrival.wait()),
            asyncio.ensure_future(self._desk.clock.sleep(seconds)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()


def face_value(net_sat: int, input_fee_ppk: int) -> int:
    """The least token worth at least `net_sat` after its receiver swapped it, fee rounded up (NUT-02)."""
    return next(
        face
        for face in count(net_sat)
        if face + (-len(split_amount(face)) * input_fee_ppk // 1000) >= net_sat
    )


def send_amounts(
    net_sat: int, amounts: Sequence[int] | None, keyset: Keyset, *, include_fees: bool
) -> tuple[int, ...]:
    """The coins of a token: `amounts`, or the fewest; `include_fees` adds what its receiver pays to swap it whole.

    Raises `ValueError` unless `amounts` are powers of two that sum to `net_sat`, `LimitExceeded` if the mint has no
    coins so large.
    """
    ppk = keyset.input_fee_ppk if include_fees else 0
    if amounts is None:
        return tuple(split_amount(face_value(net_sat, ppk)))
    if sum(amounts) != net_sat or any(amount < 1 or amount & (amount - 1) for amount in amounts):
        raise ValueError("the amounts of coins are powers of two and sum to what is sent")
    coins = (*amounts, *fee_amounts(amounts, ppk))
    if not keyset.keys.keys() >= set(coins):
        raise LimitExceeded(f"the mint has no coins of {max(coins)} sat; send less, or in smaller coins")
    return coins


def blank_count(overpaid_sat: int) -> int:
    """How many blank outputs take any change up to `overpaid_sat` (NUT-08 counts for the fee reserve alone)."""
    return overpaid_sat.bit_length()


def _divide(
    request: Request, coins: Collection[Coin], keysets: Mapping[str, Keyset]
) -> tuple[int, int, int, list[tuple[Role, int]]]:
    """(send, keep, fee) of a request and the coins to make for it. Raises `InvalidToken`, `LimitExceeded`."""
    if request.send_sat > AMOUNT_SAT_MAX or request.keep_sat > AMOUNT_SAT_MAX:
        raise LimitExceeded("there are not that many sats")
    total = sum(coin.amount for coin in coins)
    fee = input_fee(coins, keysets)
    match request.kind:
        case Kind.MINT:
            return 0, request.keep_sat, 0, wanted_coins(send_sat=0, keep_sat=request.keep_sat)
        case Kind.MELT:
            overpaid = total - fee - request.send_sat
            return request.send_sat, overpaid, fee, [(Role.BLANK, 0)] * blank_count(overpaid)
        case _:
            shares = share(request.kind, total, fee, send_sat=request.send_sat, keep_sat=request.keep_sat)
    if shares is None:
        raise InvalidToken(f"{total} sat are not worth the mint's fee of {fee} sat and what was asked for")
    send, keep = shares
    return send, keep, fee, wanted_coins(send_sat=send, keep_sat=keep, amounts=request.amounts)
