"""Jobs in escrow, with all three parties at work: who gets the coins when each does its part, or does not."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from dvm import OrderFailed
from dvm.escrow.messages import Wishes
from wallet.escrow import Role, Stage
from wallet.terms import Method

if TYPE_CHECKING:
    from conftest import Trade

PRICE = 21


async def test_what_is_delivered_and_accepted_is_paid(trade: "Trade") -> None:
    order = await trade.ask(review=False)
    assert await order.result() == "HELLO"
    await trade.reach(Role.CUSTOMER, order, Stage.RELEASED)
    paid = await trade.reach(Role.PROVIDER, order, Stage.PAID)
    assert paid.amount_sat == PRICE
    assert await trade.sats() == (PRICE, PRICE)
    books = await trade.provider._post.wallet.audit(ask_mints=True)
    assert books.ok, books
    assert books.accounts[f"agent/{trade.provider.public_key}"] == -19_950  # the post keeps 5 %
    assert books.accounts["fees/post"] == -1_050
    assert (await trade.customer._post.wallet.audit(ask_mints=True)).ok


async def test_a_customer_that_says_nothing_pays_when_its_time_is_over(trade: "Trade") -> None:
    order = await trade.ask()
    await order.result()
    delivered = await trade.reach(Role.CUSTOMER, order, Stage.DELIVERED)
    await trade.reach(Role.PROVIDER, order, Stage.PAID, every=20)
    assert trade.market.clock.now() >= delivered.created_at + 600


async def test_the_arbiter_signs_for_a_customer_that_has_gone(trade: "Trade") -> None:
    order = await trade.ask()
    await order.result()
    await trade.reach(Role.ARBITER, order, Stage.DELIVERED)
    await trade.customer.stop()
    await trade.reach(Role.ARBITER, order, Stage.RULED, every=30)
    await trade.reach(Role.PROVIDER, order, Stage.PAID)
    assert (await trade.sats())[1] == PRICE


async def test_work_that_fails_is_refunded_at_once(trade: "Trade") -> None:
    order = await trade.ask(kind=5050)
    with pytest.raises(OrderFailed, match="cannot do hello"):
        await order.result()
    await trade.reach(Role.PROVIDER, order, Stage.YIELDED)
    await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED)
    assert await trade.sats() == (0, 0)


async def test_coins_that_both_give_away_are_taken_by_the_provider(trade: "Trade") -> None:
    order = await trade.ask()
    await order.result()
    await trade.reach(Role.CUSTOMER, order, Stage.DELIVERED)
    await trade.customer.stop()  # it will not hear that the money is given back before it accepts
    await trade.provider._desk.wish(order.id, Wishes("give_back"))
    await trade.customer.desk.wish(order.id, Wishes("accept"))
    await trade.reach(Role.PROVIDER, order, Stage.PAID)
    await trade.reach(Role.CUSTOMER, order, Stage.RELEASED)
    assert await trade.sats() == (PRICE, PRICE)
    for party in (trade.provider, trade.customer):
        assert (await party._post.wallet.audit(ask_mints=True)).ok
    [payment] = await trade.provider._post.db.all("SELECT state, amount_sat FROM payments")
    assert (payment["state"], payment["amount_sat"]) == ("redeemed", PRICE)


async def test_the_arbiter_gives_back_what_was_paid_for_nothing(trade: "Trade") -> None:
    order = await trade.ask(kind=5300)
    await trade.reach(Role.PROVIDER, order, Stage.HELD)
    await trade.provider.stop(0)
    await trade.reach(Role.ARBITER, order, Stage.RULED, every=30)
    await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED)
    assert await trade.sats() == (0, 0)
    with pytest.raises(OrderFailed, match="came back"):
        await order.result()


@pytest.mark.parametrize("provider_sat", [0, 21, 8])
async def test_a_dispute_ends_as_the_arbiter_rules(trade: "Trade", provider_sat: int) -> None:
    order = await trade.ask()
    await order.result()
    await trade.reach(Role.ARBITER, order, Stage.DELIVERED)
    await trade.customer.dispute(order.id, "that is not what I asked for")
    await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    async with asyncio.timeout(10):
        while len((await trade.reach(Role.ARBITER, order, Stage.DISPUTED)).statements) < 2:
            await asyncio.sleep(0.005)
    case = await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    said = {one["by"]: one["text"] for one in case.statements}
    assert said["customer"] == "that is not what I asked for"
    assert "I delivered" in said["provider"]
    await trade.arbiter.rule(order.id, provider_sat)
    if provider_sat:
        await trade.reach(Role.PROVIDER, order, Stage.PAID)
    else:
        await trade.reach(Role.PROVIDER, order, Stage.LOST, every=1)
    if provider_sat < PRICE:
        await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED)
    else:
        await trade.reach(Role.CUSTOMER, order, Stage.RELEASED, every=1)
    assert await trade.sats() == (provider_sat, provider_sat)
    rulings = [event for event in trade.market.relay.events if event.kind == 3956]
    assert len(rulings) == 1
    assert rulings[0].tags_named("award") == [
        ("award", "provider", str(provider_sat)),
        ("award", "customer", str(PRICE - provider_sat)),
    ]
    assert "not what I asked" not in rulings[0].to_json().decode()


async def test_after_the_locktime_the_customer_needs_nobody(trade: "Trade") -> None:
    order = await trade.ask()
    await order.result()
    await trade.reach(Role.ARBITER, order, Stage.DELIVERED)
    await trade.customer.dispute(order.id, "no")
    row = await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    await trade.arbiter.stop()
    await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED, every=600)
    assert trade.market.clock.now() > row.terms.locktime
    await trade.reach(Role.PROVIDER, order, Stage.LOST, every=60)
    assert await trade.sats() == (0, 0)


async def test_without_an_arbiter_in_common_there_is_no_escrow(trade: "Trade") -> None:
    order = await trade.customer.ask(
        trade.provider.public_key,
        "hello",
        kind=5001,
        max_sat=100,
        settle=(Method.ESCROW,),
        arbiters=["ab" * 32],
    )
    with pytest.raises(OrderFailed, match="offers no escrow"):
        await order.result()
    assert await trade.sats() == (0, 0)


async def test_an_arbiter_that_is_away_leaves_the_other_way_to_pay(trade: "Trade") -> None:
    await trade.arbiter.stop()
    order = await trade.customer.ask(
        trade.provider.public_key, "hello", kind=5001, max_sat=100, arbiters=[trade.arbiter.public_key],
        settle=(Method.ESCROW, Method.PREPAID),
    )  # fmt: skip
    async with asyncio.timeout(10):
        while await trade.view(Role.PROVIDER, order) is None:
            await asyncio.sleep(0.005)
    await trade.reach(Role.PROVIDER, order, Stage.VOID, every=5)
    assert await order.result() == "HELLO"
    assert await trade.sats() == (PRICE, PRICE)
