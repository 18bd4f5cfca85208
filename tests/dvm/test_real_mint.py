"""Each way to pay, from the request to the books, and each way back, at a real mint (nutshell). `reveal`: test_reveal.py."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from dvm import Agent, OrderFailed, ProviderLimits
from dvm.orders.order import Order
from tests.dvm.conftest import PRICE, Trade, eventually
from tradepost.testing import Market
from wallet import HttpTransport
from wallet.escrow import Role, Stage
from wallet.invoice import parse_invoice
from wallet.terms import Method

if TYPE_CHECKING:
    from conftest import Stranger

pytestmark = pytest.mark.process

FUNDED = 1000


class RealMint:
    """What a market wants of its mint. FakeWallet pays every invoice by itself."""

    def __init__(self, url: str) -> None:
        self.url = url

    def transport(self, url: str) -> HttpTransport:
        return HttpTransport(url)

    def pay(self, bolt11: str) -> None:
        pass


class RealTrade(Trade):
    async def pass_time(self, seconds: int) -> None:
        """It passes by itself."""


@pytest.fixture
async def market(mint_url: str) -> AsyncIterator[Market]:
    async with Market() as market:
        market.mint = RealMint(mint_url)  # type: ignore[assignment]  # as much of a mint as a market needs
        yield market


@pytest.fixture
async def trade(market: Market, agent: Agent) -> RealTrade:
    arbiter = await market.arbiter()
    provider = await market.open(agent, limits=ProviderLimits(arbiters=(arbiter.public_key,)))
    return RealTrade(market, await market.customer(sat=FUNDED), provider, arbiter)


async def text_of(order: Order) -> str:
    return await asyncio.wait_for(order.result(), 30)


async def check_books(trade: Trade, earned_sat: int) -> None:
    """The books agree with the mint, and say what the agent earned. (Its mint's fee for a refund is its own cost.)"""
    for party in (trade.customer, trade.provider):
        report = await party._post.wallet.audit(ask_mints=True)
        assert report.ok, report.problems
    assert report.accounts[f"agent/{trade.provider.public_key}"] == -950 * earned_sat


async def test_paid_in_advance_and_sent_back(trade: Trade) -> None:
    to, wishes = trade.provider.public_key, {"max_sat": 50, "settle": (Method.PREPAID,)}
    assert await text_of(await trade.customer.ask(to, "hello", kind=5001, **wishes)) == "HELLO"
    order = await trade.customer.ask(to, "hello", kind=5050, **wishes)
    with pytest.raises(OrderFailed, match="came back"):
        await text_of(order)
    await check_books(trade, PRICE)


async def test_escrow_accepted_given_back_and_shared(trade: Trade) -> None:
    """`P + C`, `C + P`, and of a dispute `P + A` and `C + A`, coin by coin."""
    assert await text_of(await trade.ask(review=False)) == "HELLO"
    failing = await trade.ask(kind=5050)
    with pytest.raises(OrderFailed):
        await text_of(failing)
    await trade.reach(Role.CUSTOMER, failing, Stage.REFUNDED)
    disputed = await trade.ask("well")
    await text_of(disputed)
    await trade.reach(Role.ARBITER, disputed, Stage.DELIVERED)
    await trade.customer.dispute(disputed.id, "no")
    await trade.reach(Role.ARBITER, disputed, Stage.DISPUTED)
    await trade.arbiter.rule(disputed.id, 8)
    await trade.reach(Role.PROVIDER, disputed, Stage.PAID)
    await trade.reach(Role.CUSTOMER, disputed, Stage.REFUNDED)

    async def is_all_there() -> bool:
        return await trade.sats() == (PRICE + 8, PRICE + 8)

    await eventually(is_all_there, "the first job to be paid")
    await check_books(trade, PRICE + 8)


async def test_an_invoice_of_the_mint_is_claimed_and_paid_back_as_ecash(
    trade: Trade, stranger: "Stranger"
) -> None:
    wishes: Any = (("p", trade.provider.public_key), ("settle", "invoice"))
    request = stranger.request(*wishes)
    offer = await stranger.answer(request, "payment-required")
    amount = offer.tags_named("amount")[0]
    assert parse_invoice(amount[2]).amount_msat == 1000 * PRICE
    assert (await stranger.answer(request, "result")).content == "SOME TEXT"
    failing = stranger.request(*wishes, kind=5050)
    await stranger.answer(failing, "error")
    await stranger.letter("refund")
    await check_books(trade, PRICE)
