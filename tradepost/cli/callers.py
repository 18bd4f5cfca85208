"""`tradepost callers`: who calls over HTTP, and what they have here."""

import asyncio
from dataclasses import asdict
from typing import Final

import typer
from rich.table import Table

from identity import encode_npub
from tradepost.cli.output import AsJson, local_time, print_json, print_table, quoted, say
from tradepost.facade.money.queries_till import CallerSummary, all_callers
from tradepost.facade.money.solvency import Solvency, solvency
from tradepost.post import read_database
from tradepost.settings import Settings

_NOSTR: Final = "nostr:"
_KEY_CHARS: Final = 20  # of a key that is no npub


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(callers)


def callers(as_json: AsJson = False) -> None:
    """List who calls over HTTP, and what they have here.

    Their sats are in your wallet, and not yours. Reads only, also while the post runs.

    Example: `tradepost callers --json`
    """
    found, total = asyncio.run(_read(Settings.load()))
    if as_json:
        for one in found:
            print_json(asdict(one))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("caller", "known by"):
        table.add_column(name, no_wrap=True)
    for name in ("balance", "held", "jobs"):
        table.add_column(name, justify="right")
    table.add_column("since")
    for one in found:
        sats = f"{one.balance_sat:,}", f"{one.held_sat:,}"
        table.add_row(one.id[:12], quoted(_known_by(one)), *sats, str(one.jobs), local_time(one.since))
    print_table(table)
    said = f"{total.owed_sat} sat are theirs, {total.coins_sat} sat are in the wallet"
    say(f"[red]{said}: {quoted(total.finding.step)}[/]" if total.finding else f"[dim]{said}[/]")


async def _read(settings: Settings) -> tuple[list[CallerSummary], Solvency]:
    async with read_database(settings) as db:
        return await all_callers(db), await solvency(db)


def _known_by(one: CallerSummary) -> str:
    if not one.keys:
        return "a ticket"
    first = one.keys[0]
    name = encode_npub(first.removeprefix(_NOSTR)) if first.startswith(_NOSTR) else first
    more = f" and {len(one.keys) - 1} more" if len(one.keys) > 1 else ""
    return name[:_KEY_CHARS] + "…" + more
