"""Requests taken back (NIP-09) and requests that expire (NIP-40): what is still done, and where the sats end."""

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from dvm import Agent, BadRequest, Job, OrderFailed, OrderState, Provider, ProviderLimits
from dvm.jobs import cancellations as cancellations_module
from dvm.jobs.lifecycle import JobState
from dvm.nip90 import Offer, Status
from dvm.queries import cancellations, get_job, get_order
from dvm.records import RECORD
from identity import Event, SecretKey, make_template, sign_event
from tests.dvm.orders.test_orders import Rogue, reached, sats
from tests.dvm.test_adversaries import hold
from tradepost.testing import ManualClock, Market
from wallet import Wallet

if TYPE_CHECKING:
    from conftest import Stranger


def delete(
    stranger: "Stranger", *request_ids: str, kind: int = 5001, key: SecretKey | None = None, **tags: str
) -> Event:
    """Take requests back, as NIP-09 has it."""
    named = [("e", request_id) for request_id in request_ids]
    more = list((tags or {"k": str(kind)}).items())
    template = make_template(5, tags=[*named, *more], created_at=stranger.market.clock.now())
    event = sign_event(template, key or stranger.key)
    stranger.market.relay.insert(event)
    return event


async def ended(provider: Provider, request: Event, state: JobState) -> None:
    """Wait until the job is in a state."""
    async with asyncio.timeout(10):
        while True:
            job = await get_job(provider._post.db, provider.public_key, request.id)
            if job and job.state is state:
                return
            await asyncio.sleep(0.005)


class Slow:
    """An agent whose work goes on until it is told: 5001 for 21 sat, 5002 free, 5100 free and in a thread."""

    def __init__(self) -> None:
        self.agent = Agent("Slow")
        self.begun: list[str] = []
        self.stopped: list[str] = []
        self.go_on = asyncio.Event()
        self.go_on_in_thread = threading.Event()

        async def work(job: Job) -> str:
            self.begun.append(job.id)
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.stopped.append(job.id)
                raise
            return job.text.upper()

        self.agent.serves(kind=5001, price_sat=21)(work)
        self.agent.serves(kind=5002)(work)

        @self.agent.serves(kind=5100)
        def work_in_thread(job: Job) -> str:
            self.begun.append(job.id)
            self.go_on_in_thread.wait(10)
            return "late"


@pytest.fixture
def slow() -> Slow:
    return Slow()


# -- at the agent


