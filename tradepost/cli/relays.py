"""`tradepost relays`: how the relays of a post did so far, and those that it visited."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from relay_bridge import RelayHealth
from relay_bridge.queries import relay_records
from tradepost.cli.output import AsJson, print_json, print_text, say
from tradepost.post import read_database
from tradepost.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(relays)


def relays(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A project's folder; elsewhere those of your own post.")
    ] = Path(),
    as_json: AsJson = False,
) -> None:
    """List this post's relays and how they did, the best first.

    Then those that it visited, because customers read there. The rank (0 to 1) is how much a relay did of what it was
    asked lately, less for slow ones; by that we choose where there is a choice. Kept by `up` once a minute.

    Example: `tradepost relays shop`
    """
    settings = Settings.load(folder)
    records = {record.url: record for record in asyncio.run(_read(settings))}
    own = [records.pop(url, RelayHealth(url)) for url in settings.relays]
    for group, is_own in ((own, True), (list(records.values()), False)):
        for record in sorted(group, key=lambda record: (-record.rank, record.url)):
            if as_json:
                print_json(_told(record, is_own))
            else:
                print_text(_line(record, is_own))
    if not as_json and not any(record.kept or record.broken for record in own):
        say("nothing is known of them yet: `tradepost up` finds out, `tradepost doctor` tries them now")


async def _read(settings: Settings) -> list[RelayHealth]:
    async with read_database(settings) as db:
        return await relay_records(db)


def _told(record: RelayHealth, is_own: bool) -> dict[str, object]:
    return {
        "relay": record.url, "own": is_own, "rank": round(record.rank, 3), "kept": record.kept,
        "broken": record.broken, "answer_seconds": record.answer_seconds, "failures": record.failures,
        "refused": sum(record.refused.values()), "error": record.last_error or None,
    }  # fmt: skip


def _line(record: RelayHealth, is_own: bool) -> str:
    took = f", in {record.answer_seconds:.2f} s" if record.answer_seconds is not None else ""
    refused = f", {sum(record.refused.values())} messages refused" if record.refused else ""
    visited = "" if is_own else " (visited)"
    asked = record.kept + record.broken
    return f"{record.rank:.2f}  {record.url}{visited}  did {record.kept} of {asked}{took}{refused}"
