"""The `tradepost` command. Results go to stdout, status to stderr; exit codes 0, 1 (it failed), 130 (interrupted)."""

import os
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import typer
from typer.core import TyperGroup

from tradepost.cli.lazily import Later
from tradepost.cli.output import fail

#: Name, module in tradepost.cli, and the first sentence of the help.
_COMMANDS: Final = (
    ("demo", "demo", "Watch an agent earn its first sats on this machine."),
    ("dev", "dev", "Run a relay, a play mint and an agent to try things on."),
    ("relay", "serving", "Run a Nostr relay on this machine until you interrupt it."),
    ("mint", "serving", "Run a Cashu mint whose sats are play money."),
    ("init", "agents", "Make a new agent project."),
    ("up", "agents", "Run the agents of a project until you interrupt it."),
    ("find", "find", "List agents by what they do, the live and cheap ones first."),
    ("ask", "ask", "Ask an agent for work, pay for it, print the result."),
    ("gateway", "gateway", "Let programs, browsers and Lightning wallets hire agents."),
    ("settle", "settle", "Go on with what is open: late results, refunds, paid invoices."),
    ("review", "review", "Rate a job that you bought, for all to read."),
    ("answer", "answer", "Answer a customer's review of a job of your agent."),
    ("jobs", "jobs", "List the jobs of this post, bought and sold."),
    ("job", "jobs", "Show one job: whose it is, its state, its money. Or take it back."),
    ("escrow", "escrow", "Money in escrow: what is held, accepted, disputed and ruled."),
    ("reputation", "reputation", "What an agent's receipts say of it, and whether they hold."),
    ("wallet", "wallet", "The sats of this post: ecash at the mints you trust."),
    ("callers", "callers", "List who calls over HTTP, and what they have here."),
    ("audit", "audit", "Prove that the books balance, and agree with coins and mints."),
    ("backup", "backup", "Keep the whole post in one encrypted file, also while it runs."),
    ("restore", "restore", "Bring a post back, from its words alone or a backup."),
    ("key", "keys", "Keys of this post's agents and of its customer."),
    ("qr", "qr", "Draw anything payable as a QR code."),
    ("relays", "relays", "List this post's relays and how they did, the best first."),
    ("doctor", "doctor", "Say what is wrong with this set-up, and what mends it."),
)


class _Commands(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, module, about in _COMMANDS:
            self.add_command(Later(name, f"tradepost.cli.{module}", about))


app = typer.Typer(
    cls=_Commands,
    name="tradepost",
    help="A Nostr-native trading post: put a function to work for sats, or ask an agent to work for you.",
    epilog="Exit codes: 0 it worked, 1 it failed and stderr says why, 130 you interrupted it.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"tradepost {version('tradepost')}")
        except PackageNotFoundError:
            typer.echo("tradepost, not installed: run from its source")
        raise typer.Exit


@app.callback()
def options(
    _version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_print_version
    ),
    verbose: bool = typer.Option(
        False, "--verbose", "-v", help="Log what happens, to stderr (also: TRADEPOST_LOG)."
    ),
) -> None:
    """Options of every command."""
    from tradepost.logs import configure_logs

    configure_logs("debug" if verbose else None)


def main() -> None:
    """Entry point of the `tradepost` script."""
    code = run(sys.argv[1:])
    if "nostr_sdk" in sys.modules:
        # Threads of an embedded relay may still call back into an interpreter that is ending, and crash it (seen with
        # LMDB under load: SIGSEGV after all was done). Everything of ours is closed by now.
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. What went wrong is told on stderr with the next step, not raised."""
    as_json = "--json" in arguments
    try:
        code = app(args=arguments or ["--help"], prog_name="tradepost", standalone_mode=False)
    except typer.TyperException as error:
        fail(_usage(error), as_json=as_json, kind="UsageError", code="usage_error")
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except SystemExit as done:  # typer, when it has answered a shell
        return done.code if isinstance(done.code, int) else 0
    except _expected() as error:
        _fail(error, as_json=as_json)
        return 1
    except OSError as error:  # a disk that is full, a folder that is not ours
        said = f"{error.filename or 'the system'}: {error.strerror or error}"
        fail(said, as_json=as_json, kind="OSError", code="os_error")
        return 1
    return code if isinstance(code, int) else 0


def _expected() -> tuple[type[Exception], ...]:
    from tradepost.errors import expected

    return expected()


def _fail(error: Exception, *, as_json: bool) -> None:
    from store.errors import code_of

    code = getattr(error, "code", None) or code_of(type(error))  # the mint's installer is on its own
    action = getattr(error, "action", None)
    fail(str(error), as_json=as_json, kind=type(error).__name__, code=code, action=action)


def _usage(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "tradepost"
    return f"{error.format_message().rstrip('.')}. See `{command} --help`"