async def test_an_offer_taken_back_is_closed_and_money_for_it_returns(
    market: Market, slow: Slow, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(slow.agent)
    request = stranger.request()
    await stranger.answer(request, "payment-required")
    delete(stranger, request.id)
    error = await stranger.answer(request, "error")
    assert error.tags_named("status")[0][2] == "cancelled by you; nothing was taken"
    await ended(provider, request, JobState.CANCELLED)
    await stranger.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
    await stranger.letter("refund")
    assert slow.begun == []


@pytest.mark.parametrize("kind", [5002, 5100])
async def test_work_under_way_is_stopped_and_its_answer_ignored(
    market: Market, slow: Slow, stranger: "Stranger", kind: int
) -> None:
    provider = await market.open(slow.agent)
    request = stranger.request(kind=kind)
    await stranger.answer(request, "processing")
    async with asyncio.timeout(10):
        while slow.begun != [request.id]:
            await asyncio.sleep(0.005)
    delete(stranger, request.id, kind=kind)
    await stranger.answer(request, "error")
    await ended(provider, request, JobState.CANCELLED)
    slow.go_on.set()
    slow.go_on_in_thread.set()
    later = stranger.request(kind=kind, text="later")
    await stranger.answer(later, "result")
    assert stranger.answers(request, kind + 1000) == []
    assert slow.stopped == ([request.id] if kind == 5002 else [])


async def test_paid_work_under_way_is_stopped_and_not_paid_back(
    market: Market, slow: Slow, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(slow.agent)
    request = stranger.request()
    await stranger.answer(request, "payment-required")
    await stranger.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
    await stranger.answer(request, "processing")
    delete(stranger, request.id)
    error = await stranger.answer(request, "error")
    assert "is not returned" in error.tags_named("status")[0][2]
    await ended(provider, request, JobState.CANCELLED)
    assert sum((await provider._post.wallet.balance()).values()) == 21


async def test_a_paid_job_that_waits_is_paid_back(
    market: Market, slow: Slow, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(slow.agent, limits=ProviderLimits(concurrent_jobs_max=1))
    first = stranger.request(kind=5002)
    await stranger.answer(first, "processing")
    request = stranger.request()
    await stranger.answer(request, "payment-required")
    await stranger.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
    await ended(provider, request, JobState.QUEUED)
    delete(stranger, request.id)
    error = await stranger.answer(request, "error")
    assert "before the work began" in error.tags_named("status")[0][2]
    await stranger.letter("refund")
    await ended(provider, request, JobState.RETURNED)
    slow.go_on.set()
    await stranger.answer(first, "result")
    assert request.id not in slow.begun


async def test_a_job_taken_back_while_its_payment_is_swapped_is_not_begun(
    market: Market, slow: Slow, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(slow.agent)
    request = stranger.request()
    await stranger.answer(request, "payment-required")
    token = await purse.send(market.mint.url, 22)
    swapped, swapping = hold(market.mint, "/v1/swap", token.proofs[0].secret)
    await stranger.pay(provider.public_key, request.id, token)
    await asyncio.wait_for(swapping.wait(), 10)
    await ended(provider, request, JobState.PAYING)
    delete(stranger, request.id)
    async with asyncio.timeout(10):
        while not await cancellations(provider._post.db, provider.public_key):
            await asyncio.sleep(0.005)
    swapped.set()
    await stranger.letter("refund")
    assert slow.begun == []


@pytest.mark.parametrize("tags", [{"k": "5002"}, {"p": "us"}])
async def test_a_deletion_that_comes_before_its_request(
    market: Market, slow: Slow, stranger: "Stranger", tags: dict[str, str]
) -> None:
    provider = await market.open(slow.agent)
    unseen = sign_event(
        make_template(5002, tags=[("i", "x", "text")], created_at=market.clock.now()), stranger.key
    )
    delete(
        stranger,
        unseen.id,
        **{name: value.replace("us", provider.public_key) for name, value in tags.items()},
    )
    async with asyncio.timeout(10):
        while not await cancellations(provider._post.db, provider.public_key):
            await asyncio.sleep(0.005)
    await provider.stop(0)  # what was heard is kept
    again = Provider(slow.agent, provider.signer, provider._post)
    await again.start()
    market.relay.lie(unseen)
    await stranger.answer(unseen, "error")
    await ended(again, unseen, JobState.CANCELLED)
    assert slow.begun == []
    await again.stop(0)


async def test_a_deletion_heard_while_nobody_served_is_honoured_at_the_start(
    market: Market, slow: Slow, stranger: "Stranger"
) -> None:
    provider = await market.open(slow.agent)
    request, kept = stranger.request(kind=5002), stranger.request(kind=5002, text="kept")
    for one in (request, kept):
        await stranger.answer(one, "processing")
    await provider.stop(0)
    delete(stranger, request.id, kind=5002)
    slow.go_on.set()
    again = Provider(slow.agent, provider.signer, provider._post)
    slow.go_on.clear()
    await again.start()
    await ended(again, request, JobState.CANCELLED)
    slow.go_on.set()
    await stranger.answer(kept, "result")
    assert stranger.answers(request, 6002) == []
    await again.stop(0)


async def test_nobody_but_the_customer_can_take_a_request_back(
    market: Market, slow: Slow, stranger: "Stranger"
) -> None:
    await market.open(slow.agent)
    request = stranger.request(kind=5002)
    await stranger.answer(request, "processing")
    delete(stranger, request.id, "zz", "", kind=5002, key=SecretKey.generate())
    mark = stranger.request(kind=5002, text="mark")
    delete(stranger, mark.id, kind=5002)
    await stranger.answer(mark, "error")
    slow.go_on.set()
    assert (await stranger.answer(request, "result")).content == "SOME TEXT"


async def test_a_strangers_early_deletion_does_not_hit_the_customer(
    market: Market, slow: Slow, stranger: "Stranger"
) -> None:
    provider = await market.open(slow.agent)
    slow.go_on.set()
    unseen = sign_event(
        make_template(5002, tags=[("i", "x", "text")], created_at=market.clock.now()), stranger.key
    )
    delete(stranger, unseen.id, kind=5002, key=SecretKey.generate())
    async with asyncio.timeout(10):
        while not await cancellations(provider._post.db, provider.public_key):
            await asyncio.sleep(0.005)
    market.relay.insert(unseen)
    assert (await stranger.answer(unseen, "result")).content == "X"


async def test_a_job_that_is_done_stays_done(market: Market, slow: Slow, stranger: "Stranger") -> None:
    provider = await market.open(slow.agent)
    slow.go_on.set()
    request = stranger.request(kind=5002)
    await stranger.answer(request, "result")
    delete(stranger, request.id, kind=5002)
    async with asyncio.timeout(10):
        while not await cancellations(provider._post.db, provider.public_key):
            await asyncio.sleep(0.005)
    await ended(provider, request, JobState.DONE)
    assert [e.tag("status") for e in stranger.answers(request, 7000)] == ["processing"]


async def test_a_flood_of_deletions_costs_a_bounded_memory(
    market: Market, slow: Slow, stranger: "Stranger", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancellations_module, "AUTHORS_MAX", 3)
    provider = await market.open(slow.agent)
    keys = [SecretKey.generate() for _ in range(6)]
    for number, key in enumerate((*keys, *keys)):
        delete(stranger, *(f"{number}{n:03}".zfill(64) for n in range(40)), kind=5002, key=key)
    request = stranger.request(kind=5002)
    await stranger.answer(request, "processing")
    delete(stranger, request.id, kind=5002)
    await stranger.answer(request, "error")
    assert len(await cancellations(provider._post.db, provider.public_key)) <= 30
    held = provider._cancellations._remembered.values()
    assert sum(len(ids) for authors in held for ids in authors.values()) <= 30


async def test_no_flood_of_deletions_makes_us_forget_others(
    slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that came before its request: of a customer whoever deletes, of a stranger if one other stranger does."""
    from tests.dvm.conftest import Stranger

    monkeypatch.setattr(cancellations_module, "AUTHORS_MAX", 3)
    async with Market(clock=ManualClock()) as market:
        customer, modest, greedy = Stranger(market), Stranger(market), Stranger(market)
        provider = await market.open(slow.agent, limits=ProviderLimits(allowed=(customer.key.public_key,)))

        def unseen(by: "Stranger") -> Event:
            tags = [("i", "x", "text")]
            return sign_event(make_template(5002, tags=tags, created_at=market.clock.now()), by.key)

        async def heard(count: int) -> None:
            async with asyncio.timeout(10):
                while len(await cancellations(provider._post.db, provider.public_key)) != count:
                    await asyncio.sleep(0.005)

        early, other = unseen(customer), unseen(modest)
        delete(customer, early.id, kind=5002)
        delete(modest, other.id, kind=5002)
        await heard(2)
        for number in range(110):
            named = [f"{number}{n:03}".zfill(64) for n in range(100)]
            delete(greedy, *named, kind=5002)
        last = greedy.request(kind=5002)
        delete(greedy, last.id, kind=5002)
        await ended(provider, last, JobState.CANCELLED)
        await heard(12)
        market.relay.insert(other)
        await ended(provider, other, JobState.CANCELLED)
        for number in range(5):
            delete(greedy, f"{number}".zfill(64), kind=5002, key=SecretKey.generate())
        await heard(1 + 3)
        market.relay.insert(early)
        await ended(provider, early, JobState.CANCELLED)


# -- expiry


async def test_a_request_that_expires_while_it_waits_is_not_begun(slow: Slow) -> None:
    from tests.dvm.conftest import Stranger

    clock = ManualClock()
    async with Market(clock=clock) as market:
        stranger = Stranger(market)
        provider = await market.open(slow.agent, limits=ProviderLimits(concurrent_jobs_max=1))
        first = stranger.request(kind=5002)
        await stranger.answer(first, "processing")
        soon = ("expiration", str(clock.now() + 60))
        request = stranger.request(soon, kind=5002, text="soon")
        await ended(provider, request, JobState.QUEUED)
        await clock.advance(61)
        slow.go_on.set()
        await ended(provider, request, JobState.FAILED)
        assert slow.begun == [first.id]
        error = await stranger.answer(request, "error")
        assert "expired before the work began" in error.tags_named("status")[0][2]


async def test_an_offer_ends_with_its_request_and_money_that_comes_later_returns(slow: Slow) -> None:
    from tests.dvm.conftest import Stranger

    clock = ManualClock()
    async with Market(clock=clock) as market:
        stranger = Stranger(market)
        purse = (await market.post("purse", sat=100)).wallet
        provider = await market.open(slow.agent)
        end = clock.now() + 60
        request = stranger.request(("expiration", str(end)))
        offer = await stranger.answer(request, "payment-required")
        assert offer.tag("expiration") == str(end)
        await clock.advance(100)
        await ended(provider, request, JobState.EXPIRED)
        await stranger.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
        await stranger.letter("refund")
        assert slow.begun == []


# -- our customer


async def test_an_order_taken_back_before_anything_is_paid(market: Market, slow: Slow) -> None:
    provider = await market.open(slow.agent)
    customer = await market.customer()
    order = await customer.ask(provider.public_key, "x", kind=5002)
    async with asyncio.timeout(10):
        while slow.begun != [order.id]:
            await asyncio.sleep(0.005)
    await order.cancel()
    with pytest.raises(OrderFailed, match="cancelled; nothing was paid"):
        await order.result()
    assert order.state is OrderState.CANCELLED
    async with asyncio.timeout(10):
        while slow.stopped != [order.id]:
            await asyncio.sleep(0.005)
    with pytest.raises(BadRequest, match="nothing to cancel"):
        await order.cancel()
    with pytest.raises(BadRequest, match="no order"):
        await customer.cancel("ab" * 32)
    assert await customer.open_orders() == []


async def test_an_order_that_was_paid_and_waits_is_paid_back(market: Market, slow: Slow) -> None:
    provider = await market.open(slow.agent, limits=ProviderLimits(concurrent_jobs_max=1))
    customer = await market.customer(sat=100)
    await customer.ask(provider.public_key, "first", kind=5002)
    order = await customer.ask(provider.public_key, "x", kind=5001, max_sat=50, private=True)
    async with asyncio.timeout(10):
        while (job := await get_job(provider._post.db, provider.public_key, order.id)) is None or (
            job.state is not JobState.QUEUED
        ):
            await asyncio.sleep(0.005)
    await reached(customer, order, OrderState.PAID)
    await order.cancel()
    with pytest.raises(OrderFailed, match=r"before the work began.*came back"):
        await order.result()
    assert order.state is OrderState.REFUNDED
    assert [update.step async for update in order].count("paid") == 1
    assert await sats(customer) + market.mint.fees_sat == 100


async def test_an_order_taken_back_when_its_work_was_begun_is_lost_with_the_reason(slow: Slow) -> None:
    clock = ManualClock()
    async with Market(clock=clock) as market:
        provider = await market.open(slow.agent)
        customer = await market.customer(sat=100)
        order = await customer.ask(provider.public_key, "x", kind=5001, max_sat=50)
        async with asyncio.timeout(10):
            while slow.begun != [order.id]:
                await asyncio.sleep(0.005)
        await order.cancel()
        await reached(customer, order, OrderState.AWAITING_REFUND)
        row = await get_order(customer._post.db, order.id)
        assert row is not None
        await clock.advance((row.locktime or 0) - clock.now() + 2)
        with pytest.raises(
            OrderFailed, match="work was under way; what you paid is not returned; 21 sat are with"
        ):
            await order.result()


async def test_an_order_taken_back_while_its_coins_are_locked_keeps_them_and_gets_them_back(
    slow: Slow,
) -> None:
    clock = ManualClock()
    async with Market(clock=clock) as market:
        provider = await market.open(slow.agent)
        customer = await market.customer(sat=100)
        market.mint.lose_request("/v1/swap")  # the lock takes a second try
        market.mint.stall = asyncio.Event()
        order = await customer.ask(provider.public_key, "x", kind=5001, max_sat=50)
        await reached(customer, order, OrderState.PAYING)
        await order.cancel()
        market.mint.stall.set()
        async with asyncio.timeout(20):
            while not order.ended:
                await asyncio.sleep(0.005)
                await clock.advance(60)
        with pytest.raises(OrderFailed, match="came back"):
            await order.result()
        assert slow.begun == []
        assert await sats(customer) + market.mint.fees_sat == 100


async def test_an_offer_that_has_expired_is_not_waited_for_a_mint_with() -> None:
    clock = ManualClock()
    async with Market(clock=clock) as market:
        rogue = Rogue(market)
        customer = await market.customer(sat=100)
        order = await customer.ask(rogue.key.public_key, "x", kind=5001, max_sat=50, seconds_max=600)
        market.mint.down = True
        offer = Offer(
            price_msat=21_000, mints=(market.mint.url,), lock=rogue.lock.compressed_public_key,
            locktime=clock.now() + 600, settle=("prepaid",), expires_at=clock.now() + 5,
        )  # fmt: skip
        await rogue.say(order, Status.PAYMENT_REQUIRED, offer=offer)
        await clock.advance(30)
        with pytest.raises(OrderFailed, match="nothing was paid"):
            await order.result()
        assert order.state is OrderState.FAILED


async def test_a_request_too_large_for_relays_is_not_sent(market: Market) -> None:
    customer = await market.customer()
    for private in (False, True):
        with pytest.raises(BadRequest, match="relays take at most"):
            await customer.ask(SecretKey.generate().public_key, "x" * 64_000, kind=5001, private=private)
    assert {event.kind for event in market.relay.published} <= {RECORD}
