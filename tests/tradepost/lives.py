"""What the tests of restoring share: a post that is opened, lost and restored, and an agent that serves."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from dvm import Agent, JobState, OrderState, Post, Provider, ProviderLimits
from dvm.queries import get_job, get_order
from identity import LocalSigner
from tradepost.post import open_post, own_key, read_seed
from tradepost.restore import Report, keep_record, restore_post
from tradepost.testing import Market
from wallet import Seed

SECONDS_MAX = 60.0  # this only catches what hangs


async def eventually(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while not await is_so():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def life(market: Market, name: str) -> AsyncIterator[Post]:
    """One process of a post."""
    parts = {"connect": market.relay.connect, "transport": market.mint.transport}
    async with open_post(market.settings(name), clock=market.clock, **parts) as post:
        yield post


async def fund(market: Market, post: Post, sat: int) -> None:
    quote = await post.wallet.mint_quote(market.mint.url, sat)
    market.mint.pay(quote.bolt11)
    assert await post.wallet.claim(quote.id)


def lose(market: Market, name: str) -> Seed:
    """Delete everything of a post; what is left are its words, on paper."""
    seed = read_seed(market.settings(name))
    shutil.rmtree(market.settings(name).data)
    return seed


async def restore(market: Market, name: str, seed: Seed | None, **options: Any) -> Report:
    settings = options.pop("settings", market.settings(name))
    return await restore_post(
        settings,
        seed,
        clock=market.clock,
        connect=market.relay.connect,
        transport=market.mint.transport,
        **options,
    )


async def sats(post: Post) -> int:
    return sum((await post.wallet.balance()).values())


async def order_is(post: Post, order_id: str, state: OrderState) -> None:
    async def is_so() -> bool:
        row = await get_order(post.db, order_id)
        return row is not None and row.state is state

    await eventually(is_so)


@asynccontextmanager
async def serving(
    market: Market, agent: Agent, limits: ProviderLimits | None = None
) -> AsyncIterator[Provider]:
    async with life(market, "agent") as post:
        provider = Provider(agent, LocalSigner(own_key(market.settings("agent"), agent.slug)), post, limits)
        await provider.start()
        await keep_record(market.settings("agent"), post)
        yield provider
        await provider.stop(0)


async def job_is(provider: Provider, job_id: str, state: JobState) -> None:
    async def is_so() -> bool:
        row = await get_job(provider._post.db, provider.public_key, job_id)
        return row is not None and row.state is state

    await eventually(is_so)
