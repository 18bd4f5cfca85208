"""`tradepost wallet allowances`: what the agents of this post may spend, and spent."""

import asyncio
from dataclasses import asdict
from typing import Any

import typer
from rich.table import Table

from dvm.orders.allowances import standing
from store import SystemClock
from tradepost.cli.output import AsJson, local_time, print_json, print_table, say
from tradepost.post import read_database
from tradepost.settings import Settings


def register(wallet: typer.Typer) -> None:
    """Add the command to `tradepost wallet`."""
    wallet.command(name="allowances")(allowances)


def allowances(as_json: AsJson = False) -> None:
    """Show what the agents of this post may spend, and spent today.

    An agent buys from others with `job.ask`, and spends the post's sats: at most what `allowances` of tradepost.yaml
    gives it for one job and for one day (UTC). What is reserved for work under way counts as spent until it is known.

    Example: `tradepost wallet allowances --json`
    """
    rows = asyncio.run(_rows(Settings.load()))
    if as_json:
        for row in rows:
            print_json(row)
    elif rows:
        _print(rows)
    else:
        say(
            "no agent may buy: give it an allowance in tradepost.yaml, like "
            "`allowances: {summariser: {job_sat: 50, day_sat: 500}}`"
        )


async def _rows(settings: Settings) -> list[dict[str, Any]]:
    now = SystemClock().now()
    rows = []
    async with read_database(settings) as db:
        for name, allowance in sorted(settings.allowances.items()):
            told = await standing(db, name, allowance, now)
            rows.append({"agent": name, **asdict(allowance), **asdict(told)})
    return rows


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("agent")
    for name in ("a job", "a day", "spent", "left"):
        table.add_column(name, justify="right")
    for row in rows:
        sats = (row["job_sat"], row["day_sat"], row["spent_sat"], row["left_sat"])
        table.add_row(row["agent"], *(f"{sat} sat" for sat in sats))
    print_table(table)
    say(f"[dim]the day ends at {local_time(rows[0]['renews_at'])}[/]")
