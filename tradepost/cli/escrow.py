"""`tradepost escrow`: money that is locked for a job until its customer is content, or its arbiter rules."""

import asyncio
from typing import Annotated, Final

import typer

from store import SystemClock
from tradepost.cli import escrow_wishes, seals
from tradepost.cli.escrow_shown import find, newest, print_details, print_escrows
from tradepost.cli.escrow_words import fields
from tradepost.cli.output import AsJson, print_json, print_text

_ABOUT: Final = "Money in escrow: what is held, accepted, disputed and ruled."


def register(root: typer.Typer) -> None:
    """Add the commands to the application."""
    app = typer.Typer(
        help=_ABOUT,
        epilog="Example: `tradepost escrow list`",
        callback=_help,
        invoke_without_command=True,
        rich_markup_mode=None,
    )
    app.command(name="list", epilog="Example: `tradepost escrow list --json`")(show_all)
    app.command(epilog="Example: `tradepost escrow show 2e98eae4846c`")(show)
    escrow_wishes.register(app)
    seals.register(app)
    root.add_typer(app, name="escrow")


def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(1)


def show_all(
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many, the newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List escrows of this post, and what comes next in each.

    This is what was last read: a post that runs reads its relays, and `tradepost settle` does.
    """
    print_escrows(asyncio.run(newest(limit)), as_json=as_json)


def show(escrow_id: escrow_wishes.EscrowId, as_json: AsJson = False) -> None:
    """Show one escrow: terms, deadlines, what you can do.

    This is what was last read: a post that runs reads its relays, and `tradepost settle` does.
    """
    for number, case in enumerate(asyncio.run(find(escrow_id))):
        if as_json:
            row = case.row
            told = {
                "terms": row.terms.to_dict(), "statements": row.statements, "request": row.request.to_dict(),
                "result": row.result and row.result.content,
            }  # fmt: skip
            print_json(fields(*case, SystemClock().now()) | told)
        else:
            if number:
                print_text("")
            print_details(case)
