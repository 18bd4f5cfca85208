"""Jobs that work on the results of other jobs: waited for, checked, and what becomes of those that never come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dvm import Agent, Job, JobFailed, JobState, Provider, ProviderLimits
from dvm.jobs.chaining import judge
from dvm.nip90 import Status, make_feedback, make_result
from dvm.queries import get_job
from identity import Event, EventTemplate, LocalSigner, SecretKey, make_template, nip19, sign_event
from tests.dvm.conftest import Stranger, eventually
from tradepost.post import open_post, own_key
from tradepost.testing import ManualClock, Market
from wallet import Wallet

OTHER = SecretKey.generate()  # does the job that others build on
THIRD = SecretKey.generate()
ASKER = SecretKey.generate()
NOW = 1_700_000_000


def asked(*tags: tuple[str, ...], kind: int = 5000) -> Event:
    return sign_event(make_template(kind, tags=tags, created_at=NOW), ASKER)


def done(request: Event, content: str, by: SecretKey = OTHER, at: int = 1) -> Event:
    return sign_event(make_result(request, content, price_msat=0, now=request.created_at + at), by)


def failed(request: Event, why: str, by: SecretKey = OTHER, *tags: tuple[str, ...]) -> Event:
    said = make_feedback(request, Status.ERROR, now=request.created_at, message=why, tags=tags)
    return sign_event(said, by)


# What events say ----------------------------------------------------------------------------------------------------


def test_the_result_is_the_named_providers() -> None:
    request = asked(("p", OTHER.public_key))
    right, wrong = done(request, "right", at=9), done(request, "wrong", by=THIRD)
    assert judge(request.id, [request, wrong]).result is None
    assert judge(request.id, [request, wrong, right]).result == right


def test_of_a_request_to_everybody_the_first_result_counts() -> None:
    request = asked()
    early, late = done(request, "early"), done(request, "late", by=THIRD, at=5)
    before_it_was_asked = done(request, "forged", by=THIRD, at=-100)
    assert judge(request.id, [late, early, before_it_was_asked, request]).result == early


def test_what_is_no_result_of_it_does_not_count() -> None:
    request, another = asked(), asked(kind=5001)
    wrong_kind = sign_event(make_template(6001, content="x", tags=[("e", request.id)], created_at=NOW), OTHER)
    sealed = sign_event(
        make_template(6000, content="x", tags=[("e", request.id), ("encrypted",)], created_at=NOW), OTHER
    )
    assert judge(request.id, [request, wrong_kind, sealed, done(another, "x")]).result is None


def test_the_id_of_a_result_will_do() -> None:
    result = done(asked(), "text")
    assert judge(result.id, [result]).result == result


def test_a_request_that_relays_have_dropped_is_in_its_result() -> None:
    request = asked(("p", OTHER.public_key))
    result = done(request, "text")
    assert judge(request.id, [result]).result == result
    altered = request.to_json().replace(b'"kind":5000', b'"kind":5001').decode()
    tags = [("e", request.id), ("request", altered)]
    forged = sign_event(make_template(6001, content="x", tags=tags, created_at=NOW), OTHER)
    assert judge(request.id, [forged]).request is None


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (sign_event(make_template(1, content="a note", created_at=NOW), ASKER), "no job, and no result"),
        (asked(("encrypted",)), "only its customer can read the result"),
        (sign_event(make_template(6000, tags=[("e", "ab" * 32), ("encrypted",)], created_at=NOW), OTHER), "encrypted"),
    ],
)  # fmt: skip
def test_what_cannot_be_worked_on_is_told(named: Event, said: str) -> None:
    with pytest.raises(JobFailed, match=said):
        judge(named.id, [named])


def test_a_job_that_failed_or_was_taken_back() -> None:
    request = asked(("p", OTHER.public_key), ("p", THIRD.public_key))
    one, two = failed(request, "no time"), failed(request, "no money", THIRD, ("action", "give_up"))
    assert judge(request.id, [request, one]).result is None
    with pytest.raises(JobFailed, match="has failed: no money"):
        judge(request.id, [request, one, two])
    asks_again = failed(request, "too little", THIRD, ("action", "top_up"))
    assert judge(request.id, [request, one, asks_again]).result is None
    open_to_all = asked()
    assert judge(open_to_all.id, [open_to_all, failed(open_to_all, "not me")]).result is None
    for key, ends in ((ASKER, True), (THIRD, False)):
        deletion = sign_event(make_template(5, tags=[("e", request.id)], created_at=NOW), key)
        if ends:
            with pytest.raises(JobFailed, match="taken back"):
                judge(request.id, [request, deletion])
        else:
            assert judge(request.id, [request, deletion]).result is None


# At work ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def upper() -> Agent:
    agent = Agent("Upper")

    @agent.serves(5001)
    async def shout(job: Job) -> str:
        kinds = [part.event.kind for part in job.inputs if part.event]
        return f"{job.text.upper()} {kinds}"

    @agent.serves(5002, 21)
    async def sell(job: Job) -> str:
        return job.text.upper()

    return agent


def extraction(market: Market, *tags: tuple[str, ...]) -> Event:
    """A request that is not for our agent."""
    template = make_template(5000, tags=[("p", OTHER.public_key), *tags], created_at=market.clock.now())
    event = sign_event(template, ASKER)
    market.relay.insert(event)
    return event


def say(market: Market, template: EventTemplate, by: SecretKey = OTHER) -> None:
    market.relay.insert(sign_event(template, by))


def finish(market: Market, request: Event, text: str, by: SecretKey = OTHER) -> None:
    say(market, make_result(request, text, price_msat=5000, now=market.clock.now(), bolt11="lnbc1"), by)


async def told(stranger: Stranger, request: Event, status: str = "error") -> str:
    return (await stranger.answer(request, status)).tags_named("status")[0][2]


async def test_a_result_that_is_there_is_used(market: Market, upper: Agent, stranger: Stranger) -> None:
    await market.open(upper)
    first = extraction(market)
    finish(market, first, "the transcript")
    for name in (first.id, nip19.encode_note(first.id)):
        request = stranger.request(("i", name, "job"), text="sum up")
        assert (await stranger.answer(request, "result")).content == "SUM UP\n\nTHE TRANSCRIPT [6000]"


async def test_a_result_that_is_not_there_yet_is_waited_for(
    market: Market, upper: Agent, stranger: Stranger
) -> None:
    await market.open(upper, limits=ProviderLimits(concurrent_jobs_max=1))
    first = extraction(market)
    second = stranger.request(("i", first.id, "job", "ws://elsewhere.test"), text=None)
    assert first.id[:12] in await told(stranger, second, "processing")
    third = stranger.request(("i", second.id, "job"), text=None)
    assert second.id[:12] in await told(stranger, third, "processing")
    finish(market, first, "a forgery", by=THIRD)
    await stranger.answer(stranger.request(), "result")  # nobody's slot is taken by the wait
    finish(market, first, "text")
    assert (await stranger.answer(third, "result")).content == "TEXT [6000] [6001]"


async def test_a_request_may_come_before_the_one_it_builds_on(
    market: Market, upper: Agent, stranger: Stranger
) -> None:
    await market.open(upper)
    first = sign_event(make_template(5000, created_at=market.clock.now()), ASKER)
    second = stranger.request(("i", first.id, "job"), text=None)
    await told(stranger, second, "processing")
    market.relay.insert(first)
    finish(market, first, "text")
    assert (await stranger.answer(second, "result")).content == "TEXT [6000]"


async def test_a_paid_job_whose_other_job_fails_is_paid_back(
    market: Market, upper: Agent, stranger: Stranger, purse: Wallet
) -> None:
    provider = await market.open(upper)
    first = extraction(market)
    request = stranger.request(("i", first.id, "job"), kind=5002, text=None)
    await stranger.answer(request, "payment-required")
    await stranger.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
    await told(stranger, request, "processing")
    say(market, make_feedback(first, Status.ERROR, now=market.clock.now(), message="no such file"))
    assert "has failed: no such file" in await told(stranger, request)
    await stranger.letter("refund")


async def test_a_job_that_waits_can_be_taken_back(market: Market, upper: Agent, stranger: Stranger) -> None:
    provider = await market.open(upper)
    request = stranger.request(("i", extraction(market).id, "job"), text=None)
    await told(stranger, request, "processing")
    deletion = make_template(5, tags=[("e", request.id), ("k", "5001")], created_at=market.clock.now())
    say(market, deletion, stranger.key)
    assert "cancelled by you" in await told(stranger, request)
    await eventually(lambda: f"chain:{request.id}" not in provider._workshop._under_way._tasks)


async def test_the_wait_survives_a_restart(market: Market, upper: Agent, stranger: Stranger) -> None:
    @asynccontextmanager
    async def life() -> AsyncIterator[Provider]:
        settings = market.settings("agent")
        signer = LocalSigner(own_key(settings, upper.slug))
        opened = open_post(
            settings, clock=market.clock, connect=market.relay.connect, transport=market.mint.transport
        )
        async with opened as post:
            provider = Provider(upper, signer, post)
            await provider.start()
            yield provider
            async with asyncio.timeout(5):  # what only waits is not waited for
                await provider.stop()

    first = extraction(market)
    async with life() as provider:
        request = stranger.request(("i", first.id, "job"), text=None)
        await told(stranger, request, "processing")
        job = await get_job(provider._post.db, provider.public_key, request.id)
        assert job is not None
        assert job.state is JobState.QUEUED
    finish(market, first, "text")
    async with life():
        assert (await stranger.answer(request, "result")).content == "TEXT [6000]"
    assert len(stranger.answers(request, 6001)) == 1


async def test_no_wait_is_for_ever(upper: Agent) -> None:
    clock = ManualClock()
    async with Market(clock=clock) as market:
        stranger = Stranger(market)
        await market.open(upper, limits=ProviderLimits(chained_jobs_max=9))
        unknown = stranger.request(("i", "ab" * 32, "job"), text=None)
        late = stranger.request(("i", extraction(market).id, "job"), text=None)
        expires = ("expiration", str(clock.now() + 100))
        hasty = stranger.request(("i", extraction(market, ("t", "x")).id, "job"), expires, text=None)
        for request in (unknown, late, hasty):
            await told(stranger, request, "processing")
        refused = stranger.request(("i", extraction(market, ("t", "y")).id, "job"), text=None)
        assert "too many jobs wait" in await told(stranger, refused)
        ends = {}
        for request, name in ((unknown, "unknown"), (hasty, "hasty"), (late, "late")):
            started = clock.now()
            async with asyncio.timeout(10):
                while not any(e.tag("status") == "error" for e in stranger.answers(request)):
                    await clock.advance(5)
                    await asyncio.sleep(0.002)
            ends[name] = (await told(stranger, request), clock.now() - started)
        assert "was not found on 1 relays" in ends["unknown"][0]
        assert "has none yet" in ends["hasty"][0]
        assert "has none yet" in ends["late"][0]
        assert sum(seconds for _, seconds in ends.values()) < 1500
