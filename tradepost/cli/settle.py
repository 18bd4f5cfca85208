"""`tradepost settle`: go on with what earlier commands left open."""

import asyncio
from typing import Annotated, Any

import typer

from dvm import OrderState, Post, queries
from dvm.queries import OrderRow
from dvm.queries_guarantees import orders_of
from identity import encode_npub
from tradepost.api import open_customer
from tradepost.cli.jobs import bought, print_jobs
from tradepost.cli.output import AsJson, local_time, quoted, say
from tradepost.cli.signing import Sec, chosen_key
from tradepost.errors import TradepostError
from tradepost.lightning_orders import open_lightning_orders
from tradepost.post import open_post, reach
from tradepost.secrets import CUSTOMER, Key, open_signer
from tradepost.settings import Settings
from wallet.escrow import Role


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(settle)


def settle(
    seconds: Annotated[
        int, typer.Option(metavar="SECONDS", min=1, help="How long to wait for all of it.")
    ] = 15,
    sec: Sec = "",
    as_json: AsJson = False,
) -> None:
    """Go on with what is open: late results, refunds, paid invoices.

    Example: `tradepost settle --seconds 60`
    """
    settings = Settings.load()
    key = chosen_key(settings, CUSTOMER, sec)
    overdue_sat = asyncio.run(_settle(settings, key, seconds, as_json))
    if overdue_sat:
        raise TradepostError(
            f"{overdue_sat} sat could not be settled: their mint does not answer, or not yet; try again later"
        )


async def _settle(settings: Settings, key: Key, seconds: int, as_json: bool) -> int:
    """Returns the sats that are due back and not here."""
    async with (
        open_signer(settings, key) as signer,
        open_post(settings) as post,
    ):  # which claims paid invoices
        await _tell_of_others(post, signer.public_key)
        before = await queries.open_orders(post.db, signer.public_key)
        if before and (unreachable := await reach(post.pool)):
            say(f"[yellow]{quoted(unreachable)}; what agents sent cannot be fetched[/]")
        async with (
            open_customer(settings, post, signer) as customer,
            open_lightning_orders(settings, post, customer) as lightning,
        ):
            waiting: list[asyncio.Task[Any]] = [
                asyncio.create_task(order.result()) for order in await customer.open_orders()
            ]
            hired = customer.open_guarantees()
            waiting += [asyncio.create_task(guarantee.result()) for guarantee in hired]
            waiting.append(asyncio.create_task(lightning.settled()))
            locked = await customer.desk.escrows.open(Role.CUSTOMER, signer.public_key)
            waiting += [asyncio.create_task(customer.desk.idle())] if locked else []
            await asyncio.wait(waiting, timeout=seconds)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        # What is hired for may have been asked of others meanwhile.
        asked = [order for guarantee in hired for order in await orders_of(post.db, guarantee.id)]
        ids = dict.fromkeys(order.id for order in (*before, *asked))
        after = [row for order_id in ids if (row := await queries.get_order(post.db, order_id))]
        if after or as_json:
            print_jobs(map(bought, after), as_json=as_json)
        if not as_json:
            for escrow in await customer.desk.escrows.open(Role.CUSTOMER, signer.public_key):
                say(f"{escrow.request_id[:12]}: {escrow.terms.price_sat} sat are in escrow, {escrow.stage}")
            await _tell(post, after)
        return sum(row.price_sat for row in after if _is_overdue(row, post.clock.now()))


async def _tell_of_others(post: Post, public_key: str) -> None:
    """Orders under another key stay as they are, and there may be money in them."""
    for other in await queries.customers_with_open_orders(post.db):
        if other != public_key:
            say(f"[yellow]orders of {encode_npub(other)} are open too: settle them with its key, by --sec[/]")


async def _tell(post: Post, rows: list[OrderRow]) -> None:
    for row in rows:
        if row.state is OrderState.DONE:
            say(f"{row.id[:12]} has its result: `tradepost job {row.id[:12]}`")
        elif row.state is OrderState.AWAITING_REFUND and row.locktime and row.locktime >= post.clock.now():
            say(
                f"{row.id[:12]}: {row.price_sat} sat stay locked until {local_time(row.locktime)}; settle again then"
            )
    say(f"{sum((await post.wallet.balance()).values())} sat can be spent")


def _is_overdue(row: OrderRow, now: int) -> bool:
    is_due = row.state is OrderState.AWAITING_REFUND and (row.locktime or 0) < now
    return is_due or row.state is OrderState.PAYING
