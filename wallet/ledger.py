"""Double entry in msat: every money step is one posting whose entries sum to zero.

Accounts, an asset's increase positive:

    mint/<url>         our coins there, free or inside an operation
    escrow/<id>        coins locked for a job: ours, or (below zero) what we took out of such a lock
    jobs/<id>          what a job cost us, or (below zero) brought
    agent/<public key> what an agent earned, below zero: it came from there
    fees/post          the post's cut of that, below zero too
    rail/<name>        what a Lightning wallet outside of the mints got for us, less what it paid
    fees/mint          paid to mints for swaps and payments
    fees/lightning     paid for routing
    outside            what came from nowhere in particular (below zero) or went there
    lost               what somebody else spent of ours, or is at a mint that was given up
    restored           below zero: what was found again by the seed
    caller/<id>        below zero: what somebody who calls over HTTP has here, and may take away
    held/<id>          below zero: what of theirs is kept for jobs and withdrawals under way
    callers            below zero: what callers paid for jobs

What we have, and what is gone, is above zero; where it came from is below; all together is zero.
Amounts are whole sats but for the post's cut and what it leaves the agent: counted in msat, and no coin moves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from store import Transaction
from wallet import queries_books
from wallet.errors import BooksError

FEE_BPS_MAX: Final = 10_000
MINT_PREFIX: Final = "mint/"
FEES_POST: Final = "fees/post"
FEES_MINT: Final = "fees/mint"
FEES_LIGHTNING: Final = "fees/lightning"
LOST: Final = "lost"
RESTORED: Final = "restored"
OUTSIDE: Final = "outside"
CALLER_PREFIX: Final = "caller/"
HELD_PREFIX: Final = "held/"
CALLERS: Final = "callers"


class Cause(StrEnum):
    """Why something was posted."""

    OPERATION = "operation"  # coins moved: one for each operation that ended
    SETTLEMENT = "settlement"  # what a job brought is the agent's, less the post's cut
    REVERSAL = "reversal"  # a settled job was refunded
    ESCROW = "escrow"  # a lock ended and the coins in it were never ours again
    RESTORED = "restored"  # found again by the seed, of which the operation tells only where it went
    ABANDONED = "abandoned"  # a mint was given up
    RETURNED = "returned"  # a mint that was given up answers again
    LIGHTNING = "lightning"  # money moved in a wallet outside of the mints
    DEPOSIT = "deposit"  # what an operation brought is a caller's
    HOLD = "hold"  # sats of a caller are kept for a job, or a withdrawal
    CHARGE = "charge"  # what a job cost its caller; the rest of what was kept is free again
    CREDIT = "credit"  # what came back later for a job that was charged
    WITHDRAWAL = "withdrawal"  # sats of a caller are gone; the rest of what was kept is free again


@dataclass(frozen=True)
class Posting:
    """One money step. `entries` is account → msat, none of them zero; `op_id` the operation whose coins it tells of.

    Raises `BooksError` unless the entries sum to zero.
    """

    id: str
    cause: Cause
    entries: Mapping[str, int]
    posted_at: int
    op_id: str | None = None
    job_id: str | None = None

    def __post_init__(self) -> None:
        if sum(self.entries.values()) != 0:
            raise BooksError(f"the entries of posting {self.id} do not balance; nothing was written")
        if not self.entries or 0 in self.entries.values():
            raise BooksError(f"posting {self.id} has an entry of nothing; nothing was written")


async def post(tx: Transaction, posting: Posting) -> bool:
    """Write a posting in the caller's transaction; False if it is in the books already, and then nothing is written.

    Raises `BooksError` if another one is there under that id: the transaction must then be undone.
    """
    if not await queries_books.insert_posting(tx, posting):
        if await queries_books.entries(tx, posting.id) != posting.entries:
            raise BooksError(f"posting {posting.id} is in the books with other entries")
        return False
    await queries_books.insert_entries(tx, posting.id, posting.entries)
    return True


def mint_account(mint: str) -> str:
    """The account of our coins at a mint."""
    return MINT_PREFIX + mint


def counter_account(job_id: str | None) -> str:
    """Where coins of a job, or of none, come from and go to."""
    return OUTSIDE if job_id is None else f"jobs/{job_id}"


def escrow_account(escrow_id: str) -> str:
    """The account of the coins that are locked in one escrow."""
    return f"escrow/{escrow_id}"


def agent_account(public_key: str) -> str:
    """The account of what an agent earned."""
    return f"agent/{public_key}"


def caller_account(caller_id: str) -> str:
    """The account of what a caller has here."""
    return CALLER_PREFIX + caller_id


def held_account(caller_id: str) -> str:
    """The account of what is kept of a caller's sats."""
    return HELD_PREFIX + caller_id


