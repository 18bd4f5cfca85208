"""What the tests of reviews share: how one is written, and what must be true of the evidence in it."""

import asyncio

from dvm import Agent, BadRequest, Job
from dvm.orders.customer import Customer
from dvm.orders.order import Order
from dvm.reputation.settlements import look
from identity import Event
from identity.receipts import (
    Review,
    SpentLock,
)
from tests.dvm.conftest import PRICE, eventually
from tradepost.testing import Market
from wallet import parse_lock, signers
from wallet.crypto import verify_dleq_proof
from wallet.errors import Action
from wallet.proofs import Dleq, Proof

SECONDS_MAX = 30


def agent_sure_of(confidence: float | None) -> Agent:
    agent = Agent("Sure")

    @agent.serves(kind=5001, price_sat=PRICE)
    async def shout(job: Job) -> str:
        job.confidence = confidence
        return job.text.upper()

    return agent


async def settled(customer: Customer, order_id: str, rating: int = 4, text: str = "") -> Event:
    """Review it as soon as it can be."""
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            try:
                return await customer.review(order_id, rating, text)
            except BadRequest as error:
                if error.action is not Action.WAIT:
                    raise
                await asyncio.sleep(0.01)


async def on_relay(market: Market, event: Event) -> None:
    await eventually(lambda: event in market.relay.events, "the review on the relay")


def lock_of(review: Review) -> SpentLock:
    assert isinstance(review.evidence, SpentLock)
    return review.evidence


def check_coins(market: Market, review: Review, key: str) -> int:
    """They are coins of the mint, spent, and locked to `key`; returns what they were worth, in sat."""
    evidence = lock_of(review)
    assert evidence.mint == market.mint.url
    assert (look(review).doubt, look(review).lock) == ("", key)
    for coin in evidence.coins:
        proof = Proof(coin.amount, coin.keyset_id, coin.secret, coin.C, Dleq(coin.e, coin.s, coin.r))
        assert verify_dleq_proof(proof, market.mint.keysets[coin.keyset_id].key(coin.amount))
        assert market.mint.is_spent(proof)
        lock = parse_lock(coin.secret)
        assert lock is not None
        assert lock.pubkey == key
        assert signers(coin.secret, coin.witness, [key]) == {key}
    return sum(coin.amount for coin in evidence.coins)


def offer_of(market: Market, order: Order) -> Event:
    (found,) = [
        event for event in market.relay.events
        if event.tag("e") == order.id and event.tag("status") == "payment-required"
    ]  # fmt: skip
    return found


def result_of(market: Market, order: Order) -> Event:
    (found,) = [event for event in market.relay.events if event.tag("e") == order.id and event.kind == 6001]
    return found
