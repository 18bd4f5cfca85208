"""A sealed result is sold, and either party dies at any point: the key is sold once, for all of its price, or not at all.

As in test_crash.py: a first run counts the points, then one run ends at each of them and a new process goes on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from dvm import Agent, Customer, JobState, OrderState, Post, Provider, ProviderLimits
from dvm.queries import get_job, get_order, recent_orders
from identity import LocalSigner
from tests.dvm.test_crash import (
    SECONDS_MAX,
    Dead,
    Fate,
    all_ended,
    check_books,
    fund,
    life,
)
from tradepost.api import open_customer
from tradepost.post import own_key
from tradepost.testing import Market
from wallet.escrow import Role, Stage
from wallet.escrows import Escrows
from wallet.terms import Method

LIMITS = ProviderLimits(reveal_msat_max=100_000)
PRICE = 21


async def start(market: Market, agent: Agent, post: Post) -> Provider:
    provider = Provider(agent, LocalSigner(own_key(market.settings("agent"), agent.slug)), post, LIMITS)
    await provider.start()
    return provider


async def pay_first(market: Market, agent: Agent, customer: Customer) -> str:
    """A job paid beforehand: what was paid for it is the credit for the next. Returns the agent's key."""
    async with life(market, "agent") as post:
        provider = await start(market, agent, post)
        await (await customer.ask(provider.public_key, "hi", kind=5001, max_sat=50)).result()
        await provider.stop(0)
        return provider.public_key


async def stage_of(post: Post, role: Role, party: str, order_id: str, stage: Stage) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            row = await Escrows(post.db, post.wallet, post.clock).get(role, party, order_id)
            if row is not None and row.stage is stage:
                return
            await asyncio.sleep(0.005)


async def until(fate: Fate, done: Awaitable[None]) -> None:
    """Wait for the end of it, or of the process."""
    waiting = {asyncio.ensure_future(done), asyncio.ensure_future(fate.died.wait())}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


async def check_sale(market: Market, order_id: str, customer: Post, agent: Post, provider: Provider) -> None:
    """It was done, sold and opened, once."""
    me = own_key(market.settings("customer"), "customer").public_key
    await stage_of(customer, Role.CUSTOMER, me, order_id, Stage.RELEASED)
    await stage_of(agent, Role.PROVIDER, provider.public_key, order_id, Stage.PAID)
    order = await get_order(customer.db, order_id)
    job = await get_job(agent.db, provider.public_key, order_id)
    assert order is not None
    assert job is not None
    assert (order.state, job.state) == (OrderState.DONE, JobState.DONE)
    await check_books(market, customer, agent)
    assert sum((await agent.wallet.balance()).values()) == 2 * PRICE
    offers = {e.id for e in market.relay.published if e.tag("e") == order_id and e.has_tag("sealed")}
    assert len(offers) == 1  # a second one, under the same key, could give the result away


async def provider_dies(agent: Agent, folder: Path, at: int | None) -> Fate:
    fate = Fate(at)
    async with AsyncExitStack() as stack:
        market = await stack.enter_async_context(Market(folder=folder))
        post = await stack.enter_async_context(life(market, "customer"))
        await fund(market, post)
        customer = await stack.enter_async_context(open_customer(market.settings("customer"), post))
        key = await pay_first(market, agent, customer)
        order = await customer.ask(key, "hello", kind=5001, max_sat=50, settle=(Method.REVEAL,), private=True)
        with suppress(Dead):
            async with life(market, "agent", fate) as victim:
                provider = await start(market, agent, victim)
                await until(fate, all_ended(post))
                with suppress(Dead):
                    await provider.stop(0)
        async with life(market, "agent") as again:
            provider = await start(market, agent, again)
            assert await asyncio.wait_for(order.result(), SECONDS_MAX) == "HELLO"
            await check_sale(market, order.id, post, again, provider)
            await provider.stop(0)
    return fate


async def customer_dies(agent: Agent, folder: Path, at: int | None) -> Fate:
    fate = Fate(at)
    async with Market(folder=folder) as market:
        async with (
            life(market, "customer") as post,
            open_customer(market.settings("customer"), post) as customer,
        ):
            await fund(market, post)
            key = await pay_first(market, agent, customer)
        async with life(market, "agent") as seller:
            provider = await start(market, agent, seller)
            with suppress(Dead):
                async with life(market, "customer", fate) as victim:
                    with suppress(Dead):
                        async with open_customer(market.settings("customer"), victim) as customer:
                            await customer.ask(key, "hello", kind=5001, max_sat=50, settle=(Method.REVEAL,))
                            await until(fate, all_ended(victim))
            async with life(market, "customer") as again, open_customer(market.settings("customer"), again):
                await all_ended(again)
                for row in await recent_orders(again.db, 10):  # none, if it died before anything was asked
                    if row.request.tag("settle") == Method.REVEAL:
                        await check_sale(market, row.id, again, seller, provider)
            await provider.stop(0)
    return fate


@pytest.mark.parametrize("scenario", [provider_dies, customer_dies])
async def test_death_at_every_point_of_a_sale(
    agent: Agent, tmp_path: Path, scenario: Callable[[Agent, Path, int | None], Awaitable[Fate]]
) -> None:
    unharmed = await scenario(agent, tmp_path / "unharmed", None)
    count = len(unharmed.points)
    assert count > 10, unharmed.points
    at_a_time = asyncio.Semaphore(8)  # most of a run is waiting for retries
    died: list[int] = []

    async def die(at: int) -> None:
        async with at_a_time:
            try:
                fate = await scenario(agent, tmp_path / str(at), at)
            except BaseException as error:
                raise AssertionError(
                    f"dying at point {at} of {count} ({unharmed.points[at]}) is not survived"
                ) from error
            if fate.died.is_set():
                died.append(at)

    await asyncio.gather(*map(die, range(count)))
    assert len(died) > count * 0.8  # the order of points varies a little, so the last ones may not come
