"""Our customer, with agents that are not ours: plain and private, free and paid by an invoice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from dvm import OrderFailed, Post
from tests.interop.providers import ForeignAgent, Invoice
from tests.interop.test_lnurl_clients import foreign_invoice
from tradepost.api import Customer, open_customer
from tradepost.post import open_post
from tradepost.settings import Settings
from wallet import Wallet
from wallet.rails import SendState
from wallet.terms import Method

pytestmark = pytest.mark.interop

PRICE_SAT = 21
BOTH = pytest.mark.parametrize("is_deployed", [False, True], ids=["by the letter", "as deployed"])
PRIVATE = pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])


@pytest.fixture
async def customer(relay_url: str, tmp_path: Path) -> AsyncIterator[Customer]:
    """One without money."""
    settings = Settings(relays=(relay_url,), data=tmp_path / "me")
    async with open_post(settings) as post, open_customer(settings, post) as one:
        yield one


@pytest.fixture
async def rich(relay_url: str, mint_url: str, tmp_path: Path) -> AsyncIterator[Customer]:
    """One with 100 sat at a real mint."""
    settings = Settings(relays=(relay_url,), mints=(mint_url,), data=tmp_path / "rich")
    async with open_post(settings) as post, open_customer(settings, post) as one:
        await fund(post.wallet, mint_url, 100)
        yield one


async def fund(wallet: Wallet, mint_url: str, sats: int) -> None:
    quote = await wallet.mint_quote(mint_url, sats)
    async with asyncio.timeout(20):
        while not await wallet.claim(quote.id):
            await asyncio.sleep(0.1)


def till(payer: Post) -> Callable[[int], Awaitable[Invoice]]:
    """What an LNbits is to deployed agents. The network between is the play mint, which pays whatever it is asked to:
    that it did is read in the payer's books.
    """

    async def invoice(sats: int) -> Invoice:
        bolt11 = foreign_invoice(sats)

        async def is_paid() -> bool:
            row = await payer.db.one("SELECT state FROM lightning_payments WHERE bolt11 = ?", bolt11)
            return row is not None and row["state"] == SendState.PAID

        return bolt11, is_paid

    return invoice


@BOTH
@PRIVATE
async def test_free_work(customer: Customer, relay_url: str, is_deployed: bool, private: bool) -> None:
    async with ForeignAgent(relay_url, is_deployed).serving() as agent:
        order = await customer.ask(agent.key, "grüße", kind=5001, private=private, seconds_max=30)
        assert await order.result() == "GRÜSSE"
    [request] = agent.requests
    assert ("grüße" in str(request)) is not private


@BOTH
@PRIVATE
async def test_work_for_an_invoice(rich: Customer, relay_url: str, is_deployed: bool, private: bool) -> None:
    agent = ForeignAgent(relay_url, is_deployed, PRICE_SAT, till(rich._post))
    async with agent.serving():
        order = await rich.ask(
            agent.key,
            "hello",
            kind=5001,
            max_sat=30,
            private=private,
            settle=(Method.INVOICE,),
            seconds_max=60,
        )
        assert await order.result() == "HELLO"
    wallet = rich._post.wallet
    left_sat = sum((await wallet.balance()).values())
    assert 100 - PRICE_SAT - 3 <= left_sat <= 100 - PRICE_SAT
    assert (await wallet.audit(ask_mints=True)).ok


@BOTH
async def test_more_than_we_would_pay_is_not_paid(rich: Customer, relay_url: str, is_deployed: bool) -> None:
    """By the letter an agent says its price; a deployed one says nothing, and the order ends by its deadline."""
    agent = ForeignAgent(relay_url, is_deployed, PRICE_SAT, till(rich._post))
    async with agent.serving():
        order = await rich.ask(
            agent.key, "hello", kind=5001, max_sat=PRICE_SAT - 1, settle=(Method.INVOICE,), seconds_max=3
        )
        with pytest.raises(OrderFailed, match="no answer|deadline|time" if is_deployed else "21 sat"):
            await order.result()
    assert sum((await rich._post.wallet.balance()).values()) == 100
