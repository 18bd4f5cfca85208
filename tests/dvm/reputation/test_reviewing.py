"""What a customer says of a job, and what it shows for it: only what is spent, only what proves that it paid."""

import asyncio
import json
from pathlib import Path

import pytest

from dvm import Agent, BadRequest, OrderFailed, OrderState, queries
from dvm.orders.customer import Customer
from dvm.orders.order import Order
from dvm.queries_reputation import review_of
from identity.receipts import (
    Review,
    parse_review,
)
from tests.dvm.conftest import PRICE
from tests.dvm.orders.test_orders import Rogue
from tests.dvm.reputation.reviews import (
    SECONDS_MAX,
    agent_sure_of,
    check_coins,
    lock_of,
    offer_of,
    on_relay,
    result_of,
    settled,
)
from tests.dvm.sale import text_of
from tradepost.testing import ManualClock, Market
from wallet import MintUnavailable, Token, parse_lock
from wallet.errors import Action

# --- coins for the agent alone -------------------------------------------------------------------------------------


async def test_a_review_shows_the_spent_coins_and_the_offer_that_names_their_lock(market: Market) -> None:
    provider = await market.open(agent_sure_of(0.834))
    customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=50)
    assert await text_of(order) == "HELLO"
    event = await settled(customer, order.id, 4, "quick")
    await on_relay(market, event)
    event.verify()
    assert event.pubkey == customer.public_key
    review, offer, result = parse_review(event), offer_of(market, order), result_of(market, order)
    assert review == Review(
        request_id=order.id, provider=provider.public_key, kind=5001, method="prepaid", amount_msat=1000 * PRICE,
        rating=4, result_id=result.id, confidence=0.83, evidence=review.evidence, offer=offer, text="quick",
    )  # fmt: skip
    assert check_coins(market, review, offer.tag("lock") or "") >= PRICE
    assert result.tag("confidence") == "0.83"
    assert order.confidence == 0.83
    job = await queries.get_job(provider._post.db, provider.public_key, order.id)
    assert job is not None
    assert (job.result_id, job.confidence) == (result.id, 0.83)


async def test_a_job_has_one_review(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=50)
    await text_of(order)
    await settled(customer, order.id)
    first, again = await asyncio.gather(*(customer.review(order.id, 4) for _ in range(2)))
    assert first == again
    for rating, text in ((5, ""), (4, "more")):
        with pytest.raises(BadRequest, match="already, with 4 of 5"):
            await customer.review(order.id, rating, text)
    assert len([event for event in market.relay.published if event.kind == 1985]) <= 1
    for rating in (0, 6):
        with pytest.raises(BadRequest, match="1 to 5"):
            await customer.review(order.id, rating)
    with pytest.raises(BadRequest, match="2000 characters"):
        await customer.review(order.id, 4, "x" * 2001)
    with pytest.raises(BadRequest, match="no order of this customer"):
        await customer.review("0" * 64, 4)


async def test_reviews_at_the_same_moment_are_one(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=50)
    await text_of(order)
    told = await asyncio.gather(
        *(settled(customer, order.id, rating) for rating in (3, 4)), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in told) == ["BadRequest", "Event"]


async def test_nothing_is_said_where_nothing_was_stated(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=50)
    await text_of(order)
    review = parse_review(await settled(customer, order.id))
    assert review.confidence is order.confidence is None
    assert result_of(market, order).tag("confidence") is None


async def test_private_work_is_reviewed_without_its_offer(market: Market) -> None:
    provider = await market.open(agent_sure_of(1))
    customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=50, private=True)
    assert await text_of(order) == "HELLO"
    review = parse_review(await settled(customer, order.id))
    assert review.offer is None
    assert review.confidence == 1.0
    assert result_of(market, order).tag("confidence") == "1.00"
    check_coins(market, review, parse_lock(lock_of(review).coins[0].secret).pubkey)  # type: ignore[union-attr]


# --- coins that are not spent, or not by the agent -----------------------------------------------------------------


class Slow(Rogue):
    """Delivers, and takes the coins when it is told to."""

    async def take(self, token: Token, coins: int | None = None) -> None:
        post = await self.market.post("slow")
        part = Token(token.mint, tuple(sorted(token.proofs, key=lambda proof: -proof.amount)[:coins]))
        await post.wallet.receive(part, (self.lock,))


async def said(market: Market) -> str:
    return "".join(event.to_json().decode() for event in market.relay.published)


async def is_unsaid(market: Market, customer: Customer, order: Order, coins: Token) -> bool:
    """Whether no coin of these is in any event, in the outbox or among the reviews."""
    kept = await review_of(customer._post.db, order.provider, order.id)
    rows = await customer._post.db.all("SELECT raw FROM outbox")
    told = await said(market) + "".join(str(row["raw"]) for row in rows)
    return kept is None and not any(json.loads(proof.secret)[1]["nonce"] in told for proof in coins.proofs)


