"""LNURL in `tradepost wallet`: what `pay` does with an address, and `withdraw`."""

import asyncio
from typing import Annotated

import typer

from relay_bridge import Fetcher
from store import SystemClock
from tradepost.cli.completing import complete_mint
from tradepost.cli.output import AsJson, print_json, print_text, quoted, say
from tradepost.errors import TradepostError
from tradepost.post import open_wallet
from tradepost.settings import Settings
from wallet import LnurlClient, MintUnavailable
from wallet.lnurl_text import is_address

POLL_SECONDS = 1.0


def register(wallet: typer.Typer) -> None:
    """Add the command to `tradepost wallet`."""
    wallet.command()(withdraw)


def withdraw(
    lnurl: Annotated[
        str, typer.Argument(metavar="LNURL", help="An LNURL that pays out (lnurl1… or lnurlw://…).")
    ],
    sat: Annotated[
        int | None, typer.Option("--sat", metavar="SAT", min=1, help="How much (default: all of it).")
    ] = None,
    mint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="To this mint (default: the first of yours).", autocompletion=complete_mint
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take what an LNURL pays out into this wallet.

    Waits until it is here.

    The coins are not lost when you interrupt it: `tradepost settle` fetches them.

    Example: `tradepost wallet withdraw LNURL1DP68…`
    """
    asyncio.run(_withdraw(Settings.load(), lnurl, sat, mint, as_json))


async def invoice_of(text: str, sat: int | None, comment: str) -> str:
    """What is to be paid: an invoice as it is; of a Lightning address or LNURL, the one that its service makes."""
    if not (is_address(text) or "://" in text or "lnurl1" in text.lower()):
        if sat or comment:
            raise TradepostError(
                "--sat and --comment are for addresses and LNURLs; an invoice names its amount"
            )
        return text
    client = _client(Settings.load())
    request = await client.pay_request(text)
    if sat is None and (request.min_msat != request.max_msat):
        least, most = -(-request.min_msat // 1000), request.max_msat // 1000
        raise TradepostError(f"say how much, {least} to {most} sat: --sat N")
    say(f"[dim]for: {quoted(request.description)}[/]")
    payable = await client.invoice(request, 1000 * sat if sat else request.min_msat, comment=comment)
    if payable.success:
        say(f"it says: {quoted(payable.success.message)} {quoted(payable.success.url or '')}")
    return payable.bolt11


async def _withdraw(settings: Settings, lnurl: str, sat: int | None, mint: str | None, as_json: bool) -> None:
    client = _client(settings)
    request = await client.withdraw_request(lnurl)
    amount_sat = sat or request.max_msat // 1000
    if not (amount_sat and request.min_msat <= 1000 * amount_sat <= request.max_msat):
        raise TradepostError(f"it pays out {request.min_msat} to {request.max_msat} msat: choose by --sat")
    if not (mint or settings.mints):
        raise TradepostError("no mints: name the mints you trust in tradepost.yaml or in TRADEPOST_MINTS")
    async with open_wallet(settings) as purse:
        quote = await purse.mint_quote(mint or purse.mints[0], amount_sat)
        await client.withdraw(request, quote.bolt11)
        say(f"[dim]{quoted(request.description)}: it agreed to pay {amount_sat} sat[/]")
        try:
            while (outcome := await purse.claim(quote.id)) is None:
                await SystemClock().sleep(POLL_SECONDS)
        except (MintUnavailable, asyncio.CancelledError):
            say("once the invoice is paid, `tradepost settle` fetches the coins")
            raise
    if as_json:
        print_json({"state": outcome.state, "amount_sat": outcome.received_sat})
    else:
        print_text(f"received {outcome.received_sat} sat")


def _client(settings: Settings) -> LnurlClient:
    allowed = settings.allow_private_urls
    return LnurlClient(Fetcher(allow_private=allowed), allow_private=allowed)
