"""Agents that buy: within their allowance, once for each job, and with what came back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dvm import Agent, Allowance, AllowanceExceeded, Job, JobFailed, NoAgentFound, OrderFailed, Provider
from dvm.orders.allowances import DAY_SECONDS, Purse, Standing, standing
from dvm.orders.customer import Customer
from dvm.orders.guarantee_lifecycle import GuaranteeState
from dvm.orders.lifecycle import OrderState
from dvm.queries_guarantees import spent_for_job, spent_since
from identity import LocalSigner
from tradepost.api import open_customer
from tradepost.post import own_key
from tradepost.testing import ManualClock, Market

PRICE = 21
COST = PRICE + 2  # a sat for the agent's redeeming, and one for changing our coins into such a lock
FEES = 4  # of coins that were sent, and came back


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    async with Market(clock=ManualClock()) as market:
        yield market


async def open_shop(market: Market) -> Provider:
    """Shouts for 21 sat (5001), fails for 21 (5050), whispers for nothing (5002), never ends for 21 (5300)."""
    agent = Agent("Upper")

    @agent.serves(kind=5001, price_sat=PRICE)
    async def shout(job: Job) -> str:
        return job.text.upper()

    @agent.serves(kind=5050, price_sat=PRICE)
    async def fail(job: Job) -> str:
        raise JobFailed("out of ideas")

    @agent.serves(kind=5002)
    async def whisper(job: Job) -> str:
        return job.text.lower()

    @agent.serves(kind=5300, price_sat=PRICE)
    async def think(job: Job) -> str:
        await asyncio.Event().wait()
        return "never"

    provider = await market.open(agent, name="shop")
    await provider._post.outbox.flush(5)
    return provider


async def purse_for(market: Market, job_sat: int, day_sat: int, *, sat: int = 500) -> Purse:
    customer = await market.customer(sat=sat)
    return Purse(
        customer, Allowance(job_sat, day_sat), name="writer", public_key="ab" * 32, clock=market.clock
    )


async def buy(
    purse: Purse, job: str, shop: Provider, *, max_sat: int = PRICE, kind: int = 5001, **more: Any
) -> str:
    wish = {"params": {}, "private": False, "others": False, "seconds_max": 60} | more
    text = wish.pop("text", "hello")
    buying = purse.for_job(job).buy(shop.public_key, text, kind=kind, max_sat=max_sat, **wish)
    return await asyncio.wait_for(buying, 20)


def db_of(purse: Purse) -> Any:
    return purse.customer._post.db


async def test_a_job_may_cost_so_much_and_no_more(market: Market) -> None:
    shop, purse = await open_shop(market), await purse_for(market, 50, 500)
    assert await buy(purse, "1", shop) == "HELLO"
    with pytest.raises(AllowanceExceeded, match=r"30 sat are more .* 23 of 50 sat") as error:
        await buy(purse, "1", shop, max_sat=30, text="more")
    assert (error.value.left_sat, error.value.renews_at) == (27, None)
    assert await buy(purse, "1", shop, max_sat=27, text="more") == "MORE"
    assert await buy(purse, "2", shop) == "HELLO"
    assert await spent_for_job(db_of(purse), "writer", "1") == 2 * COST


async def test_a_day_may_cost_so_much_and_the_next_begins_anew(market: Market) -> None:
    shop, purse = await open_shop(market), await purse_for(market, 50, 50)
    await buy(purse, "1", shop)
    await buy(purse, "2", shop)
    with pytest.raises(AllowanceExceeded, match=r"today: 46 of 50 sat") as error:
        await buy(purse, "3", shop)
    now = market.clock.now()
    assert error.value.left_sat == 4
    assert error.value.renews_at is not None
    assert 0 < error.value.renews_at - now <= DAY_SECONDS
    assert error.value.renews_at % DAY_SECONDS == 0
    assert error.value.action == "retry_after"
    assert purse.allowance is not None
    assert (await standing(db_of(purse), "writer", purse.allowance, now)).left_sat == 4
    assert isinstance(market.clock, ManualClock)
    await market.clock.advance(error.value.renews_at - now)
    tomorrow = await standing(db_of(purse), "writer", purse.allowance, market.clock.now())
    assert tomorrow == Standing(0, 50, error.value.renews_at + DAY_SECONDS)


async def test_what_comes_back_may_be_spent_again(market: Market) -> None:
    shop, purse = await open_shop(market), await purse_for(market, 25, 30)
    with pytest.raises(OrderFailed, match="out of ideas"):
        await buy(purse, "1", shop, kind=5050)
    assert await spent_since(db_of(purse), "writer", 0) == FEES
    assert await buy(purse, "1", shop) == "HELLO"
    with pytest.raises(AllowanceExceeded):
        await buy(purse, "1", shop, text="more")
    assert await buy(purse, "1", shop, kind=5002, max_sat=0, text="FREE") == "free"


async def test_what_is_under_way_is_reserved_and_locked_coins_are_spent(market: Market) -> None:
    shop, purse = await open_shop(market), await purse_for(market, 60, 60)
    waiting = asyncio.ensure_future(buy(purse, "1", shop, kind=5300, max_sat=50))
    async with asyncio.timeout(10):
        while await spent_since(db_of(purse), "writer", 0) != 50:
            await asyncio.sleep(0.005)
    with pytest.raises(AllowanceExceeded, match="50 of 60 sat"):
        await buy(purse, "1", shop)
    async with asyncio.timeout(10):  # it has the money, and is silent about the work
        while not await db_of(purse).all("SELECT id FROM orders WHERE state = 'paid' AND heard_in = 'paid'"):
            await asyncio.sleep(0.005)
    assert isinstance(market.clock, ManualClock)
    await market.clock.advance(61)
    await market.clock.advance(20)
    with pytest.raises(OrderFailed, match="21 sat are still locked"):
        await waiting
    assert await spent_since(db_of(purse), "writer", 0) == COST


async def test_fees_of_what_came_back_end_at_the_allowance(market: Market) -> None:
    """An agent that fails each time, and returns its price each time, costs us the mint's fees."""
    shop, purse = await open_shop(market), await purse_for(market, 25, 35)
    wallet = purse.customer._post.wallet
    before = sum((await wallet.balance()).values())
    with pytest.raises(AllowanceExceeded, match="today"):
        for number in range(10):
            with pytest.raises(OrderFailed, match="out of ideas"):
                await buy(purse, f"{number}", shop, kind=5050)
    gone = before - sum((await wallet.balance()).values())
    assert gone == await spent_since(db_of(purse), "writer", 0) <= 35


