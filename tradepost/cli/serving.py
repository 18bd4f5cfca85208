"""`tradepost relay` and `tradepost mint`: what an agent needs around it, on this machine."""

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

from relay_bridge import EmbeddedRelay
from tradepost.cli.output import AsJson, print_json, print_text, quoted, say, status
from tradepost.ending import ending
from tradepost.mint_process import MintProcess, MintProcessError, mint_python
from tradepost.ports import choose_port

Port = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=65535, help="The port to listen on (default: a free one)."),
]
PLAY_MONEY = (
    "PLAY MONEY: this mint pays its own invoices, its sats are worth nothing. Never show it to others."
)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(relay)
    app.command()(mint)


def relay(
    port: Port = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep the events in this folder (default: in memory, until it ends)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a Nostr relay on this machine until you interrupt it.

    With a folder it listens on the same port each time. Example: `tradepost relay --port 7777 --data events`
    """
    asyncio.run(_relay(port, data, as_json))


def mint(
    port: Port = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the mint in this folder (default: it is gone when it ends)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a Cashu mint whose sats are play money.

    It is nutshell with a Lightning that is faked: every invoice counts as paid. The first run installs it, which
    takes a minute. With a folder its ecash is good after a restart too. Example: `tradepost mint --data play-mint`
    """
    asyncio.run(_mint(port, data, as_json))


async def _relay(port: int | None, data: Path | None, as_json: bool) -> None:
    async with EmbeddedRelay(port=choose_port(port, data), path=data and data / "events") as running:
        with ending() as told_to_end:
            _print_ready("relay", running.url, data, as_json)
            await told_to_end.wait()


async def _mint(port: int | None, data: Path | None, as_json: bool) -> None:
    async with AsyncExitStack() as stack:
        folder = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tradepost-mint-")))
        number = choose_port(port, data)
        with status.status("installing the mint, which takes a minute the first time …"):
            python = await mint_python()
        with status.status("the mint starts …"):
            running = await stack.enter_async_context(MintProcess(python, folder.absolute(), port=number))
        with ending() as told_to_end:
            if not as_json:
                say(f"[bold yellow]{PLAY_MONEY}[/]")
            _print_ready("mint", running.url, data, as_json)
            await _until(told_to_end, running)


async def _until(told_to_end: asyncio.Event, mint: MintProcess) -> None:
    """Wait until we are told to end. Raises `MintProcessError` if the mint ends before."""
    telling, dying = asyncio.create_task(told_to_end.wait()), asyncio.create_task(mint.ended())
    try:
        await asyncio.wait((telling, dying), return_when=asyncio.FIRST_COMPLETED)
        if dying.done():
            raise MintProcessError(dying.result())
    finally:
        telling.cancel()
        dying.cancel()


def _print_ready(what: str, url: str, data: Path | None, as_json: bool) -> None:
    if as_json:
        told = {"play_money": True} if what == "mint" else {}
        print_json({what: url, "data": str(data.absolute()) if data else None, **told})
        return
    kept = f"kept in {quoted(str(data))}" if data else "gone when it ends; --data DIR keeps it"
    say(f"[green]●[/] the {what} is running, {kept}; Ctrl-C ends it")
    print_text(url)
    setting = "TRADEPOST_RELAYS" if what == "relay" else "TRADEPOST_MINTS"
    say(f"[dim]in another terminal: export {setting}={url}[/]")
