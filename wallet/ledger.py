"""Double entry: what every closed operation did to our accounts, and the audit of it.

Accounts, in msat, an asset's increase positive: `mint/<url>` our coins there; `fees/mint` paid to mints; `jobs/<id>`
and `outside` where coins came from or went to; `lost` what somebody else spent of ours, or we ourselves on another copy
of this database; `restored` what was found again by the seed.
"""

from dataclasses import dataclass

from store import Database
from wallet import queries
from wallet.keyring import Keyring
from wallet.mint import CoinState


@dataclass(frozen=True)
class AuditReport:
    """The books at one moment. `problems` is empty when they are right; `accounts` are in msat."""

    accounts: dict[str, int]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def mint_account(mint: str) -> str:
    """The account of our coins at a mint."""
    return f"mint/{mint}"


def counter_account(job_id: str | None) -> str:
    """Where coins of a job, or of none, come from and go to."""
    return "outside" if job_id is None else f"jobs/{job_id}"


def posting(mint: str, *, own_sat: int, fee_sat: int, counter: str) -> dict[str, int]:
    """The entries of one operation that changed our coins by `own_sat` and paid `fee_sat`; they sum to zero."""
    entries = {mint_account(mint): own_sat, "fees/mint": fee_sat, counter: -own_sat - fee_sat}
    return {account: 1000 * sat for account, sat in entries.items() if sat}


async def audit(db: Database, keyring: Keyring, *, ask_mints: bool) -> AuditReport:
    """See `Wallet.audit`. Reads the whole ledger. Raises `MintUnavailable` only with `ask_mints`."""
    async with db.transaction() as tx:  # coins and accounts of one moment
        accounts = await queries.accounts(tx)
        unbalanced = await queries.unbalanced(tx)
        owned = await queries.owned(tx)
    problems = [f"the entries of {op_id} do not balance" for op_id in unbalanced]
    booked = {account[5:]: msat for account, msat in accounts.items() if account.startswith("mint/")}
    for mint in sorted(owned.keys() | booked.keys()):
        if 1000 * owned.get(mint, 0) != booked.get(mint, 0):
            problems.append(
                f"{owned.get(mint, 0)} sat in hand at {mint}, the books say {booked.get(mint, 0)} msat"
            )
    if ask_mints:
        for mint in sorted(owned):
            states = await keyring.client(mint).check_state(await queries.all_free(db, mint))
            spent = sum(state.state is not CoinState.UNSPENT for state in states.values())
            if spent:
                problems.append(f"{mint} says that {spent} of our free coins are spent or pending")
    return AuditReport(accounts, tuple(problems))
