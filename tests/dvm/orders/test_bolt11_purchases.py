"""A customer of ours that pays invoices: what it checks, that it pays once, and what it tells of the risk."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dvm import Agent, OrderFailed, OrderState, Post, ProviderLimits, queries
from dvm.nip90 import Offer
from dvm.orders.bolt11_purchases import WARNING, Bolt11Purchases, obstacle
from tradepost.testing import ManualClock, Market
from tradepost.testing.lightning import MemoryLightning
from wallet import queries_rails
from wallet.rails import Lightning, Wish
from wallet.terms import Method

if TYPE_CHECKING:
    from conftest import Stranger

SECONDS_MAX = 15


def test_an_invoice_is_paid_only_if_it_is_over_the_price_exactly() -> None:
    network = MemoryLightning()
    bolt11 = network.bill(network.rail(), Wish(21_000, expiry_seconds=60), 21_000).bolt11
    now = network.clock.now()
    assert obstacle(Offer(21_000, bolt11=bolt11), now) == ""
    for price_msat in (20_999, 21_001, 42_000):
        assert "its price is" in obstacle(Offer(price_msat, bolt11=bolt11), now)
    assert "expired" in obstacle(Offer(21_000, bolt11=bolt11), now + 61)
    assert "cannot be paid" in obstacle(Offer(21_000, bolt11="lnbc1nonsense"), now)


async def test_an_order_is_paid_by_its_invoice(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=30, settle=(Method.INVOICE,))
    async with asyncio.timeout(SECONDS_MAX):
        assert await order.result() == "HELLO"
    assert WARNING in [update.message async for update in order if update.step == "paid"]
    row = await queries.get_order(customer._post.db, order.id)
    assert row is not None
    assert (row.state, row.price_sat, row.mint) == (OrderState.DONE, 21, None)
    payment = await customer._post.lightning.settle(f"order:{order.id}")
    assert (payment.state, payment.amount_msat) == ("paid", 21_000)
    for post in (customer._post, provider._post):
        report = await post.wallet.audit(ask_mints=True)
        assert report.ok, report.problems
    assert sum((await provider._post.wallet.balance()).values()) == 21


async def test_ecash_comes_first_where_the_agent_takes_ours(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer(sat=100)
    both = (Method.PREPAID, Method.INVOICE)
    order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=30, settle=both)
    async with asyncio.timeout(SECONDS_MAX):
        assert await order.result() == "HELLO"
    row = await queries.get_order(customer._post.db, order.id)
    assert row is not None
    assert row.mint == market.mint.url


async def test_work_that_fails_is_returned_as_ecash(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "magic", kind=5050, max_sat=30, settle=(Method.INVOICE,))
    async with asyncio.timeout(SECONDS_MAX):
        with pytest.raises(OrderFailed, match="came back"):
            await order.result()
    row = await queries.get_order(customer._post.db, order.id)
    assert row is not None
    assert row.state is OrderState.REFUNDED


async def test_what_no_rail_can_pay_costs_nothing(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer(sat=5)
    for private in (False, True):
        order = await customer.ask(
            provider.public_key, "hello", kind=5001, max_sat=30, settle=(Method.INVOICE,), private=private
        )
        async with asyncio.timeout(SECONDS_MAX):
            with pytest.raises(OrderFailed, match="nothing was paid"):
                await order.result()


async def test_work_done_on_credit_is_paid_when_it_comes(
    market: Market, agent: Agent, stranger: "Stranger"
) -> None:
    provider = await market.open(agent, limits=ProviderLimits(credit_msat_max=50_000))
    customer = await market.customer(sat=100)
    async with asyncio.timeout(SECONDS_MAX):
        for text in ("first", "second"):
            order = await customer.ask(
                provider.public_key, text, kind=5001, max_sat=30, settle=(Method.INVOICE,)
            )
            assert await order.result() == text.upper()
    steps = [update.step async for update in order]
    assert "offer" not in steps
    await stranger.eventually(lambda: is_paid(customer._post, f"debt:{order.id}"))


async def is_paid(post: Post, name: str) -> bool:
    return str((await post.lightning.settle(name)).state) == "paid"


@pytest.mark.parametrize("paid_by", ["us", "somebody else", "nobody"])
async def test_a_debt_that_could_not_be_paid_is_tried_again_until_it_is_paid_or_expires(
    paid_by: str, tmp_path: Path
) -> None:
    clock = ManualClock()
    network = MemoryLightning(clock=clock)
    wallet = network.rail(sat=100)
    wallet.refuses = True
    async with Market(clock=clock, folder=tmp_path) as market:
        post = await market.post("debtor")
        post = replace(post, lightning=Lightning(post.db, clock, [wallet]))
        purchases = Bolt11Purchases(post)
        bolt11 = network.bill(network.rail(), Wish(21_000, expiry_seconds=600), 21_000).bolt11
        debt = await post.lightning.plan_payment("debt:job", bolt11, job_id="job")
        async with post.db.transaction() as tx:
            await purchases.record(tx, debt)
        paying = asyncio.create_task(purchases.settle_debt(debt))
        await settled(post, "debt:job", "failed")
        if paid_by == "us":
            wallet.refuses = False
        elif paid_by == "somebody else":
            wallet.refuses = False
            await post.lightning.pay("by hand", bolt11)
        async with asyncio.timeout(SECONDS_MAX):
            while not paying.done():
                await clock.advance(1)
                await asyncio.sleep(0.001)
        await paying
        assert sum(wallet.paid.values()) == (paid_by != "nobody")
        assert wallet.asked["pay"] == {"us": 2, "somebody else": 2, "nobody": 5}[paid_by]
        if paid_by == "us":
            assert await is_paid(post, "debt:job:1")


async def settled(post: Post, name: str, state: str) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while (found := await queries_rails.payment(post.db, name)) is None or found.state != state:
            await asyncio.sleep(0.001)
