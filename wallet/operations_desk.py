"""What planning and settling share: the parts of a wallet, a new attempt's outputs, and the closing transactions."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import structlog

from store import Clock, Database, Transaction
from wallet import queries
from wallet.counters import check_counter
from wallet.errors import InvalidKeyset, InvalidProof, MintUnavailable
from wallet.exposure import Caps
from wallet.keyring import Keyring
from wallet.keysets import Keyset
from wallet.ledger import LOST, Cause, Posting, coin_entries, counter_account, escrow_account, post
from wallet.locks import parse_lock
from wallet.mint import BlindSignature, CoinState, ProofStateAnswer
from wallet.operations import Kind, Output, Role, State
from wallet.operations_coins import Made, computed, make_coins, make_outputs
from wallet.proofs import Lock, Proof
from wallet.queries import Operation
from wallet.seed import Seed

OWN_INPUTS = frozenset({Kind.SEND, Kind.MELT})

log = structlog.get_logger(__name__)


async def nothing_uncredited(db: Database) -> int:  # noqa: ARG001 - who knows of some looks there
    """Of a wallet that takes no sats for others."""
    return 0


@dataclass(frozen=True)
class Desk:
    """The parts of one wallet. `uncredited`: sat of its coins that are others', and not in the books as theirs yet."""

    db: Database
    seed: Seed
    clock: Clock
    keyring: Keyring
    caps: Caps = field(default_factory=Caps)
    uncredited: Callable[[Database], Awaitable[int]] = nothing_uncredited
    #: Keysets whose counters were compared with the mint in this process.
    counted: set[str] = field(default_factory=set)
    counting: dict[str, asyncio.Lock] = field(default_factory=dict)


def dump_lock(lock: Lock | None) -> str | None:
    """A lock as it is stored with its operation."""
    return None if lock is None else json.dumps(asdict(lock))


def load_lock(text: str | None) -> Lock | None:
    """The inverse of `dump_lock`."""
    if text is None:
        return None
    raw = json.loads(text)
    return Lock(**(raw | {"refund": tuple(raw["refund"]), "pubkeys": tuple(raw["pubkeys"])}))


async def active_keyset(desk: Desk, mint: str, lock: Lock | None) -> Keyset:
    """The keyset for new coins, and its counter certainly unused. Raises as `Keyring.active`."""
    keyset = await desk.keyring.active(mint, lock)
    async with desk.counting.setdefault(keyset.id, asyncio.Lock()):
        if keyset.id not in desk.counted:
            await check_counter(desk.db, desk.seed, desk.keyring.client(mint), keyset)
            desk.counted.add(keyset.id)
    return keyset


async def add_attempt(
    desk: Desk, op: Operation, number: int, wanted: Sequence[tuple[Role, int]]
) -> list[Output]:
    """Fresh outputs for one more request of an open operation, on disk when this returns.

    Outputs of earlier attempts stay: a mint may still answer for them. As it may have refused those because it signed
    them before, the counter is compared anew. Raises `MintUnavailable` without a keyset.
    """
    desk.counted.clear()
    lock = load_lock(op.locked)
    keyset = await active_keyset(desk, op.mint, lock)
    async with desk.db.transaction() as tx:
        counter = await queries.take_counters(tx, keyset.id, len(wanted))
    outputs = make_outputs(desk.seed, keyset.id, wanted, first_counter=counter, attempt=number, lock=lock)
    async with desk.db.transaction() as tx:
        await queries.insert_outputs(tx, op.op_id, outputs)
    return list(outputs)


async def open_coins(
    desk: Desk, mint: str, pairs: Sequence[tuple[Output, BlindSignature]]
) -> tuple[Made, ...]:
    """Signatures to coins. Wrong ones are no answer: raises `MintUnavailable`, and the operation stays open."""
    keysets = await desk.keyring.pinned(mint)
    try:
        return await computed(len(pairs), lambda: make_coins(pairs, keysets))
    except (InvalidProof, InvalidKeyset) as error:
        log.error("mint_signed_wrongly", mint=mint, reason=str(error))
        raise MintUnavailable(
            f"{mint} answered with wrong signatures: {error}; the coins stay locked"
        ) from None


async def close_done(desk: Desk, op: Operation, inputs: Mapping[str, Proof], made: Sequence[Made]) -> None:
    """The mint did it: inputs gone, new coins in, the operation closed and posted, in one transaction."""
    sent = op.send_sat if op.kind is Kind.MELT else _sum(made, Role.SEND)
    await _close(desk, op, State.DONE, inputs, made, sent=sent, error=None)
    log.info("operation_done", op_id=op.op_id, kind=op.kind, mint=op.mint)


