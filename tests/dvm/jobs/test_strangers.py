"""Customers that are not ours, with requests and payments good and bad: what they are told, and where the sats end."""

import asyncio
from typing import TYPE_CHECKING

import pytest

from dvm import Agent, Job, Provider, ProviderLimits
from dvm.jobs.lifecycle import JobState, PaymentState
from dvm.queries import get_job, jobs_in, payments_of
from identity import Event, SecretKey, make_template, sign_event
from relay_bridge import Socket
from tradepost.testing import Market, MemoryMint, MemoryRelay
from tradepost.testing.market import RELAY
from tradepost.testing.relay import connect_by_url
from wallet import Lock, Proof, Token, Wallet, encode_token, parse_request, parse_token

if TYPE_CHECKING:
    from conftest import Stranger


async def sats(provider: Provider) -> int:
    return sum((await provider._post.wallet.balance()).values())


async def settled(provider: Provider, job_id: str) -> list[PaymentState]:
    return [p.state for p in await payments_of(provider._post.db, provider.public_key, job_id)]


# -- requests


async def test_a_free_request_is_answered(market: Market, agent: Agent, stranger: "Stranger") -> None:
    provider = await market.open(agent)
    request = stranger.request(
        ("p", provider.public_key), ("relays", "ws://relay.test"), kind=5002, text="HELLO"
    )
    result = await stranger.answer(request, "result")
    assert (result.kind, result.content, result.pubkey) == (6002, "hello", provider.public_key)
    assert result.tag("request") == request.to_json().decode()
    assert result.tag("p") == stranger.key.public_key


async def test_a_request_to_everybody_is_answered_too(
    market: Market, agent: Agent, stranger: "Stranger"
) -> None:
    await market.open(agent)
    assert (await stranger.answer(stranger.request(kind=5002), "result")).content == "some text"


async def test_a_request_that_is_seen_again_is_answered_once(
    market: Market, agent: Agent, stranger: "Stranger"
) -> None:
    await market.open(agent)
    request = stranger.request(kind=5002)
    await stranger.answer(request, "result")
    market.relay.lie(request)
    market.relay.drop_connections()
    later = stranger.request(kind=5002, text="later")
    await stranger.answer(later, "result")
    assert len(stranger.answers(request, 6002)) == 1


async def test_requests_that_waited_while_the_agent_was_away_are_answered(
    market: Market, agent: Agent, stranger: "Stranger"
) -> None:
    waiting = [stranger.request(kind=5002, text=f"N{number}", age=600) for number in range(20)]
    await market.open(agent)
    for number, request in enumerate(waiting):
        assert (await stranger.answer(request, "result")).content == f"n{number}"


@pytest.mark.parametrize(
    ("tags", "text", "kind", "said"),
    [
        ((), None, 5002, "no input"),
        ((("i", "x", "image"),), None, 5002, "not known"),
        ((("i", "aa" * 31, "job"),), None, 5002, "id of an event"),
        (
            (("param", "lang", "¡"),),
            "text",
            5002,
            "the parameter language is '¡'; allowed is a code of ISO 639",
        ),
        (
            (("output", "image/png"),),
            "text",
            5002,
            "the output is to be 'image/png'; translation gives one of text/plain",
        ),
        ((("i", "file:///etc/passwd", "url"),), None, 5002, "not a URL"),
        ((("i", "http://127.0.0.1/", "url"),), None, 5002, "not on the public internet"),
        ((("i", "aa" * 32, "event"),), "text", 5002, "not found"),
        ((("i", "npub1", "event"),), "text", 5002, "id of an event"),
        ((("i", "https://example.com", "url"),) * 9, None, 5002, "fetches 8"),
        ((("bid", "much"),), "text", 5002, "whole number"),
        ((("t", "x"),) * 600, "text", 5002, "tags"),
        ((), "x" * 300_000, 5002, "at most"),
        ((), "magic", 5250, "fit into an event"),
        ((("cashu", "cashuBrubbish"),), "text", 5001, "cashu"),
    ],
)
async def test_a_request_that_cannot_be_served_gets_a_clear_error(
    market: Market, agent: Agent, stranger: "Stranger", tags: tuple[tuple[str, ...], ...], text: str | None, kind: int,
    said: str,
) -> None:  # fmt: skip
    provider = await market.open(agent)
    request = stranger.request(*tags, text=text, kind=kind)
    error = await stranger.answer(request, "error")
    told = error.tags_named("status")[0]
    assert said in told[2]
    assert error.tag("action") == "give_up"
    assert error.tag("e") == request.id
    job = await get_job(provider._post.db, provider.public_key, request.id)
    assert job is not None
    assert job.state.is_final
    assert said in job.reason


