"""Reviews of jobs by each way to pay: escrow, sealed results, Lightning; at a real mint, and across a death."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dvm import Agent, BadRequest, Job, OrderFailed, Provider, ProviderLimits, queries
from dvm.nip90 import EVENT_BYTES_MAX
from dvm.orders.customer import Customer
from dvm.orders.order import Order
from dvm.queries_reputation import review_of
from dvm.reputation.reviewing import fitting
from dvm.reputation.settlements import MintWitness, look
from identity import Event, SecretKey, make_template, sign_event
from identity.receipts import (
    Preimage,
    Review,
    SpentCoin,
    SpentLock,
    parse_review,
)
from tests.dvm.conftest import PRICE, Trade, eventually
from tests.dvm.deaths import Dead, Fate, fund, life
from tests.dvm.reputation.reviews import (
    SECONDS_MAX,
    check_coins,
    lock_of,
    offer_of,
    on_relay,
    result_of,
    settled,
)
from tests.dvm.sale import Sale, text_of
from tests.dvm.test_real_mint import RealMint
from tradepost.api import open_customer
from tradepost.testing import Market
from tradepost.testing.lightning import MemoryLightning
from wallet import is_preimage
from wallet.errors import Action
from wallet.escrow import Role, Stage
from wallet.invoice import parse_invoice
from wallet.terms import Method

# --- escrow and sealed results -------------------------------------------------------------------------------------


async def test_a_result_in_escrow_is_reviewed_once_it_is_paid(trade: Trade) -> None:
    order = await trade.ask()
    await text_of(order)
    await trade.reach(Role.CUSTOMER, order, Stage.DELIVERED)
    with pytest.raises(BadRequest, match=f"tradepost escrow accept {order.id[:12]}") as early:
        await trade.customer.review(order.id, 5)
    assert early.value.action is Action.GIVE_UP
    await trade.customer.accept(order.id)
    review = parse_review(await settled(trade.customer, order.id, 5))
    assert review.method == "escrow"
    assert review.offer == offer_of(trade.market, order)
    assert check_coins(trade.market, review, review.offer.tag("lock") or "") >= PRICE


async def test_of_a_split_the_agents_share_is_shown(trade: Trade) -> None:
    order = await trade.ask()
    await text_of(order)
    await trade.reach(Role.ARBITER, order, Stage.DELIVERED)
    await trade.customer.dispute(order.id, "no")
    await trade.reach(Role.ARBITER, order, Stage.DISPUTED)
    with pytest.raises(BadRequest, match="still in escrow, disputed"):
        await trade.customer.review(order.id, 2)
    await trade.arbiter.rule(order.id, 8)
    await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED)
    review = parse_review(await settled(trade.customer, order.id, 2))
    assert review.offer is not None
    shown_sat = check_coins(trade.market, review, review.offer.tag("lock") or "")
    assert 8 <= shown_sat < PRICE
    assert review.amount_msat == 1000 * shown_sat


async def test_of_an_escrow_that_came_back_there_is_nothing_to_show(trade: Trade) -> None:
    order = await trade.ask(kind=5050)
    with pytest.raises(OrderFailed):
        await text_of(order)
    await trade.reach(Role.CUSTOMER, order, Stage.REFUNDED)
    review = parse_review(await trade.customer.review(order.id, 2))
    assert (review.method, review.evidence) == ("escrow", None)


@pytest.mark.parametrize("private", [False, True])
async def test_a_sealed_result_is_reviewed_by_its_offer(sale: Sale, agent: Agent, private: bool) -> None:
    def guess(job: Job) -> str:
        job.confidence = 0.5
        return job.text

    agent.capabilities[5001] = replace(agent.capabilities[5001], work=guess)
    order = await sale.ask("xyzzy", private=private)
    assert await text_of(order) == "xyzzy"
    await sale.reach(Role.CUSTOMER, order, Stage.RELEASED)
    review, offer = parse_review(await settled(sale.customer, order.id)), sale.offer(order)
    assert (review.method, review.result_id, review.confidence) == ("reveal", offer.id, 0.5)
    assert offer.tag("confidence") == "0.50"
    assert review.offer == (None if private else offer)
    assert all(json.loads(coin.secret)[0] == "HTLC" for coin in lock_of(review).coins)
    job = await queries.get_job(sale.provider._post.db, sale.provider.public_key, order.id)
    assert job is not None
    assert (job.result_id, job.confidence) == (offer.id, 0.5)


def test_what_relays_would_not_take_is_left_out() -> None:
    key = SecretKey.generate()
    offer = sign_event(make_template(7000, content="x" * 60_000, tags=[], created_at=1), key)
    coin = SpentCoin(1, "00" * 8, "s" * 600, "02" + "0" * 64, "0" * 64, "0" * 64, "0" * 64, "w" * 300)
    review = Review(
        request_id="0" * 64, provider="0" * 64, kind=5001, method="prepaid", amount_msat=1, rating=5, offer=offer,
        evidence=SpentLock("https://mint.test", (coin,) * 24),
    )  # fmt: skip
    read = parse_review(sign_event(fitting(review, 1, ""), key))
    assert read == replace(review, offer=None)
    talkative = replace(
        review, evidence=SpentLock("https://mint.test", (replace(coin, witness="w" * 8000),) * 24)
    )
    small = sign_event(fitting(talkative, 1, ""), key)
    assert len(small.to_json()) <= EVENT_BYTES_MAX
    assert all(coin.witness == "" for coin in lock_of(parse_review(small)).coins)
    whole = replace(review, offer=sign_event(make_template(7000, tags=[], created_at=1), key))
    assert parse_review(sign_event(fitting(whole, 1, ""), key)) == whole


# --- Lightning -----------------------------------------------------------------------------------------------------


class HeardAtOnce(MemoryLightning):
    """Tells the agent of each payment, as a wallet with notifications does."""

    def __init__(self, market: Market, provider: Provider) -> None:
        super().__init__(clock=market.clock)
        self._provider = provider

    def pay(self, bolt11: str, *, extra_msat: int = 0) -> str | None:
        preimage = super().pay(bolt11, extra_msat=extra_msat)
        self._provider._post.lightning.hear(parse_invoice(bolt11).payment_hash)
        return preimage


def on_lightning(market: Market, provider: Provider, customer: Customer) -> None:
    """Both pay and are paid by wallets that tell preimages, as Lightning's do."""
    network = HeardAtOnce(market, provider)
    for party, sat in ((provider, 0), (customer, 500)):
        lightning = party._post.lightning
        lightning._rails.clear()
        lightning.add(network.rail(sat=sat))


