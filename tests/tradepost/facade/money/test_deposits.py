"""Sats come in once, whatever is lost on the way, and never for somebody else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from tests.dvm.deaths import Dead, Fate
from tests.tradepost.facade.money.tills import CAP, Box, Life, Payer, caller
from tradepost.facade.callers.callers import Tier, ticket_caller
from tradepost.facade.callers.pruning import Pruner
from tradepost.facade.callers.queries_callers import hand_on_invoices
from tradepost.facade.money import deposits
from tradepost.facade.money.deposits import (
    FORGET_SECONDS,
    UNPAID_OF_ONE_MAX,
    CustodyFull,
    MintAway,
    MintFull,
    NoMint,
    NotTaken,
)
from tradepost.facade.money.purses import move
from tradepost.facade.money.queries_transfers import Transfer, coming_sat
from tradepost.facade.web.problems import Conflict, NotFound, TooManyRequests, Unauthorized
from wallet import AlreadySpent, InvalidToken, MintUnavailable, UnknownMint, encode_token, parse_token
from wallet.ledger import Cause
from wallet.queries_lnurl import invoice
from wallet.quotes import QUOTE_GRACE_SECONDS

ANN, BOB = "ann", "bob"


@pytest.fixture
async def life(box: Box) -> AsyncIterator[Life]:
    async with box.life() as life:
        yield life


# Ecash ----------------------------------------------------------------------------------------------------------------


async def test_a_token_is_credited_with_what_the_swap_brought(life: Life, payer: Payer) -> None:
    row = await life.till.deposits.bring_token(caller(ANN), await payer.token(1000))
    assert (row.state, row.amount_sat, row.credited_sat) == (Transfer.DONE, 1000, 999)
    assert await life.sats(ANN) == (999, 0)
    assert (await life.check_books())[f"caller/{caller(ANN).id}"] == -999


async def test_the_same_token_again_is_the_same_deposit(life: Life, payer: Payer) -> None:
    token = parse_token(await payer.token(1000))
    turned = encode_token(type(token)(token.mint, token.proofs[::-1], token.unit), version=3)
    rows = [await life.till.deposits.bring_token(caller(ANN), text) for text in (encode_token(token), turned)]
    assert rows[0] == rows[1]
    assert await life.sats(ANN) == (999, 0)
    with pytest.raises(Conflict, match="another caller"):
        await life.bring(BOB, turned)
    assert await life.sats(BOB) == (0, 0)


async def test_the_same_token_many_times_at_once(life: Life, payer: Payer) -> None:
    token = await payer.token(1000)
    tries = [life.bring(name, token) for name in (ANN, ANN, BOB, BOB, ANN)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert [answer for answer in answers if answer == 999] == [999] * 3
    assert (await life.sats(ANN), await life.sats(BOB)) == ((999, 0), (0, 0))


async def test_a_part_of_a_token_that_was_brought_is_spent(life: Life, payer: Payer) -> None:
    token = parse_token(await payer.token(1000))
    await life.bring(ANN, encode_token(token))
    part = type(token)(token.mint, token.proofs[:2], token.unit)
    with pytest.raises(AlreadySpent):
        await life.bring(BOB, encode_token(part))


async def test_what_is_no_token_of_ours(life: Life, payer: Payer) -> None:
    with pytest.raises(InvalidToken):
        await life.bring(ANN, "cashuBxyz")
    token = parse_token(await payer.token(100))
    with pytest.raises(UnknownMint):
        await life.bring(ANN, encode_token(type(token)("https://other.test", token.proofs, token.unit)))
    assert await life.post.db.one("SELECT 1 FROM caller_deposits") is None


async def test_a_lost_answer_of_the_mint_is_found_again(life: Life, payer: Payer) -> None:
    token = await payer.token(1000)
    for lose in (life.box.mint.lose_answer, life.box.mint.lose_request):
        lose("/v1/swap")
        token = await payer.token(500)
        assert await life.bring(ANN, token) > 490
    await life.check_books()


async def test_a_mint_that_goes_away_is_waited_for(life: Life, payer: Payer) -> None:
    token = await payer.token(1000)
    real = life.box.mint.request

    async def request(method: str, path: str, body: dict[str, object] | None) -> object:
        answer = await real(method, path, body)
        life.box.mint.down = life.box.mint.down or path == "/v1/swap"
        if life.box.mint.down:
            raise MintUnavailable("gone")
        return answer

    life.box.mint.request = request  # type: ignore[method-assign]
    with pytest.raises(MintAway) as told:
        await life.bring(ANN, token)
    assert "1000 sat are being redeemed" in (told.value.money or "")
    assert await life.sats(ANN) == (0, 0)
    now, ann = life.box.clock.now(), caller(ANN).id
    assert await coming_sat(life.post.db, ann, now) == 1000
    life.box.mint.down = True
    await life.post.wallet.abandon(life.box.mint.url)
    assert await coming_sat(life.post.db, ann, now) == 0
    life.box.mint.request, life.box.mint.down = real, False  # type: ignore[method-assign]
    await life.wake()
    assert await life.bring(ANN, token) == 999
    assert await life.sats(ANN) == (999, 0)


async def test_a_token_that_came_to_nothing_may_be_brought_again(life: Life, payer: Payer) -> None:
    token = await payer.token(1000)
    for _ in range(4):
        life.box.mint.refuse("/v1/swap", detail="not today")
    with pytest.raises(NotTaken, match="not today"):
        await life.bring(ANN, token)
    assert await life.sats(ANN) == (0, 0)
    life.box.mint._next_faults.clear()
    assert await life.bring(BOB, token) == 999
    assert (await life.sats(ANN), await life.sats(BOB)) == ((0, 0), (999, 0))
    await life.check_books()


async def test_a_token_that_somebody_spends_meanwhile(life: Life, payer: Payer) -> None:
    token = await payer.token(1000)
    thief = await payer.wallet.plan_redeem(parse_token(token), op_id="thief", purpose="x", record=True)
    life.box.mint.lose_request("/v1/swap")
    real = life.box.mint.request

    async def request(method: str, path: str, body: dict[str, object] | None) -> object:
        if path == "/v1/swap":
            life.box.mint.request = real  # type: ignore[method-assign]
            life.box.mint._next_faults.clear()
            await payer.wallet.settle(thief.op_id)
        return await real(method, path, body)

    life.box.mint.request = request  # type: ignore[method-assign]
    with pytest.raises(NotTaken, match="somebody else"):
        await life.bring(ANN, token)
    assert await life.sats(ANN) == (0, 0)


async def test_more_than_the_cap_is_refused_before_it_is_taken(life: Life, payer: Payer) -> None:
    await life.bring(ANN, await payer.token(4000))
    token = await payer.token(1100)
    with pytest.raises(CustodyFull, match=f"at most {CAP} sat"):
        await life.bring(ANN, token)
    await life.begin(ANN, "job", 3000)  # what is held counts
    with pytest.raises(CustodyFull):
        await life.bring(ANN, token)
    assert await life.bring(BOB, token) > 1000


async def test_two_at_once_do_not_pass_the_cap_together(life: Life, payer: Payer) -> None:
    tokens = [await payer.token(3000) for _ in range(2)]
    answers = await asyncio.gather(*(life.bring(ANN, token) for token in tokens), return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["CustodyFull", "int"]
    refused = next(token for token, answer in zip(tokens, answers, strict=True) if answer != 2999)
    assert await life.bring("carol", refused) == 2999  # nothing holds its coins
    asks = [life.till.deposits.ask(caller(BOB), 3000, client="here") for _ in range(2)]
    shown = await asyncio.gather(*asks, return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in shown) == ["CustodyFull", "Invoice"]
    await life.check_books()


# Lightning ------------------------------------------------------------------------------------------------------------


async def test_an_invoice_is_credited_when_it_is_paid(life: Life) -> None:
    shown = await life.till.deposits.ask(caller(ANN), 300, client="here")
    assert shown.verify_url.endswith(f"/lnurl/verify/{shown.row.id}")
    assert await invoice(life.post.db, shown.row.id) is not None
    assert (await life.till.deposits.find(caller(ANN).id, shown.row.id)).state is Transfer.OPEN
    life.box.mint.pay(shown.bolt11)
    assert (await life.till.deposits.find(caller(ANN).id, shown.row.id)).credited_sat == 300
    await life.wake()
    assert await life.sats(ANN) == (300, 0)
    await life.check_books()
    with pytest.raises(NotFound):
        await life.till.deposits.find(caller(BOB).id, shown.row.id)


async def test_it_is_credited_whoever_claims_it(life: Life) -> None:
    shown = await life.till.deposits.ask(caller(ANN), 300, client="here")
    life.box.mint.pay(shown.bolt11)
    await life.post.wallet.claim(shown.row.quote_id or "")  # the gateway, say
    assert await life.sats(ANN) == (0, 0)
    await life.till.deposits.look()
    assert await life.sats(ANN) == (300, 0)


async def test_an_invoice_paid_in_its_last_second_is_credited_though_it_is_above_the_cap(
    life: Life, payer: Payer
) -> None:
    life.box.mint.quote_seconds = 3600
    late = await life.till.deposits.ask(caller(ANN), 2000, client="here")
    with pytest.raises(CustodyFull, match="2000 sat are on their way"):
        await life.till.deposits.ask(caller(ANN), 3001, client="here")
    assert late.row.expires_at is not None
    await life.box.clock.advance(late.row.expires_at - life.box.clock.now() + 1)
    await life.bring(ANN, await payer.token(4000))  # the invoice counts no more
    life.box.mint.pay(late.bolt11)
    await life.till.deposits.arrived(caller(ANN).id)
    assert (await life.sats(ANN))[0] == 2000 + 3999


async def test_an_invoice_that_nobody_paid_expires_and_may_be_paid_all_the_same(life: Life) -> None:
    life.box.mint.quote_seconds = 3600
    shown = await life.till.deposits.ask(caller(ANN), 300, client="here")
    await life.box.clock.advance(3601 + QUOTE_GRACE_SECONDS)
    await life.wake()
    row = await life.till.deposits.find(caller(ANN).id, shown.row.id)
    assert row.state is Transfer.EXPIRED
    life.box.mint.pay(shown.bolt11)
    assert (await life.till.deposits.find(caller(ANN).id, shown.row.id)).state is Transfer.DONE
    assert await life.sats(ANN) == (300, 0)


async def test_whoever_is_nobody_is_given_a_ticket(life: Life) -> None:
    shown = await life.till.deposits.ask(None, 300, client="here")
    assert shown.ticket is not None
    assert shown.ticket not in repr(shown)
    known = await life.callers.of_ticket(shown.ticket)
    assert known.id == shown.row.caller
    life.box.mint.pay(shown.bolt11)
    await life.till.deposits.arrived(known.id)
    assert (await life.till.balance(known.id)).balance_sat == 300


async def test_an_invoice_is_shown_again_where_that_will_do(life: Life) -> None:
    first = await life.till.deposits.ask(caller(ANN), 300, client="here", reuse=True)
    assert (await life.till.deposits.ask(caller(ANN), 300, client="here", reuse=True)).bolt11 == first.bolt11
    assert (await life.till.deposits.ask(caller(ANN), 300, client="here")).bolt11 != first.bolt11
    assert (await life.till.deposits.ask(caller(ANN), 301, client="here", reuse=True)).bolt11 != first.bolt11


async def test_too_many_unpaid_invoices_of_one(life: Life) -> None:
    for _ in range(UNPAID_OF_ONE_MAX):
        await life.till.deposits.ask(caller(ANN), 1, client="here")
    with pytest.raises(TooManyRequests):
        await life.till.deposits.ask(caller(ANN), 1, client="here")
    await life.till.deposits.ask(caller(BOB), 1, client="here")


async def test_too_many_unpaid_invoices_of_all(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deposits, "UNPAID_INVOICES_MAX", 2)
    for name in (ANN, BOB):
        await life.till.deposits.ask(caller(name), 1, client="here")
    with pytest.raises(TooManyRequests):
        await life.till.deposits.ask(None, 1, client="here")
    await life.box.clock.advance(3601)
    await life.till.deposits.ask(None, 1, client="here")


async def test_who_has_paid_is_not_held_up_by_those_who_do_not(
    life: Life, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deposits, "UNPAID_INVOICES_MAX", 2)
    await life.bring(ANN, await payer.token(100))
    for _ in range(2):
        await life.till.deposits.ask(None, 1, client="here")
    with pytest.raises(TooManyRequests, match="invoices here are unpaid"):
        await life.till.deposits.ask(caller(BOB), 1, client="there")
    for _ in range(UNPAID_OF_ONE_MAX):
        await life.till.deposits.ask(caller(ANN), 1, client="here")
    with pytest.raises(TooManyRequests, match="invoices of yours"):
        await life.till.deposits.ask(caller(ANN), 1, client="here")


async def test_too_many_unpaid_invoices_of_one_address(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deposits, "UNPAID_OF_ADDRESS_MAX", 2)
    first = await life.till.deposits.ask(None, 1, client="here")
    await life.till.deposits.ask(None, 1, client="here")
    with pytest.raises(TooManyRequests, match="from your address"):
        await life.till.deposits.ask(None, 1, client="here")
    await life.till.deposits.ask(None, 1, client="there")
    life.box.mint.pay(first.bolt11)
    await life.till.deposits.arrived(first.row.caller)
    kept = await life.post.db.one("SELECT client FROM caller_deposits WHERE id = ?", first.row.id)
    assert kept is not None
    assert kept["client"] == ""
    await life.till.deposits.ask(None, 1, client="here")


async def test_a_ticket_that_nobody_paid_for_is_forgotten(life: Life, payer: Payer) -> None:
    life.box.mint.quote_seconds = 3600
    unpaid, claimed, paid = [await life.till.deposits.ask(None, 300, client="here") for _ in range(3)]
    life.box.mint.pay(paid.bolt11)
    await life.till.deposits.arrived(paid.row.caller)
    await life.till.deposits.ask(ticket_caller(paid.ticket or ""), 5, client="here")
    await life.box.clock.advance(3601 + QUOTE_GRACE_SECONDS)
    await life.wake()
    life.box.mint.pay(claimed.bolt11)  # too late, and before the post is told of it, it is ended
    await life.post.wallet.claim(claimed.row.quote_id or "")
    await life.till.deposits.forget()
    assert len(await life.post.db.all("SELECT 1 FROM callers")) == 3
    await life.box.clock.advance(FORGET_SECONDS)
    assert unpaid.ticket is not None
    await life.callers.of_ticket(unpaid.ticket)
    await life.till.deposits.forget()
    await Pruner(life.post.db, life.box.clock, life.callers).prune()
    left = {row["id"] for row in await life.post.db.all("SELECT id FROM callers")}
    assert left == {claimed.row.caller, paid.row.caller}
    kept = {row["id"] for row in await life.post.db.all("SELECT id FROM caller_deposits")}
    assert kept == {claimed.row.id, paid.row.id}
    assert await invoice(life.post.db, unpaid.row.id) is None
    with pytest.raises(Unauthorized):
        await life.callers.of_ticket(unpaid.ticket)
    assert (await life.till.deposits.find(claimed.row.caller, claimed.row.id)).credited_sat == 300


async def test_who_has_paid_is_known_for_it_at_once(life: Life, payer: Payer) -> None:
    shown = await life.till.deposits.ask(None, 300, client="here")
    assert shown.ticket is not None
    assert (await life.callers.of_ticket(shown.ticket)).tier is Tier.ANONYMOUS
    life.box.mint.pay(shown.bolt11)
    await life.till.deposits.arrived(shown.row.caller)
    assert (await life.callers.of_ticket(shown.ticket)).tier is Tier.PAYING


async def test_an_invoice_takes_no_room_from_a_token(life: Life, payer: Payer) -> None:
    """A 402 shows both for one payment."""
    await life.till.deposits.ask(caller(ANN), 3000, client="here")
    assert await life.bring(ANN, await payer.token(3000)) > 2990
    with pytest.raises(CustodyFull):
        await life.bring(ANN, await payer.token(3000))


async def test_an_invoice_is_of_the_next_mint_while_one_is_away(box: Box) -> None:
    away = box.add_mint("https://away.test", first=True)
    away.down = True
    async with box.life() as life:
        shown = await life.till.deposits.ask(caller(ANN), 300, client="here")
        box.mint.pay(shown.bolt11)
        await life.till.deposits.arrived(caller(ANN).id)
        assert await life.sats(ANN) == (300, 0)


async def test_a_post_without_mints_takes_nothing(box: Box) -> None:
    box.mints = ()
    async with box.life() as life:
        with pytest.raises(NoMint):
            await life.till.deposits.ask(caller(ANN), 1, client="here")


async def test_a_mint_that_makes_no_invoice_leaves_nothing(life: Life) -> None:
    await life.till.deposits.ask(caller(BOB), 1, client="here")
    life.box.mint.down = True
    with pytest.raises(MintUnavailable):
        await life.till.deposits.ask(caller(ANN), 300, client="here")
    life.box.mint.down = False
    assert await life.post.db.one("SELECT 1 FROM callers WHERE id = ?", caller(ANN).id) is None


async def test_a_mint_that_is_full_takes_no_more(box: Box, payer: Payer) -> None:
    box.settings = box.settings.model_copy(update={"mint_sat_max": 1000})
    async with box.life() as life:
        await life.bring(ANN, await payer.token(600))
        with pytest.raises(MintFull):
            await life.bring(ANN, await payer.token(500))
        with pytest.raises(MintFull):
            await life.till.deposits.ask(caller(ANN), 500, client="here")
        assert await life.sats(ANN) == (599, 0)


async def test_a_deposit_that_is_stuck_holds_up_no_other(life: Life) -> None:
    asked = [await life.till.deposits.ask(caller(name), 300, client="here") for name in (ANN, BOB)]
    async with life.post.db.transaction() as tx:  # somebody else's posting is in the way
        await move(tx, caller(ANN).id, f"deposit:{asked[0].row.id}", Cause.DEPOSIT, now=0, free_sat=1)
    for one in asked:
        life.box.mint.pay(one.bolt11)
        await life.post.wallet.claim(one.row.quote_id or "")
    await life.till.deposits.look()
    assert (await life.sats(ANN), await life.sats(BOB)) == ((1, 0), (300, 0))


async def test_it_is_credited_to_whose_it_is_when_it_comes(life: Life) -> None:
    """An account that is given up hands its expired invoices on."""
    life.box.mint.quote_seconds = 3600
    shown = await life.till.deposits.ask(caller(ANN), 300, client="here")
    await life.bring(BOB, await _token(life))
    await life.box.clock.advance(3601 + QUOTE_GRACE_SECONDS)
    await life.wake()
    row = await life.till.deposits.find(caller(ANN).id, shown.row.id)
    async with life.post.db.transaction() as tx:
        await hand_on_invoices(tx, caller(ANN).id, caller(BOB).id)
    life.box.mint.pay(shown.bolt11)
    await life.till.deposits._claim(row)  # as it was read before
    assert (await life.sats(ANN), await life.sats(BOB)) == ((0, 0), (300 + 99, 0))


async def _token(life: Life) -> str:
    async with life.box.payer(200) as payer:
        return await payer.token(100)


# Death ----------------------------------------------------------------------------------------------------------------


async def both(life: Life, token: str) -> None:
    """Bring a token, and pay an invoice."""
    await life.wake()
    await life.bring(ANN, token)
    rows = await life.post.db.all("SELECT 1 FROM caller_deposits WHERE way = 'lightning'")
    if not rows:
        shown = await life.till.deposits.ask(caller(BOB), 300, client="here")
        life.box.mint.pay(shown.bolt11)
    await life.till.deposits.arrived(caller(BOB).id)


@pytest.mark.no_cover
async def test_death_at_every_point(tmp_path: Path) -> None:
    model = Box(tmp_path / "model")
    async with model.payer(1000) as payer, model.life():
        token = await payer.token(512)
    for at in count():
        box, fate = model.twin(tmp_path / str(at)), Fate(at)
        with suppress(Dead):
            async with box.life(fate) as life:
                await both(life, token)
        async with box.life() as again:
            for quote in box.mint._mint_quotes.values():
                box.mint.pay(quote.bolt11)  # whoever was shown one before the death pays it
            await both(again, token)
            assert (await again.sats(ANN), await again.sats(BOB)) == ((511, 0), (300, 0))
            await again.check_books()
        if not fate.died.is_set():
            break
    assert at > 15, fate.points
