"""Strangers, mints and agents that mean ill, or only do things at the worst moment. Found by review; kept as tests."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from dvm import Agent, Job, JobFailed, OrderFailed, OrderState
from dvm.discovery.announce import find_agents
from dvm.jobs.lifecycle import JobState, PaymentState
from dvm.queries import get_job, get_payment, payments_of
from identity import Event, SecretKey, make_template, sign_event
from tradepost.testing import ManualClock, Market, MemoryMint
from wallet import Lock, Proof, Token, Wallet
from wallet.crypto import proof_y

if TYPE_CHECKING:
    from conftest import Stranger


def hold(mint: MemoryMint, path: str, text: str) -> tuple[asyncio.Event, asyncio.Event]:
    """Let requests to `path` with `text` in them wait: for the first event; the second says that one came."""
    go_on, came = asyncio.Event(), asyncio.Event()
    request = mint.request

    async def held(method: str, asked: str, body: dict[str, Any] | None) -> Any:
        if asked == path and text in json.dumps(body):
            came.set()
            await go_on.wait()
        return await request(method, asked, body)

    mint.request = held  # type: ignore[method-assign]
    return go_on, came


async def spent(purse: Wallet, mint: MemoryMint) -> Token:
    token = await purse.send(mint.url, 21)
    await purse.receive(token)
    return token


async def test_a_strangers_refusal_does_not_touch_the_payment_that_was_accepted_meanwhile(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    request = stranger.request()
    await stranger.answer(request, "payment-required")
    bad, good = await spent(purse, market.mint), await purse.send(market.mint.url, 21)
    looked, looking = hold(market.mint, "/v1/checkstate", proof_y(bad.proofs[0].secret))
    swapped, swapping = hold(market.mint, "/v1/swap", good.proofs[0].secret)
    await stranger.pay(provider.public_key, request.id, bad, SecretKey.generate())
    await asyncio.wait_for(looking.wait(), 10)
    await stranger.pay(provider.public_key, request.id, good)
    await asyncio.wait_for(swapping.wait(), 10)
    looked.set()

    async def is_refused() -> bool:
        rows = await payments_of(provider._post.db, provider.public_key, request.id)
        return any(row.state is PaymentState.REFUSED for row in rows)

    await stranger.eventually(is_refused)
    swapped.set()
    await stranger.answer(request, "result")


async def test_coins_spent_between_the_look_and_the_swap_are_no_payment(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    request = stranger.request()
    await stranger.answer(request, "payment-required")
    token = await purse.send(market.mint.url, 21)
    swapped, swapping = hold(market.mint, "/v1/swap", token.proofs[0].secret)
    market.mint.asked.clear()
    await stranger.pay(provider.public_key, request.id, token)
    await asyncio.wait_for(swapping.wait(), 10)
    assert market.mint.asked["/v1/checkstate"] == 1
    market.mint.spent |= {proof_y(proof.secret): proof for proof in token.proofs}
    swapped.set()
    told = await stranger.answer(request, "error")
    assert "spent by somebody else" in told.tags_named("status")[0][2]
    assert await provider._post.wallet.balance() == {}
    assert "lost" not in (await provider._post.wallet.audit()).accounts
    assert stranger.answers(request, 6001) == []


async def test_invented_coins_do_not_make_a_good_payment_bounce(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    request = stranger.request()
    await stranger.answer(request, "payment-required")
    good = await purse.send(market.mint.url, 21)
    coins = [Proof(p.amount, p.id, "ab" * 31 + f"{n:02x}", p.C) for n, p in enumerate(good.proofs)]
    swapped, swapping = hold(market.mint, "/v1/swap", coins[0].secret)
    await stranger.pay(provider.public_key, request.id, Token(good.mint, tuple(coins)), SecretKey.generate())
    await asyncio.wait_for(swapping.wait(), 10)
    await stranger.pay(provider.public_key, request.id, good)

    async def both_came() -> bool:
        return len(await payments_of(provider._post.db, provider.public_key, request.id)) == 2

    await stranger.eventually(both_came)
    swapped.set()
    await stranger.answer(request, "result")


async def test_a_mint_that_refuses_the_refund_is_asked_again(
    market: Market, stranger: "Stranger", purse: Wallet
) -> None:
    agent = Agent("Fails")

    @agent.serves(kind=5001, price_sat=21)
    async def work(job: Job) -> str:
        for _ in range(3):
            market.mint.refuse("/v1/swap")
        raise JobFailed("no")

    provider = await market.open(agent)
    request = stranger.request()
    await stranger.answer(request, "payment-required")
    await stranger.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
    await stranger.letter("refund")


async def test_a_refund_waits_for_coins_that_are_elsewhere_just_now(
    market: Market, stranger: "Stranger", purse: Wallet
) -> None:
    agent = Agent("Fails")

    @agent.serves(kind=5001, price_sat=21)
    async def work(job: Job) -> str:
        wallet = provider._post.wallet
        await wallet.send(market.mint.url, sum((await wallet.balance()).values()) - 1)
        raise JobFailed("no")

    provider = await market.open(agent)
    request = stranger.request()
    await stranger.answer(request, "payment-required")
    await stranger.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
    await stranger.answer(request, "error")
    await provider._post.wallet.receive(await purse.send(market.mint.url, 200))
    await stranger.letter("refund")


async def test_money_for_a_request_that_could_not_be_read_comes_back(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    request = stranger.request(("bid", "much"))
    await stranger.answer(request, "error")
    await stranger.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
    await stranger.letter("refund")


async def test_coins_locked_to_our_key_alone_are_taken(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    request = stranger.request(("lock", SecretKey.generate().compressed_public_key))
    offer = await stranger.answer(request, "payment-required")
    token = await purse.send(market.mint.url, 22, lock=Lock(offer.tag("lock") or ""))
    await stranger.pay(provider.public_key, request.id, token)
    await stranger.answer(request, "result")


async def test_coins_that_only_we_could_spend_but_with_other_terms_go_back(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    request = stranger.request()
    offer = await stranger.answer(request, "payment-required")
    ours, other = offer.tag("lock") or "", SecretKey.generate().compressed_public_key
    token = await purse.send(market.mint.url, 22, lock=Lock(ours, pubkeys=(other,), n_sigs=1))
    await stranger.pay(provider.public_key, request.id, token)
    await stranger.letter("refund")


async def test_the_result_of_a_large_input_fits_into_what_relays_take(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    def too_large(event: Event) -> str | None:
        return "invalid: event too large" if len(event.to_json()) > 65_536 else None

    market.relay.switches.reject = too_large
    provider = await market.open(agent)
    request = stranger.request(text="a" * 35_000)
    await stranger.answer(request, "payment-required")
    await stranger.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
    result = await stranger.answer(request, "result")
    assert result.content == "A" * 35_000
    assert result.tag("e") == request.id


def test_a_lock_that_is_no_point_is_refused_before_it_is_paid() -> None:
    from dvm.errors import BadRequest
    from dvm.nip90 import parse_request

    event = make_template(5001, tags=[("i", "x", "text"), ("lock", "02" + "ff" * 32)], created_at=1)
    with pytest.raises(BadRequest, match="lock"):
        parse_request(sign_event(event, SecretKey.generate()))


@pytest.mark.parametrize(
    ("tags", "content"), [([("k", "9" * 5000)], "{}"), ([], '{"a":' + "[" * 20_000 + "]" * 20_000 + "}")]
)
async def test_a_hostile_announcement_does_not_end_the_search(
    market: Market, agent: Agent, stranger: "Stranger", tags: list[tuple[str, ...]], content: str
) -> None:
    provider = await market.open(agent)
    customer = await market.customer()
    hostile = make_template(
        31990, content=content, tags=[("d", "x"), ("k", "5001"), *tags], created_at=market.clock.now()
    )
    market.relay.insert(sign_event(hostile, stranger.key))

    async def both_found() -> bool:
        found = await find_agents(customer._post.pool, customer._post.clock, 5001)
        return {x.public_key for x in found} == {provider.public_key, stranger.key.public_key}

    await stranger.eventually(both_found)


async def test_a_refund_of_two_sats_does_not_end_the_wait_for_the_rest() -> None:
    from tests.dvm.orders.test_orders import Rogue, reached, sats

    clock = ManualClock()
    async with Market(clock=clock) as market:
        rogue, honest = Rogue(market), await market.post("honest", sat=100)
        customer = await market.customer(sat=100)
        order = await customer.ask(rogue.key.public_key, "x", kind=5001, max_sat=50, seconds_max=60)
        await rogue.offer(order, seconds=600)
        await reached(customer, order, OrderState.PAID)
        before = await sats(customer)
        await rogue.send_back(order, customer, await honest.wallet.send(market.mint.url, 2))
        async with asyncio.timeout(10):
            while await sats(customer) == before:
                await asyncio.sleep(0.005)
        await clock.advance(61)
        await reached(customer, order, OrderState.AWAITING_REFUND)
        await clock.advance(700)
        with pytest.raises(OrderFailed, match="came back"):
            await order.result()
        assert await sats(customer) > 90


async def test_a_job_whose_refund_is_out_is_closed(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    request = stranger.request(kind=5050)
    await stranger.answer(request, "payment-required")
    await stranger.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
    await stranger.letter("refund")
    job = await get_job(provider._post.db, provider.public_key, request.id)
    assert job is not None
    assert job.state is JobState.RETURNED
    (payment,) = await payments_of(provider._post.db, provider.public_key, request.id)
    again = await get_payment(provider._post.db, payment.id)
    assert again is not None
    assert again.state is PaymentState.RETURNED


async def test_offers_that_nobody_pays_are_closed() -> None:
    from tests.dvm.conftest import Stranger

    clock = ManualClock()
    async with Market(clock=clock) as market:
        agent = Agent("Waits")

        @agent.serves(kind=5001, price_sat=21)
        async def work(job: Job) -> str:
            return "never"

        provider, stranger = await market.open(agent), Stranger(market)
        requests = [stranger.request(text=str(number)) for number in range(120)]
        for request in requests:
            await stranger.answer(request, "payment-required")
        await clock.advance(1000)

        async def all_closed() -> bool:
            rows = [await get_job(provider._post.db, provider.public_key, r.id) for r in requests]
            return all(row is not None and row.state is JobState.EXPIRED for row in rows)

        await stranger.eventually(all_closed)


async def test_an_extra_payment_on_its_way_back_does_not_settle_what_is_owed(
    market: Market, stranger: "Stranger", purse: Wallet
) -> None:
    agent, fail = Agent("Fails"), asyncio.Event()

    @agent.serves(kind=5001, price_sat=21)
    async def work(job: Job) -> str:
        await fail.wait()
        for _ in range(3):
            market.mint.refuse("/v1/swap")  # so that the refund takes a second try
        raise JobFailed("no")

    provider = await market.open(agent)
    request = stranger.request()
    await stranger.answer(request, "payment-required")
    await stranger.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
    await stranger.answer(request, "processing")
    extra = await purse.send(market.mint.url, 22)
    swapped, swapping = hold(market.mint, "/v1/swap", extra.proofs[0].secret)
    await stranger.pay(provider.public_key, request.id, extra)
    await asyncio.wait_for(swapping.wait(), 10)
    swaps = market.mint.asked["/v1/swap"]
    fail.set()
    await stranger.answer(request, "error")

    async def was_refused() -> bool:
        return market.mint.asked["/v1/swap"] >= swaps + 3

    try:
        async with asyncio.timeout(2):
            while not await was_refused():
                await asyncio.sleep(0.005)
    finally:
        swapped.set()

    async def both_are_back() -> bool:
        return len([x for x in await stranger.letters() if ("t", "refund") in x.tags]) == 2

    await stranger.eventually(both_are_back)


@pytest.mark.parametrize(("sat", "again_sat"), [(5, 4), (60, 32)], ids=["too little", "more than the price"])
async def test_coins_that_we_spent_ourselves_pay_once(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet, sat: int, again_sat: int
) -> None:
    """A part of what we returned or gave change for comes again, as another payment: the mint shows our signature."""
    provider = await market.open(agent)
    request = stranger.request()
    offer = await stranger.answer(request, "payment-required")
    lock = Lock(offer.tag("lock") or "")
    token = await purse.send(market.mint.url, sat, lock=lock)
    payer = SecretKey.generate()

    async def states() -> list[PaymentState]:
        rows = await payments_of(provider._post.db, provider.public_key, request.id)
        return [row.state for row in rows]

    async def is_settled(count: int) -> bool:
        now = await states()
        open_states = (PaymentState.RECEIVED, PaymentState.REDEEMING, PaymentState.RETURNING)
        return len(now) == count and not any(state in open_states for state in now)

    await stranger.pay(provider.public_key, request.id, token, payer)
    await stranger.eventually(lambda: is_settled(1))
    part = tuple(proof for proof in token.proofs if proof.amount == again_sat)
    await stranger.pay(provider.public_key, request.id, Token(token.mint, part), payer)
    await stranger.eventually(lambda: is_settled(2))
    assert PaymentState.REFUSED in await states()
    job = await get_job(provider._post.db, provider.public_key, request.id)
    assert job is not None
    assert (job.state is JobState.OFFERED) == (sat == 5)