def check_preimage(review: Review, said_in: Event) -> None:
    assert isinstance(review.evidence, Preimage)
    assert look(review).doubt == ""
    assert review.method == "invoice"
    assert is_preimage(review.evidence.preimage, parse_invoice(review.evidence.bolt11).payment_hash)
    assert review.offer == said_in
    assert review.evidence.bolt11 in said_in.tags_named("amount")[0]


async def test_an_invoice_is_shown_with_its_preimage(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer()
    on_lightning(market, provider, customer)
    order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=30, settle=(Method.INVOICE,))
    await text_of(order)
    review = parse_review(await customer.review(order.id, 5))
    check_preimage(review, offer_of(market, order))
    assert review.amount_msat == 1000 * PRICE


async def test_an_invoice_that_was_paid_back_is_no_evidence(market: Market, agent: Agent) -> None:
    provider = await market.open(agent, sat=100)
    customer = await market.customer()
    on_lightning(market, provider, customer)
    order = await customer.ask(provider.public_key, "magic", kind=5050, max_sat=30, settle=(Method.INVOICE,))
    with pytest.raises(OrderFailed, match="came back"):
        await text_of(order)
    review = parse_review(await customer.review(order.id, 2))
    assert (review.method, review.evidence, review.amount_msat) == ("invoice", None, 1000 * PRICE)


async def test_work_on_credit_is_shown_by_the_result_with_its_invoice(market: Market, agent: Agent) -> None:
    provider = await market.open(agent, limits=ProviderLimits(credit_msat_max=50_000))
    customer = await market.customer()
    on_lightning(market, provider, customer)
    for text in ("first", "second"):
        order = await customer.ask(provider.public_key, text, kind=5001, max_sat=30, settle=(Method.INVOICE,))
        await text_of(order)
    review = parse_review(await settled(customer, order.id, 5))
    check_preimage(review, result_of(market, order))
    assert review.amount_msat == 1000 * PRICE


