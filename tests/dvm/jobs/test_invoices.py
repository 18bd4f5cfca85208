"""Jobs paid by a Lightning invoice, as people's clients pay: on offers, on results done on credit, hinted at by zaps."""

import asyncio

import pytest

from dvm import Agent, JobState, Provider, ProviderLimits, queries, queries_invoices
from dvm.jobs import invoices
from dvm.queries_invoices import InvoiceRow, InvoiceStage
from identity import Event, SecretKey, make_template, sign_event
from tests.dvm.conftest import Stranger, eventually
from tradepost.testing import ManualClock, Market
from tradepost.testing.lightning import MemoryLightning, MemoryRail
from wallet import Wallet, parse_token
from wallet.invoice import parse_invoice
from wallet.rails import OwnInvoice, Wish

PRICE_SAT = 21


def bolt11_of(event: Event) -> str | None:
    """The third value of the `amount` tag."""
    tag = next(tag for tag in event.tags if tag[0] == "amount")
    assert tag[1] == str(1000 * PRICE_SAT)
    return tag[2] if len(tag) > 2 else None


async def invoice_of(provider: Provider, request: Event) -> InvoiceRow:
    row = await queries_invoices.get_invoice(provider._post.db, provider.public_key, request.id)
    assert row is not None
    return row


def pay(provider: Provider, market: Market, bolt11: str) -> None:
    """Somebody pays an invoice of the mint, and the agent is told to look: else it does in a second or two."""
    market.mint.pay(bolt11)
    provider._post.lightning.hear(parse_invoice(bolt11).payment_hash)


async def sats(provider: Provider) -> int:
    return sum((await provider._post.wallet.balance()).values())


async def check_books(provider: Provider) -> None:
    report = await provider._post.wallet.audit(ask_mints=True)
    assert report.ok, report.problems


async def offered(stranger: Stranger, *tags: tuple[str, ...], kind: int = 5001) -> tuple[Event, str]:
    """A request as noogle makes it, and the invoice of the offer that answers it."""
    request = stranger.request(*tags, kind=kind)
    bolt11 = bolt11_of(await stranger.answer(request, "payment-required"))
    assert bolt11 is not None
    return request, bolt11


async def test_a_client_that_knows_no_ecash_pays_the_invoice(
    market: Market, agent: Agent, stranger: Stranger
) -> None:
    provider = await market.open(agent)
    request, bolt11 = await offered(stranger)
    assert parse_invoice(bolt11).amount_msat == 1000 * PRICE_SAT
    assert stranger.answers(request, 6001) == []
    market.mint.pay(bolt11)
    result = await stranger.answer(request, "result")
    assert result.content == "SOME TEXT"
    assert bolt11_of(result) is None
    assert (await invoice_of(provider, request)).state is InvoiceStage.PAID
    [payment] = await queries.payments_of(provider._post.db, provider.public_key, request.id)
    assert (payment.state, payment.amount_sat, payment.payer) == (
        "redeemed",
        PRICE_SAT,
        stranger.key.public_key,
    )
    assert payment.by_invoice
    assert await sats(provider) == PRICE_SAT
    await check_books(provider)
    accounts = (await provider._post.wallet.audit()).accounts
    assert accounts[f"agent/{provider.public_key}"] == -19_950
    assert accounts["fees/post"] == -1050


async def test_an_agent_without_rails_offers_no_invoice_and_that_is_no_fault(
    market: Market, agent: Agent, stranger: Stranger, capsys: pytest.CaptureFixture[str]
) -> None:
    provider = await market.open(agent)
    provider._post.lightning._rails.clear()
    assert bolt11_of(await stranger.answer(stranger.request(), "payment-required")) is None
    assert "no_invoice" not in capsys.readouterr().out


async def test_who_says_how_it_pays_gets_an_invoice_if_it_names_one(
    market: Market, agent: Agent, stranger: Stranger
) -> None:
    await market.open(agent)
    with_ecash = stranger.request(("settle", "prepaid"))
    assert bolt11_of(await stranger.answer(with_ecash, "payment-required")) is None
    await offered(stranger, ("settle", "prepaid", "invoice"), ("param", "x", "y"))


async def test_an_offer_does_not_wait_for_a_mint_that_is_away(
    market: Market, agent: Agent, stranger: Stranger
) -> None:
    await market.open(agent)
    market.mint.refuse("/v1/mint/quote")
    first = stranger.request()
    assert bolt11_of(await stranger.answer(first, "payment-required")) is None
    asked = market.mint.asked["/v1/mint/quote/bolt11"]
    second = stranger.request(text="another")
    assert bolt11_of(await stranger.answer(second, "payment-required")) is None
    assert market.mint.asked["/v1/mint/quote/bolt11"] == asked  # it is left alone for a while


