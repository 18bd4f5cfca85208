"""Coins found again from the seed alone (NUT-13 with NUT-09 and NUT-07).

Looking changes nothing at a mint, and each batch is booked in one transaction that leaves out every coin we ever had:
so it may be killed anywhere and run again, over an empty database or a full one.
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from wallet import queries
from wallet.counters import SKIPPED, Batch, scan
from wallet.crypto import proof_y
from wallet.errors import InvalidKeyset, MintError, MintUnavailable, UnknownMint
from wallet.ledger import LOST, RESTORED, Cause, Posting, coin_entries, post
from wallet.mint import CoinState
from wallet.operations import Kind, Role, State
from wallet.operations_coins import Made
from wallet.operations_desk import Desk, counter_of, post_coins
from wallet.proofs import Proof, Token
from wallet.queries import Operation
from wallet.recovery import pending

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Restored:
    """What a mint said of the coins of our seed. `trouble` says in words what it did not say, else None.

    `found_sat` is ours since this run; `pending_sat` is in payments under way and booked when the mint has decided;
    `spent` and `known` count coins (spent long ago; in the database already); `lost_sat` were in the database and had
    been spent elsewhere; `unproven` signatures are no coins.
    """

    mint: str
    found_sat: int = 0
    pending_sat: int = 0
    spent: int = 0
    known: int = 0
    lost_sat: int = 0
    unproven: int = 0
    keysets: int = 0
    trouble: str | None = None


async def restore(desk: Desk, mint: str) -> Restored:
    """Ask a mint for every coin of our seed, keyset by keyset, the retired ones too. Never raises for the mint."""
    total = Restored(mint)
    try:
        for keyset_id, keyset in (await desk.keyring.refresh(mint)).items():
            async for batch in scan(desk.seed, desk.keyring.client(mint), keyset, 0, clock=desk.clock):
                total = await _book(desk, total, keyset_id, batch)
            total = replace(total, keysets=total.keysets + 1)
        total = replace(total, lost_sat=await drop_spent(desk, mint))
    except (MintError, MintUnavailable, InvalidKeyset, UnknownMint) as error:
        total = replace(total, trouble=str(error))
    total = replace(total, pending_sat=await queries.pending_sat(desk.db, mint))
    log.info("restored", mint=mint, found_sat=total.found_sat, pending_sat=total.pending_sat)
    return total


async def settle_restored(desk: Desk, op: Operation) -> None:
    """Book coins that were pending once the mint has decided on all of them. Raises `MintUnavailable` until then."""
    coins = await queries.pending_proofs(desk.db, op.op_id)
    try:
        states = await desk.keyring.client(op.mint).check_state(list(coins))
    except MintError as error:
        raise MintUnavailable(
            f"{op.mint} does not say what became of them: {error}; try again later"
        ) from None
    if any(answer.state is CoinState.PENDING for answer in states.values()):
        raise pending(op.mint)
    gone = {y: answer.witness for y, answer in states.items() if answer.state is CoinState.SPENT}
    found_sat = sum(proof.amount for y, proof in coins.items() if y not in gone)
    async with desk.db.transaction() as tx:
        ended = await queries.close_operation(
            tx, op.op_id, State.DONE, received=found_sat, sent=0, fee=0, error=None, now=desk.clock.now()
        )
        if ended:
            await queries.mark_spent(tx, op.mint, gone.items())
            await queries.free_pending(tx, op.op_id)
            await post_coins(tx, desk, op, own_sat=found_sat, fee_sat=0, counter=RESTORED)


async def restore_sent(desk: Desk, token: Token, op_id: str, job_id: str | None) -> bool:
    """Remember a token that an earlier life of this wallet sent, so that `plan_reclaim` finds it under `op_id`.

    Its sats left us before: they are posted as found again and sent. False if the operation is known already.
    """
    if await queries.operation(desk.db, op_id) is not None:
        return False
    coins = await asyncio.to_thread(_as_made, token)
    op = _operation(
        desk, token.mint, op_id, Kind.SEND, send_sat=token.amount, purpose="sent before", job_id=job_id
    )
    now = desk.clock.now()
    async with desk.db.transaction() as tx:
        known = {row["y"] for row in await queries.known_coins(tx, token.mint, list(coins))}
        await queries.insert_operation(tx, op)
        await queries.insert_made(
            tx, op_id, token.mint, ((y, Role.SEND, coins[y]) for y in coins if y not in known)
        )
        await queries.close_operation(
            tx, op_id, State.DONE, received=0, sent=token.amount, fee=0, error=None, now=now
        )
        found = coin_entries(token.mint, own_sat=token.amount, fee_sat=0, counter=RESTORED)
        await post(tx, Posting(f"found:{op_id}", Cause.RESTORED, found, now, op_id, job_id))
        counter = counter_of(job_id, token.proofs)
        await post_coins(tx, desk, op, own_sat=-token.amount, fee_sat=0, counter=counter)
    return True


async def _book(desk: Desk, total: Restored, keyset_id: str, batch: Batch) -> Restored:
    """Put the batch's coins that are new to us into the books, and its counters behind us, in one transaction."""
    mint, coins = total.mint, {coin.y: coin for _, coin in batch.coins}
    async with desk.db.transaction() as tx:
        if await queries.next_counter(tx, keyset_id) <= batch.used:  # the database is behind
            await queries.raise_counter(tx, keyset_id, batch.used + 1 + SKIPPED)
        known = {row["y"] for row in await queries.known_coins(tx, mint, list(coins))}
        busy = await queries.open_counters(tx, keyset_id, batch.first, batch.used)
    known |= {coin.y for counter, coin in batch.coins if counter in busy}
    states = await desk.keyring.client(mint).check_state([y for y in coins if y not in known])
    by_state = {
        state: [coins[y] for y, answer in states.items() if answer.state is state] for state in CoinState
    }
    await _insert(desk, mint, by_state[CoinState.UNSPENT])
    await _insert(desk, mint, by_state[CoinState.PENDING], are_pending=True)
    return replace(
        total,
        found_sat=total.found_sat + _sum(by_state[CoinState.UNSPENT]),
        spent=total.spent + len(by_state[CoinState.SPENT]),
        known=total.known + len(known),
        unproven=total.unproven + batch.unproven,
    )


