"""`tradepost ask --lightning`: a job that is paid from any Lightning wallet, through this post."""

import asyncio
import math
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from dvm import Post
from dvm.discovery.announce import look_up
from dvm.orders.asking import named_key
from tradepost.api import open_customer
from tradepost.cli.output import print_json, print_text, quoted, say
from tradepost.cli.qr import offer_qr
from tradepost.cli.targets import doubts, unannounced
from tradepost.errors import TradepostError
from tradepost.facade.callers.limits import open_limits
from tradepost.gateway import Gateway, custody, open_gateway
from tradepost.lightning_orders import KEEP, find_order, open_lightning_orders
from tradepost.post import open_post, reach
from tradepost.secrets import Key, open_signer
from tradepost.settings import Settings
from wallet import queries_lnurl
from wallet.queries_lnurl import OPEN_STAGES, LightningOrder, Stage, Withdrawal

POLL_SECONDS: Final = 0.5
REFUND_SECONDS_MAX: Final = 30.0
_STEPS: Final = {Stage.PAID: "paid: the ecash is here", Stage.ASKED: "asked: the agent has the request"}


@dataclass(frozen=True)
class LightningWish:
    """What is asked for, and how it is shown."""

    target: str
    text: str
    kind: int
    max_sat: int
    params: dict[str, list[str]]
    refund_to: str
    qr: bool | None
    as_json: bool


async def ask_by_lightning(wish: LightningWish, settings: Settings, key: Key) -> None:
    """Take the order, show what to pay, wait for the end. Survives being killed: `tradepost settle` goes on with it."""
    async with AsyncExitStack() as stack:
        signer = await stack.enter_async_context(open_signer(settings, key))
        post = await stack.enter_async_context(open_post(settings))
        if unreachable := await reach(post.pool):
            raise TradepostError(f"{unreachable}; nothing was asked. Name others in TRADEPOST_RELAYS")
        await _check_agent(post, wish)
        customer = await stack.enter_async_context(open_customer(settings, post, signer))
        orders = await stack.enter_async_context(open_lightning_orders(settings, post, customer))
        gateway = None
        if settings.gateway_url:
            limits = await stack.enter_async_context(open_limits(settings, post.db, post.clock))
            gateway = await stack.enter_async_context(open_gateway(settings, post, orders, limits))
        row = await orders.create(
            wish.target, wish.text, kind=wish.kind, max_sat=wish.max_sat, params=wish.params,
            refund_to=wish.refund_to, keep_rest=gateway is None and not wish.refund_to,
        )  # fmt: skip
        _show_invoice(row, gateway, custody(row, orders.cap_sat), wish)
        row = await _watch(post, row, wish)
        result = await orders.result(row)
        if result is not None:
            _show(wish, "result", message="it is below", content=result)
            if not wish.as_json:
                print_text(result)
        money = await _settle_rest(post, row, gateway, wish)
        if row.state is not Stage.DONE:
            raise TradepostError(f"{row.reason or 'nobody paid the invoice'}; {money}")


async def _check_agent(post: Post, wish: LightningWish) -> None:
    """Raise `TradepostError` for what speaks against an agent that was named: the money would be taken first."""
    if (key := named_key(wish.target)) is None:
        return
    found = await look_up(post.pool, post.clock, key)
    if not found:
        _show(wish, "doubt", message=unannounced(post))
    elif told := doubts(found, wish.kind, wish.max_sat, post.clock.now(), others=False):
        raise TradepostError(
            f"{'; '.join(told)}. Nothing was asked or paid; without --lightning it is asked first"
        )


def _show_invoice(row: LightningOrder, gateway: Gateway | None, warning: str, wish: LightningWish) -> None:
    """The plain invoice first: strict wallets refuse an LNURL whose invoice has no description hash."""
    lnurl = gateway.order_lnurl(row) if gateway else None
    if wish.as_json:
        told = {"step": "pay", "amount_sat": row.amount_sat, "bolt11": row.bolt11, "lnurl": lnurl}
        print_json({**told, "refund_to": row.refund_to, "custodial": warning})
        return
    say(f"[yellow]{quoted(warning)}[/]")
    say(f"Pay {row.amount_sat} sat:")
    print_text(row.bolt11)
    offer_qr(row.bolt11, wish.qr)
    if lnurl:
        say("or by LNURL, which some wallets refuse here (the mint's invoices lack its hash):")
        print_text(lnurl)
        offer_qr(lnurl, wish.qr)


async def _watch(post: Post, row: LightningOrder, wish: LightningWish) -> LightningOrder:
    """Tell each step until the order ends."""
    seen = row.state
    while row.state in OPEN_STAGES:
        try:
            await post.clock.sleep(POLL_SECONDS)
        except asyncio.CancelledError:
            say("interrupted; `tradepost settle` goes on with the order, paid or not")
            raise
        row = await find_order(post, row.id)
        if row.state is not seen:
            seen = row.state
            _show(wish, row.state, message=_STEPS.get(row.state, f"{row.state} {row.reason}".rstrip()))
    return row


async def _settle_rest(post: Post, row: LightningOrder, gateway: Gateway | None, wish: LightningWish) -> str:
    """See what is left on its way; returns where it is, in words."""
    left = await queries_lnurl.withdrawal(post.db, row.k1) if row.k1 else None
    if left is None:
        return (
            "what is left is in this post's wallet" if row.refund_to == KEEP else "nothing is left to pay out"
        )
    wait_seconds = math.inf
    if row.refund_to:
        wait_seconds = REFUND_SECONDS_MAX
        _show(wish, "refund", message=f"{left.pay_sat} sat go to {row.refund_to}")
    elif gateway:
        lnurl = gateway.withdraw_lnurl(left.k1)
        _show(wish, "refund", message=f"withdraw {left.pay_sat} sat by this LNURL:", content=lnurl)
        if not wish.as_json:
            print_text(lnurl)
            offer_qr(lnurl, wish.qr)
    while left and left.state is not Withdrawal.PAID and wait_seconds > 0:
        await post.clock.sleep(POLL_SECONDS)
        wait_seconds -= POLL_SECONDS
        left = await queries_lnurl.withdrawal(post.db, left.k1)
    if left and left.state is Withdrawal.PAID:
        return f"{left.pay_sat} sat were paid out"
    return "what is left is still on its way; `tradepost settle` goes on with it"


def _show(wish: LightningWish, step: str, *, message: str = "", content: str = "") -> None:
    if wish.as_json:
        print_json({"step": step, "message": message, "content": content})
    else:
        say(f"[dim]● {quoted(message or step)}[/]")
