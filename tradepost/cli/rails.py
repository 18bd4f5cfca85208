"""`tradepost wallet invoice`, `pay` and `connect`: Lightning, by the rails that are configured."""

import asyncio
import secrets
import sys
from typing import Annotated, Final

import typer

from store import SystemClock
from tradepost.cli.completing import complete_mint
from tradepost.cli.lnurl import invoice_of
from tradepost.cli.output import AsJson, print_json, print_text, say
from tradepost.cli.qr import Wanted, offer_qr
from tradepost.errors import TradepostError
from tradepost.passwords import ask_hidden
from tradepost.post import open_rails, open_wallet
from tradepost.rails import keep_connection
from tradepost.settings import Settings
from wallet import MintUnavailable, RailUnavailable
from wallet.rails import InvoiceState, Payment, SendState, Wish

POLL_SECONDS: Final = 1.0


def register(wallet: typer.Typer) -> None:
    """Add the commands to `tradepost wallet`."""
    wallet.command()(invoice)
    wallet.command()(pay)
    wallet.command()(connect)


def invoice(
    amount_sat: Annotated[int, typer.Argument(metavar="SAT", min=1, help="How many sats.")],
    text: Annotated[
        str, typer.Option(metavar="TEXT", help="What it is for, where the rail can say it.")
    ] = "",
    qr: Wanted = None,
    as_json: AsJson = False,
) -> None:
    """Print a Lightning invoice and wait until it is paid.

    It is made by the first of `rails` that can.

    Example: `tradepost wallet invoice 210 --text "two hours of work"`
    """
    asyncio.run(_invoice(amount_sat, text, qr, as_json))


def pay(
    bolt11: Annotated[
        str,
        typer.Argument(metavar="INVOICE", help="A Lightning invoice (BOLT-11), address or LNURL."),
    ],
    *,
    sat: Annotated[
        int | None, typer.Option("--sat", metavar="SAT", min=1, help="How much, to an address or LNURL.")
    ] = None,
    comment: Annotated[str, typer.Option(metavar="TEXT", help="For the owner of an address or LNURL.")] = "",
    fee_max: Annotated[
        int | None,
        typer.Option(
            metavar="SAT", min=0, help="The most that routing may cost, where the rail can bound it."
        ),
    ] = None,
    mint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="From this mint, whatever `rails` says.", autocompletion=complete_mint
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pay an invoice, a Lightning address or an LNURL.

    By the first of `rails` that can.

    An invoice is paid once, however often this is tried. Example: `tradepost wallet pay lnbc210n1… --fee-max 2`
    """
    bolt11 = asyncio.run(invoice_of(bolt11, sat, comment))
    asyncio.run(_pay_from(mint, bolt11, as_json) if mint else _pay(bolt11, fee_max, as_json))


def connect(
    uri: Annotated[
        str, typer.Argument(metavar="URI", help="`-` reads it from stdin; without it you are asked.")
    ] = "",
) -> None:
    """Keep the connection to your Lightning wallet.

    It is a `nostr+walletconnect://` URI (Nostr Wallet Connect), for `rails: [nwc]`.

    Whoever has it can spend what the wallet allows. Example: `tradepost wallet connect`
    """
    text = sys.stdin.read() if uri == "-" else uri
    settings = Settings.load()
    kept = keep_connection(settings, text or ask_hidden("Connection: ", or_else="TRADEPOST_NWC"))
    say(f"kept in {settings.nwc_file}: the wallet {kept.wallet_key[:12]}… at {', '.join(kept.relays)}")
    if "nwc" not in settings.rails:
        say("it is used once `rails: \\[nwc]` is in tradepost.yaml; `tradepost doctor` tries it")


async def _invoice(amount_sat: int, text: str, qr: bool | None, as_json: bool) -> None:
    async with open_rails(Settings.load()) as lightning:
        name = f"wallet:{secrets.token_hex(16)}"
        made = await lightning.make_invoice(name, Wish(1000 * amount_sat, description=text))
        assert made.bolt11 is not None
        if as_json:
            print_json({"rail": made.rail, "bolt11": made.bolt11, "amount_sat": amount_sat})
        else:
            say(f"Pay this invoice to receive {amount_sat} sat ({made.rail}):")
            print_text(made.bolt11)
            offer_qr(made.bolt11, qr)
        try:
            while (seen := await lightning.look(name)).state is not InvoiceState.SETTLED:
                await SystemClock().sleep(POLL_SECONDS)
        except (MintUnavailable, RailUnavailable) as error:
            raise TradepostError(f"{error}; if you pay the invoice, `tradepost settle` finds it") from None
        except asyncio.CancelledError:
            say("interrupted; once the invoice is paid, `tradepost settle` finds it")
            raise
        if as_json:
            print_json({"state": "done", "amount_sat": seen.received_msat // 1000})
        else:
            print_text(f"received {seen.received_msat // 1000} sat")


async def _pay(bolt11: str, fee_max_sat: int | None, as_json: bool) -> None:
    async with open_rails(Settings.load()) as lightning:
        fee_max_msat = None if fee_max_sat is None else 1000 * fee_max_sat
        _tell(
            await lightning.pay(f"wallet:{secrets.token_hex(16)}", bolt11, fee_max_msat=fee_max_msat), as_json
        )


def _tell(payment: Payment, as_json: bool) -> None:
    amount_sat, fee_sat = -(-payment.amount_msat // 1000), -(-payment.fee_msat // 1000)
    if payment.state is SendState.FAILED:
        raise TradepostError(f"nothing was paid: {payment.error}")
    if payment.state is not SendState.PAID:
        raise TradepostError(
            f"nobody knows yet whether {amount_sat} sat were paid ({payment.error}); it is not paid again: "
            "`tradepost settle` finds out"
        )
    if as_json:
        line = {"state": "done", "amount_sat": amount_sat, "fee_sat": fee_sat, "rail": payment.rail}
        print_json(line)
    else:
        print_text(f"paid {amount_sat} sat, fees {fee_sat} sat ({payment.rail})")


async def _pay_from(mint: str, bolt11: str, as_json: bool) -> None:
    async with open_wallet(Settings.load()) as purse:
        outcome = await purse.pay(mint, bolt11)
    if outcome.state != "done":
        raise TradepostError(f"nothing was paid: {outcome.error}")
    if as_json:
        print_json(
            {"state": "done", "amount_sat": outcome.sent_sat, "fee_sat": outcome.fee_sat, "rail": "mint"}
        )
    else:
        print_text(f"paid {outcome.sent_sat} sat, fees {outcome.fee_sat} sat (mint)")
