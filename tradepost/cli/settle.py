"""`tradepost settle`: go on with what earlier commands left open."""

import asyncio
from typing import Annotated, Any, Final

import typer

from dvm import Customer, OrderState, Post, queries
from dvm.escrow.standing import possible
from dvm.queries import OrderRow
from dvm.queries_guarantees import orders_of
from identity import encode_npub
from tradepost.api import open_customer
from tradepost.cli.escrow_shown import again, with_fee
from tradepost.cli.escrow_words import (
    fee_told,
    fields,
    is_moving,
    is_unheard,
    next_step,
    pay_command,
)
from tradepost.cli.jobs import bought, print_jobs
from tradepost.cli.output import AsJson, local_time, print_json, quoted, say
from tradepost.cli.signing import Sec, chosen_key
from tradepost.errors import TradepostError
from tradepost.lightning_orders import open_lightning_orders
from tradepost.post import open_post, reach
from tradepost.secrets import CUSTOMER, Key, open_signer
from tradepost.settings import Settings
from wallet import queries_escrows
from wallet.escrow import Role
from wallet.queries_escrows import EscrowRow

LOOK_SECONDS: Final = 0.2


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
            f"{overdue_sat} sat could not be settled: their mint did not answer in {seconds} s. `tradepost doctor` "
            "tries it, then `tradepost settle` goes on"
        )


async def _settle(settings: Settings, key: Key, seconds: int, as_json: bool) -> int:
    """Returns the sats that are due back and not here."""
    async with (
        open_signer(settings, key) as signer,
        open_post(settings) as post,
    ):  # which claims paid invoices
        await _tell_of_others(post, signer.public_key)
        before = await queries.open_orders(post.db, signer.public_key)
        locked = await queries_escrows.open_escrows(post.db, signer.public_key, Role.CUSTOMER)
        reads = bool(await queries.recent_orders(post.db, 1))
        if reads and (unreachable := await reach(post.pool)):
            reads = False
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
            waiting += [asyncio.create_task(_take_in(post, customer, seconds))] if reads else []
            waiting += [asyncio.create_task(_quiet(post, customer, seconds))] if locked else []
            await asyncio.wait(waiting, timeout=seconds)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        # What is hired for may have been asked of others meanwhile.
        asked = [order for guarantee in hired for order in await orders_of(post.db, guarantee.id)]
        ids = dict.fromkeys(order.id for order in (*before, *asked))
        after = [row for order_id in ids if (row := await queries.get_order(post.db, order_id))]
        if after:
            print_jobs([await bought(post.db, row) for row in after], as_json=as_json)
        begun = await queries_escrows.open_escrows(post.db, signer.public_key, Role.CUSTOMER)
        for escrow in {row.key: row for row in (*locked, *begun)}.values():
            case = await again(post.db, escrow)
            if as_json:
                print_json(fields(*case, post.clock.now()))
            else:
                _tell_of_escrow(*case, post.clock.now())
        if not as_json:
            await _tell(post, after)
        return sum(row.price_sat for row in after if _is_overdue(row, post.clock.now()))


async def _take_in(post: Post, customer: Customer, seconds: int) -> None:
    """Read all that agents sent, and see the money in it through: change may come when its order has ended."""
    await customer.caught_up(seconds)
    await post.wallet.recover()


async def _quiet(post: Post, customer: Customer, seconds: int) -> None:
    """Wait until all that relays have is read, and each escrow waits for somebody's decision, or has ended."""
    await customer.caught_up(seconds)
    while True:
        rows = await queries_escrows.open_escrows(post.db, customer.public_key, Role.CUSTOMER)
        cases = [await with_fee(post.db, row) for row in rows]
        if not any(is_moving(*case, post.clock.now()) for case in cases):
            return
        await post.clock.sleep(LOOK_SECONDS)


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


def _tell_of_escrow(row: EscrowRow, fee: OrderRow | None, now: int) -> None:
    """What is in escrow, and what is to be done about that."""
    short = row.request_id[:12]
    what = f"{short}: {row.terms.price_sat} sat in escrow, {row.stage}; {next_step(row, fee, now)}"
    if is_unheard(row, fee):
        say(f"[yellow]{what} ({quoted(fee_told(row, fee))}); pay with `{pay_command(row, fee)}`[/]")
    elif possible(row, now):
        say(f"{what}; `tradepost escrow show {short}` tells how")
    else:
        say(what)


def _is_overdue(row: OrderRow, now: int) -> bool:
    is_due = row.state is OrderState.AWAITING_REFUND and (row.locktime or 0) < now
    return is_due or row.state is OrderState.PAYING
