"""Private jobs from end to end: nobody but the two parties reads what is asked, said, offered and answered."""

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import pytest
import structlog

from dvm import Agent, Job, JobFailed, OrderFailed, OrderState
from dvm.nip90 import Offer, Status, make_feedback, make_result
from dvm.orders.order import Order
from dvm.orders.replies import EXPOSED
from dvm.private import Scheme, encrypt, hide, reveal, scheme_of
from dvm.queries import get_job, get_order
from identity import (
    Event,
    EventTemplate,
    LocalSigner,
    SecretKey,
    SignerUnavailable,
    make_template,
    nip04,
    sign_event,
)
from tests.dvm.orders.test_orders import Rogue, reached
from tradepost.testing import ManualClock, Market
from wallet import Wallet, encode_token, parse_request

if TYPE_CHECKING:
    from conftest import Stranger

SECRET = "Xyzzy"
SCHEMES = pytest.mark.parametrize("scheme", list(Scheme))


async def ask(
    stranger: "Stranger", agent: str, *inside: list[str], scheme: Scheme, kind: int = 5002
) -> Event:
    """A private request, as NDK makes it."""
    signer = LocalSigner(stranger.key)
    content = await encrypt(signer, agent, json.dumps(inside), scheme)
    return stranger.request(("p", agent), ("encrypted",), kind=kind, text=None, content=content)


async def clear(stranger: "Stranger", answer: Event) -> EventTemplate:
    return await reveal(LocalSigner(stranger.key), answer)


def everything_public(market: Market) -> str:
    return "".join(event.to_json().decode().lower() for event in market.relay.published)


@SCHEMES
async def test_a_stranger_is_answered_in_its_own_scheme(
    market: Market, agent: Agent, stranger: "Stranger", scheme: Scheme
) -> None:
    provider = await market.open(agent)
    request = await ask(stranger, provider.public_key, ["i", SECRET, "text"], scheme=scheme)
    result = await stranger.answer(request, "result")
    assert scheme_of(result) is scheme
    assert (await clear(stranger, result)).content == SECRET.lower()
    assert not result.has_tag("i")
    feedback = await stranger.answer(request, "processing")
    assert scheme_of(feedback) is scheme
    assert (await clear(stranger, feedback)).tag("status") == "processing"


@SCHEMES
async def test_errors_are_private_too(
    market: Market, agent: Agent, stranger: "Stranger", scheme: Scheme
) -> None:
    provider = await market.open(agent)
    request = await ask(stranger, provider.public_key, ["i", "x", "text"], ["bid", SECRET], scheme=scheme)
    error = await stranger.answer(request, "error")
    assert SECRET not in error.to_json().decode()
    said = await clear(stranger, error)
    assert SECRET in said.tags_named("status")[0][2]
    assert said.tag("action") == "give_up"


