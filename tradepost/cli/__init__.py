"""The `tradepost` command. Results go to stdout, status to stderr; exit codes 0, 1 (it failed), 130 (interrupted)."""

import sys
from importlib.metadata import PackageNotFoundError, version

import typer

from dvm import DvmError
from identity import IdentityError
from relay_bridge import RelayBridgeError
from store import StoreError
from tradepost.cli import agents, ask, demo, jobs, keys, settle, wallet
from tradepost.cli.output import fail
from tradepost.errors import TradepostError
from tradepost.logs import configure_logs
from tradepost.mint_process import MintProcessError, MintVenvError
from wallet import WalletError

app = typer.Typer(
    name="tradepost",
    help="A Nostr-native trading post: put a function to work for sats, or ask an agent to work for you.",
    epilog="Exit codes: 0 it worked, 1 it failed and stderr says why, 130 you interrupted it.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
demo.register(app)
agents.register(app)
ask.register(app)
settle.register(app)
jobs.register(app)
app.add_typer(wallet.app)
app.add_typer(keys.app)

_EXPECTED = (
    TradepostError, DvmError, WalletError, RelayBridgeError, IdentityError, StoreError, MintProcessError, MintVenvError,
)  # fmt: skip


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
    configure_logs("debug" if verbose else None)


def main() -> None:
    """Entry point of the `tradepost` script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. What went wrong is told on stderr with the next step, not raised."""
    as_json = "--json" in arguments
    try:
        code = app(args=arguments or ["--help"], prog_name="tradepost", standalone_mode=False)
    except typer.TyperException as error:
        fail(_usage(error), as_json=as_json, kind="UsageError")
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except _EXPECTED as error:
        fail(str(error), as_json=as_json, kind=type(error).__name__, action=getattr(error, "action", None))
        return 1
    except OSError as error:  # a disk that is full, a folder that is not ours
        fail(f"{error.filename or 'the system'}: {error.strerror or error}", as_json=as_json, kind="OSError")
        return 1
    return code if isinstance(code, int) else 0


def _usage(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "tradepost"
    return f"{error.format_message()} See `{command} --help`"