async def close_failed(
    desk: Desk, op: Operation, inputs: Mapping[str, Proof], made: Sequence[Made], *, error: str
) -> None:
    """Nothing was sent. Without `made` the inputs are what they were before; with it they came back as these coins."""
    if made:
        await _close(desk, op, State.FAILED, inputs, made, sent=0, error=error)
    else:
        async with desk.db.transaction() as tx:
            if await _end(tx, desk, op, State.FAILED, error=error):
                await queries.let_go(tx, op.op_id)
    tell = log.info if op.kind is Kind.PROBE else log.warning  # a probe is there to be refused
    tell("operation_failed", op_id=op.op_id, kind=op.kind, mint=op.mint, reason=error)


async def close_lost(
    desk: Desk, op: Operation, inputs: Mapping[str, Proof], states: Mapping[str, ProofStateAnswer]
) -> None:
    """Somebody else spent some of the inputs (or minted our quote) and we have no signatures: the rest is let go.

    The witness that the mint shows is kept with each spent coin: it says who it was.
    """
    gone = {y: state.witness for y, state in states.items() if state.state is CoinState.SPENT}
    gone_sat = sum(inputs[y].amount for y in gone)
    if op.kind is Kind.MINT:
        error = f"somebody else minted the {op.keep_sat} sat of our quote"
    else:
        total_sat = sum(proof.amount for proof in inputs.values())
        error = f"{gone_sat} of {total_sat} sat were spent by somebody else first"
    async with desk.db.transaction() as tx:
        if await _end(tx, desk, op, State.LOST, error=error):
            await queries.mark_spent(tx, op.mint, gone.items())
            await queries.let_go(tx, op.op_id)
            if op.kind in OWN_INPUTS:
                await post_coins(tx, desk, op, own_sat=-gone_sat, fee_sat=0, counter=LOST)
    log.warning("operation_lost", op_id=op.op_id, kind=op.kind, mint=op.mint, reason=error)


async def post_coins(
    tx: Transaction,
    desk: Desk,
    op: Operation,
    *,
    own_sat: int,
    fee_sat: int,
    counter: str,
    lightning_sat: int = 0,
) -> None:
    """The one posting of an operation that ends in this transaction: see `coin_entries`. None if nothing moved."""
    entries = coin_entries(
        op.mint, own_sat=own_sat, fee_sat=fee_sat, counter=counter, lightning_sat=lightning_sat
    )
    if entries:
        await post(tx, Posting(op.op_id, Cause.OPERATION, entries, desk.clock.now(), op.op_id, op.job_id))


def counter_of(job_id: str | None, coins: Iterable[Proof]) -> str:
    """The other side of coins that come or go: a job's escrow if more than one party must agree to spend them."""
    if job_id is None:
        return counter_account(None)
    return escrow_account(job_id) if are_shared(coins) else counter_account(job_id)


def are_shared(coins: Iterable[Proof]) -> bool:
    """Whether any of the coins needs more than one party, or a preimage, to be spent."""
    locks = [parse_lock(coin.secret) for coin in coins]
    return any(lock is not None and (lock.pubkeys or lock.hash) for lock in locks)


async def _close(
    desk: Desk,
    op: Operation,
    state: State,
    inputs: Mapping[str, Proof],
    made: Sequence[Made],
    *,
    sent: int,
    error: str | None,
) -> None:
    kept = _sum(made, Role.KEEP) + _sum(made, Role.BLANK)
    taken = kept if op.kind is Kind.MINT else sum(proof.amount for proof in inputs.values())
    fee = taken - kept - sent
    own_inputs = op.kind in OWN_INPUTS
    own = kept - taken if own_inputs else kept
    received = 0 if own_inputs else kept
    async with desk.db.transaction() as tx:
        if not await _end(tx, desk, op, state, received=received, sent=sent, fee=fee, error=error):
            return  # another process was quicker; what it wrote is what we would write
        await queries.spend_held(tx, op.op_id)
        await queries.insert_made(tx, op.op_id, op.mint, ((coin.y, coin.role, coin.proof) for coin in made))
        moved = [coin.proof for coin in made if coin.role is Role.SEND] if own_inputs else inputs.values()
        # What a payment cost beyond the mint's planned fee of its inputs, the mint spent on routing.
        routing = max(fee - op.fee_sat, 0) if op.kind is Kind.MELT and state is State.DONE else 0
        await post_coins(
            tx,
            desk,
            op,
            own_sat=own,
            fee_sat=fee,
            lightning_sat=routing,
            counter=counter_of(op.job_id, moved),
        )


async def _end(
    tx: Transaction,
    desk: Desk,
    op: Operation,
    state: State,
    *,
    received: int = 0,
    sent: int = 0,
    fee: int = 0,
    error: str | None,
) -> bool:
    return await queries.close_operation(
        tx, op.op_id, state, received=received, sent=sent, fee=fee, error=error, now=desk.clock.now()
    )


def _sum(made: Sequence[Made], role: Role) -> int:
    return sum(coin.proof.amount for coin in made if coin.role is role)