async def test_two_at_the_limit_at_once_are_one_too_many(market: Market) -> None:
    shop, purse = await open_shop(market), await purse_for(market, 100, 2 * PRICE)
    tries = [buy(purse, f"{n}", shop, text=f"n{n}") for n in range(6)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["AllowanceExceeded"] * 4 + ["str"] * 2
    assert (
        await spent_since(db_of(purse), "writer", 0) == 2 * COST
    )  # what two were about to cost, and their fees
    assert (await purse.customer._post.wallet.audit(ask_mints=True)).ok


async def test_a_job_that_is_run_again_buys_nothing_twice(market: Market) -> None:
    shop, purse = await open_shop(market), await purse_for(market, 100, 100)
    first, again = purse.for_job("1"), purse.for_job("1")
    wish: Any = {
        "kind": 5001,
        "max_sat": PRICE,
        "params": {},
        "private": False,
        "others": False,
        "seconds_max": 60,
    }
    bought = [await first.buy(shop.public_key, "la", **wish) for _ in range(2)]  # it wants it twice
    assert bought == [await again.buy(shop.public_key, "la", **wish) for _ in range(2)]
    assert await spent_for_job(db_of(purse), "writer", "1") == 2 * COST


async def test_a_refused_purchase_leaves_nothing(market: Market) -> None:
    shop, purse = await open_shop(market), await purse_for(market, 10, 10)
    with pytest.raises(AllowanceExceeded):
        await buy(purse, "1", shop)
    nothing = Purse(purse.customer, None, name="poor", public_key="ab" * 32, clock=market.clock)
    with pytest.raises(AllowanceExceeded, match=r"allowances: \{poor:"):
        await buy(nothing, "1", shop)
    assert await db_of(purse).all("SELECT id FROM guarantees") == []
    assert await buy(nothing, "1", shop, kind=5002, max_sat=0) == "hello"


async def test_nobody_buys_from_itself(market: Market) -> None:
    shop = await open_shop(market)
    purse = await purse_for(market, 50, 50)
    own = Purse(purse.customer, purse.allowance, name="upper", public_key=shop.public_key, clock=market.clock)
    with pytest.raises(NoAgentFound):
        await buy(own, "1", shop)


def test_an_allowance_of_nothing_is_no_allowance() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        Allowance(0, 10)


async def test_what_an_order_costs_by_its_state(market: Market) -> None:
    """Every state of an order, under a guarantee that has ended and under one that has not."""
    purse = await purse_for(market, 50, 50)
    nothing = {OrderState.FAILED: 0, OrderState.EXPIRED: 0, OrderState.CANCELLED: 0}
    costs = nothing | {OrderState.REQUESTED: 50, OrderState.PAYING: 21, OrderState.REFUNDED: 23 - 19}
    for state in OrderState:
        paid_sat = 0 if costs.get(state) in (0, 21, 50) else 23
        returned_sat = 19 if state is OrderState.REFUNDED else 0
        for ended, expected in ((GuaranteeState.FAILED, costs.get(state, 23)), (GuaranteeState.OPEN, 50)):
            async with db_of(purse).transaction() as tx:
                await tx.execute("DELETE FROM guarantees")
                await tx.execute("DELETE FROM orders")
                await tx.execute(
                    "INSERT INTO guarantees (id, customer, state, task, private, max_sat, deadline_at, allowance,"
                    " job_id, created_at, updated_at) VALUES ('g', 'c', ?, '', 0, 50, 0, 'writer', 'j', 1, 1)",
                    ended,
                )
                await tx.execute(
                    "INSERT INTO orders (id, customer, provider, kind, state, max_sat, price_sat, lock_nonce, request,"
                    " deadline_at, created_at, updated_at, guarantee_id, paid_sat, returned_sat)"
                    " VALUES ('o', 'c', 'p', 5001, ?, 50, 21, '', '', 0, 0, 0, 'g', ?, ?)",
                    state, paid_sat, returned_sat,
                )  # fmt: skip
            assert await spent_since(db_of(purse), "writer", 0) == expected, (state, ended)
            assert await spent_for_job(db_of(purse), "writer", "j") == expected, (state, ended)


# -- inside of an agent's function


async def test_an_agent_buys_a_part_of_its_job(market: Market) -> None:
    shop = await open_shop(market)
    writer = Agent("Writer")
    refusals: list[AllowanceExceeded] = []

    @writer.serves(kind=5005, price_sat=60)
    async def write(job: Job) -> str:
        loud = await job.ask("upper", job.text, kind=5001, max_sat=PRICE)
        try:
            await job.ask(shop.public_key, "more", kind=5001, max_sat=PRICE)
        except AllowanceExceeded as error:
            refusals.append(error)
        return f"{loud}!"

    provider = await market.open(writer, sat=100, allowance=Allowance(job_sat=30, day_sat=100))
    customer: Customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "hello", kind=5005, max_sat=60)
    assert await asyncio.wait_for(order.result(), 20) == "HELLO!"
    (refusal,) = refusals
    assert refusal.left_sat == 30 - COST
    report = await provider._post.wallet.audit(ask_mints=True)
    assert report.ok
    assert await spent_for_job(provider._post.db, "writer", order.id) == COST


