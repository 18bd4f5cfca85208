"""Sending to Lightning what is more at a mint than we want to have there, and is ours: not what callers have here."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from wallet import queries, queries_books
from wallet.errors import InsufficientFunds, WalletError
from wallet.exposure import exposure_sat
from wallet.operations import State
from wallet.operations_desk import Desk

if TYPE_CHECKING:
    from wallet.wallet import Wallet

#: An invoice over so many sats, from wherever the sats are to go: a Lightning address, a wallet of ours.
GetInvoice = Callable[[int], Awaitable[str]]

SWEEP_SAT_MIN: Final = 100  # less is not worth the fee
_RESERVE_SAT_MIN: Final = 3  # two for the mint's Lightning, one for its swap
ASKS_MAX: Final = 4

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Swept:
    """What became of one mint's surplus. `error` says in words why it is still there, else None."""

    mint: str
    sent_sat: int = 0
    fee_sat: int = 0
    error: str | None = None


def payable_sat(owed_sat: int) -> int:
    """What is paid out of `owed_sat`: less what mints usually reserve for fees, a hundredth. Below 1 it is nothing."""
    return owed_sat - max(_RESERVE_SAT_MIN, 1 - (-owed_sat // 100))


async def sweepable(desk: Desk) -> dict[str, int]:
    """See `Wallet.sweepable`."""
    free = await queries.spendable(desk.db)
    # In this order: what is credited between two of these questions is counted by one of them.
    owed_sat = await desk.uncredited(desk.db)
    owed_sat += -(-await queries_books.owed_to_callers_msat(desk.db) // 1000)
    # The fee must not come out of what is owed.
    ours_sat = payable_sat(sum(free.values()) - owed_sat) if owed_sat else sum(free.values())
    surplus = {}
    for mint, free_sat in free.items():
        above_sat = min(free_sat, await exposure_sat(desk.db, mint) - desk.caps.level(mint), ours_sat)
        # A payment that hangs may be an earlier sweep: what it holds is as good as gone, or comes back by itself.
        if above_sat >= SWEEP_SAT_MIN and not await queries_books.is_melting(desk.db, mint):
            surplus[mint] = above_sat
            ours_sat -= above_sat
    return surplus


async def sweep(wallet: "Wallet", get_invoice: GetInvoice) -> list[Swept]:
    """Pay what each mint has too much to an invoice of `get_invoice`; one mint's trouble is no other's.

    Each payment is an operation like any other: a restart finds it, and does not pay again.
    """
    return [await _sweep(wallet, mint, sat, get_invoice) for mint, sat in (await wallet.sweepable()).items()]


async def _sweep(wallet: "Wallet", mint: str, sat: int, get_invoice: GetInvoice) -> Swept:
    try:
        for _ in range(ASKS_MAX):
            try:
                outcome = await wallet.pay(mint, await get_invoice(sat))
            except (
                InsufficientFunds
            ) as shortage:  # the fee comes out of what is sent, if nothing else is there
                sat -= max(1, shortage.needed_sat - shortage.available_sat)
                if sat < SWEEP_SAT_MIN:
                    raise
                continue
            if outcome.state is not State.DONE:
                raise WalletError(f"the payment failed: {outcome.error}")
            log.info("swept", mint=mint, sent_sat=outcome.sent_sat, fee_sat=outcome.fee_sat)
            return Swept(mint, outcome.sent_sat, outcome.fee_sat)
        raise WalletError(f"the fees of {mint} leave nothing to send")
    except WalletError as error:
        log.warning("sweep_failed", mint=mint, reason=str(error))
        return Swept(mint, error=str(error))
