"""Many customers of one agent: what one of them does is not felt by another, and strangers may be asked for more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from dvm import Agent, Job, OrderFailed, Provider, ProviderLimits
from dvm.jobs.lifecycle import JobState
from dvm.kinds import ANNOUNCEMENT
from dvm.queries import get_job
from identity import Event, LocalSigner, make_template, sign_event
from identity.nip13 import mine
from tests.dvm.conftest import Stranger, eventually
from tradepost.post import open_post, own_key
from tradepost.testing import ManualClock, Market
from wallet import Wallet


class Bench:
    """An agent whose jobs wait to be told that they may end; `begun` are their texts in order."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.agent = Agent("Slow")
        self._ends: dict[str, asyncio.Event] = {}

        @self.agent.serves(kind=5001)
        async def work(job: Job) -> str:
            self.begun.append(job.text)
            await self._end_of(job.text).wait()
            return "done"

    def _end_of(self, text: str) -> asyncio.Event:
        return self._ends.setdefault(text, asyncio.Event())

    def finish(self, text: str) -> None:
        self._end_of(text).set()


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def rows(provider: Provider) -> int:
    found = await provider._post.db.one("SELECT COUNT(*) AS n FROM inbox WHERE name LIKE 'requests-%'")
    return found["n"] if found else 0


async def test_slow_work_of_one_customer_leaves_a_slot_for_another(bench: Bench) -> None:
    async with Market(clock=ManualClock()) as market:
        await market.open(bench.agent, limits=ProviderLimits(concurrent_jobs_max=4))
        greedy, modest = Stranger(market), Stranger(market)
        for number in range(20):
            greedy.request(text=f"greedy {number}")
        await eventually(lambda: len(bench.begun) == 2)
        request = modest.request(text="modest")
        await modest.answer(request, "processing")
        assert bench.begun[2:] == ["modest"]


async def test_who_waits_is_served_by_turns(bench: Bench) -> None:
    async with Market(clock=ManualClock()) as market:
        provider = await market.open(bench.agent, limits=ProviderLimits(concurrent_jobs_max=1))
        greedy, modest = Stranger(market), Stranger(market)
        requests = [greedy.request(text=f"greedy {number}") for number in range(20)]
        requests.append(modest.request(text="modest"))

        async def all_wait() -> bool:
            found = [await get_job(provider._post.db, provider.public_key, one.id) for one in requests]
            return all(job is not None for job in found)

        await eventually(all_wait)
        first = bench.begun[0]
        bench.finish(first)
        await eventually(lambda: len(bench.begun) == 2)
        bench.finish(bench.begun[1])
        await eventually(lambda: len(bench.begun) == 3)
        assert "modest" in bench.begun


async def test_a_full_queue_has_room_for_who_has_nothing_in_it(bench: Bench) -> None:
    async with Market(clock=ManualClock()) as market:
        limits = ProviderLimits(concurrent_jobs_max=1, queue_jobs_max=10)
        provider = await market.open(bench.agent, limits=limits)
        greedy, modest = Stranger(market), Stranger(market)
        requests = [greedy.request(text=f"greedy {number}") for number in range(10)]
        told = [await greedy.answer(one, "error") for one in requests[5:]]
        assert all(error.tag("action") == "retry_after" for error in told)
        request = modest.request(text="modest")

        async def waits() -> bool:
            job = await get_job(provider._post.db, provider.public_key, request.id)
            return job is not None and job.state is JobState.QUEUED

        await eventually(waits)


async def test_a_flood_is_told_once_and_leaves_no_rows(agent: Agent) -> None:
    clock = ManualClock()
    async with Market(clock=clock) as market:
        provider = await market.open(agent, limits=ProviderLimits(stranger_requests_per_minute_max=1))
        greedy, modest = Stranger(market), Stranger(market)
        requests = [greedy.request(kind=5002, text=f"N{number}") for number in range(100)]
        assert (await modest.answer(modest.request(kind=5002, text="HI"), "result")).content == "hi"
        for request in requests[:4]:
            await greedy.answer(request, "result")
        told = await greedy.answer(requests[4], "error")
        assert told.tags_named("status")[0][2].startswith("rate-limited: 1 requests a minute; try again in")
        assert told.tag("action") == "retry_after"
        assert await rows(provider) == 6
        assert not any(greedy.answers(request) for request in requests[5:])
        await clock.advance(60)
        assert (await greedy.answer(greedy.request(kind=5002, text="AGAIN"), "result")).content == "again"


async def test_what_is_for_somebody_else_leaves_no_row(
    market: Market, agent: Agent, stranger: Stranger
) -> None:
    provider = await market.open(agent)
    stranger.request(("p", "ab" * 32), kind=5002)
    stranger.request(kind=5002, age=2 * 86_400)
    await stranger.answer(stranger.request(("p", provider.public_key), kind=5002), "result")
    assert await rows(provider) == 1


async def test_who_is_blocked_is_not_heard(market: Market, agent: Agent, stranger: Stranger) -> None:
    friend, foe = Stranger(market), Stranger(market)
    limits = ProviderLimits(
        blocked=(foe.key.public_key,), allowed=(friend.key.public_key,), stranger_requests_per_minute_max=0
    )
    provider = await market.open(agent, limits=limits)
    unheard = foe.request(kind=5002)
    refused = await stranger.answer(stranger.request(kind=5002), "error")
    assert refused.tags_named("status")[0][2].startswith("restricted: ")
    await friend.answer(friend.request(kind=5002), "result")
    assert foe.answers(unheard) == []
    assert await rows(provider) == 2