async def test_an_invoice_paid_after_its_offer_is_claimed_all_the_same(
    market: Market, agent: Agent, stranger: Stranger
) -> None:
    provider = await market.open(agent)
    request, bolt11 = await offered(stranger)
    async with provider._post.db.transaction() as tx:
        await tx.execute("UPDATE jobs SET offer_expires_at = 0 WHERE id = ?", request.id)
    provider_sweep = asyncio.create_task(provider._sweep())
    await stranger.eventually(lambda: is_in(provider, request, JobState.EXPIRED))
    provider_sweep.cancel()
    pay(provider, market, bolt11)
    assert (await stranger.answer(request, "result")).content == "SOME TEXT"


async def is_in(provider: Provider, request: Event, state: JobState) -> bool:
    job = await queries.get_job(provider._post.db, provider.public_key, request.id)
    return job is not None and job.state is state


async def test_the_invoice_of_a_job_that_ecash_paid_comes_back_as_change(
    market: Market, agent: Agent, stranger: Stranger, purse: Wallet
) -> None:
    provider = await market.open(agent, sat=10)
    request, bolt11 = await offered(stranger)
    token = await purse.send(market.mint.url, PRICE_SAT, include_fees=True)
    await stranger.pay(provider.public_key, request.id, token)
    await stranger.answer(request, "result")
    pay(provider, market, bolt11)
    letter = await stranger.letter("change")
    back = parse_token(letter.content)
    assert sum(proof.amount for proof in back.proofs) == PRICE_SAT
    await stranger.eventually(lambda: has_stage(provider, request, InvoiceStage.RETURNED))
    assert len(stranger.answers(request, 6001)) == 1
    await check_books(provider)
    accounts = (await provider._post.wallet.audit()).accounts
    assert accounts["fees/post"] == -1050  # one job was sold


async def has_stage(provider: Provider, request: Event, stage: InvoiceStage) -> bool:
    return (await invoice_of(provider, request)).state is stage


async def test_ecash_for_a_job_that_the_invoice_paid_comes_back(
    market: Market, agent: Agent, stranger: Stranger, purse: Wallet
) -> None:
    provider = await market.open(agent)
    request, bolt11 = await offered(stranger)
    pay(provider, market, bolt11)
    await stranger.answer(request, "result")
    token = await purse.send(market.mint.url, PRICE_SAT, include_fees=True)
    await stranger.pay(provider.public_key, request.id, token)
    await stranger.letter("refund")
    assert await sats(provider) == PRICE_SAT
    await check_books(provider)


async def test_work_that_fails_gives_the_invoice_back_as_ecash(
    market: Market, agent: Agent, stranger: Stranger
) -> None:
    provider = await market.open(agent)
    request, bolt11 = await offered(stranger, kind=5050)
    pay(provider, market, bolt11)
    error = await stranger.answer(request, "error")
    assert "on its way back" in error.tags_named("status")[0][2]
    back = parse_token((await stranger.letter("refund")).content)
    assert sum(proof.amount for proof in back.proofs) >= PRICE_SAT - 2
    await stranger.eventually(lambda: is_in(provider, request, JobState.RETURNED))
    await check_books(provider)


def zap(stranger: Stranger, provider: Provider, event_id: str, bolt11: str, key: SecretKey) -> Event:
    tags = [("p", provider.public_key), ("e", event_id), ("bolt11", bolt11), ("description", "{}")]
    receipt = sign_event(make_template(9735, tags=tags, created_at=stranger.market.clock.now()), key)
    stranger.market.relay.insert(receipt)
    return receipt


async def test_a_zap_receipt_is_a_hint_and_never_a_proof(
    market: Market, agent: Agent, stranger: Stranger
) -> None:
    provider = await market.open(agent)
    request, bolt11 = await offered(stranger)
    [offer] = stranger.answers(request, 7000)
    assert (await invoice_of(provider, request)).event_id == offer.id
    foreign = MemoryLightning(clock=market.clock)
    paid_elsewhere = foreign.bill(foreign.rail(), Wish(21_000), 21_000).bolt11
    for text in (bolt11, paid_elsewhere, "lnbc1nonsense", ""):
        await provider._invoices.on_zap(zap(stranger, provider, offer.id, text, stranger.key))
    assert stranger.answers(request, 6001) == []
    assert (await invoice_of(provider, request)).state is InvoiceStage.OPEN


