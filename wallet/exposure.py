"""How much may be at one mint: a mint that disappears takes with it all that is there.

Counted is what a mint would take: our coins there, free or inside operations, what operations under way will make ours,
and what is locked for jobs that have not ended, by us or for us. Refused is what would pass the cap, before any money
moves. What has moved already is never refused: an invoice that was paid, a refund, a claim of coins that were accepted
when they were locked; so there can be more than the cap, and `sweep` brings it down again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from wallet import queries_books
from wallet.errors import ExposureExceeded
from wallet.ledger import mint_account
from wallet.queries_books import Source

MINT_SAT_MAX: Final = 100_000


@dataclass(frozen=True)
class Caps:
    """The most that may be at one mint, in sat; `by_mint` for single ones, by normalised URL.

    `sweep_above_sat`: what is swept to Lightning is the rest above this, or above the cap without it.
    """

    mint_sat_max: int = MINT_SAT_MAX
    by_mint: Mapping[str, int] = field(default_factory=dict)
    sweep_above_sat: int | None = None

    def of(self, mint: str) -> int:
        """A mint's cap."""
        return self.by_mint.get(mint, self.mint_sat_max)

    def level(self, mint: str) -> int:
        """What a sweep leaves at a mint: never more than its cap."""
        cap = self.of(mint)
        return cap if self.sweep_above_sat is None else min(cap, self.sweep_above_sat)


async def exposure_sat(source: Source, mint: str) -> int:
    """What we would lose in sat if this mint disappeared now."""
    coins_msat = await queries_books.balance_msat(source, mint_account(mint))
    coming_sat = await queries_books.coming_sat(source, mint)
    return coins_msat // 1000 + coming_sat + await queries_books.escrowed_sat(source, mint)


async def check_room(source: Source, caps: Caps, mint: str, more_sat: int) -> None:
    """Raise `ExposureExceeded` if `more_sat` more at this mint would pass its cap.

    In the transaction that plans the money, two at the same time cannot both find the last of the room.
    """
    held_sat = await exposure_sat(source, mint)
    if held_sat + more_sat > caps.of(mint):
        raise ExposureExceeded(mint, held_sat=held_sat, more_sat=more_sat, max_sat=caps.of(mint))
