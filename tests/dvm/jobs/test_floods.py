"""Whoever makes keys and floods an agent, those who pay, or have paid, find it at work; and what it holds is bounded."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import cast

import pytest

from dvm import Agent, Job, Provider, ProviderLimits, queries_invoices
from dvm.jobs import payment_book as payment_book_module
from dvm.jobs import payments as payments_module
from dvm.jobs.lifecycle import JobState, PaymentState
from dvm.jobs.room import Standing
from dvm.nip90 import JobRequest
from dvm.queries import get_job, payments_of
from identity import Event, SecretKey, make_template, sign_event
from store import Database
from tests.dvm.conftest import Stranger, eventually
from tradepost.testing import ManualClock, Market
from wallet import Lock, Token, encode_token
from wallet.escrow import Stage
from wallet.terms import Method


class Busy:
    """An agent whose free work (5002) never ends, beside work that costs 21 sat (5001)."""

    def __init__(self) -> None:
        self.agent = Agent("Busy")
        self.begun: list[str] = []

        @self.agent.serves(kind=5002)
        async def slow(job: Job) -> str:
            self.begun.append(job.customer)
            await asyncio.Event().wait()
            return ""

        @self.agent.serves(kind=5001, price_sat=21)
        async def quick(job: Job) -> str:
            return job.text.upper()


@pytest.fixture
def busy() -> Busy:
    return Busy()


async def is_known(provider: Provider, request: Event, *states: JobState) -> bool:
    job = await get_job(provider._post.db, provider.public_key, request.id)
    return job is not None and job.state in states


async def ask_and_hold(provider: Provider, one: Stranger) -> None:
    """A stranger asks for free work as long as it is not refused."""
    states = (JobState.QUEUED, JobState.RUNNING, JobState.FAILED)
    while True:
        request = one.request(kind=5002, text=os.urandom(4).hex())
        await eventually(partial(is_known, provider, request, *states))
        if await is_known(provider, request, JobState.FAILED):
            return


async def fill(provider: Provider, market: Market) -> None:
    """Fresh keys ask for free work until no key is given any more."""
    while provider._workshop.queue.left(Standing.STRANGER) > 0:
        await ask_and_hold(provider, Stranger(market))


async def test_strangers_who_fill_slots_and_queue_keep_no_customer_out(busy: Busy) -> None:
    async with Market(clock=ManualClock()) as market:
        friend, buyer = Stranger(market), Stranger(market)
        purse = (await market.post("purse", sat=100)).wallet
        limits = ProviderLimits(allowed=(friend.key.public_key,), concurrent_jobs_max=8, queue_jobs_max=20)
        provider = await market.open(busy.agent, limits=limits)
        await fill(provider, market)
        assert (
            len(busy.begun) == 4
        )  # two slots are for those who pay, a quarter of the rest for those who did before
        await friend.answer(friend.request(kind=5002), "processing")
        assert busy.begun[-1] == friend.key.public_key
        request = buyer.request()
        await buyer.answer(request, "payment-required")
        await buyer.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
        await buyer.answer(request, "result")


async def test_after_a_restart_strangers_leave_as_much(busy: Busy) -> None:
    async with Market(clock=ManualClock()) as market:
        friend = Stranger(market)
        limits = ProviderLimits(allowed=(friend.key.public_key,), concurrent_jobs_max=8, queue_jobs_max=20)
        provider = await market.open(busy.agent, limits=limits)
        await fill(provider, market)
        await provider.stop(0)
        busy.begun.clear()
        again = Provider(busy.agent, provider.signer, provider._post, limits)
        await again.start()
        await eventually(lambda: len(busy.begun) == 4)
        await ask_and_hold(again, Stranger(market))
        await friend.answer(friend.request(kind=5002), "processing")
        assert busy.begun[4:] == [friend.key.public_key]
        await again.stop(0)


async def test_strangers_who_wait_for_other_jobs_keep_no_customer_out(busy: Busy) -> None:
    async with Market(clock=ManualClock()) as market:
        friend = Stranger(market)
        limits = ProviderLimits(allowed=(friend.key.public_key,), chained_jobs_max=8)
        provider = await market.open(busy.agent, limits=limits)
        never = make_template(
            5000, tags=[("p", "ab" * 32), ("i", "x", "text")], created_at=market.clock.now()
        )
        first = sign_event(never, SecretKey.generate())
        market.relay.insert(first)
        told = []
        for number in range(7):
            one = Stranger(market)
            request = one.request(("i", first.id, "job"), kind=5002, text=None, content=str(number))
            await eventually(lambda one=one, request=request: bool(one.answers(request)))
            told.append(one.answers(request)[0].tag("status"))
        assert told == ["processing"] * 6 + ["error"]
        await friend.answer(friend.request(("i", first.id, "job"), kind=5002, text=None), "processing")
        assert provider._workshop.queue.left(Standing.CUSTOMER) == 1000


async def test_what_waited_for_other_jobs_waits_on_after_a_restart(busy: Busy) -> None:
    async with Market(clock=ManualClock()) as market:
        early, late = Stranger(market), Stranger(market)
        keys = (early.key.public_key, late.key.public_key)
        limits = ProviderLimits(allowed=keys, chained_jobs_max=4)
        provider = await market.open(busy.agent, limits=limits)
        purse = (await market.post("purse", sat=200)).wallet
        never = make_template(
            5000, tags=[("p", "ab" * 32), ("i", "x", "text")], created_at=market.clock.now()
        )
        first = sign_event(never, SecretKey.generate())
        market.relay.insert(first)
        asked = []
        for one in (early, late, late):  # who asked first pays last
            request = one.request(("i", first.id, "job"), text=None, content=f"{len(asked)}")
            await one.answer(request, "payment-required")
            asked.append((one, request))
            await market.clock.advance(1)
        for one, request in reversed(asked):
            await one.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
            await eventually(partial(is_known, provider, request, JobState.QUEUED))
            await one.answer(request, "processing")
        await provider.stop(0)
        again = Provider(busy.agent, provider.signer, provider._post, limits)
        await again.start()
        await eventually(lambda: again._workshop._chains._room.left(Standing.PAYS) == 1)
        for _, request in asked:
            assert await is_known(again, request, JobState.QUEUED)
        await again.stop(0)


async def test_who_has_just_paid_is_a_customer(busy: Busy) -> None:
    async with Market(clock=ManualClock()) as market:
        buyer = Stranger(market)
        purse = (await market.post("purse", sat=100)).wallet
        limits = ProviderLimits(stranger_requests_per_minute_max=1, concurrent_jobs_max=1)
        provider = await market.open(busy.agent, limits=limits)
        request = buyer.request()
        await buyer.answer(request, "payment-required")
        await buyer.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
        await buyer.answer(request, "result")
        for number in range(10):  # more than a stranger has
            one = buyer.request(text=f"{number}")
            await buyer.answer(one, "payment-required")


async def test_who_has_just_paid_from_an_escrow_is_a_customer(busy: Busy) -> None:
    async with Market(clock=ManualClock()) as market:
        arbiter = await market.arbiter()
        limits = ProviderLimits(stranger_requests_per_minute_max=1, arbiters=(arbiter.public_key,))
        provider, customer = await market.open(busy.agent, limits=limits), await market.customer(sat=1000)
        for number in range(10):  # more than a stranger has
            order = await customer.ask(
                provider.public_key, f"{number}", kind=5001, max_sat=30, settle=(Method.ESCROW,),
                arbiters=[arbiter.public_key],
            )  # fmt: skip
            await asyncio.wait_for(order.result(), 20)
            await eventually(lambda order=order: is_released(provider, order.id))


async def test_who_pays_from_a_wallet_that_makes_a_key_for_each_payment_is_a_customer(busy: Busy) -> None:
    async with Market(clock=ManualClock()) as market:
        buyer, other = Stranger(market), Stranger(market)
        purse = (await market.post("purse", sat=100)).wallet
        limits = ProviderLimits(stranger_requests_per_minute_max=1)
        provider = await market.open(busy.agent, limits=limits)
        request = buyer.request()
        await buyer.answer(request, "payment-required")
        token = await purse.send(market.mint.url, 22)
        await buyer.pay(provider.public_key, request.id, token, SecretKey.generate())
        await buyer.answer(request, "result")
        for number in range(10):  # more than a stranger has
            await buyer.answer(buyer.request(text=f"{number}"), "payment-required")
        assert not await provider._gate.is_customer(provider._post.db, other.key.public_key)


async def test_whether_somebody_paid_is_asked_of_indexes_alone(busy: Busy, market: Market) -> None:
    db = (await market.open(busy.agent))._post.db
    asked = list[str]()

    class Explained:
        async def one(self, sql: str, *values: str) -> None:
            asked.extend(row["detail"] for row in await db.all(f"EXPLAIN QUERY PLAN {sql}", *values))

    await queries_invoices.has_paid(cast(Database, Explained()), "agent", "key")
    used = " ".join(asked)
    assert "payments_by_payer" in used
    assert "jobs_sold" in used
    assert "SCAN" not in used


async def is_released(provider: Provider, job_id: str) -> bool:
    escrow = await provider._desk.get(job_id)
    return escrow is not None and escrow.stage is Stage.PAID


async def test_an_agent_for_those_it_knows_hears_deletions_of_others(busy: Busy, market: Market) -> None:
    one = Stranger(market)
    provider = await market.open(busy.agent)
    request = one.request()
    await one.answer(request, "payment-required")
    await provider.stop(0)
    limits = ProviderLimits(stranger_requests_per_minute_max=0)
    again = Provider(busy.agent, provider.signer, provider._post, limits)
    await again.start()
    deletion = make_template(5, tags=[("e", request.id), ("k", "5001")], created_at=market.clock.now())
    market.relay.insert(sign_event(deletion, one.key))
    await eventually(lambda: is_known(again, request, JobState.CANCELLED))
    await again.stop(0)


# -- payments


def invented(coins: Token) -> Token:
    """Coins that nobody can tell from real ones without the mint."""
    return replace(
        coins, proofs=tuple(replace(p, secret=os.urandom(32).hex(), dleq=None) for p in coins.proofs)
    )


def looked_at(provider: Provider) -> int:
    return len(provider._payments._under_way._tasks)


async def rows(provider: Provider) -> int:
    row = await provider._post.db.one("SELECT COUNT(*) AS n FROM payments")
    return row["n"] if row else 0


async def wraps(provider: Provider, state: str) -> int:
    row = await provider._post.db.one(
        "SELECT COUNT(*) AS n FROM inbox WHERE name LIKE 'wraps:%' AND state = ?", state
    )
    return row["n"] if row else 0


async def have_come(provider: Provider, *, done: int, waiting: int = 0) -> None:
    async def is_so() -> bool:
        tried = await provider._post.db.one(
            "SELECT MIN(due_at - received_at) AS n FROM inbox WHERE state = 'open'"
        )
        is_tried = tried is None or tried["n"] is None or tried["n"] > 0
        return is_tried and (await wraps(provider, "done"), await wraps(provider, "open")) == (done, waiting)

    await eventually(is_so)


async def are_left(provider: Provider, count: int) -> bool:
    """Whether so many rows are there, and nothing is done to them: a row is written before it is begun with."""
    return await rows(provider) == count and looked_at(provider) == 0


async def passes_until(clock: ManualClock, is_so: Callable[[], bool]) -> None:
    """Time goes by until something is so."""
    async with asyncio.timeout(10):
        while not is_so():
            await clock.advance(1)
            await asyncio.sleep(0.005)


async def test_invented_coins_for_no_job_leave_nothing_and_trouble_no_mint(busy: Busy) -> None:
    clock = ManualClock()
    async with Market(clock=clock) as market:
        flood, buyer = Stranger(market), Stranger(market)
        purse = (await market.post("purse", sat=100)).wallet
        provider = await market.open(busy.agent)
        request = buyer.request()
        await buyer.answer(request, "payment-required")
        good = await purse.send(market.mint.url, 22)
        market.mint.down = True
        for number in range(60):
            await flood.pay(provider.public_key, f"{number:064x}", invented(good))
        await have_come(provider, done=60)
        await eventually(lambda: looked_at(provider) == 0)
        await eventually(partial(are_left, provider, 0))
        await buyer.pay(provider.public_key, request.id, good)
        await eventually(lambda: looked_at(provider) == 1)
        market.mint.down = False
        await passes_until(clock, lambda: bool(buyer.answers(request, 6001)))
        assert [p.state for p in await payments_of(provider._post.db, provider.public_key, request.id)] == [
            PaymentState.REDEEMED
        ]
        market.mint.asked.clear()
        for number in range(60):
            await flood.pay(provider.public_key, f"{number:064x}", invented(good))
        await have_come(provider, done=121)
        await eventually(lambda: looked_at(provider) == 0)
        await eventually(partial(are_left, provider, 1))
        assert market.mint.asked["/v1/swap"] == 0


async def test_invented_coins_for_offers_leave_room_for_a_payment_when_the_mint_is_back(
    busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All wait on disk for whom there is no place; nothing that comes for an offer is dropped."""
    monkeypatch.setattr(payments_module, "AT_ONE_MINT_MAX", 8)
    clock = ManualClock()
    async with Market(clock=clock) as market:
        flood, buyer, friend = Stranger(market), Stranger(market), Stranger(market)
        purse = (await market.post("purse", sat=100)).wallet
        limits = ProviderLimits(allowed=(friend.key.public_key,))
        provider = await market.open(busy.agent, limits=limits)
        requests = {one: one.request() for one in (flood, buyer, friend)}
        for one, request in requests.items():
            await one.answer(request, "payment-required")
        good = [await purse.send(market.mint.url, 22) for _ in range(2)]
        market.mint.down = True
        for _ in range(12):
            for target in (flood, buyer):  # anybody can name any job
                await flood.pay(provider.public_key, requests[target].id, invented(good[0]))
        await have_come(provider, done=4, waiting=20)
        await buyer.pay(provider.public_key, requests[buyer].id, good[0])
        await have_come(provider, done=4, waiting=21)
        await friend.pay(provider.public_key, requests[friend].id, good[1])
        await have_come(provider, done=5, waiting=21)
        assert looked_at(provider) == await rows(provider) == 5
        market.mint.down = False
        for one in (friend, buyer):
            await passes_until(clock, lambda one=one: bool(one.answers(requests[one], 6001)))
        async with asyncio.timeout(10):
            while looked_at(provider) or await wraps(provider, "open"):
                await clock.advance(5)
                await asyncio.sleep(0.005)
        assert await wraps(provider, "done") == 26


