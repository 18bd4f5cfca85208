"""`tradepost gateway`: a door for people with a Lightning wallet."""

import asyncio
from typing import Annotated, Any

import typer

from identity import LocalSigner
from tradepost.api import open_customer
from tradepost.cli.output import AsJson, print_json, print_text, quoted, say
from tradepost.ending import ending
from tradepost.errors import ConfigError
from tradepost.gateway import Gateway, open_gateway
from tradepost.lightning_orders import open_lightning_orders
from tradepost.post import open_post, own_key, reach
from tradepost.secrets import CUSTOMER
from tradepost.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(gateway)


def gateway(
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where wallets reach it: https://host (default: gateway_url)."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Listen here (default: gateway_host).")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=65535, help="Listen here (default: gateway_port)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let Lightning wallets fund this post and order jobs.

    It speaks LNURL: Lightning addresses, orders, withdrawals. A server in front of it brings the https. It orders from
    other posts' agents only; custodial_sat_max and the other limits are settings.

    Example: `tradepost gateway --url https://pay.example --port 8790`
    """
    given: dict[str, Any] = {"gateway_url": url, "gateway_host": host, "gateway_port": port}
    settings = Settings.load(**{name: value for name, value in given.items() if value is not None})
    if not settings.mints:
        raise ConfigError(
            "no mints: name the mints you trust in tradepost.yaml (mints: […]) or in TRADEPOST_MINTS"
        )
    asyncio.run(_serve(settings, as_json))


async def _serve(settings: Settings, as_json: bool) -> None:
    signer = LocalSigner(own_key(settings, CUSTOMER))
    async with (
        open_post(settings) as post,
        open_customer(settings, post, signer) as customer,
        open_lightning_orders(settings, post, customer) as orders,
        open_gateway(settings, post, orders) as running,
    ):
        with ending() as told_to_end:
            _print_open(running, settings, as_json)
            if unreachable := await reach(post.pool):
                say(f"[yellow]{quoted(unreachable)}; still trying[/]")
            await told_to_end.wait()


def _print_open(running: Gateway, settings: Settings, as_json: bool) -> None:
    listens = f"http://{settings.gateway_host}:{settings.gateway_port}"
    if as_json:
        print_json({"gateway": running.url, "listens": listens, "addresses": running.addresses})
        return
    say(f"[green]●[/] the gateway listens on {listens}; Ctrl-C ends it")
    print_text(running.url)
    for address in running.addresses:
        say(f"  {quoted(address)} funds this wallet")
    say(f"  POST {running.url}/orders takes jobs for up to {settings.custodial_sat_max} sat, custodial")
