"""`tradepost wallet`: the sats of this post."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

import dvm.queries
import wallet.queries
import wallet.queries_books
from store import SystemClock
from tradepost.cli import allowances, lnurl, mints, rails
from tradepost.cli.completing import complete_mint
from tradepost.cli.output import AsJson, print_json, print_text, say
from tradepost.cli.qr import Wanted, offer_qr
from tradepost.errors import ConfigError, TradepostError
from tradepost.post import open_wallet, read_database
from tradepost.settings import Settings
from wallet import MintUnavailable, Outcome, Wallet, encode_token, parse_token

app = typer.Typer(
    name="wallet",
    help="The sats of this post: ecash at the mints you trust.",
    epilog="Example: `tradepost wallet fund 1000`, `tradepost wallet balance`",
    rich_markup_mode=None,
)

Mint = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Which mint, if there are several (default: the fullest).",
        autocompletion=complete_mint,
    ),
]
Amount = Annotated[int, typer.Argument(metavar="SAT", min=1, help="How many sats.")]

POLL_SECONDS = 1.0


def register(root: typer.Typer) -> None:
    """Add the commands to the application."""
    rails.register(app)
    lnurl.register(app)
    mints.register(app)
    allowances.register(app)
    root.add_typer(app)


@app.command()
def balance(as_json: AsJson = False) -> None:
    """Print what can be spent, by mint, while an agent runs too.

    Example: `tradepost wallet balance --json | jq .total_sat`
    """
    asyncio.run(_balance(as_json))


@app.command()
def fund(amount_sat: Amount, mint: Mint = None, qr: Wanted = None, as_json: AsJson = False) -> None:
    """Print a Lightning invoice and wait until it is paid.

    The coins are not lost when you interrupt it: `tradepost settle`, or any command that moves money, fetches them.

    Example: `tradepost wallet fund 1000`
    """
    asyncio.run(_fund(amount_sat, mint, qr, as_json))


@app.command()
def send(amount_sat: Amount, mint: Mint = None, qr: Wanted = None, as_json: AsJson = False) -> None:
    """Print a Cashu token. Whoever has it has the sats.

    Example: `tradepost wallet send 21 > token.txt`
    """
    asyncio.run(_send(amount_sat, mint, qr, as_json))


@app.command()
def receive(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="A Cashu token; `-` reads it from stdin.")],
    as_json: AsJson = False,
) -> None:
    """Swap a Cashu token to coins of our own.

    Example: `tradepost wallet receive - < token.txt`
    """
    asyncio.run(_receive(_read(token), as_json))


async def _balance(as_json: bool) -> None:
    settings = Settings.load()
    async with read_database(settings) as db:
        by_mint = await wallet.queries.spendable(db)
        locked_sat = await dvm.queries.locked_sat(db)
        escrow_sat = await wallet.queries_books.paid_into_escrow_sat(db)
        invoices = len(await wallet.queries.open_quotes(db))
    total_sat = sum(by_mint.values())
    if as_json:
        print_json(
            {
                "total_sat": total_sat, "mints": by_mint, "locked_sat": locked_sat, "escrow_sat": escrow_sat,
                "open_invoices": invoices,
            }
        )  # fmt: skip
        return
    print_text(f"{total_sat} sat")
    for mint, amount_sat in by_mint.items():
        say(f"[dim]{amount_sat:>10} sat at {mint}[/]")
    if locked_sat:
        say(f"[dim]{locked_sat:>10} sat are locked in orders; `tradepost settle` takes back what is due[/]")
    if escrow_sat:
        say(
            f"[dim]{escrow_sat:>10} sat are locked in escrow; `tradepost escrow list` says what comes next[/]"
        )
    if invoices:
        unpaid = f"{invoices:>10} unpaid invoice{'s' * (invoices != 1)}"
        say(f"[dim]{unpaid}; once paid, `tradepost settle` fetches the coins[/]")
    if not settings.mints:
        say("[dim]no mints: name those you trust in tradepost.yaml (mints: \\[…]) or in TRADEPOST_MINTS[/]")


async def _fund(amount_sat: int, mint: str | None, qr: bool | None, as_json: bool) -> None:
    async with _exclusive() as purse:
        quote = await purse.mint_quote(await _fullest(purse, mint), amount_sat)
        if as_json:
            print_json({"quote": quote.id, "bolt11": quote.bolt11, "amount_sat": amount_sat})
        else:
            say(f"Pay this invoice to receive {amount_sat} sat at {quote.mint}:")
            print_text(quote.bolt11)
            offer_qr(quote.bolt11, qr)
        try:
            while (outcome := await purse.claim(quote.id)) is None:
                await SystemClock().sleep(POLL_SECONDS)
        except MintUnavailable as error:
            raise TradepostError(
                f"{error}; if you pay the invoice, `tradepost settle` fetches the coins"
            ) from None
        except asyncio.CancelledError:
            say("interrupted; once the invoice is paid, `tradepost settle` fetches the coins")
            raise
        _done(outcome, "received", outcome.received_sat, as_json)


async def _send(amount_sat: int, mint: str | None, qr: bool | None, as_json: bool) -> None:
    async with _exclusive() as purse:
        token = encode_token(await purse.send(await _fullest(purse, mint), amount_sat))
    if as_json:
        print_json({"token": token, "amount_sat": amount_sat})
    else:
        print_text(token)
        offer_qr(token, qr)


async def _receive(text: str, as_json: bool) -> None:
    token = parse_token(text)
    async with _exclusive() as purse:
        outcome = await purse.receive(token)
        _done(outcome, "received", outcome.received_sat, as_json)


def _done(outcome: Outcome, verb: str, amount_sat: int, as_json: bool) -> None:
    if outcome.state != "done":
        raise TradepostError(f"nothing was {verb}: {outcome.error}")
    if as_json:
        print_json({"state": outcome.state, "amount_sat": amount_sat, "fee_sat": outcome.fee_sat})
    else:
        print_text(f"{verb} {amount_sat} sat, mint's fee {outcome.fee_sat} sat")


def _read(text: str) -> str:
    try:
        return sys.stdin.read().strip() if text == "-" else text
    except UnicodeDecodeError:
        raise TradepostError("stdin holds no token but something that is not text") from None


@asynccontextmanager
async def _exclusive() -> AsyncIterator[Wallet]:
    """The wallet for moving money, alone on its post. What an earlier process left is settled first."""
    settings = Settings.load()
    if not settings.mints:
        raise ConfigError(
            "no mints: name the mints you trust in tradepost.yaml (mints: […]) or in TRADEPOST_MINTS"
        )
    async with open_wallet(settings) as purse:
        yield purse


async def _fullest(purse: Wallet, wanted: str | None) -> str:
    """The mint that is wanted, else the one where we have most, else the first of the configuration."""
    by_mint = await purse.balance()
    return wanted or max(purse.mints, key=lambda mint: by_mint.get(mint, 0))