async def test_a_mint_that_is_away_does_not_hold_up_payments_at_another(
    busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payments_module, "AT_ONE_MINT_MAX", 4)
    async with Market(clock=ManualClock()) as market:
        provider = await market.open(busy.agent)
        away, there = provider._payments.room(market.mint.url), provider._payments.room("https://two.test")
        who = await provider._gate.neighbour(provider._post.db, "ab" * 32)
        while away.has(who):
            away.take(who)
        assert there.has(who)


async def test_a_request_with_coins_is_refused_while_too_many_payments_wait(
    busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payments_module, "AT_ONE_MINT_MAX", 8)
    async with Market(clock=ManualClock()) as market:
        flood, friend = Stranger(market), Stranger(market)
        purse = (await market.post("purse", sat=100)).wallet
        limits = ProviderLimits(allowed=(friend.key.public_key,))
        provider = await market.open(busy.agent, limits=limits)
        good = await purse.send(market.mint.url, 22)
        market.mint.down = True
        requests = [flood.request(("cashu", encode_token(invented(good))), text=f"{n}") for n in range(10)]

        async def all_are_known() -> bool:
            states = (JobState.OFFERED, JobState.FAILED)
            return all([await is_known(provider, one, *states) for one in requests])

        await eventually(all_are_known)
        assert looked_at(provider) < 6
        refused = [one for one in requests if await is_known(provider, one, JobState.FAILED)]
        told = await flood.answer(refused[0], "error")
        assert told.tag("action") == "retry_after"
        assert "nothing was taken" in told.tags_named("status")[0][2]
        request = friend.request(("cashu", encode_token(good)))
        await eventually(lambda: is_known(provider, request, JobState.OFFERED))


