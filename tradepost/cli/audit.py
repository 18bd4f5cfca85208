"""`tradepost audit`: do the books balance, and agree with the coins and with the mints?"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Annotated, Final

import typer
from rich.table import Table

from tradepost.cli.output import AsJson, print_json, print_table, quoted, say
from tradepost.errors import TradepostError
from tradepost.facade.money.solvency import Solvency, solvency
from tradepost.post import read_database, wallet_on
from tradepost.settings import Settings
from tradepost.words import counted
from wallet import AuditReport

#: Accounts of which there is one for each job, or caller, are shown as one line.
_MANY: Final = ("jobs/", "escrow/", "caller/", "held/")
_CALLERS: Final = {"caller/": "callers, theirs", "held/": "callers, kept for jobs"}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(audit)


def audit(
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the mints about our coins.")] = False,
    as_json: AsJson = False,
) -> None:
    """Prove that the books balance, and agree with coins and mints.

    Reads only, also while an agent runs. What is wrong is named with the next step; the exit code is then 1.

    Example: `tradepost audit --offline`
    """
    report, callers = asyncio.run(_audit(Settings.load(), ask_mints=not offline))
    if as_json:
        _print_json(report, callers)
    else:
        _print(report, callers)
    if not report.ok:
        raise TradepostError(
            f"the books are not right, or not proved: {counted(len(report.problems), 'finding')} above"
        )


async def _audit(settings: Settings, *, ask_mints: bool) -> tuple[AuditReport, Solvency]:
    async with read_database(settings) as db, wallet_on(settings, db) as purse:
        report, callers = await purse.audit(ask_mints=ask_mints), await solvency(db)
        more = (callers.finding,) if callers.finding else ()
        return replace(report, problems=(*report.problems, *more)), callers


def _print_json(report: AuditReport, callers: Solvency) -> None:
    """One line for each account, mint and finding, and the sum of it all at the end."""
    for account, msat in _shown(report.accounts):
        print_json({"account": account, "msat": msat})
    for mint in report.mints:
        print_json(asdict(mint))
    if callers.owed_sat:
        print_json({"callers": asdict(callers)})
    for problem in report.problems:
        print_json({"problem": problem.text} | {k: v for k, v in asdict(problem).items() if k != "text"})
    print_json(
        {"ok": report.ok, "problems": len(report.problems), "total_msat": sum(report.accounts.values())}
    )


def _print(report: AuditReport, callers: Solvency) -> None:
    """The trial balance: what we have or is gone on the left, where it came from on the right."""
    table = Table(box=None, pad_edge=False)
    table.add_column("sat")
    for name in ("have, or gone", "came from"):
        table.add_column(name, justify="right")
    for account, msat in _shown(report.accounts):
        table.add_row(quoted(account), _sat(max(msat, 0)), _sat(max(-msat, 0)))
    above = sum(msat for msat in report.accounts.values() if msat > 0)
    below = -sum(msat for msat in report.accounts.values() if msat < 0)
    table.add_row("together", _sat(above, "0"), _sat(below, "0"), style="bold")
    print_table(table)
    for mint in report.mints:
        say(
            f"[dim]{quoted(mint.mint)}: {mint.in_hand_sat} sat in hand{_more(mint.busy_sat, mint.abandoned_msat)}[/]"
        )
        if mint.answer == "agrees":
            say("[dim]  the mint says that they are unspent[/]")
    if callers.owed_sat:
        out = f", {callers.locked_sat} sat more are out for their jobs" if callers.locked_sat else ""
        say(f"[dim]callers have {callers.owed_sat} sat here: {callers.coins_sat} sat are in coins{out}[/]")
    for problem in report.problems:
        coins = f" (coins {', '.join(problem.coins)}…)" if problem.coins else ""
        job = f" (job {problem.job[:12]})" if problem.job else ""
        say(f"[bold red]{quoted(problem.text)}[/]{quoted(job + coins)}: {quoted(problem.step)}")
    if report.ok:
        say("[green]the books are right[/]")


def _more(busy_sat: int, abandoned_msat: int) -> str:
    busy = f", {busy_sat} of them in operations under way" if busy_sat else ""
    return busy + (f"; given up, {abandoned_msat // 1000} sat written off" if abandoned_msat else "")


def _shown(accounts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    """The accounts that are not zero. Of jobs there are too many to be read: what they cost and brought is summed."""
    sums: dict[str, int] = {}
    for account, msat in accounts.items():
        kind = next((prefix for prefix in _MANY if account.startswith(prefix)), None)
        if kind is None:
            name = account
        elif kind in _CALLERS:
            name = _CALLERS[kind]
        elif msat > 0:
            name = f"{kind[:-1]}, cost" if kind == "jobs/" else "escrow, locked by us"
        else:
            name = f"{kind[:-1]}, brought" if kind == "jobs/" else "escrow, taken out"
        sums[name] = sums.get(name, 0) + msat
    return [(account, msat) for account, msat in sorted(sums.items()) if msat]


def _sat(msat: int, nothing: str = "") -> str:
    """Whole sats as they are, parts of one with three digits."""
    if not msat:
        return nothing
    return f"{msat // 1000:,}" if msat % 1000 == 0 else f"{msat // 1000:,}.{msat % 1000:03}"