async def test_a_coin_that_is_not_spent_goes_nowhere(tmp_path: Path) -> None:
    async with Market(clock=ManualClock(), folder=tmp_path) as market:
        rogue = Slow(market)
        customer = await market.customer(sat=100)
        order = await customer.ask(rogue.key.public_key, "hello", kind=5001, max_sat=50)
        await rogue.offer(order)
        coins = await rogue.token()
        with pytest.raises(BadRequest, match="once it has ended") as early:
            await customer.review(order.id, 5)
        assert early.value.action is Action.WAIT
        await rogue.deliver(order, "HELLO")
        assert await text_of(order) == "HELLO"
        assert len(coins.proofs) > 2
        for taken in (0, 1):
            if taken:
                await rogue.take(coins, taken)
            with pytest.raises(BadRequest, match="has not taken the sats") as early:
                await customer.review(order.id, 5)
            assert early.value.action is Action.WAIT
            assert await is_unsaid(market, customer, order, coins)
        await market.clock.advance(700)  # type: ignore[attr-defined]  # the locktime: it may never take the rest
        event = await customer.review(order.id, 5)
        review = parse_review(event)
        (coin,) = lock_of(review).coins
        assert coin.amount == max(proof.amount for proof in coins.proofs)
        unspent = [proof for proof in coins.proofs if not market.mint.is_spent(proof)]
        assert len(unspent) == len(coins.proofs) - 1
        await on_relay(market, event)
        told = await said(market)
        assert json.loads(coin.secret)[1]["nonce"] in told
        assert not any(json.loads(proof.secret)[1]["nonce"] in told for proof in unspent)


async def test_an_agent_that_takes_the_coins_and_gives_nothing_is_reviewed_too(tmp_path: Path) -> None:
    async with Market(clock=ManualClock(), folder=tmp_path) as market:
        rogue = Slow(market)
        customer = await market.customer(sat=100)
        order = await customer.ask(rogue.key.public_key, "hello", kind=5001, max_sat=50, seconds_max=60)
        await rogue.offer(order)
        await rogue.take(await rogue.token())
        await pass_time_until_ended(market, order)
        assert order.state is OrderState.LOST
        review = parse_review(await customer.review(order.id, 1, "took the sats"))
        assert check_coins(market, review, rogue.lock.compressed_public_key) >= PRICE
        assert review.result_id is None


async def test_an_agent_that_leaves_a_coin_behind_hides_nothing(tmp_path: Path) -> None:
    """The order counts as refunded, and what was taken for nothing is shown all the same."""
    async with Market(clock=ManualClock(), folder=tmp_path) as market:
        rogue = Slow(market)
        customer = await market.customer(sat=100)
        order = await customer.ask(rogue.key.public_key, "hello", kind=5001, max_sat=50, seconds_max=60)
        await rogue.offer(order)
        coins = await rogue.token()
        await rogue.take(coins, -1)
        await pass_time_until_ended(market, order)
        assert order.state is OrderState.REFUNDED
        review = parse_review(await customer.review(order.id, 1))
        check_coins(market, review, rogue.lock.compressed_public_key)
        assert len(lock_of(review).coins) == len(coins.proofs) - 1


async def pass_time_until_ended(market: Market, order: Order) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while not order.state.is_final:
            await market.clock.advance(5)  # type: ignore[attr-defined]
            await asyncio.sleep(0.002)


async def test_what_was_sent_back_is_no_evidence(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "magic", kind=5050, max_sat=50)
    with pytest.raises(OrderFailed, match="came back"):
        await text_of(order)
    review = parse_review(await customer.review(order.id, 2))
    assert (review.evidence, review.method, review.amount_msat) == (None, "prepaid", 1000 * PRICE)


async def test_what_was_taken_back_is_no_evidence(tmp_path: Path) -> None:
    async with Market(clock=ManualClock(), folder=tmp_path) as market:
        rogue = Slow(market)
        customer = await market.customer(sat=100)
        order = await customer.ask(rogue.key.public_key, "hello", kind=5001, max_sat=50, seconds_max=60)
        await rogue.offer(order)
        await rogue.token()
        await pass_time_until_ended(market, order)
        assert order.state is OrderState.REFUNDED
        assert parse_review(await customer.review(order.id, 1)).evidence is None


async def test_nothing_is_reviewed_that_nothing_was_paid_for(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer(sat=100)
    dear = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=5)
    with pytest.raises(OrderFailed):
        await text_of(dear)
    with pytest.raises(BadRequest, match="nothing was paid"):
        await customer.review(dear.id, 1)
    free = await customer.ask(provider.public_key, "HELLO", kind=5002)
    await text_of(free)
    review = parse_review(await customer.review(free.id, 5))
    assert (review.method, review.amount_msat, review.evidence) == ("free", 0, None)


async def test_a_mint_that_is_away_delays_a_review(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer(sat=100)
    order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=50)
    await text_of(order)
    market.mint.down = True
    with pytest.raises(MintUnavailable):
        await customer.review(order.id, 5)
    assert await review_of(customer._post.db, provider.public_key, order.id) is None
    market.mint.down = False
    assert lock_of(parse_review(await settled(customer, order.id)))