async def test_a_zap_receipt_makes_us_ask_at_once(market: Market, agent: Agent, stranger: Stranger) -> None:
    provider = await market.open(agent)
    await provider._invoices.stop()  # nobody asks now and then
    request, bolt11 = await offered(stranger)
    market.mint.pay(bolt11)
    zap(stranger, provider, request.id, bolt11, SecretKey.generate())
    assert (await stranger.answer(request, "result")).content == "SOME TEXT"


async def test_a_zap_of_an_invoice_that_our_own_endpoint_made_pays_the_job(
    market: Market, agent: Agent, stranger: Stranger
) -> None:
    provider = await market.open(agent)
    request, _ = await offered(stranger)
    [offer] = stranger.answers(request, 7000)
    ours = await provider._post.lightning.make_invoice("zap 1", Wish(1000 * PRICE_SAT))
    small = await provider._post.lightning.make_invoice("zap 2", Wish(1000))
    assert ours.bolt11 is not None
    assert small.bolt11 is not None
    market.mint.pay(small.bolt11)
    zap(stranger, provider, offer.id, small.bolt11, SecretKey.generate())
    zap(stranger, provider, offer.id, ours.bolt11, SecretKey.generate())
    await stranger.eventually(lambda: seen_zaps(provider, 2))
    assert stranger.answers(request, 6001) == []
    market.mint.pay(ours.bolt11)
    zap(stranger, provider, offer.id, ours.bolt11, SecretKey.generate())
    assert (await stranger.answer(request, "result")).content == "SOME TEXT"


async def test_any_number_of_zap_receipts_asks_about_an_invoice_once_at_a_time(agent: Agent) -> None:
    clock = ManualClock()
    async with Market(clock=clock) as market:
        stranger = Stranger(market)
        provider = await market.open(agent)
        request, bolt11 = await offered(stranger)
        await provider._invoices.stop()
        row = await invoice_of(provider, request)
        answers, asked = asyncio.Event(), list[str]()
        look = provider._post.lightning.look

        async def slowly(name: str) -> OwnInvoice:
            asked.append(name)
            await answers.wait()
            return await look(name)

        provider._post.lightning.look = slowly  # type: ignore[method-assign]
        for _ in range(20):
            zap(stranger, provider, request.id, bolt11, SecretKey.generate())
        await stranger.eventually(lambda: seen_zaps(provider, 19))  # none waits
        assert asked == [row.name]
        answers.set()
        await stranger.eventually(lambda: seen_zaps(provider, 20))
        assert asked == 2 * [row.name]
        market.mint.pay(bolt11)
        await clock.advance(1)
        zap(stranger, provider, request.id, bolt11, SecretKey.generate())
        assert (await stranger.answer(request, "result")).content == "SOME TEXT"


async def test_what_is_paid_while_the_rail_is_asked_is_seen_when_it_is_asked_once_more(
    market: Market, agent: Agent, stranger: Stranger
) -> None:
    provider = await market.open(agent)
    request, bolt11 = await offered(stranger)
    await provider._invoices.stop()
    goes_on, asked = asyncio.Event(), list[str]()
    look = provider._post.lightning.look

    async def late(name: str) -> OwnInvoice:
        seen = await look(name)
        asked.append(name)
        await goes_on.wait()
        return seen

    provider._post.lightning.look = late  # type: ignore[method-assign]
    zap(stranger, provider, request.id, bolt11, SecretKey.generate())
    await eventually(lambda: len(asked) == 1)
    market.mint.pay(bolt11)
    zap(stranger, provider, request.id, bolt11, SecretKey.generate())
    await stranger.eventually(lambda: seen_zaps(provider, 1))
    goes_on.set()
    assert (await stranger.answer(request, "result")).content == "SOME TEXT"


async def test_strangers_leave_invoices_for_customers_and_for_each_other(
    market: Market, agent: Agent, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invoices, "OPEN_MAX", 8)
    monkeypatch.setattr(invoices, "STRANGERS_OPEN_MAX", 6)
    friend, modest = Stranger(market), Stranger(market)
    await market.open(agent, limits=ProviderLimits(allowed=(friend.key.public_key,)))

    async def gets(one: Stranger, text: str) -> bool:
        return bolt11_of(await one.answer(one.request(text=text), "payment-required")) is not None

    assert [await gets(stranger, f"{number}") for number in range(5)] == [True] * 3 + [False] * 2
    assert [await gets(modest, f"{number}") for number in range(3)] == [True] * 2 + [False]
    for _ in range(3):
        await gets(Stranger(market), "again")
    assert await gets(friend, "mine")