def caller_entries(caller_id: str, *, free_sat: int, held_sat: int, counter: str) -> dict[str, int]:
    """The entries that give a caller so much more, or less, to dispose of, and keep so much more of theirs, or less.

    `counter` is the other side. Empty if nothing changes.
    """
    entries = {
        caller_account(caller_id): -free_sat,
        held_account(caller_id): -held_sat,
        counter: free_sat + held_sat,
    }
    return {account: 1000 * sat for account, sat in entries.items() if sat}


def coin_entries(
    mint: str, *, own_sat: int, fee_sat: int, counter: str, lightning_sat: int = 0
) -> dict[str, int]:
    """The entries of an operation that changed our coins at `mint` by `own_sat` and cost `fee_sat` in all.

    `lightning_sat` of the fee was for routing, the rest the mint's own. `counter` is the other side. Empty if nothing
    moved.
    """
    entries = {
        mint_account(mint): own_sat,
        FEES_MINT: fee_sat - lightning_sat,
        FEES_LIGHTNING: lightning_sat,
        counter: -own_sat - fee_sat,
    }
    return {account: 1000 * sat for account, sat in entries.items() if sat}


def settle_entries(source_account: str, agent: str, amount_msat: int, fee_bps: int) -> dict[str, int]:
    """What a settlement posts: all of `amount_msat` from `source_account` to the agent's account, less the post's cut.

    `source_account` is what the redeeming operation was posted against (`jobs/<id>`, `escrow/<id>`); `agent` a public
    key. The cut is `fee_bps` hundredths of a percent, rounded down to a msat, and taken here only: never from an offer,
    an escrow or a refund. Pure. Raises `BooksError` unless amount > 0 and 0 <= fee_bps <= 10000.
    """
    if amount_msat <= 0:
        raise BooksError(f"{amount_msat} msat cannot be settled; nothing was written")
    if not 0 <= fee_bps <= FEE_BPS_MAX:
        raise BooksError(f"a fee of {fee_bps} basis points is not between 0 and {FEE_BPS_MAX}")
    fee_msat = amount_msat * fee_bps // FEE_BPS_MAX
    entries = {
        source_account: amount_msat,
        agent_account(agent): fee_msat - amount_msat,
        FEES_POST: -fee_msat,
    }
    return {account: msat for account, msat in entries.items() if msat}


def reverse(entries: Mapping[str, int]) -> dict[str, int]:
    """What undoes these entries exactly."""
    return {account: -msat for account, msat in entries.items()}


def settlement_id(name: str) -> str:
    """The posting that settles what is called `name`: a payment's or an escrow's id. There is one."""
    return f"settle:{name}"


async def settle(
    tx: Transaction,
    name: str,
    *,
    source_account: str,
    agent: str,
    amount_msat: int,
    fee_bps: int,
    op_id: str | None,
    job_id: str,
    now: int,
) -> bool:
    """Post a settlement once: see `settle_entries`. False if `name` is settled already."""
    entries = settle_entries(source_account, agent, amount_msat, fee_bps)
    return await post(tx, Posting(settlement_id(name), Cause.SETTLEMENT, entries, now, op_id, job_id))


async def post_gone(tx: Transaction, escrow_id: str, now: int) -> bool:
    """Post that what we locked in an escrow and did not get back is what its job cost. False if nothing is left."""
    left_msat = await queries_books.balance_msat(tx, escrow_account(escrow_id))
    if left_msat <= 0:
        return False
    entries = {counter_account(escrow_id): left_msat, escrow_account(escrow_id): -left_msat}
    return await post(tx, Posting(f"gone:{escrow_id}", Cause.ESCROW, entries, now, None, escrow_id))


async def post_found(tx: Transaction, name: str, amount_sat: int, *, job_id: str, now: int) -> bool:
    """Post that coins found by the seed are those a job brought in an earlier life, so that they can be settled."""
    entries = {RESTORED: 1000 * amount_sat, counter_account(job_id): -1000 * amount_sat}
    return await post(tx, Posting(f"found:{name}", Cause.RESTORED, entries, now, None, job_id))


async def unsettle(tx: Transaction, name: str, *, job_id: str, now: int) -> bool:
    """Post the reverse of exactly what was settled under `name`. False if nothing was, or it is reversed already."""
    settled = await queries_books.entries(tx, settlement_id(name))
    if not settled:
        return False
    reversal = Posting(f"un{settlement_id(name)}", Cause.REVERSAL, reverse(settled), now, None, job_id)
    return await post(tx, reversal)
