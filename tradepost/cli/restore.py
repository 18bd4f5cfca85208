"""`tradepost restore`: bring a post back from nothing but its words, or from a backup."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer

from identity import encode_npub
from tradepost.backup_restore import BackupKey, restore_backup
from tradepost.cli.output import AsJson, local_time, print_json, print_text, quoted, say
from tradepost.errors import TradepostError
from tradepost.facade.money.solvency import Solvency
from tradepost.passwords import BACKUP_PASSWORD, ask_hidden, known_password
from tradepost.restore import Report, restore_post
from tradepost.settings import Settings
from wallet import Seed

_WORDS_BYTES_MAX: Final = 1024


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        epilog="Example: `tradepost restore --mint https://mint.example` asks for the words and looks there too."
    )(restore)


def restore(
    *,
    backup: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Begin with this file of `tradepost backup`; the post's folder must be empty.",
        ),
    ] = None,
    identity: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --backup: the file with the secret key of age. Default: a password, TRADEPOST_BACKUP_PASSWORD.",
        ),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Read the words from a file, or stdin (`-`). Default: those of this post, else they are asked for.",
        ),
    ] = None,
    mint: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Look for coins at this mint too; may be repeated."),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Bring back this agent too, by its short name; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring a post back, from its words alone or a backup.

    The words are the wallet's 12 or 24. Nothing is overwritten, so it is safe beside what is there, and to be run
    again: after a mint or a relay that was down, or over an old copy of the database. From a backup it also brings what
    callers have here, as it was then; the books are audited at the end.
    """
    if backup is not None:
        if words is not None:
            raise TradepostError("--backup has the words in it: leave --words out")
        _from_backup(backup, identity, mint or (), agent or (), as_json)
        return
    if identity is not None:
        raise TradepostError("--identity opens a backup: name it, `--backup FILE`")
    settings = Settings.load()
    seed = _seed(settings, words)
    if not as_json:
        say("[dim]asking relays and mints; a long history takes a while[/]")
    report = asyncio.run(restore_post(settings, seed, mints=mint or (), agents=agent or ()))
    _print(report, as_json)


def _from_backup(
    file: Path, identity: Path | None, mints: Sequence[str], agents: Sequence[str], as_json: bool
) -> None:
    if identity is None:
        key = BackupKey(password=known_password("the backup", BACKUP_PASSWORD))
    else:
        key = BackupKey(identities=identity.read_text(encoding="utf-8"))
    if not as_json:
        say("[dim]asking relays and mints what happened since; a long history takes a while[/]")
    restored = asyncio.run(restore_backup(Path.cwd(), file, key, mints=mints, agents=agents))
    if as_json:
        told = {
            "made_at": restored.made_at,
            "audit_ok": restored.audit.ok,
            "callers": asdict(restored.callers),
        }
        print_json(asdict(restored.report) | told)
    else:
        _print(restored.report, as_json=False)
        print_text(f"from a backup of {local_time(restored.made_at)}")
        _tell_owed(restored.callers)
    if not restored.audit.ok:
        raise TradepostError("the books are not right, or not proved: `tradepost audit` names each finding")


def _tell_owed(callers: Solvency) -> None:
    if callers.owed_sat:
        print_text(f"callers have {callers.owed_sat} sat here, by the books of then")
    if callers.finding is not None:
        say(
            f"[yellow]{quoted(callers.finding.text)}: some of it they took since. Before you let them in again, read "
            "docs/operating.md, When a backup was brought back[/]"
        )


def _seed(settings: Settings, words: str | None) -> Seed | None:
    """The words, never taken from the command line; None for those that the post has."""
    if words is None and settings.seed_file.exists():
        return None
    try:
        if words is None:
            return Seed.from_words(_ask())
        if words == "-":
            return Seed.from_words(sys.stdin.read(_WORDS_BYTES_MAX))
        with Path(words).open(encoding="utf-8") as file:
            return Seed.from_words(file.read(_WORDS_BYTES_MAX))
    except OSError as error:
        # The name is not repeated: people write the words themselves there.
        raise TradepostError(
            f"--words: the file cannot be read: {error.strerror}; name a file with the words in it, or `-` for stdin"
        ) from None
    except UnicodeDecodeError:
        raise TradepostError("--words: not text in UTF-8") from None


def _ask() -> str:
    try:
        return ask_hidden("The words: ", or_else="--words")
    except TradepostError:
        raise TradepostError(
            "there is no terminal to ask for the words on: give them by `--words FILE`, or `--words -` for stdin"
        ) from None


def _print(report: Report, as_json: bool) -> None:
    if as_json:
        print_json(asdict(report))
        return
    for key in report.keys:
        name = encode_npub(key.public_key) if key.public_key else "not readable"
        print_text(f"key {key.name}: {name}{', NOT of these words' if key.trouble else ''}")
    for mint in report.mints:
        more = "".join(
            f", {amount} {what}"
            for amount, what in (
                (mint.pending_sat, "sat pending"), (mint.lost_sat, "sat here were spent elsewhere"),
                (mint.known, "coins known before"), (mint.spent, "spent"),
            )
            if amount
        )  # fmt: skip
        print_text(f"{mint.mint}: {mint.found_sat} sat found{more}")
    orders = report.orders
    if orders.paid or orders.done or orders.waiting:
        print_text(
            f"orders: {orders.paid} open, paid with {orders.paid_sat} sat; {orders.done} done, {orders.waiting} unpaid"
        )
    for name, jobs in report.jobs.items():
        print_text(
            f"jobs of {name}: {jobs.done} done, {jobs.failed} failed, {jobs.under_way} to go on with, "
            f"{jobs.offered} offered"
        )
    print_text(f"{report.balance_sat} sat can be spent")
    for trouble in report.troubles:
        say(f"[yellow]{quoted(trouble)}[/]")
    for mint_url in report.untrusted:
        say(f"[yellow]{quoted(mint_url)} holds coins of yours: add it to `mints` to spend them[/]")
    if orders.paid:
        say("`tradepost settle` waits for the results of open orders, and takes back what is due")