async def test_invoices_that_are_being_made_are_counted(
    market: Market, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invoices, "OPEN_MAX", 8)
    monkeypatch.setattr(invoices, "STRANGERS_OPEN_MAX", 6)
    friend, crowd = Stranger(market), [Stranger(market) for _ in range(12)]
    provider = await market.open(agent, limits=ProviderLimits(allowed=(friend.key.public_key,)))
    make, asked = provider._post.lightning.make_invoice, list[str]()
    goes_on = asyncio.Event()

    async def slowly(name: str, wish: Wish) -> OwnInvoice:
        asked.append(name)
        await goes_on.wait()
        return await make(name, wish)

    provider._post.lightning.make_invoice = slowly  # type: ignore[method-assign]
    requests = [one.request(text=f"{number}") for number, one in enumerate(crowd)]
    await eventually(lambda: sum(map(len, map(Stranger.answers, crowd, requests))) == 6)
    assert len(asked) == 6
    goes_on.set()
    offers = [
        await one.answer(request, "payment-required") for one, request in zip(crowd, requests, strict=True)
    ]
    assert len([offer for offer in offers if bolt11_of(offer)]) == 6
    assert bolt11_of(await friend.answer(friend.request(text="mine"), "payment-required"))


async def test_invoices_that_have_expired_leave_their_places(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invoices, "STRANGERS_OPEN_MAX", 1)
    clock = ManualClock()
    async with Market(clock=clock) as market:
        one, other = Stranger(market), Stranger(market)
        provider = await market.open(agent)
        _, bolt11 = await offered(one)
        late = other.request(text="late")
        assert bolt11_of(await other.answer(late, "payment-required")) is None
        await provider._invoices.stop()
        await clock.advance(parse_invoice(bolt11).expires_at - clock.now())
        await offered(other)


async def seen_zaps(provider: Provider, count: int) -> bool:
    rows = await provider._post.db.all(
        "SELECT COUNT(*) AS n FROM inbox WHERE name LIKE 'notices:%' AND state = 'done'"
    )
    return int(rows[0]["n"]) >= count


async def test_a_customer_who_paid_before_gets_credit_and_pays_on_the_result(
    market: Market, agent: Agent, stranger: Stranger
) -> None:
    provider = await market.open(agent, limits=ProviderLimits(credit_msat_max=30_000))
    first, bolt11 = await offered(stranger)  # a stranger pays first
    pay(provider, market, bolt11)
    await stranger.answer(first, "result")
    second = stranger.request(text="on credit")
    result = await stranger.answer(second, "result")
    owed = bolt11_of(result)
    assert owed is not None
    assert {event.tag("status") for event in stranger.answers(second, 7000)} == {"processing"}
    await offered(stranger, ("param", "n", "3"))  # it owes as much as it ever paid
    pay(provider, market, owed)
    await stranger.eventually(lambda: has_stage(provider, second, InvoiceStage.PAID))
    fourth = stranger.request(text="on credit again")
    assert bolt11_of(await stranger.answer(fourth, "result")) is not None
    assert await sats(provider) == 2 * PRICE_SAT
    await check_books(provider)


async def test_work_on_credit_that_fails_or_is_taken_back_is_owed_by_nobody(
    market: Market, agent: Agent, stranger: Stranger
) -> None:
    provider = await market.open(agent, limits=ProviderLimits(credit_msat_max=21_000))
    first, bolt11 = await offered(stranger)
    pay(provider, market, bolt11)
    await stranger.answer(first, "result")
    failing = stranger.request(kind=5050)
    error = await stranger.answer(failing, "error")
    assert "back" not in error.tags_named("status")[0][2]
    again = stranger.request(text="more")
    assert bolt11_of(await stranger.answer(again, "result")) is not None


async def test_a_wallet_that_sends_notifications_is_heard(
    market: Market, agent: Agent, stranger: Stranger
) -> None:
    network = MemoryLightning(clock=market.clock)
    post = await market.post("agent", sat=0)
    rail: MemoryRail = network.rail(name="mint")
    post.lightning.add(rail)
    from identity import LocalSigner
    from tradepost.post import own_key

    provider = Provider(agent, LocalSigner(own_key(market.settings("agent"), agent.slug)), post)
    await provider.start()
    try:
        request, bolt11 = await offered(stranger)
        network.pay(bolt11)
        post.lightning.hear(parse_invoice(bolt11).payment_hash)
        assert (await stranger.answer(request, "result")).content == "SOME TEXT"
        assert rail.msat == 1000 * PRICE_SAT
        report = await post.wallet.audit()
        assert report.ok, report.problems
        assert report.accounts["rail/memory"] == 21_000
    finally:
        await provider.stop(0)
