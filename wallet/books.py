"""The audit: do the books balance, do they agree with the coins in hand, and with what the mints say (NUT-07)?

Local checks read one snapshot of the database with a few statements that add up where the rows are; only where those
find a mint that does not agree is its history read, to name the coins.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from store import Database, Row
from store.snapshot import Snapshot
from wallet import queries_books as queries
from wallet.crypto import proof_y
from wallet.errors import MintError, MintUnavailable
from wallet.keyring import Keyring
from wallet.ledger import MINT_PREFIX
from wallet.mint import CoinState
from wallet.queries_books import NAMED_MAX

Y_CHARS: Final = 12  # of a coin's Y as it is shown: enough to find it, and a Y is no secret
# Nothing here is mended by guessing: the words bring every coin into new books (docs/mints.md).
_RESTORE: Final = (
    "stop the post, keep a copy of its database, and `tradepost restore` its words into a new folder"
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `step` says what to do next; the rest names what it is about, as far as it is known."""

    text: str
    step: str
    mint: str | None = None
    posting: str | None = None
    job: str | None = None
    coins: tuple[str, ...] = ()  # the first characters of their Ys

    def __str__(self) -> str:
        return f"{self.text}; {self.step}"


@dataclass(frozen=True)
class MintReport:
    """One mint in the books: whole sats in coins of ours, of them inside operations, msat booked.

    `answer`: "agrees", "differs", "silent" (does not answer: what is there is at risk), or "" if it was not asked.
    `abandoned_msat` was taken out of the books when it was given up.
    """

    mint: str
    in_hand_sat: int
    busy_sat: int
    booked_msat: int
    abandoned_msat: int
    answer: str = ""


@dataclass(frozen=True)
class AuditReport:
    """The books at one moment. `problems` is empty when they are right; `accounts` are in msat."""

    accounts: dict[str, int]
    mints: tuple[MintReport, ...]
    problems: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


async def audit(db: Database, keyring: Keyring, *, ask_mints: bool) -> AuditReport:
    """See `Wallet.audit`."""
    async with db.snapshot() as rows:
        accounts = await queries.accounts(rows)
        problems = await _check_books(rows, accounts)
        mints, found = await _check_coins(rows, accounts)
        problems += found
        coins = {one.mint: await queries.free_coins(rows, one.mint) for one in mints} if ask_mints else {}
    if ask_mints:
        asked = await asyncio.gather(*(_ask(db, keyring, one, coins[one.mint]) for one in mints))
        mints = [one for one, _ in asked]
        problems += [finding for _, findings in asked for finding in findings]
    return AuditReport(accounts, tuple(mints), tuple(problems))


async def _check_books(rows: Snapshot, accounts: dict[str, int]) -> list[Finding]:
    """Whether the postings are whole, each with its operation, and the accounts what they add up to."""
    problems = _named(
        await queries.unbalanced(rows),
        "postings whose entries do not balance",
        lambda row: Finding(
            f"the entries of posting {row['id']} do not balance: they leave {row['msat']} msat",
            _RESTORE, posting=row["id"], job=row["job_id"],
        ),
    )  # fmt: skip
    problems += _named(
        await queries.headless(rows),
        "postings that are not whole",
        lambda row: Finding(
            f"posting {row['id']} is not whole: its entries, or its cause, are missing", _RESTORE, posting=row["id"]
        ),
    )  # fmt: skip
    problems += _named(
        await queries.misposted(rows),
        "operations that are not posted as they ended",
        lambda row: Finding(
            f"operation {row['op_id']} moved {row['moved_sat']} sat at {row['mint']}, posted are {row['msat']} msat",
            _RESTORE, row["mint"], row["op_id"], row["job_id"],
        ),
    )  # fmt: skip
    problems += _named(
        await queries.orphans(rows),
        "postings without their operation",
        lambda row: Finding(
            f"posting {row['id']} tells of operation {row['op_id']}, which did not end or is not there",
            _RESTORE, posting=row["id"], job=row["job_id"],
        ),
    )  # fmt: skip
    problems += _named(
        await queries.oversettled(rows),
        "operations of which too much was settled or credited",
        lambda row: Finding(
            f"of operation {row['op_id']} {row['msat']} msat were settled or credited, and it brought "
            f"{row['received_sat']} sat",
            _RESTORE, posting=row["op_id"], job=row["job_id"],
        ),
    )  # fmt: skip
    problems += _named(
        await queries.drifted(rows),
        "accounts that are not the sum of their entries",
        lambda row: Finding(
            f"account {row['account']} says {row['kept']} msat, its entries add up to {row['summed']}",
            _RESTORE,
        ),
    )
    if total := sum(accounts.values()):
        problems.append(Finding(f"all accounts together leave {total} msat instead of nothing", _RESTORE))
    return problems


