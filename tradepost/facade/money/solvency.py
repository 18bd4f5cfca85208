"""Whether what callers have here is here: against the coins of the wallet, and what of theirs is out for their jobs."""

from dataclasses import dataclass

from store import Database
from tradepost.facade.money import queries_till
from wallet import Finding
from wallet.ledger import MINT_PREFIX
from wallet.queries_books import accounts, owed_to_callers_msat


@dataclass(frozen=True)
class Solvency:
    """In sat: what callers have here, kept for their jobs included; our coins; what has left those for their jobs."""

    owed_sat: int
    coins_sat: int
    locked_sat: int

    @property
    def short_sat(self) -> int:
        """What is missing; 0 if all is covered."""
        return max(0, self.owed_sat - self.coins_sat - self.locked_sat)

    @property
    def finding(self) -> Finding | None:
        """What is wrong, if something is."""
        if not self.short_sat:
            return None
        return Finding(
            f"callers have {self.owed_sat} sat here, and {self.coins_sat + self.locked_sat} sat are there for them",
            f"`tradepost wallet fund {self.short_sat}`: they may withdraw theirs at any time",
        )


async def solvency(db: Database) -> Solvency:
    """How it stands by the books."""
    booked = await accounts(db)
    coins_msat = sum(msat for name, msat in booked.items() if name.startswith(MINT_PREFIX))
    owed_msat = await owed_to_callers_msat(db)
    return Solvency(owed_msat // 1000, coins_msat // 1000, await queries_till.locked_sat(db))
