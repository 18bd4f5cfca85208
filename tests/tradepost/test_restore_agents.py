"""An agent whose folder is gone, or is an old copy: every job is answered once, and every payment is taken once."""

import asyncio
import shutil
from pathlib import Path

import pytest

from dvm import Agent, Job, JobFailed, JobState, OrderState
from dvm.queries import recent_jobs
from tests.tradepost.lives import eventually, fund, job_is, life, lose, order_is, restore, sats, serving
from tradepost.api import open_customer
from tradepost.testing import Market


def answers(market: Market, order_id: str) -> int:
    return len({e.id for e in market.relay.published if e.tag("e") == order_id and 6000 <= e.kind < 7000})


def errors(market: Market) -> list[str]:
    return [e.id for e in market.relay.published if e.kind == 7000 and e.tag("status") == "error"]


async def test_an_agent_that_lost_everything_answers_nothing_twice(market: Market, agent: Agent) -> None:
    customer = await market.customer(sat=200)
    async with serving(market, agent) as provider:
        who = provider.public_key
        orders = [await customer.ask(who, "loud", kind=5001, max_sat=50) for _ in range(3)]
        orders.append(await customer.ask(who, "QUIET", kind=5002))
        orders.append(await customer.ask(who, "secret", kind=5001, max_sat=50, private=True))
        for order in orders:
            await order.result()
        earned_sat = await sats(provider._post)
    report = await restore(market, "agent", lose(market, "agent"))
    assert (report.balance_sat, earned_sat) == (84, 84)
    assert report.jobs["upper"].done == 5
    assert {key.name: key.public_key for key in report.keys}["upper"] == who
    async with serving(market, agent) as provider:
        assert provider.public_key == who
        fresh = await customer.ask(who, "again", kind=5001, max_sat=50)
        assert await fresh.result() == "AGAIN"
        assert [answers(market, order.id) for order in [*orders, fresh]] == [1] * 6
        assert errors(market) == []
        assert len(await recent_jobs(provider._post.db, 100)) == 6
        assert (await provider._post.wallet.audit(ask_mints=True)).ok


@pytest.mark.parametrize("is_private", [False, True])
@pytest.mark.parametrize("is_told", ["begun", "offered", "forgotten"])
async def test_a_job_that_was_paid_and_not_answered_is_done(
    market: Market, agent: Agent, gate: asyncio.Event, is_told: str, is_private: bool
) -> None:
    """Redeemed before the loss; the relays hold that it was begun, or the offer alone, or neither of them any more."""
    gate.clear()
    customer = await market.customer(sat=100)
    async with serving(market, agent) as provider:
        order = await customer.ask(provider.public_key, "loud", kind=5001, max_sat=50, private=is_private)
        await job_is(provider, order.id, JobState.RUNNING)
        await provider._post.outbox.flush(5)
        await provider.stop(0)
        await provider._post.outbox.flush(5)
        earned_sat = await sats(provider._post)
    seed = lose(market, "agent")
    for event in market.relay.events:
        status = event.tag("status") if event.kind == 7000 else None
        if (status == "processing" and is_told != "begun") or (
            status == "payment-required" and is_told == "forgotten"
        ):
            del market.relay._stored[next(key for key, one in market.relay._stored.items() if one is event)]
    gate.set()
    report = await restore(market, "agent", seed)
    assert (report.balance_sat, earned_sat) == (21, 21)
    jobs = report.jobs["upper"]
    assert (jobs.under_way, jobs.offered) == {"begun": (1, 0), "offered": (0, 1), "forgotten": (0, 0)}[
        is_told
    ]
    async with serving(market, agent) as provider:
        assert await order.result() == "LOUD"
        await job_is(provider, order.id, JobState.DONE)
        assert (answers(market, order.id), errors(market)) == (1, [])
        assert await sats(provider._post) == 21
        assert (await provider._post.wallet.audit(ask_mints=True)).ok


@pytest.mark.parametrize("is_offer_known", [True, False])
async def test_a_payment_that_nobody_redeemed_is_taken(
    market: Market, agent: Agent, is_offer_known: bool
) -> None:
    customer = await market.customer(sat=100)
    async with serving(market, agent) as provider:
        for _ in range(200):
            market.mint.lose_request("/v1/checkstate")  # it cannot look at the coins
        order = await customer.ask(provider.public_key, "loud", kind=5001, max_sat=50)

        async def is_paid() -> bool:
            return any(e.kind == 1059 and e.tag("p") == provider.public_key for e in market.relay.published)

        await eventually(is_paid)
        await provider._post.outbox.flush(5)
        await provider.stop(0)
    market.mint._next_faults.clear()
    seed = lose(market, "agent")
    if not is_offer_known:
        for key, event in list(market.relay._stored.items()):
            if event.kind == 7000:
                del market.relay._stored[key]
    await restore(market, "agent", seed)
    async with serving(market, agent) as provider:
        assert await order.result() == "LOUD"
        assert (answers(market, order.id), errors(market)) == (1, [])
        assert await sats(provider._post) == 21


async def test_an_old_copy_learns_what_was_answered_since(
    market: Market, agent: Agent, gate: asyncio.Event, tmp_path: Path
) -> None:
    gate.clear()
    customer = await market.customer(sat=100)
    async with serving(market, agent) as provider:
        order = await customer.ask(provider.public_key, "loud", kind=5001, max_sat=50)
        await job_is(provider, order.id, JobState.RUNNING)
    shutil.copytree(market.settings("agent").data, tmp_path / "copy")
    gate.set()
    async with serving(market, agent) as provider:
        assert await order.result() == "LOUD"
        await provider._post.outbox.flush(5)
    shutil.rmtree(market.settings("agent").data)
    shutil.copytree(tmp_path / "copy", market.settings("agent").data)
    report = await restore(market, "agent", None)
    assert (report.jobs["upper"].done, report.balance_sat) == (1, 21)
    async with serving(market, agent) as provider:
        await job_is(provider, order.id, JobState.DONE)
    assert answers(market, order.id) == 1


async def test_a_restore_over_a_whole_database_leaves_owed_what_is_owed(market: Market) -> None:
    agent = Agent("Fails")

    @agent.serves(kind=5001, price_sat=21)
    async def work(job: Job) -> str:
        for _ in range(50):
            market.mint.refuse("/v1/swap")
        raise JobFailed("no")

    async with life(market, "me") as post, open_customer(market.settings("me"), post) as customer:
        await fund(market, post, 100)
        async with serving(market, agent) as provider:
            order = await customer.ask(provider.public_key, "loud", kind=5001, max_sat=50)
            await order_is(post, order.id, OrderState.AWAITING_REFUND)
        market.mint._next_faults.clear()
        await restore(market, "agent", None)
        async with serving(market, agent) as provider:
            await job_is(provider, order.id, JobState.RETURNED)
            await order_is(post, order.id, OrderState.REFUNDED)