async def _check_coins(rows: Snapshot, accounts: dict[str, int]) -> tuple[list[MintReport], list[Finding]]:
    """Whether the coins of each mint are what its account says."""
    free, busy = await queries.free_sat(rows), await queries.busy_sat(rows)
    abandoned = await queries.abandoned(rows)
    booked = {
        name.removeprefix(MINT_PREFIX): msat
        for name, msat in accounts.items()
        if name.startswith(MINT_PREFIX)
    }
    mints, problems = [], []
    for mint in sorted(free.keys() | busy.keys() | booked.keys()):
        in_hand_sat = free.get(mint, 0) + busy[mint]
        report = MintReport(mint, in_hand_sat, busy[mint], booked.get(mint, 0), abandoned.get(mint, 0))
        mints.append(report)
        if 1000 * report.in_hand_sat != report.booked_msat + report.abandoned_msat:
            problems += await _explain(rows, report)
    problems += _named(
        await queries.loose_coins(rows),
        "coins held by operations that are over",
        lambda row: Finding(
            f"{row['amount']} sat at {row['mint']} are held by operation {row['held_by']}, which is over",
            _RESTORE, row["mint"], coins=(row["y"][:Y_CHARS],),
        ),
    )  # fmt: skip
    return mints, problems


async def _explain(rows: Snapshot, report: MintReport) -> list[Finding]:
    """That a mint's coins and its account differ, and which coins are at fault."""
    mint = report.mint
    written = f", {report.abandoned_msat} msat written off" if report.abandoned_msat else ""
    problems = [
        Finding(
            f"{report.in_hand_sat} sat in hand at {mint}, the books say {report.booked_msat} msat{written}",
            _RESTORE,
            mint,
        )
    ]
    problems += _named(
        await queries.missing_coins(rows, mint),
        f"coins at {mint} that are missing or altered",
        lambda row: _missing(mint, row),
    )
    problems += _named(
        await queries.strange_coins(rows, mint),
        f"coins at {mint} that came from nowhere",
        lambda row: Finding(
            f"a coin of {row['amount']} sat at {mint} was made by no operation that ended",
            _RESTORE, mint, coins=(row["y"][:Y_CHARS],),
        ),
    )  # fmt: skip
    return problems


def _missing(mint: str, row: Row) -> Finding:
    found = "is gone" if row["found_sat"] is None else f"is here with {row['found_sat']} sat"
    return Finding(
        f"a coin of {row['wanted_sat']} sat that operation {row['op_id']} made at {mint} {found}",
        _RESTORE, mint, row["op_id"], row["job_id"], (proof_y(row["secret"])[:Y_CHARS],),
    )  # fmt: skip


async def _ask(
    db: Database, keyring: Keyring, report: MintReport, coins: dict[str, tuple[int, str | None, str | None]]
) -> tuple[MintReport, list[Finding]]:
    """What the mint says of our free coins there. Those inside operations may be spent: their operations will tell."""
    mint = report.mint
    if report.abandoned_msat or not report.in_hand_sat:
        return report, []
    try:
        states = await keyring.client(mint).check_state(list(coins))
    except (MintError, MintUnavailable) as error:
        silent = Finding(
            f"{mint} does not say whether the {report.in_hand_sat} sat there are unspent: they are at risk ({error})",
            f"audit again later; if it is gone for good, `tradepost wallet abandon {mint}`",
            mint,
        )
        return replace(report, answer="silent"), [silent]
    problems = []
    for y, state in states.items():
        # A coin that we spent ourselves meanwhile is not free any more: that was written before the mint was asked.
        if state.state is not CoinState.UNSPENT and await queries.is_free(db, mint, y):
            amount, op_id, job_id = coins[y]
            problems.append(
                Finding(
                    f"{mint} says that a free coin of {amount} sat is {state.state.value.lower()}",
                    "`tradepost restore` takes out of the books what somebody else spent",
                    mint,
                    op_id,
                    job_id,
                    (y[:Y_CHARS],),
                )
            )
    return replace(report, answer="differs" if problems else "agrees"), problems


def _named(rows: list[Row], what: str, name: Callable[[Row], Finding]) -> list[Finding]:
    """A finding for each row; when they are too many, how the list goes on."""
    findings = [name(row) for row in rows[:NAMED_MAX]]
    if len(rows) > NAMED_MAX:
        findings.append(Finding(f"there are more {what} than these {NAMED_MAX}", "mend these first"))
    return findings
