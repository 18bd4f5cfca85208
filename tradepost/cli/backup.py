"""`tradepost backup`: the whole post in one encrypted file."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tradepost.backup import BackupLock, make_backup
from tradepost.cli.output import AsJson, print_json, print_text
from tradepost.passwords import BACKUP_PASSWORD, choose_password
from tradepost.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog="Example: `tradepost backup post.age --to age1…`")(backup)


def backup(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write it; replaced once the new one is whole.")
    ],
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="age1…",
            help="Encrypt it to this public key of age instead of a password; may be repeated.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Keep the whole post in one encrypted file, also while it runs.

    Database, keys, words and tradepost.yaml. The password is asked for, or comes from TRADEPOST_BACKUP_PASSWORD or the
    file that TRADEPOST_BACKUP_PASSWORD_FILE names. `tradepost restore --backup FILE` brings it back.
    """
    settings = Settings.load()
    recipients = tuple(to or ())
    password = "" if recipients else choose_password("the backup", BACKUP_PASSWORD)
    made = make_backup(settings, file, BackupLock(password, recipients))
    if as_json:
        print_json(asdict(made))
    else:
        print_text(f"{made.file}: {made.bytes} bytes, of a database of {made.database_bytes}")