async def test_a_stranger_pays_for_a_private_job(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    request = await ask(stranger, provider.public_key, ["i", SECRET, "text"], scheme=Scheme.NIP44, kind=5001)
    offer = await stranger.answer(request, "payment-required")
    assert [tag[0] for tag in offer.tags] == ["status", "e", "p", "amount", "expiration", "encrypted"]
    said = await clear(stranger, offer)
    assert parse_request(said.tag("creq") or "").amount == 21
    await stranger.pay(provider.public_key, request.id, await purse.send(market.mint.url, 22))
    result = await stranger.answer(request, "result")
    assert (await clear(stranger, result)).content == SECRET.upper()
    progress = [await clear(stranger, event) for event in stranger.answers(request, 7000)]
    assert "reading" in [tag[2] for said in progress for tag in said.tags_named("status") if len(tag) > 2]


async def test_a_token_inside_pays(market: Market, agent: Agent, stranger: "Stranger", purse: Wallet) -> None:
    provider = await market.open(agent)
    token = encode_token(await purse.send(market.mint.url, 22))
    request = await ask(
        stranger, provider.public_key, ["i", SECRET, "text"], ["cashu", token], scheme=Scheme.NIP44, kind=5001
    )
    result = await stranger.answer(request, "result")
    assert (await clear(stranger, result)).content == SECRET.upper()


@pytest.mark.parametrize("content", ["rubbish", "AAAA?iv=AAAA", "A" * 200])
async def test_what_cannot_be_read_is_said_in_clear(
    market: Market, agent: Agent, stranger: "Stranger", content: str
) -> None:
    provider = await market.open(agent)
    request = stranger.request(
        ("p", provider.public_key), ("encrypted",), kind=5002, text=None, content=content
    )
    error = await stranger.answer(request, "error")
    assert not error.has_tag("encrypted")
    assert "cannot be read" in error.tags_named("status")[0][2]


async def test_a_ciphertext_for_nobody_in_particular_is_nobodys(
    market: Market, agent: Agent, stranger: "Stranger"
) -> None:
    provider = await market.open(agent)
    request = stranger.request(("encrypted",), kind=5002, text=None, content="rubbish")
    await stranger.answer(stranger.request(kind=5002), "result")
    assert stranger.answers(request) == []
    assert await get_job(provider._post.db, provider.public_key, request.id) is None


async def test_our_customer_and_our_agent_tell_nobody(
    market: Market, agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    try:
        provider = await market.open(agent)
        customer = await market.customer(sat=100)
        order = await customer.ask(
            provider.public_key, SECRET, kind=5001, max_sat=50, params={"tone": SECRET}, private=True
        )
        steps = [update async for update in order]
        assert await order.result() == SECRET.upper()
        assert [update.step for update in steps][:2] == ["offer", "paid"]
        assert "reading" in [update.message for update in steps]
        row = await get_order(customer._post.db, order.id)
        assert row is not None
        assert row.result is not None
        assert scheme_of(row.result) is Scheme.NIP44
        broken = await customer.ask(provider.public_key, SECRET, kind=5050, max_sat=50, private=True)
        with pytest.raises(OrderFailed, match=f"cannot do {SECRET}.*came back"):
            await broken.result()
        failing = await customer.ask(provider.public_key, SECRET, kind=5100, private=True)
        with pytest.raises(OrderFailed, match="the agent failed"):
            await failing.result()
    finally:
        structlog.configure(wrapper_class=levels)
    assert SECRET.lower() not in everything_public(market)
    for private in (
        "creqa",
        '"mint"',
        '"lock"',
        "locktime",
        "reading",
        '"i"',
        '"param"',
        '"bid"',
        '"relays"',
    ):
        assert private not in everything_public(market).replace('["relays","ws', ""), private
    output = capsys.readouterr()
    assert order.id in output.out + output.err
    assert SECRET.lower() not in (output.out + output.err).lower()
    assert "work_failed" in output.out + output.err
    assert "hunter2" not in output.out + output.err  # what the work raised may quote the input


async def test_a_restart_reads_the_request_again(market: Market, stranger: "Stranger") -> None:
    agent, go_on, texts = Agent("Slow"), asyncio.Event(), []

    @agent.serves(kind=5002)
    async def work(job: Job) -> str:
        texts.append(job.text)
        assert job.private
        await go_on.wait()
        return job.text.upper()

    provider = await market.open(agent)
    request = await ask(stranger, provider.public_key, ["i", SECRET, "text"], scheme=Scheme.NIP04)
    await stranger.answer(request, "processing")
    await provider.stop(0)
    again = type(provider)(agent, provider.signer, provider._post)
    await again.start()
    go_on.set()
    result = await stranger.answer(request, "result")
    assert (await clear(stranger, result)).content == SECRET.upper()
    assert texts == [SECRET] * 2
    await again.stop(0)


class AwaySigner(LocalSigner):
    """A remote signer whose holder comes and goes."""

    away = False

    async def sign(self, template: EventTemplate) -> Event:
        self._check()
        return await super().sign(template)

    async def nip44_decrypt(self, peer: str, payload: str) -> str:
        self._check()
        return await super().nip44_decrypt(peer, payload)

    def _check(self) -> None:
        if self.away:
            raise SignerUnavailable("it is away")


async def test_a_signer_that_is_away_delays_the_job_and_refuses_nothing(agent: Agent) -> None:
    from tests.dvm.conftest import Stranger

    clock = ManualClock()
    async with Market(clock=clock) as market:
        provider = await market.open(agent)
        await provider.stop(0)
        signer = AwaySigner(provider.signer._key)  # type: ignore[attr-defined]
        stranger = Stranger(market)
        again = type(provider)(agent, signer, provider._post)
        await again.start()
        signer.away = True
        request = await ask(stranger, again.public_key, ["i", SECRET, "text"], scheme=Scheme.NIP44)
        await clock.advance(20)
        assert stranger.answers(request) == []
        signer.away = False
        await clock.advance(60)
        result = await stranger.answer(request, "result")
        assert (await clear(stranger, result)).content == SECRET.lower()
        await again.stop(0)


# -- what encryption does to size


@pytest.mark.parametrize(("scheme", "fits"), [(Scheme.NIP44, 40_960), (Scheme.NIP04, 44_950), (None, 59_998)])
async def test_a_result_that_fits_is_taken_by_relays_and_one_that_does_not_is_an_error(
    market: Market, stranger: "Stranger", scheme: Scheme | None, fits: int
) -> None:
    market.relay.switches.reject = lambda e: "invalid: too large" if len(e.to_json()) > 65_536 else None
    agent = Agent("Talker")

    @agent.serves(kind=5002)
    async def talk(job: Job) -> str:
        return "a" * int(job.text)

    provider = await market.open(agent)

    async def request(size: int) -> Event:
        if scheme is None:
            return stranger.request(kind=5002, text=str(size))
        return await ask(stranger, provider.public_key, ["i", str(size), "text"], scheme=scheme)

    result = await stranger.answer(await request(fits), "result")
    text = (await clear(stranger, result)).content if scheme else result.content
    assert len(text) == fits
    asked = await request(fits + 100)
    error = await stranger.answer(asked, "error")
    told = await clear(stranger, error) if scheme else error
    assert "fit into an event" in told.tags_named("status")[0][2]


async def test_a_partial_result_too_large_ends_the_job(market: Market, stranger: "Stranger") -> None:
    agent = Agent("Talker")

    @agent.serves(kind=5002)
    async def talk(job: Job) -> str:
        await job.partial("a" * 70_000)
        return "never"

    await market.open(agent)
    error = await stranger.answer(stranger.request(kind=5002), "error")
    assert "fit into an event" in error.tags_named("status")[0][2]


# -- our customer, with providers that do not keep to it


class Indiscreet(Rogue):
    """Answers by hand, encrypted or not."""

    async def hidden(self, template: EventTemplate, customer: str, scheme: Scheme) -> None:
        event = await hide(LocalSigner(self.key), template, customer, scheme)
        self.market.relay.insert(sign_event(event, self.key))

    async def blurt(self, order: Order, content: str) -> None:
        tags = [("e", order.id), ("p", (await self.request(order)).pubkey)]
        template = make_template(6001, content=content, tags=tags, created_at=self.market.clock.now())
        self.market.relay.insert(sign_event(template, self.key))


@pytest.fixture
def rogue(market: Market) -> Indiscreet:
    return Indiscreet(market)


async def test_an_offer_in_clear_is_not_paid(market: Market, rogue: Indiscreet) -> None:
    customer = await market.customer(sat=100)
    order = await customer.ask(rogue.key.public_key, SECRET, kind=5001, max_sat=50, private=True)
    await rogue.offer(order)
    with pytest.raises(OrderFailed, match="for all to read; nothing was paid"):
        await order.result()


async def test_a_result_in_clear_is_taken_and_told(market: Market, rogue: Indiscreet) -> None:
    customer = await market.customer()
    order = await customer.ask(rogue.key.public_key, SECRET, kind=5001, private=True)
    await rogue.blurt(order, "open")
    assert await order.result() == "open"
    assert EXPOSED in [update async for update in order]


async def test_an_error_in_clear_ends_the_order(market: Market, rogue: Indiscreet) -> None:
    customer = await market.customer()
    order = await customer.ask(rogue.key.public_key, SECRET, kind=5001, private=True)
    await rogue.say(order, Status.ERROR, "I read no ciphertext")
    with pytest.raises(OrderFailed, match="I read no ciphertext"):
        await order.result()


async def test_the_other_scheme_is_read_too(market: Market, rogue: Indiscreet) -> None:
    customer = await market.customer(sat=100)
    order = await customer.ask(rogue.key.public_key, SECRET, kind=5001, max_sat=50, private=True)
    request = await rogue.request(order)
    now = market.clock.now()
    offer = Offer(
        price_msat=21_000, mints=(market.mint.url,), lock=rogue.lock.compressed_public_key, locktime=now + 600,
        settle=("prepaid",),
    )  # fmt: skip
    template = make_feedback(request, Status.PAYMENT_REQUIRED, now=now, tags=offer.to_tags())
    await rogue.hidden(template, customer.public_key, Scheme.NIP04)
    await reached(customer, order, OrderState.PAID)
    answer = nip04.encrypt("fine", rogue.key, customer.public_key)
    market.relay.insert(sign_event(make_result(request, answer, price_msat=0, now=now), rogue.key))
    assert await order.result() == "fine"


async def test_a_result_that_cannot_be_opened_is_no_result(market: Market, rogue: Indiscreet) -> None:
    customer = await market.customer()
    order = await customer.ask(rogue.key.public_key, SECRET, kind=5001, private=True)
    request = await rogue.request(order)
    wrong = nip04.encrypt("fine", rogue.key, SecretKey.generate().public_key)
    market.relay.insert(
        sign_event(make_result(request, wrong, price_msat=0, now=market.clock.now()), rogue.key)
    )
    with pytest.raises(OrderFailed, match="cannot be decrypted"):
        await order.result()


async def test_feedback_that_cannot_be_opened_shows_no_ciphertext(market: Market, rogue: Indiscreet) -> None:
    customer = await market.customer()
    order = await customer.ask(rogue.key.public_key, SECRET, kind=5001, private=True)
    request = await rogue.request(order)
    template = make_template(
        7000, content="AAAA?iv=AAAA", created_at=market.clock.now(),
        tags=[("e", request.id), ("p", customer.public_key), ("status", "processing"), ("encrypted",)],
    )  # fmt: skip
    market.relay.insert(sign_event(template, rogue.key))
    await rogue.blurt(order, "open")
    await order.result()
    updates = [update async for update in order]
    assert "working" in [update.step for update in updates]
    assert not any("iv=" in update.content + update.message for update in updates)


async def test_a_private_order_that_failed_is_not_told_in_public(
    market: Market, stranger: "Stranger"
) -> None:
    agent = Agent("Quotes")

    @agent.serves(kind=5002)
    async def quote(job: Job) -> str:
        raise JobFailed(f"cannot do {job.text}")

    provider = await market.open(agent)
    customer = await market.customer()
    order = await customer.ask(provider.public_key, SECRET, kind=5002, private=True)
    with pytest.raises(OrderFailed, match=SECRET):
        await order.result()
    assert SECRET.lower() not in everything_public(market)
