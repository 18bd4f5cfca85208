"""Mints that are gone: given up, and taken back when they answer again.

Giving up changes the books and nothing else. Our coins there and the operations under way stay as they are, for nobody
knows what a mint did last; they are not counted, not spent and not asked about until the mint answers. Then the reverse
is posted, and recovery goes on where it stopped.
"""

import secrets

import structlog

from wallet import queries_books
from wallet.errors import MintError, MintUnavailable, UnknownMint, WalletError
from wallet.ledger import LOST, Cause, Posting, mint_account, post, reverse
from wallet.mint import normalise_mint_url
from wallet.operations_desk import Desk

log = structlog.get_logger(__name__)


async def abandon(desk: Desk, url: str) -> int:
    """Write off what is at a mint to `lost`, and use the mint no more; returns the sat written off. Idempotent.

    One transaction. Raises `UnknownMint` for a mint that is neither on our list nor in the books, `WalletError` for one
    that answers: it is not gone.
    """
    mint = normalise_mint_url(url)
    if await _answers(desk, mint):
        raise WalletError(
            f"{mint} answers, so nothing was written off; spend what is there and take it off `mints` instead"
        )
    now = desk.clock.now()
    async with desk.db.transaction() as tx:
        before = await queries_books.abandoned(tx)
        msat = await queries_books.balance_msat(tx, mint_account(mint))
        if mint not in before:
            if not msat and mint not in desk.keyring.mints:
                raise UnknownMint(f"{mint} is not one of our mints, and nothing of ours is there")
            posting_id = f"abandon:{mint}:{secrets.token_hex(8)}"
            await queries_books.insert_abandoned(tx, mint, posting_id, msat, now)
            if msat:
                entries = {mint_account(mint): -msat, LOST: msat}
                await post(tx, Posting(posting_id, Cause.ABANDONED, entries, now))
    desk.keyring.abandoned = frozenset({*before, mint})
    log.warning("mint_abandoned", mint=mint, sat=before.get(mint, msat) // 1000)
    return before.get(mint, msat) // 1000


async def take_back(desk: Desk) -> None:
    """Ask the mints that were given up, and those that answer are ours again, with all that is there."""
    left = await queries_books.abandoned(desk.db)
    for mint in list(left):
        if await _answers(desk, mint):
            await _restore(desk, mint)
            del left[mint]
    desk.keyring.abandoned = frozenset(left)


async def _answers(desk: Desk, mint: str) -> bool:
    try:
        await desk.keyring.client(mint).keysets()
    except (MintError, MintUnavailable):
        return False
    return True


async def _restore(desk: Desk, mint: str) -> None:
    async with desk.db.transaction() as tx:
        row = await queries_books.abandonment(tx, mint)
        if row is None:
            return
        await queries_books.delete_abandoned(tx, mint)
        if entries := await queries_books.entries(tx, row["posting_id"]):
            returned = Posting(f"un{row['posting_id']}", Cause.RETURNED, reverse(entries), desk.clock.now())
            await post(tx, returned)
    log.warning("mint_returned", mint=mint)
