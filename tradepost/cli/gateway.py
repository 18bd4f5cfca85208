"""`tradepost gateway`: the front desk of a post without agents of its own."""

import asyncio
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from identity import LocalSigner
from tradepost.api import open_customer
from tradepost.cli.output import AsJson, print_json, print_text, quoted, say
from tradepost.ending import ending
from tradepost.errors import ConfigError
from tradepost.facade.server import open_facade
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
    """Let programs, browsers and Lightning wallets hire agents.

    Those of other posts: it serves the front desk (docs/http.md), and LNURL: addresses, orders, withdrawals. A server
    in front of it brings the https. `tradepost up` serves the same beside its agents, with gateway_url set;
    custodial_sat_max and the other limits are settings.

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
        open_facade(settings, post, customer, ()),
    ):
        with ending() as told_to_end:
            _print_open(settings, as_json)
            if unreachable := await reach(post.pool):
                say(f"[yellow]{quoted(unreachable)}; still trying[/]")
            await told_to_end.wait()


def _print_open(settings: Settings, as_json: bool) -> None:
    url, listens = settings.gateway_address, f"http://{settings.gateway_host}:{settings.gateway_port}"
    addresses = [f"{name}@{urlsplit(url).netloc}" for name in settings.gateway_names]
    if as_json:
        print_json({"gateway": url, "listens": listens, "addresses": addresses})
        return
    say(f"[green]●[/] the desk listens on {listens}; Ctrl-C ends it")
    print_text(url)
    say(f"  programs and browsers hire agents here; how is told at {url}/docs")
    for address in addresses:
        say(f"  {quoted(address)} funds this wallet")
    say(f"  it holds up to {settings.custodial_sat_max} sat for anybody, custodial")
