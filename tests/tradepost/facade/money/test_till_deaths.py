"""A desk that dies anywhere in a caller's job: it is paid once and charged once, and what came back is theirs again."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from dvm import Agent, Job, JobFailed
from store import Transaction
from tests.dvm.deaths import SECONDS_MAX, Dead, Fate, life, quiet, sats
from tests.tradepost.facade.money.tills import caller
from tradepost.api import open_customer
from tradepost.facade.callers.callers import Callers
from tradepost.facade.money.till import Till
from tradepost.testing import Market
from wallet import encode_token

pytestmark = pytest.mark.no_cover  # the same lines again and again

ANN = caller("ann")
RESERVED = 25


def agent() -> Agent:
    agent = Agent("Upper")

    @agent.serves(kind=5050, price_sat=21)
    async def fail(job: Job) -> str:
        raise JobFailed(f"cannot do {job.text}")

    return agent


@dataclass
class Buyer:
    """As `hiring.py` has it."""

    till: Till
    allowance: str = f"caller:{ANN.id}"
    job_id: str = ANN.key

    async def check(self, tx: Transaction, guarantee_id: str, _sat: int) -> None:
        await self.till.reserve(tx, ANN, guarantee_id, "wish", RESERVED)


async def live(market: Market, name: str, provider: str, token: str, fate: Fate | None = None) -> None:
    """Bring sats and have a job done, in vain; the same name is the same job, in every life."""
    async with life(market, name, fate) as post, open_customer(market.settings(name), post) as customer:
        till = Till(post, market.settings(name), Callers(post.db, post.clock, ()))
        brought = (await till.deposits.bring_token(ANN, token)).credited_sat
        job = await customer.hire(
            provider,
            "magic",
            kind=5050,
            max_sat=21,
            seconds_max=60,
            others=False,
            name="ann",
            buyer=Buyer(till),
        )
        cost_sat = await charged(till, job.id, fate)
        assert 0 < cost_sat <= 4  # the mint's fees
        await quiet(post)
        await till.settle_all()
        balance = await till.balance(ANN.id)
        assert (balance.balance_sat, balance.held_sat) == (brought - cost_sat, 0)
        assert await sats(post) == balance.balance_sat  # the post has nothing of its own
        assert (await post.wallet.audit(ask_mints=True)).ok


async def charged(till: Till, job_id: str, fate: Fate | None) -> int:
    """What the job cost, once that is known."""
    async with asyncio.timeout(SECONDS_MAX):
        while (row := await till.settle(job_id)) is None or row.cost_sat is None:
            if fate:
                fate.check()
            await asyncio.sleep(0.005)
    return row.cost_sat


async def test_death_at_every_third_point(tmp_path: Path) -> None:
    """All desks share one market, so each point costs two lives of one."""
    async with Market(folder=tmp_path) as market:
        provider = (
            await market.open(agent(), sat=1000)
        ).public_key  # so that it can bear the fees of what it gives back
        payer = await market.post("payer", sat=20_000)

        async def die(at: int | None) -> Fate:
            fate = Fate(at)
            async with at_a_time:
                token = encode_token(await payer.wallet.send(market.mint.url, 100))
                try:
                    with suppress(Dead):
                        await live(market, f"desk-{at}", provider, token, fate)
                    if fate.died.is_set():
                        await live(market, f"desk-{at}", provider, token)
                except BaseException as error:
                    raise AssertionError(f"dying at point {at} is not survived") from error
            return fate

        at_a_time = asyncio.Semaphore(8)  # most of a life is waiting
        count = len((await die(None)).points)
        assert count > 20
        points = range(0, count, 3)  # tests/dvm plays each of an order's, and test_till.py each of the till's
        fates = await asyncio.gather(*map(die, points))
        died = sum(fate.died.is_set() for fate in fates)
        assert died > len(points) * 0.8  # the order of points varies a little, so the last ones may not come
