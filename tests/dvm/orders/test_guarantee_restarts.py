"""Work that is hired for by one process, and goes on in the next."""

import asyncio

from dvm import (
    OrderState,
)
from dvm.orders.guarantee_lifecycle import CALLED_OFF, GuaranteeState
from dvm.queries_guarantees import end_guarantee, get_guarantee, orders_of
from tests.dvm.orders.actors import Actor, Scene, open_shop
from tradepost.api import open_customer
from tradepost.testing import ManualClock, Market


async def test_private_work_is_private_on_disk_and_goes_on_after_a_restart() -> None:
    async with Market(clock=ManualClock()) as market:
        dead = Actor(market)
        post = await market.post("customer", sat=100)
        async with open_customer(market.settings("customer"), post) as customer:
            guarantee = await customer.hire(
                "5001", "Xyzzy", kind=5001, max_sat=50, seconds_max=120, private=True
            )
            await dead.request()
        row = await get_guarantee(post.db, guarantee.id)
        assert row is not None
        assert row.state is GuaranteeState.OPEN
        assert "Xyzzy" not in row.task + repr(row)
        await open_shop(market)
        async with open_customer(market.settings("customer"), post) as again:
            (resumed,) = again.open_guarantees()
            assert await Scene(market, again).result(resumed) == "XYZZY"
            assert len(await orders_of(post.db, guarantee.id)) == 2


async def test_what_is_not_needed_any_more_is_taken_back_after_a_restart_too() -> None:
    async with Market(clock=ManualClock()) as market:
        slow = Actor(market)
        post = await market.post("customer", sat=100)
        async with open_customer(market.settings("customer"), post) as customer:
            guarantee = await customer.hire("5001", "x", kind=5001, max_sat=50, seconds_max=120)
            order_id = (await slow.request()).id
        async with post.db.transaction() as tx:  # as if another had delivered in the moment of the crash
            assert await end_guarantee(tx, guarantee.id, GuaranteeState.DONE, now=0, order_id=order_id)
        async with open_customer(market.settings("customer"), post):
            async with asyncio.timeout(10):
                while (await orders_of(post.db, guarantee.id))[0].state is not OrderState.CANCELLED:
                    await asyncio.sleep(0.005)


async def test_what_was_called_off_is_taken_back_after_a_restart_too() -> None:
    async with Market(clock=ManualClock()) as market:
        slow = Actor(market)
        post = await market.post("customer", sat=100)
        async with open_customer(market.settings("customer"), post) as customer:
            guarantee = await customer.hire("5001", "x", kind=5001, max_sat=50, seconds_max=120)
            await slow.request()
        failed = GuaranteeState.FAILED
        async with post.db.transaction() as tx:  # and then it was killed
            assert await end_guarantee(tx, guarantee.id, failed, now=0, reason=CALLED_OFF)
        async with open_customer(market.settings("customer"), post):
            async with asyncio.timeout(10):
                while (await orders_of(post.db, guarantee.id))[0].state is not OrderState.CANCELLED:
                    await asyncio.sleep(0.005)


async def test_a_restart_after_the_deadline_asks_nobody() -> None:
    async with Market(clock=ManualClock()) as market:
        dead = Actor(market)
        post = await market.post("customer", sat=100)
        async with open_customer(market.settings("customer"), post) as customer:
            guarantee = await customer.hire("5001", "x", kind=5001, max_sat=50, seconds_max=120)
            await dead.request()
        await market.clock.advance(1000)  # type: ignore[attr-defined]
        await open_shop(market)
        async with open_customer(market.settings("customer"), post) as again:
            async with asyncio.timeout(10):
                while again.open_guarantees():
                    await asyncio.sleep(0.005)
            row = await get_guarantee(post.db, guarantee.id)
            assert row is not None
            assert row.state is GuaranteeState.FAILED
            assert len(await orders_of(post.db, guarantee.id)) == 1


async def test_what_came_in_time_while_we_were_away_is_the_result() -> None:
    async with Market(clock=ManualClock()) as market:
        actor = Actor(market)
        post = await market.post("customer", sat=100)
        async with open_customer(market.settings("customer"), post) as customer:
            guarantee = await customer.hire(
                "5001", "x", kind=5001, max_sat=50, seconds_max=120, name="chapter"
            )
            await actor.offer()
            await actor.token()
            assert not guarantee.ended
        await actor.deliver("the work")
        await market.clock.advance(200)
        async with open_customer(market.settings("customer"), post) as again, asyncio.timeout(10):
            same = await again.hire("5001", "x", kind=5001, max_sat=50, seconds_max=120, name="chapter")
            assert await same.result() == "the work"