async def test_a_debt_that_was_not_paid_is_no_ground_for_a_review(market: Market, agent: Agent) -> None:
    provider = await market.open(agent, limits=ProviderLimits(credit_msat_max=50_000))
    customer = await market.customer()
    on_lightning(market, provider, customer)
    wishes: Any = {"kind": 5001, "max_sat": 30, "settle": (Method.INVOICE,)}
    await text_of(await customer.ask(provider.public_key, "first", **wishes))
    (rail,) = customer._post.lightning.rails
    rail.refuses = True  # type: ignore[attr-defined]
    order = await customer.ask(provider.public_key, "second", **wishes)
    await text_of(order)

    async def is_told() -> bool:
        try:
            await customer.review(order.id, 5)
        except BadRequest as error:
            return "tradepost wallet pay ln" in str(error)
        raise AssertionError

    await eventually(is_told)
    rail.refuses = False  # type: ignore[attr-defined]
    bolt11 = next(tag[2] for tag in result_of(market, order).tags_named("amount"))
    await customer._post.lightning.pay("by hand", bolt11)
    check_preimage(parse_review(await customer.review(order.id, 5)), result_of(market, order))


async def test_a_rail_that_tells_no_preimage_leaves_nothing_to_show(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer()
    on_lightning(market, provider, customer)
    order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=30, settle=(Method.INVOICE,))
    await text_of(order)
    async with customer._post.db.transaction() as tx:
        await tx.execute("UPDATE lightning_payments SET preimage = NULL")
    review = parse_review(await customer.review(order.id, 5))
    assert (review.method, review.evidence, review.offer) == ("invoice", None, offer_of(market, order))


# --- at a real mint ------------------------------------------------------------------------------------------------


@pytest.mark.process
async def test_the_evidence_at_a_real_mint(agent: Agent, mint_url: str) -> None:
    """Each of the locks, and a preimage; what nutshell shows of spent coins is in it."""
    async with Market() as market:
        market.mint = RealMint(mint_url)  # type: ignore[assignment]  # as much of a mint as a market needs
        arbiter = await market.arbiter()
        limits = ProviderLimits(arbiters=(arbiter.public_key,), reveal_msat_max=100_000)
        provider = await market.open(agent, limits=limits)
        customer = await market.customer(sat=500)
        on_lightning(market, provider, customer)
        for method in (Method.PREPAID, Method.ESCROW, Method.REVEAL, Method.INVOICE):
            order = await customer.ask(
                provider.public_key, method, kind=5001, max_sat=50, settle=(method,),
                arbiters=[arbiter.public_key] if method is Method.ESCROW else (),
            )  # fmt: skip
            assert await text_of(order) == method.upper()
            review = parse_review(await settled(customer, order.id))
            assert review.method == method
            offer = offer_of(market, order)
            if method is Method.INVOICE:
                check_preimage(review, offer)
                continue
            async with MintWitness([mint_url]) as witness:
                told = await witness.look(review)
            assert (told.doubt, told.lock) == ("", offer.tag("lock"))
            assert told.asked
            assert all(coin.witness for coin in lock_of(review).coins)
            assert review.offer == offer


# --- crashes -------------------------------------------------------------------------------------------------------


async def test_death_at_every_point_of_a_review(agent: Agent, tmp_path: Path) -> None:
    found: list[Event | None] = []

    async def scenario(folder: Path, at: int | None) -> Fate:
        fate = Fate(at)
        async with Market(folder=folder) as market:
            provider = await market.open(agent)
            async with life(market, "customer") as post:
                await fund(market, post)
                async with open_customer(market.settings("customer"), post) as customer:
                    order = await customer.ask(provider.public_key, "hello", kind=5001, max_sat=50)
                    await text_of(order)
                    await eventually(lambda: is_taken(market, provider, order))
            try:
                async with life(market, "customer", fate) as victim:
                    await Customer(customer.signer, victim).review(order.id, 5)
                    await victim.outbox.flush(SECONDS_MAX)
            except Dead:
                pass
            async with life(market, "customer") as again:
                known = await review_of(again.db, provider.public_key, order.id)
                found.append(known and known.event)
                event = await Customer(customer.signer, again).review(order.id, 5)
                assert found[-1] in (None, event)
                await on_relay(market, event)
            assert len({e.id for e in market.relay.published if e.kind == 1985}) == 1
        return fate

    unharmed = await scenario(tmp_path / "unharmed", None)
    assert "commit" in unharmed.points
    for at in range(len(unharmed.points)):
        await scenario(tmp_path / str(at), at)
    assert len({event is None for event in found}) == 2  # before it was kept, and after


async def is_taken(market: Market, provider: Provider, order: Order) -> bool:
    job = await queries.get_job(provider._post.db, provider.public_key, order.id)
    return job is not None and job.state.is_final
