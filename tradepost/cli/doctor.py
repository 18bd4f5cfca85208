"""`tradepost doctor`: what is wrong with this set-up, in words."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from tradepost.cli.output import AsJson, print_json, print_text, quoted, result, say
from tradepost.doctor import Finding, Level, examine

_STYLES: Final = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(doctor)


def doctor(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A project's folder; elsewhere your own post is examined.")
    ] = Path(),
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with this set-up, and what mends it.

    Looks at settings, keys, seed, database, relays, mints, clocks and money that waits, and changes nothing: relays
    get one event that they do not keep. The exit code is 1 if anything fails. Example: `tradepost doctor shop`
    """
    counts = asyncio.run(_examine(folder, as_json))
    if not as_json:
        _sum_up(counts)
    if counts[Level.FAIL]:
        raise typer.Exit(1)


async def _examine(folder: Path, as_json: bool) -> dict[Level, int]:
    counts = dict.fromkeys(Level, 0)
    async with aclosing(examine(folder)) as findings:
        async for finding in findings:
            counts[finding.level] += 1
            if as_json:
                line = {"check": finding.check, "level": finding.level, "said": finding.said}
                print_json({**line, "mend": finding.mend or None})
            else:
                _print(finding)
    return counts


def _print(finding: Finding) -> None:
    style = _STYLES[finding.level]
    if not result.is_terminal:  # one line each, whole, for grep
        mend = f". To mend it: {finding.mend}" if finding.mend else ""
        print_text(f"{finding.level:4} {finding.check:10} {finding.said}{mend}")
        return
    table = Table.grid(padding=(0, 1))
    table.add_column(width=4, no_wrap=True)
    table.add_column(width=10, no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(f"[{style}]{finding.level}[/]", finding.check, quoted(finding.said))
    if finding.mend:
        table.add_row("", "", f"[dim]to mend it:[/] [bold]{quoted(finding.mend)}[/]")
    result.print(table)


def _sum_up(counts: dict[Level, int]) -> None:
    if counts[Level.FAIL]:
        say(f"[bold red]{counts[Level.FAIL]} of the above must be mended[/]")
    elif counts[Level.WARN]:
        say(f"[yellow]it works; {counts[Level.WARN]} of the above should be looked at[/]")
    else:
        say("[green]all is well[/]")
