"""Free and paid jobs between our own customer and our own agent, in a market in memory."""

import pytest

from dvm import Agent, Job, JobFailed, OrderFailed, OrderState
from tradepost.testing import Market

PRICE_SAT = 21


def make_agent(price_sat: int = PRICE_SAT) -> Agent:
    agent = Agent("Upper", about="Says it louder")

    @agent.serves(kind=5001, price_sat=price_sat)
    async def work(job: Job) -> str:
        await job.progress("reading")
        await job.partial(job.text[:1].upper())
        return job.text.upper()

    @agent.serves(kind=5050, price_sat=price_sat)
    async def fail(job: Job) -> str:
        raise JobFailed(f"cannot do {job.text}")

    return agent


async def test_a_free_job_is_done(market: Market) -> None:
    provider = await market.open(make_agent(price_sat=0))
    customer = await market.customer()
    order = await customer.ask(provider.public_key, "hello", kind=5001)
    steps = [update.step async for update in order]
    assert await order.result() == "HELLO"
    assert steps[-1] == "result"
    assert {"working", "partial"} <= set(steps)
    assert order.state is OrderState.DONE


async def test_a_paid_job_is_done_and_every_sat_is_accounted_for(market: Market) -> None:
    provider = await market.open(make_agent())
    customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=50)
    steps = [update.step async for update in order]
    assert await order.result() == "HELLO"
    assert steps[:2] == ["offer", "paid"]
    post_c, post_p = customer._post, provider._post
    bought = sum((await post_c.wallet.balance()).values())
    sold = sum((await post_p.wallet.balance()).values())
    assert sold == PRICE_SAT
    assert bought + sold + market.mint.fees_sat == 100
    assert (await post_c.wallet.audit(ask_mints=True)).ok
    assert (await post_p.wallet.audit(ask_mints=True)).ok


async def test_work_that_fails_is_refunded(market: Market) -> None:
    provider = await market.open(make_agent())
    customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "magic", kind=5050, max_sat=50)
    with pytest.raises(OrderFailed, match=r"cannot do magic.*came back"):
        await order.result()
    assert order.state is OrderState.REFUNDED
    bought = sum((await customer._post.wallet.balance()).values())
    sold = sum((await provider._post.wallet.balance()).values())
    assert bought + sold + market.mint.fees_sat == 100
    assert bought >= 100 - market.mint.fees_sat - 1