async def test_coins_that_only_we_can_spend_go_back_however_long_their_mint_was_away(busy: Busy) -> None:
    """Locked to us as the offer says to whoever gave no key for a refund."""
    clock = ManualClock()
    async with Market(clock=clock) as market:
        buyer = Stranger(market)
        purse = (await market.post("purse", sat=100)).wallet
        limits = ProviderLimits(payment_check_seconds_max=60)
        provider = await market.open(busy.agent, limits=limits)
        request = buyer.request()
        offer = await buyer.answer(request, "payment-required")
        token = await purse.send(market.mint.url, 22, lock=Lock(offer.tag("lock") or ""))
        market.mint.down = True
        await buyer.pay(provider.public_key, request.id, token)
        await eventually(lambda: looked_at(provider) == 1)
        await passes_until(clock, lambda: any(e.tag("status") == "error" for e in buyer.answers(request)))
        for _ in range(5):
            await clock.advance(1000)
        market.mint.down = False
        await clock.advance(100)
        await buyer.letter("refund")


async def test_of_payments_that_come_to_nothing_a_few_are_kept_for_a_job(
    busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payment_book_module, "PAYMENTS_KEPT", 3)
    async with Market(clock=ManualClock()) as market:
        flood, buyer = Stranger(market), Stranger(market)
        purse = (await market.post("purse", sat=100)).wallet
        provider = await market.open(busy.agent)
        request = buyer.request()
        await buyer.answer(request, "payment-required")
        good = await purse.send(market.mint.url, 22)
        for _ in range(12):
            await flood.pay(
                provider.public_key, request.id, replace(invented(good), mint="https://other.test")
            )
        await have_come(provider, done=12)
        await eventually(lambda: looked_at(provider) == 0)
        assert await rows(provider) <= 3
        await buyer.pay(provider.public_key, request.id, good)
        await buyer.answer(request, "result")


async def test_no_offer_waits_long_for_a_mint_that_hangs(busy: Busy) -> None:
    """An escrow is not offered without a look at its mint; who asks for one holds up nobody meanwhile."""
    clock = ManualClock()
    async with Market(clock=clock) as market:
        arbiter = await market.arbiter()
        provider = await market.open(busy.agent, limits=ProviderLimits(arbiters=(arbiter.public_key,)))
        asked, one = list[str](), Stranger(market)

        async def hang(request: JobRequest, _price_sat: int) -> None:
            asked.append(request.id)
            await asyncio.Event().wait()

        provider._desk.proposal = hang  # type: ignore[assignment, method-assign]
        tags = [
            ("settle", "escrow", "prepaid"), ("mint", market.mint.url), ("arbiter", arbiter.public_key),
            ("lock", SecretKey.generate().compressed_public_key),
        ]  # fmt: skip
        first = one.request(*tags)
        await eventually(lambda: asked == [first.id])
        await passes_until(clock, lambda: bool(one.answers(first)))
        later = one.request(*tags, text="later")
        await one.answer(later, "payment-required")
        assert asked == [first.id]