async def test_a_restart_does_not_forget_who_paid(
    market: Market, agent: Agent, stranger: Stranger, purse: Wallet
) -> None:
    @asynccontextmanager
    async def life(limits: ProviderLimits) -> AsyncIterator[Provider]:
        settings = market.settings("agent")
        opened = open_post(
            settings, clock=market.clock, connect=market.relay.connect, transport=market.mint.transport
        )
        async with opened as post:
            provider = Provider(agent, LocalSigner(own_key(settings, agent.slug)), post, limits)
            await provider.start()
            yield provider
            await provider.stop(0)

    async with life(ProviderLimits()) as provider:
        request = stranger.request()
        await stranger.answer(request, "payment-required")
        await stranger.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
        await stranger.answer(request, "result")
    async with life(ProviderLimits(stranger_requests_per_minute_max=0)):
        await stranger.answer(stranger.request(kind=5002), "result")
        other = Stranger(market)
        await other.answer(other.request(kind=5002), "error")


async def test_strangers_pay_for_their_first_job_if_that_is_asked(
    market: Market, agent: Agent, stranger: Stranger, purse: Wallet
) -> None:
    provider = await market.open(agent, limits=ProviderLimits(stranger_sat_min=2))
    request = stranger.request(kind=5002, text="HELLO")
    offer = await stranger.answer(request, "payment-required")
    assert offer.tag("amount") == "2000"
    await stranger.pay(provider.public_key, request.id, await purse.send(market.mint.url, 3))
    assert (await stranger.answer(request, "result")).content == "hello"
    again = stranger.request(kind=5002, text="AGAIN")
    assert (await stranger.answer(again, "result")).content == "again"
    assert stranger.answers(again, 7000)[0].tag("status") == "processing"


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_refusal_that_could_not_be_written_is_no_admission(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, restarts: bool
) -> None:
    clock = ManualClock()
    async with Market(clock=clock) as market:
        one = Stranger(market)
        limits = ProviderLimits(stranger_requests_per_minute_max=0)
        provider = await market.open(agent, limits=limits)
        tried = asyncio.Event()

        async def fails(*_: object, **__: object) -> None:
            tried.set()
            raise OSError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(provider._answers, "to", fails)
            request = one.request()
            await asyncio.wait_for(tried.wait(), 10)
        if restarts:
            await provider.stop(0)
            provider = Provider(agent, provider.signer, provider._post, limits)
            await provider.start()
        await eventually(partial(is_told, clock, one, request))
        assert [answer.tag("status") for answer in one.answers(request)] == ["error"]
        await provider.stop(0)


async def is_told(clock: ManualClock, one: Stranger, request: Event) -> bool:
    await clock.advance(1)
    return bool(one.answers(request))


async def test_strangers_show_work_if_that_is_asked(market: Market, agent: Agent, stranger: Stranger) -> None:
    await market.open(agent, limits=ProviderLimits(stranger_pow_bits=8))

    def announced() -> list[Event]:
        return [event for event in market.relay.events if event.kind == ANNOUNCEMENT]

    await eventually(lambda: bool(announced()))
    assert announced()[0].tags_named("strangers") == [("strangers", "pow", "8")]
    refused = await stranger.answer(stranger.request(kind=5002), "error")
    assert refused.tags_named("status")[0][2].startswith("pow: 8 bits")
    template = make_template(5002, tags=[("i", "WORK", "text")], created_at=market.clock.now())
    request = sign_event(mine(template, stranger.key.public_key, 8), stranger.key)
    market.relay.insert(request)
    assert (await stranger.answer(request, "result")).content == "work"


async def test_our_customer_shows_work_if_it_is_told_to(market: Market, agent: Agent) -> None:
    provider = await market.open(agent, limits=ProviderLimits(stranger_pow_bits=8))
    customer = await market.customer(sat=1)
    refused = await customer.ask(provider.public_key, "WORK", kind=5002)
    with pytest.raises(OrderFailed, match="pow: 8 bits"):
        await refused.result()
    order = await customer.ask(provider.public_key, "WORK", kind=5002, pow_bits=8)
    assert await order.result() == "work"


async def test_fifty_agents_of_one_post_share_what_a_relay_allows() -> None:
    async def echo(job: Job) -> str:
        return job.text

    async with Market() as market:
        market.relay.switches.subscriptions_max = 20
        post = await market.post("agents")
        providers = []
        for number in range(50):
            agent = Agent(f"agent {number}")
            agent.serves(kind=5001)(echo)
            signer = LocalSigner(own_key(market.settings("agents"), agent.slug))
            providers.append(Provider(agent, signer, post))
        try:
            for provider in providers:
                await provider.start()
            stranger = Stranger(market)
            for provider in providers:
                request = stranger.request(("p", provider.public_key), text=provider.agent.name)
                assert (await stranger.answer(request, "result")).content == provider.agent.name
            assert sum(health.closed for health in post.pool.health().values()) == 0
        finally:
            for provider in providers:
                await provider.stop(0)