async def test_a_bid_below_the_price_is_answered_with_the_price(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    low, enough = stranger.request(("bid", "20999")), stranger.request(("bid", "21000"), text="other")
    offer = await stranger.answer(low, "payment-required")
    assert offer.tag("amount") == "21000"
    assert offer.tags_named("status")[0][2] == "the price is 21000 msat, more than your bid of 20999"
    assert len((await stranger.answer(enough, "payment-required")).tags_named("status")[0]) == 2
    await stranger.pay(provider.public_key, low.id, await purse.send(market.mint.url, 22))
    assert (await stranger.answer(low, "result")).content == "SOME TEXT"


async def test_the_agent_sees_parameters_and_links_as_its_kind_has_them(
    market: Market, stranger: "Stranger"
) -> None:
    agent = Agent("Teller")

    async def tell(job: Job) -> dict[str, object]:
        return {"params": dict(job.params), "text": job.text}

    agent.serves("text-generation")(tell)
    agent.serves("video-conversion")(tell)
    await market.open(agent)
    url = ("i", "https://nowhere.invalid/a.mp4", "url")
    spelled = stranger.request(("param", "top-k", "5"), ("param", "mine", "x"), kind=5050)
    linked = stranger.request(url, kind=5200, text=None)
    assert (await stranger.answer(spelled, "result")).content == (
        '{"params":{"top_k":["5"],"mine":["x"]},"text":"some text"}'
    )
    assert (
        await stranger.answer(linked, "result")
    ).content == '{"params":{},"text":"https://nowhere.invalid/a.mp4"}'


async def test_an_equal_request_under_another_id_is_another_job(
    market: Market, agent: Agent, stranger: "Stranger"
) -> None:
    await market.open(agent)
    twice = [stranger.request(kind=5002, age=age) for age in (0, 1)]
    for request in twice:
        assert (await stranger.answer(request, "result")).tag("e") == request.id


async def test_what_an_agent_breaks_on_is_not_told(
    market: Market, agent: Agent, stranger: "Stranger", capsys: pytest.CaptureFixture[str]
) -> None:
    await market.open(agent)
    error = await stranger.answer(stranger.request(kind=5100), "error")
    assert "hunter2" not in error.to_json().decode()
    assert "failed" in error.tags_named("status")[0][2]


async def test_work_that_takes_too_long_is_stopped(market: Market, stranger: "Stranger") -> None:
    agent = Agent("Sleeper")

    @agent.serves(kind=5001)
    async def sleep(job: object) -> str:
        await asyncio.Event().wait()
        return "never"

    await market.open(agent, limits=ProviderLimits(job_seconds_max=0))
    error = await stranger.answer(stranger.request(), "error")
    assert "longer than" in error.tags_named("status")[0][2]


async def test_requests_that_are_not_ours_to_answer_are_left_alone(
    market: Market, agent: Agent, stranger: "Stranger"
) -> None:
    provider = await market.open(agent)
    other = SecretKey.generate().public_key
    silent = [
        stranger.request(("p", other), kind=5002),
        stranger.request(kind=5128),
        stranger.request(kind=5003),
        stranger.request(kind=5002, age=-100_000),
        stranger.request(kind=5002, age=200_000),
        stranger.request(("expiration", str(market.clock.now() - 5)), kind=5002),
    ]
    seen = stranger.request(("p", other), ("p", provider.public_key), kind=5002)
    await stranger.answer(seen, "result")
    for request in silent:
        assert stranger.answers(request) == []


async def test_a_flood_is_told_to_come_back(market: Market, stranger: "Stranger") -> None:
    agent = Agent("Slow")
    go_on = asyncio.Event()

    @agent.serves(kind=5001)
    async def work(job: object) -> str:
        await go_on.wait()
        return "done"

    provider = await market.open(agent, limits=ProviderLimits(queue_jobs_max=6, concurrent_jobs_max=1))
    first = [stranger.request(text=str(number)) for number in range(2)]

    async def both_wait() -> bool:
        states = (JobState.QUEUED, JobState.RUNNING)
        return len(await jobs_in(provider._post.db, provider.public_key, *states)) == 2

    await stranger.eventually(both_wait)
    refused = await stranger.answer(stranger.request(text="too many"), "error")
    assert refused.tag("action") == "retry_after"
    go_on.set()
    for request in first:
        await stranger.answer(request, "result")


# -- paying by a token in the request, as deployed DVMs read it


async def test_a_request_paid_by_its_cashu_tag_is_served(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    token = await purse.send(market.mint.url, 21)
    request = stranger.request(("cashu", encode_token(token, version=3)))
    assert (await stranger.answer(request, "result")).content == "SOME TEXT"
    assert await sats(provider) == 20  # the agent bears the mint's fee of coins that are not in small change
    assert await stranger.letters() == []
    assert (await provider._post.wallet.audit(ask_mints=True)).ok


async def test_too_much_comes_back_as_change(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    request = stranger.request(("cashu", encode_token(await purse.send(market.mint.url, 64))))
    await stranger.answer(request, "result")
    change = parse_token((await stranger.letter("change")).content)
    assert await sats(provider) == 21
    assert change.amount == 64 - 21 - 1
    received = await purse.receive(change)
    assert received.state == "done"


async def test_too_little_comes_back_whole(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    request = stranger.request(("cashu", encode_token(await purse.send(market.mint.url, 16))))
    error = await stranger.answer(request, "error")
    assert "price is 21 sat" in error.tags_named("status")[0][2]
    assert error.tag("action") == "top_up"
    back = parse_token((await stranger.letter("refund")).content)
    assert back.amount == 15  # less the mint's fee
    assert (await purse.receive(back)).state == "done"
    assert await sats(provider) == 0
    assert await settled(provider, request.id) == [PaymentState.RETURNED]


async def test_money_for_free_work_comes_back_and_the_work_is_done(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    request = stranger.request(("cashu", encode_token(await purse.send(market.mint.url, 16))), kind=5002)
    await stranger.answer(request, "result")
    assert parse_token((await stranger.letter("refund")).content).amount == 15
    assert await sats(provider) == 0


async def test_what_was_paid_for_work_that_fails_comes_back(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    request = stranger.request(("cashu", encode_token(await purse.send(market.mint.url, 32))), kind=5050)
    error = await stranger.answer(request, "error")
    assert "on its way back" in error.tags_named("status")[0][2]
    change = parse_token((await stranger.letter("change")).content).amount
    refund = parse_token((await stranger.letter("refund")).content).amount
    assert change + refund + await sats(provider) == 32 - 3 + 1 or change + refund >= 32 - 4
    assert (await provider._post.wallet.audit()).ok


async def unknown_mint(purse: Wallet, mint: MemoryMint) -> Token:
    token = await purse.send(mint.url, 21)
    return Token("https://elsewhere.test", token.proofs)


async def spent(purse: Wallet, mint: MemoryMint) -> Token:
    token = await purse.send(mint.url, 21)
    await purse.receive(token)
    return token


async def locked_to_another(purse: Wallet, mint: MemoryMint) -> Token:
    return await purse.send(mint.url, 21, lock=Lock(SecretKey.generate().compressed_public_key))


async def forged(purse: Wallet, mint: MemoryMint) -> Token:
    token = await purse.send(mint.url, 21)
    coins = [Proof(p.amount, p.id, p.secret + "00", p.C) for p in token.proofs]
    return Token(token.mint, tuple(coins))


async def twice_the_same(purse: Wallet, mint: MemoryMint) -> Token:
    token = await purse.send(mint.url, 16)
    return Token(token.mint, token.proofs * 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (unknown_mint, "mint"),
        (spent, "spent"),
        (locked_to_another, "lock"),
        (forged, ""),
        (twice_the_same, "twice"),
    ],
)
async def test_coins_that_cannot_be_taken_are_refused_and_stay_where_they_are(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet, make: object, said: str
) -> None:
    provider = await market.open(agent)
    assert callable(make)
    token = await make(purse, market.mint)
    outstanding = market.mint.outstanding_sat
    request = stranger.request(("cashu", encode_token(token)))
    error = await stranger.answer(request, "error")
    told = error.tags_named("status")[0][2]
    assert said in told
    assert token.proofs[0].secret not in error.to_json().decode().replace(request.to_json().decode(), "")
    assert await sats(provider) == 0
    assert market.mint.outstanding_sat == outstanding
    assert stranger.answers(request, 6001) == []


async def test_one_token_does_not_pay_for_two_jobs(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    token = encode_token(await purse.send(market.mint.url, 21))
    first, second = stranger.request(("cashu", token)), stranger.request(("cashu", token), text="again")

    async def one_is_done_and_one_refused() -> bool:
        told = [e.tag("status") or "result" for r in (first, second) for e in stranger.answers(r)]
        return "result" in told and "error" in told

    await stranger.eventually(one_is_done_and_one_refused)
    assert len(stranger.answers(first, 6001) + stranger.answers(second, 6001)) == 1
    assert await sats(provider) == 20


# -- paying an offer


async def test_any_nut18_wallet_can_pay_an_offer(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    request = stranger.request(("bid", "50000"))
    offer = await stranger.answer(request, "payment-required")
    assert offer.tag("amount") == "21000"
    creq = parse_request(offer.tag("creq") or "")
    assert (creq.id, creq.amount, creq.unit, creq.mints) == (request.id, 21, "sat", (market.mint.url,))
    assert creq.condition is not None
    payer = SecretKey.generate()  # a wallet's own key, not the customer's
    token = await purse.send(creq.mints[0], 21, lock=creq.condition.to_lock())
    await stranger.pay(provider.public_key, request.id, token, payer)
    assert (await stranger.answer(request, "result")).content == "SOME TEXT"
    assert await sats(provider) == 20


async def test_a_strangers_bad_payment_does_not_end_the_job(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    request = stranger.request()
    await stranger.answer(request, "payment-required")
    bad = await spent(purse, market.mint)
    await stranger.pay(provider.public_key, request.id, bad, SecretKey.generate())
    await stranger.pay(provider.public_key, request.id, bad, SecretKey.generate())  # and the same coins again
    good = await purse.send(market.mint.url, 22)
    await stranger.pay(provider.public_key, request.id, good)
    await stranger.answer(request, "result")
    assert "error" not in [e.tag("status") for e in stranger.answers(request, 7000)]


async def test_a_second_payment_comes_back(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    request = stranger.request()
    await stranger.answer(request, "payment-required")
    for _ in range(2):
        await stranger.pay(provider.public_key, request.id, await purse.send(market.mint.url, 21))
    await stranger.answer(request, "result")
    assert parse_token((await stranger.letter("refund")).content).amount == 20
    assert await sats(provider) == 20
    assert len(stranger.answers(request, 6001)) == 1


async def test_a_payment_for_no_job_of_ours_comes_back(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    await stranger.pay(provider.public_key, "no such job", await purse.send(market.mint.url, 21))
    assert parse_token((await stranger.letter("refund")).content).amount == 20
    assert await sats(provider) == 0


async def test_letters_that_are_no_payments_are_ignored(
    market: Market, agent: Agent, stranger: "Stranger"
) -> None:
    provider = await market.open(agent)
    now = market.clock.now()
    rubbish = make_template(1059, content="AAAA", tags=[("p", provider.public_key)], created_at=now)
    market.relay.insert(sign_event(rubbish, stranger.key))
    request = stranger.request(kind=5002)
    await stranger.answer(request, "result")


# -- a mint that misbehaves


@pytest.mark.parametrize("fault", ["down", "rubbish"])
async def test_a_payment_waits_for_its_mint(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet, fault: str
) -> None:
    provider = await market.open(agent)
    token = encode_token(await purse.send(market.mint.url, 21))
    setattr(market.mint, fault, True)
    request = stranger.request(("cashu", token))
    free = stranger.request(kind=5002)
    await stranger.answer(free, "result")  # meanwhile others are served
    assert stranger.answers(request) == []
    setattr(market.mint, fault, False)
    await stranger.answer(request, "result")
    assert await sats(provider) == 20


async def test_a_mint_that_stays_away_ends_the_job_and_nothing_was_taken(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    await market.open(agent, limits=ProviderLimits(payment_check_seconds_max=0))
    token = await purse.send(market.mint.url, 21)
    market.mint.down = True
    error = await stranger.answer(stranger.request(("cashu", encode_token(token))), "error")
    assert "nothing was taken" in error.tags_named("status")[0][2]
    assert error.tag("action") == "retry_after"
    market.mint.down = False
    assert (await purse.receive(token)).state == "done"


async def test_an_answer_the_mint_lost_is_found_again(
    market: Market, agent: Agent, stranger: "Stranger", purse: Wallet
) -> None:
    provider = await market.open(agent)
    token = encode_token(await purse.send(market.mint.url, 21))
    market.mint.lose_answer("/v1/swap")
    await stranger.answer(stranger.request(("cashu", token)), "result")
    assert await sats(provider) == 20
    assert (await provider._post.wallet.audit(ask_mints=True)).ok


# -- where answers go


async def test_answers_go_to_our_relays_the_requests_and_where_the_customer_reads(
    market: Market, agent: Agent, stranger: "Stranger", monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = ["ws://asked.test", "ws://read.test", "ws://written.test"]
    outside = {url: MemoryRelay(clock=market.clock) for url in urls}
    elsewhere, at_home = connect_by_url(outside), market.relay.connect

    async def connect(url: str) -> Socket:
        return await (at_home(url) if url == RELAY else elsewhere(url))

    monkeypatch.setattr(market.relay, "connect", connect)
    settings = market.settings
    market.settings = lambda name: settings(name).model_copy(update={"allow_private_relays": True})  # type: ignore[method-assign]
    tags = [("r", urls[1], "read"), ("r", urls[2], "write")]
    mailboxes = make_template(10002, tags=tags, created_at=market.clock.now())
    market.relay.insert(sign_event(mailboxes, stranger.key))
    await market.open(agent)
    for text in ("ONE", "TWO"):  # before its relays are known, and after
        request = stranger.request(("relays", urls[0]), kind=5002, text=text)
        result = await stranger.answer(request, "result")

        async def arrived(result: Event = result) -> bool:
            return all(result in outside[url].events for url in urls[:2])

        await stranger.eventually(arrived)
    assert outside[urls[2]].events == []
