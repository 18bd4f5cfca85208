"""A customer that hires dies at any point; it is opened again, and has its result, once paid, within its budget.

The first agent is dead, the second fails and gives the money back, the third does the work; the budget is not enough
for two. All lives share one market, so each point costs one customer.
"""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from dvm import Agent, Job, JobFailed, NoAgentFound, OrderState, Provider
from dvm.discovery.announce import heartbeat
from dvm.queries import recent_orders
from identity import SecretKey, make_template, sign_event
from tests.dvm.deaths import FUNDED_SAT, SECONDS_MAX, Dead, Fate, all_ended, fund, life, quiet, sats
from tradepost.api import open_customer
from tradepost.testing import Market

pytestmark = pytest.mark.no_cover  # the same lines again and again

PRICE, PRICE_OF_FAILURE, BUDGET = 21, 20, 30
FEES_SAT_MAX = 8


def announce_dead(market: Market) -> None:
    """The cheapest agent of all is announced, and is not there."""
    key, now = SecretKey.generate(), market.clock.now()
    tags = [("d", "dead"), ("k", "5001"), ("price", "5001", "1000")]
    market.relay.insert(sign_event(make_template(31990, content="{}", tags=tags, created_at=now), key))
    market.relay.insert(sign_event(heartbeat(Agent("Dead"), now), key))


async def open_agents(market: Market) -> Provider:
    """All three are announced, and beat; returns the one that does the work."""
    good, bad = Agent("Good"), Agent("Bad")

    @good.serves(kind=5001, price_sat=PRICE)
    async def shout(job: Job) -> str:
        return job.text.upper()

    @bad.serves(kind=5001, price_sat=PRICE_OF_FAILURE)
    async def fail(job: Job) -> str:
        raise JobFailed("out of ideas")

    announce_dead(market)
    await market.open(bad, name="bad", sat=1000)  # so that it can bear the fees of what it gives back
    provider = await market.open(good, name="good")
    async with asyncio.timeout(SECONDS_MAX):
        while len({event.pubkey for event in market.relay.events if event.kind == 11998}) < 3:
            await asyncio.sleep(0.005)
    return provider


async def live(market: Market, name: str, fate: Fate) -> None:
    """Hire, until that is done or `fate` comes."""
    with suppress(Dead):
        async with life(market, name, fate) as post:
            with suppress(Dead, NoAgentFound):  # who dies while it looks finds nobody
                async with open_customer(market.settings(name), post) as customer:
                    guarantee = await customer.hire("5001", "hello", kind=5001, max_sat=BUDGET)
                    ends = [
                        asyncio.ensure_future(guarantee.result()),
                        asyncio.ensure_future(fate.died.wait()),
                    ]
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                    for task in ends:
                        task.cancel()


async def live_again(market: Market, name: str, good: Provider) -> int:
    """Go on with what was left; returns how many results there are, and were paid."""
    async with life(market, name) as post, open_customer(market.settings(name), post):
        async with asyncio.timeout(SECONDS_MAX):
            while await post.db.all("SELECT id FROM guarantees WHERE state = 'open'"):
                await asyncio.sleep(0.005)
        await all_ended(post)
        await quiet(post)
        hired = [row["state"] for row in await post.db.all("SELECT state FROM guarantees")]
        assert hired in ([], ["done"])
        orders = await recent_orders(post.db, 10)
        assert len({order.provider for order in orders}) == len(orders), "somebody was asked twice"
        done = [order for order in orders if order.state is OrderState.DONE]
        assert [order.provider for order in done] == [good.public_key] * len(hired)
        ended = {order.state for order in orders} - {OrderState.DONE}
        assert ended <= {OrderState.REFUNDED, OrderState.CANCELLED}, orders
        assert (await post.wallet.audit(ask_mints=True)).ok
        spent = FUNDED_SAT - await sats(post)
        assert PRICE * len(done) <= spent <= PRICE * len(done) + FEES_SAT_MAX, orders
        return len(done)


async def die(market: Market, good: Provider, at: int | None) -> tuple[Fate, int]:
    name = f"customer-{'never' if at is None else at}"
    fate = Fate(at)
    async with life(market, name) as post:
        await fund(market, post)
    await live(market, name, fate)
    return fate, await live_again(market, name, good)


async def test_death_at_every_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dvm.orders.guarantee_lifecycle.PATIENCE_SECONDS", 1)
    async with Market(folder=tmp_path) as market:
        good = await open_agents(market)
        unharmed, bought = await die(market, good, None)
        count = len(unharmed.points)
        assert count > 30, unharmed.points
        at_a_time = asyncio.Semaphore(8)  # most of a life is waiting
        died: list[int] = []
        results = [bought]

        async def die_at(at: int) -> None:
            async with at_a_time:
                try:
                    fate, bought = await die(market, good, at)
                except BaseException as error:
                    raise AssertionError(
                        f"dying at point {at} of {count} ({unharmed.points[at]}) is not survived"
                    ) from error
            results.append(bought)
            if fate.died.is_set():
                died.append(at)

        await asyncio.gather(*map(die_at, range(count)))
        assert len(died) > count * 0.9  # the order of points varies a little, so the last ones may not come
        assert sum(results) > count * 0.7  # the first few deaths are before anything was hired for
        assert await sats(good._post) == PRICE * sum(results)
