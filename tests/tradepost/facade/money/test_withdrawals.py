"""Sats go out once: to whom they are, or back into the balance."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from tests.dvm.deaths import Dead, Fate
from tests.tradepost.facade.money.tills import Box, Life, Payer, caller
from tradepost.facade.callers.callers import Caller, Tier, account_of
from tradepost.facade.money.purses import BalanceTooLow
from tradepost.facade.money.queries_transfers import PayoutRow, Transfer
from tradepost.facade.money.withdrawals import (
    ECASH,
    LIGHTNING,
    LNURL,
    PROMISE_SECONDS,
    Payouts,
    TooFewCoins,
    Wish,
)
from tradepost.facade.web.problems import Conflict, Forbidden, IdempotencyKeyReused, NotFound, NotValid
from tradepost.testing.mint import Melts
from wallet import InvalidLnurl, MintUnavailable, Token, encode_token, parse_token
from wallet.lnurl import make_metadata
from wallet.queries_lnurl import Withdrawal
from wallet.withdrawals import Withdrawals

ANN, BOB = "ann", "bob"


@pytest.fixture
async def life(box: Box, payer: Payer) -> AsyncIterator[Life]:
    """Ann has 1023 sat, and the post some of its own."""
    async with box.life() as life:
        await life.fund_post(500)
        await life.bring(ANN, await payer.token(1024))
        yield life


async def take(life: Life, wish: Wish, name: str = ANN) -> PayoutRow:
    return await life.till.payouts.begin(caller(name), wish)


async def redeem(payer: Payer, token: Token) -> int:
    return (await payer.wallet.receive(parse_token(encode_token(token)))).received_sat


# Ecash ----------------------------------------------------------------------------------------------------------------


async def test_ecash_is_shown_until_it_is_claimed(life: Life, payer: Payer) -> None:
    row = await take(life, Wish(ECASH, amount_sat=500, key="one"))
    assert (row.state, row.amount_sat) == (Transfer.DONE, 500)
    assert await life.sats(ANN) == (1023 - 500 - row.fee_sat, 0)
    for _ in range(2):  # a lost answer: the same request, or a GET
        assert await take(life, Wish(ECASH, amount_sat=500, key="one")) == row
        again = await life.till.payouts.find(caller(ANN).id, row.id)
        token = await life.till.payouts.token(again)
        assert token is not None
    assert await redeem(payer, token) == 499
    assert await life.till.payouts.token(row) is None
    assert await life.sats(ANN) == (1023 - 500 - row.fee_sat, 0)
    await life.check_books()


async def test_all_there_is_leaves_nothing_but_the_fee(life: Life) -> None:
    row = await take(life, Wish(ECASH))
    assert row.amount_sat + row.fee_sat == 1023
    assert row.fee_sat <= 2
    assert await life.sats(ANN) == (0, 0)
    assert sum((await life.post.wallet.balance()).values()) == 500
    with pytest.raises(BalanceTooLow):
        await take(life, Wish(ECASH))


async def test_all_there_is_where_the_post_has_no_other_coins(box: Box, payer: Payer) -> None:
    async with box.life() as life:
        await life.bring(ANN, await payer.token(1024))
        assert await life.sats(ANN) == (1023, 0)
        row = await take(life, Wish(ECASH))
        assert row.amount_sat + row.fee_sat == 1023
        assert await life.sats(ANN) == (0, 0)


async def test_more_than_there_is(life: Life) -> None:
    for amount_sat in (1023, 1024, 100_000):  # with its fee the first is too much, too
        with pytest.raises(BalanceTooLow):
            await take(life, Wish(ECASH, amount_sat=amount_sat))
    with pytest.raises(BalanceTooLow):
        await take(life, Wish(ECASH, amount_sat=1), BOB)
    assert await life.sats(ANN) == (1023, 0)
    assert await life.post.db.one("SELECT 1 FROM caller_withdrawals") is None


async def test_what_is_held_for_a_job_stays(life: Life) -> None:
    await life.begin(ANN, "job", 600)
    row = await take(life, Wish(ECASH))
    assert row.amount_sat + row.fee_sat == 423
    assert await life.sats(ANN) == (0, 600)


async def test_many_at_once_take_no_more_than_there_is(life: Life) -> None:
    wishes = [Wish(ECASH, amount_sat=400, key=str(number)) for number in range(5)]
    answers = await asyncio.gather(*(take(life, wish) for wish in wishes), return_exceptions=True)
    assert sum(isinstance(answer, PayoutRow) for answer in answers) == 2
    assert all(isinstance(answer, PayoutRow | BalanceTooLow | TooFewCoins) for answer in answers), answers
    balance, _ = await life.sats(ANN)
    assert sum((await life.post.wallet.balance()).values()) == 500 + balance  # nothing holds coins
    await life.check_books()


async def test_the_same_many_times_at_once_is_one(life: Life) -> None:
    wish = Wish(ECASH, amount_sat=400, key="one")
    rows = await asyncio.gather(*(take(life, wish) for _ in range(5)))
    assert {row.id for row in rows} == {rows[0].id}
    assert (await life.sats(ANN))[0] >= 1023 - 402


async def test_a_key_used_for_something_else(life: Life) -> None:
    await take(life, Wish(ECASH, amount_sat=400, key="one"))
    with pytest.raises(IdempotencyKeyReused):
        await take(life, Wish(ECASH, amount_sat=401, key="one"))


async def test_another_callers_withdrawal(life: Life) -> None:
    row = await take(life, Wish(ECASH, amount_sat=400, key="one"))
    with pytest.raises(NotFound):
        await life.till.payouts.find(caller(BOB).id, row.id)
    with pytest.raises(BalanceTooLow):  # the same key, somebody else
        await take(life, Wish(ECASH, amount_sat=400, key="one"), BOB)


async def test_a_key_with_a_budget_takes_nothing_away(life: Life, payer: Payer) -> None:
    key = "nostr:" + "aa" * 32
    keyed = Caller(account_of(key), key, Tier.AUTHENTICATED)
    await life.till.deposits.bring_token(keyed, await payer.token(100))
    async with life.post.db.transaction() as tx:
        await tx.execute("UPDATE caller_keys SET day_sat = 50 WHERE key = ?", key)
    with pytest.raises(Forbidden):
        await life.till.payouts.begin(keyed, Wish(ECASH))
    assert (await life.till.balance(keyed.id)).balance_sat == 99


async def test_a_post_that_is_short_does_not_say_what_it_has(box: Box, payer: Payer) -> None:
    async with box.life() as life:
        await life.bring(ANN, await payer.token(1024))
        await life.post.wallet.send(box.mint.url, 800)  # the operator spent what was not theirs
        with pytest.raises(TooFewCoins, match="take less") as told:
            await take(life, Wish(ECASH, amount_sat=1000))
        assert "22" not in str(told.value)
        assert await life.sats(ANN) == (1023, 0)
        assert (await take(life, Wish(ECASH, amount_sat=200))).state is Transfer.DONE


async def test_more_than_there_is_is_not_even_planned(life: Life, payer: Payer) -> None:
    """Else whoever has a sat could learn what the post has, and keep its coins busy."""
    asked = life.box.mint.asked.copy()
    with pytest.raises(BalanceTooLow, match="7777777 sat are needed, and 1023 sat are in your balance"):
        await take(life, Wish(LIGHTNING, life.box.mint.invoice(7_777_777)))
    assert life.box.mint.asked == asked


async def test_a_post_without_coins_promises_nothing(box: Box, payer: Payer) -> None:
    async with box.life() as life:
        await life.bring(ANN, await payer.token(1024))
        await life.post.wallet.send(box.mint.url, 1020)  # the operator spent what was not theirs
        await life.post.wallet.send(box.mint.url, 1)
        for wish in (Wish(ECASH), Wish(LNURL), Wish(LIGHTNING, box.mint.invoice(100))):
            with pytest.raises(TooFewCoins):
                await take(life, wish)
        assert await life.sats(ANN) == (1023, 0)


async def test_a_mint_that_is_away_is_passed_over(tmp_path: Path) -> None:
    box = Box(tmp_path / "box")
    away = box.add_mint("https://away.test", first=True)
    async with box.payer(5000) as payer, box.life() as life:
        await life.fund_post(3000, away)  # most of the coins are there
        await life.bring(ANN, await payer.token(1024))
        await box.clock.advance(2 * 3600)  # so that a mint is asked before anything is written down
        away.down = True
        assert (await take(life, Wish(ECASH, amount_sat=300))).state is Transfer.DONE
        assert (await take(life, Wish(LIGHTNING, box.mint.invoice(300)))).state is Transfer.DONE
        box.mint.down = True
        with pytest.raises(MintUnavailable):
            await take(life, Wish(LIGHTNING, box.mint.invoice(300)))


async def test_a_mint_that_refuses_puts_the_sats_back(life: Life) -> None:
    for _ in range(4):
        life.box.mint.refuse("/v1/swap", detail="not today")
    row = await take(life, Wish(ECASH, amount_sat=500))
    assert (row.state, row.fee_sat) == (Transfer.FAILED, 0)
    assert "not today" in row.reason
    assert await life.sats(ANN) == (1023, 0)
    life.box.mint._next_faults.clear()
    await life.check_books()


# Lightning ------------------------------------------------------------------------------------------------------------


async def test_an_invoice_is_paid_once(life: Life) -> None:
    bolt11 = life.box.mint.invoice(300)
    row = await take(life, Wish(LIGHTNING, f"lightning:{bolt11.upper()}"))
    assert (row.state, row.amount_sat) == (Transfer.DONE, 300)
    assert 300 <= row.held_sat <= 306
    assert await life.sats(ANN) == (1023 - 300 - row.fee_sat, 0)
    with pytest.raises(Conflict, match="paid from here before"):
        await take(life, Wish(LIGHTNING, bolt11))
    assert (await life.check_books())["fees/mint"] > 0


async def test_an_invoice_that_costs_more_than_there_is(life: Life) -> None:
    with pytest.raises(BalanceTooLow) as refused:
        await take(life, Wish(LIGHTNING, life.box.mint.invoice(1020)))
    assert refused.value.needed_sat > 1023
    assert await life.sats(ANN) == (1023, 0)
    with pytest.raises(NotValid, match="over 300 sat, not 5"):
        await take(life, Wish(LIGHTNING, life.box.mint.invoice(300), amount_sat=5))


async def test_a_payment_that_failed_puts_the_sats_back_less_the_fee(life: Life) -> None:
    life.box.mint.melts = Melts.FAILED
    row = await take(life, Wish(LIGHTNING, life.box.mint.invoice(300)))
    assert row.state is Transfer.FAILED
    assert 0 < row.fee_sat <= 2
    assert await life.sats(ANN) == (1023 - row.fee_sat, 0)
    await life.check_books()


@pytest.mark.parametrize("paid", [True, False])
async def test_a_payment_in_flight_stays_held(life: Life, paid: bool) -> None:
    life.box.mint.melts = Melts.PENDING
    bolt11 = life.box.mint.invoice(300)
    row = await take(life, Wish(LIGHTNING, bolt11, key="one"))
    assert row.state is Transfer.OPEN
    assert await life.sats(ANN) == (1023 - row.held_sat, row.held_sat)
    with pytest.raises(Conflict):
        await take(life, Wish(LIGHTNING, bolt11, key="two"))
    await life.wake()
    assert (await life.sats(ANN))[1] == row.held_sat
    life.box.mint.finish_melt(paid=paid)
    row = await take(life, Wish(LIGHTNING, bolt11, key="one"))
    assert row.state is (Transfer.DONE if paid else Transfer.FAILED)
    assert await life.sats(ANN) == (1023 - row.fee_sat - 300 * paid, 0)
    if not paid:  # what certainly failed may be tried again
        life.box.mint.melts = Melts.PAID
        assert (await take(life, Wish(LIGHTNING, bolt11, key="two"))).state is Transfer.DONE
    await life.check_books()


def serve_address(life: Life, *, max_sat: int = 10_000) -> list[int]:
    """ann@pay.test takes sats; returns the amounts that invoices were asked over."""
    asked: list[int] = []
    metadata = make_metadata("sats for ann", address="ann@pay.test")
    life.box.web.answers["https://pay.test/.well-known/lnurlp/ann"] = json.dumps(
        {
            "tag": "payRequest", "callback": "https://pay.test/pay", "minSendable": 1000,
            "maxSendable": 1000 * max_sat, "metadata": metadata,
        }
    )  # fmt: skip

    def pay(url: str) -> str:
        asked.append(int(url.partition("amount=")[2].partition("&")[0]) // 1000)
        return json.dumps({"pr": life.box.mint.invoice(asked[-1])})

    life.box.web.answers["https://pay.test/pay"] = pay
    return asked


async def test_to_a_lightning_address(life: Life) -> None:
    asked = serve_address(life)
    row = await take(life, Wish(LIGHTNING, "ann@pay.test", amount_sat=200))
    assert (row.state, row.amount_sat, asked) == (Transfer.DONE, 200, [200])
    row = await take(life, Wish(LIGHTNING, "ann@pay.test"))
    balance, held = await life.sats(ANN)
    assert (row.state, held) == (Transfer.DONE, 0)
    assert balance <= 10  # what was kept for routing, and not needed
    await life.check_books()


async def test_all_there_is_where_the_mint_keeps_more_for_routing(life: Life) -> None:
    asked = serve_address(life)
    life.box.mint.fee_reserve_sat = 100
    row = await take(life, Wish(LIGHTNING, "ann@pay.test"))
    assert row.state is Transfer.DONE
    assert row.held_sat <= 1023
    assert row.amount_sat == asked[-1] < asked[0]


async def test_an_address_that_leads_nowhere(life: Life) -> None:
    with pytest.raises(InvalidLnurl):
        await take(life, Wish(LIGHTNING, "nonsense"))
    guarded = Payouts(
        life.post, life.box.settings.model_copy(update={"allow_private_urls": False}), life.callers
    )
    for host in (
        "127.0.0.1",
        "localhost",
        "10.0.0.1",
        "printer",
        "[::1]",
        "169.254.169.254",
        "nas.local",
        "127.1",
    ):
        with pytest.raises(InvalidLnurl, match="not on the public internet"):
            await guarded.begin(caller(ANN), Wish(LIGHTNING, f"ann@{host}"))
    assert await life.sats(ANN) == (1023, 0)


# LNURL-withdraw -------------------------------------------------------------------------------------------------------


def wallet_of(life: Life) -> Withdrawals:
    """What the gateway does for whoever shows a k1."""
    return Withdrawals(life.post.db, life.post.wallet, life.box.clock)


async def test_an_lnurl_is_withdrawn_by_whoever_scans_it(life: Life) -> None:
    row = await take(life, Wish(LNURL, amount_sat=300))
    assert (row.state, row.amount_sat) == (Transfer.OPEN, 300)
    assert await life.sats(ANN) == (1023 - row.held_sat, row.held_sat)
    assert row.k1 is not None
    assert row.k1 not in repr(row)
    gateway = wallet_of(life)
    await gateway.begin(row.k1, life.box.mint.invoice(300))
    await gateway.finish(row.k1)
    await life.till.payouts.look()
    row = await life.till.payouts.find(caller(ANN).id, row.id)
    assert row.state is Transfer.DONE
    assert await life.sats(ANN) == (1023 - 300 - row.fee_sat, 0)
    await life.check_books()


async def test_an_lnurl_that_failed_once_costs_the_fee_of_that(life: Life) -> None:
    row = await take(life, Wish(LNURL))
    assert row.held_sat == 1023
    assert row.k1 is not None
    gateway = wallet_of(life)
    life.box.mint.melts = Melts.FAILED
    await gateway.begin(row.k1, life.box.mint.invoice(row.amount_sat))
    promised = await gateway.finish(row.k1)
    assert promised.state is Withdrawal.OPEN
    await life.till.payouts.look()
    assert await life.sats(ANN) == (0, 1023)
    life.box.mint.melts = Melts.PAID
    await gateway.begin(row.k1, life.box.mint.invoice(promised.pay_sat))
    await gateway.finish(row.k1)
    done = await life.till.payouts.find(caller(ANN).id, row.id)
    assert (done.state, done.amount_sat) == (Transfer.DONE, promised.pay_sat)
    balance, held = await life.sats(ANN)
    assert balance + done.amount_sat + done.fee_sat == 1023
    accounts = await life.check_books()
    assert accounts[f"mint/{life.box.mint.url}"] == 500 + balance + held


async def test_an_lnurl_that_nobody_scans_goes_back(life: Life) -> None:
    row = await take(life, Wish(LNURL))
    await life.box.clock.advance(PROMISE_SECONDS - 1)
    await life.wake()
    assert await life.sats(ANN) == (0, 1023)
    await life.box.clock.advance(1)
    await life.wake()
    assert await life.sats(ANN) == (1023, 0)
    assert (await life.till.payouts.find(caller(ANN).id, row.id)).state is Transfer.FAILED
    assert row.k1 is not None
    with pytest.raises(InvalidLnurl):
        await wallet_of(life).begin(row.k1, life.box.mint.invoice(row.amount_sat))


async def test_an_lnurl_that_is_being_paid_when_its_time_is_over(life: Life) -> None:
    row = await take(life, Wish(LNURL))
    assert row.k1 is not None
    life.box.mint.melts = Melts.PENDING
    gateway = wallet_of(life)
    await gateway.begin(row.k1, life.box.mint.invoice(row.amount_sat))
    paying = asyncio.create_task(gateway.finish(row.k1))
    await life.box.clock.advance(PROMISE_SECONDS)
    await life.till.payouts.look()
    assert await life.sats(ANN) == (0, 1023)
    life.box.mint.finish_melt(paid=True)
    while not paying.done():
        await life.box.clock.advance(20)
    await life.till.payouts.look()
    assert (await life.till.payouts.find(caller(ANN).id, row.id)).state is Transfer.DONE


async def test_so_few_sats_that_lightning_is_not_worth_it(life: Life, payer: Payer) -> None:
    await life.bring(BOB, await payer.token(4))
    for wish in (Wish(LNURL), Wish(LIGHTNING, "ann@pay.test")):
        with pytest.raises(NotValid, match="ecash"):
            await take(life, wish, BOB)
    assert (await take(life, Wish(ECASH), BOB)).amount_sat > 0


# Death ----------------------------------------------------------------------------------------------------------------


async def one_of_each(life: Life, bolt11: str) -> None:
    """As a caller does who hears nothing: the same again; and anew what certainly failed."""
    await life.wake()
    await take(life, Wish(ECASH, amount_sat=100, key="ecash"))
    row = await take(life, Wish(LNURL, amount_sat=200, key="lnurl"))
    assert row.k1 is not None
    gateway = wallet_of(life)
    promised = await gateway.finish(row.k1)
    if promised.state is Withdrawal.OPEN:
        await gateway.begin(row.k1, life.box.mint.invoice(promised.pay_sat))
        await gateway.finish(row.k1)
    number = 0
    while (await take(life, Wish(LIGHTNING, bolt11, key=f"lightning {number}"))).state is Transfer.FAILED:
        number += 1
    await life.till.payouts.look()


@pytest.mark.no_cover
async def test_death_at_every_point(tmp_path: Path) -> None:
    model = Box(tmp_path / "model")
    bolt11 = model.mint.invoice(300)
    async with model.payer(2000) as payer, model.life() as life:
        await life.fund_post(100)
        await life.bring(ANN, await payer.token(1024))
    for at in count():
        box, fate = model.twin(tmp_path / str(at)), Fate(at)
        with suppress(Dead):
            async with box.life(fate) as life:
                await one_of_each(life, bolt11)
        async with box.life() as again:
            await one_of_each(again, bolt11)
            rows = await again.till.payouts.all_of(caller(ANN).id, 10)
            done = {row.way: row.amount_sat for row in rows if row.state is Transfer.DONE}
            assert len(done) == sum(row.state is Transfer.DONE for row in rows)
            assert (done[ECASH], done[LIGHTNING]) == (100, 300)
            assert done[LNURL] in (199, 200)  # less the fee of a try that was cut short
            gone = sum(done.values()) + sum(row.fee_sat for row in rows)
            assert await again.sats(ANN) == (1023 - gone, 0)
            await again.check_books()
        if not fate.died.is_set():
            break
    assert at > 20, fate.points