async def _insert(desk: Desk, mint: str, coins: Sequence[Made], *, are_pending: bool = False) -> None:
    """One operation that brought these coins: ended and posted, or open while they are pending."""
    if not coins:
        return
    sat = _sum(coins)
    op = _operation(
        desk,
        mint,
        f"restore:{secrets.token_hex(16)}",
        Kind.RESTORE,
        keep_sat=sat,
        purpose="found by the seed",
    )
    made = [(coin.y, coin.role, coin.proof) for coin in coins]
    async with desk.db.transaction() as tx:
        await queries.insert_operation(tx, op)
        await queries.insert_made(tx, op.op_id, mint, made, pending=are_pending)
        if not are_pending:
            await queries.close_operation(
                tx, op.op_id, State.DONE, received=sat, sent=0, fee=0, error=None, now=desk.clock.now()
            )
            await post_coins(tx, desk, op, own_sat=sat, fee_sat=0, counter=RESTORED)


async def drop_spent(desk: Desk, mint: str) -> int:
    """Take free coins that the mint calls spent out of the books; returns their sats. An old copy of ours has such."""
    states = await desk.keyring.client(mint).check_state(await queries.all_free(desk.db, mint))
    gone = {y: answer.witness for y, answer in states.items() if answer.state is CoinState.SPENT}
    if not gone:
        return 0
    op = _operation(
        desk,
        mint,
        f"restore:{secrets.token_hex(16)}",
        Kind.RESTORE,
        purpose="spent on another copy of this wallet",
    )
    async with desk.db.transaction() as tx:
        amounts = await queries.are_free(tx, mint, list(gone))
        await queries.insert_operation(tx, op)
        await queries.mark_spent(tx, mint, ((y, gone[y]) for y in amounts))
        lost_sat = sum(amounts.values())
        error = f"{lost_sat} sat were spent before"
        await queries.close_operation(
            tx, op.op_id, State.LOST, received=0, sent=0, fee=0, error=error, now=desk.clock.now()
        )
        await post_coins(tx, desk, op, own_sat=-lost_sat, fee_sat=0, counter=LOST)
    return lost_sat


def _operation(
    desk: Desk, mint: str, op_id: str, kind: Kind, *, purpose: str, job_id: str | None = None, send_sat: int = 0,
    keep_sat: int = 0,
) -> Operation:  # fmt: skip
    return Operation(
        op_id=op_id, plan_id=op_id, kind=kind, state=State.OPEN, mint=mint, purpose=purpose, job_id=job_id,
        quote_id=None, send_sat=send_sat, keep_sat=keep_sat, fee_sat=0, locked=None, created_at=desk.clock.now(),
    )  # fmt: skip


def _as_made(token: Token) -> dict[str, Proof]:
    return {proof_y(proof.secret): proof for proof in token.proofs}


def _sum(coins: Sequence[Made]) -> int:
    return sum(coin.proof.amount for coin in coins)
