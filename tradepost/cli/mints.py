"""`tradepost wallet sweep` and `tradepost wallet abandon`: what is at risk at a mint."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from relay_bridge import Fetcher
from tradepost.cli.completing import complete_mint
from tradepost.cli.output import AsJson, print_json, print_text, quoted, say
from tradepost.errors import ConfigError, TradepostError
from tradepost.post import open_wallet
from tradepost.settings import Settings
from tradepost.sweeping import invoices_of
from wallet import InvalidRequest, Wallet
from wallet.invoice import parse_invoice
from wallet.sweep import Swept, sweep


def register(wallet: typer.Typer) -> None:
    """Add the commands to `tradepost wallet`."""
    wallet.command(name="sweep")(sweep_mints)
    wallet.command(name="abandon")(abandon_mint)


def sweep_mints(
    to: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help="A Lightning address, an LNURL or one invoice (default: `sweep_to` of the configuration).",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send to Lightning what is too much at a mint.

    That is what is more than its cap, or than `sweep_sat_above` of the configuration.

    Example: `tradepost wallet sweep --to me@wallet.example`
    """
    settings = Settings.load()
    target = to or settings.sweep_to
    if not target:
        raise ConfigError(
            "nowhere to send it: name a Lightning address by --to, or as `sweep_to` in tradepost.yaml"
        )
    swept = asyncio.run(_sweep(settings, target))
    for one in swept:
        if as_json:
            print_json(asdict(one))
        elif one.error is None:
            print_text(f"{one.mint}: sent {one.sent_sat} sat, fees {one.fee_sat} sat")
        else:
            say(f"[yellow]{quoted(one.mint)}: nothing was sent: {quoted(one.error)}[/]")
    if not swept and not as_json:
        say("no mint holds so much that a sweep is worth its fee")
    if any(one.error for one in swept):
        raise TradepostError(
            "not everything was swept; what was not is still in the wallet, or settled by itself"
        )


async def _sweep(settings: Settings, target: str) -> list[Swept]:
    async with open_wallet(settings) as purse:
        try:
            amount_sat = parse_invoice(target).amount_sat
        except InvalidRequest:
            fetcher = Fetcher(allow_private=settings.allow_private_urls)
            return await sweep(purse, invoices_of(target, fetcher, settings))
        return await _pay_one(purse, target, amount_sat)


async def _pay_one(purse: Wallet, bolt11: str, amount_sat: int) -> list[Swept]:
    """One invoice is over what it is over: the mint with the largest surplus pays it, if that is enough."""
    surplus = await purse.sweepable()
    if not surplus:
        return []
    mint = max(surplus, key=lambda url: surplus[url])
    if amount_sat > surplus[mint]:
        raise TradepostError(
            f"the invoice is over {amount_sat} sat, too much at one mint are {surplus[mint]}: take one over these"
        )
    outcome = await purse.pay(mint, bolt11)
    return [Swept(mint, outcome.sent_sat, outcome.fee_sat, outcome.error)]


def abandon_mint(
    mint: Annotated[
        str, typer.Argument(metavar="MINT", help="The mint's URL.", autocompletion=complete_mint)
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give up a mint that is gone for good.

    What is there is written off as lost, and the mint is used no more. Nothing is deleted. When it answers again,
    `settle` and `up` put everything back.

    Example: `tradepost wallet abandon https://mint.example`
    """
    settings = Settings.load()
    if not yes:
        typer.confirm(f"Write off all that is at {mint}, and use it no more?", abort=True, err=True)
    lost_sat = asyncio.run(_abandon(settings, mint))
    if as_json:
        print_json({"mint": mint, "lost_sat": lost_sat})
    else:
        print_text(f"{lost_sat} sat at {mint} are written off; `tradepost audit` shows them as lost")


async def _abandon(settings: Settings, mint: str) -> int:
    async with open_wallet(settings) as purse:
        return await purse.abandon(mint)