async def test_a_job_that_was_interrupted_goes_on_with_what_it_bought(market: Market) -> None:
    await open_shop(market)
    runs: list[str] = []
    writer = Agent("Writer")

    @writer.serves(kind=5005)
    async def write(job: Job) -> str:
        runs.append(await job.ask("upper", job.text, kind=5001, max_sat=PRICE))
        if len(runs) == 1:
            await asyncio.Event().wait()
        return f"{runs[-1]}!"

    post, settings = await market.post("writer", sat=100), market.settings("writer")
    signer = LocalSigner(own_key(settings, writer.slug))
    buyer = await market.customer()
    order = await buyer.ask(signer.public_key, "hello", kind=5005)
    for _ in range(2):
        async with open_customer(settings, post) as customer:
            purse = Purse(
                customer, Allowance(30, 30), name="writer", public_key=signer.public_key, clock=market.clock
            )
            provider = Provider(writer, signer, post, purse=purse)
            await provider.start()
            async with asyncio.timeout(20):
                while not runs or (len(runs) == 2 and not order.ended):
                    await asyncio.sleep(0.005)
            await provider.stop(0)
            if order.ended:
                break
    assert await asyncio.wait_for(order.result(), 10) == "HELLO!"
    assert runs == ["HELLO", "HELLO"]
    assert await spent_for_job(post.db, "writer", order.id) == COST
    assert len(await post.db.all("SELECT id FROM orders")) == 1


async def test_an_agent_without_a_purse_buys_nothing(market: Market) -> None:
    writer = Agent("Writer")

    @writer.serves(kind=5005)
    async def write(job: Job) -> str:
        with pytest.raises(AllowanceExceeded):
            await job.ask("upper", job.text, kind=5001, max_sat=1)
        return "alone"

    provider = await market.open(writer)
    order = await (await market.customer()).ask(provider.public_key, "hello", kind=5005)
    assert await asyncio.wait_for(order.result(), 10) == "alone"
