"""What a job takes of its caller's balance: reserved, charged, and credited again when sats come back late."""

from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from tests.dvm.deaths import Dead, Fate
from tests.tradepost.facade.money.tills import Box, Life, Payer, caller
from tradepost.facade.callers.callers import Caller, Tier, account_of
from tradepost.facade.money.purses import BalanceTooLow, move
from tradepost.facade.money.queries_till import job as job_row
from tradepost.facade.money.queries_till import locked_sat
from tradepost.facade.money.till import DAY_SECONDS, BudgetExceeded
from tradepost.facade.web.problems import TooManyRequests
from wallet import MintUnavailable
from wallet.errors import BooksError
from wallet.ledger import Cause

ANN, BOB = "ann", "bob"
KEYED = Caller(account_of("nostr:" + "aa" * 32), "nostr:" + "aa" * 32, Tier.AUTHENTICATED)


@pytest.fixture
async def life(box: Box) -> AsyncIterator[Life]:
    async with box.life() as life:
        yield life


@pytest.fixture
async def rich(life: Life, payer: Payer) -> Life:
    """Ann has some sats."""
    await life.bring(ANN, await payer.token(1024))
    return life


async def test_a_job_is_reserved_then_charged_and_the_rest_is_free_again(rich: Life) -> None:
    before, _ = await rich.sats(ANN)
    job = await rich.begin(ANN, "job", 100)
    assert await rich.sats(ANN) == (before - 100, 100)
    await rich.order(job, 1, "paid", price=50, paid=53)
    assert (await rich.till.settle(job)).cost_sat is None  # type: ignore[union-attr]
    await rich.end(job)
    assert (await rich.till.settle(job)).cost_sat is None  # type: ignore[union-attr]  # an order is open
    await rich.order(job, 1, "done", price=50, paid=53)
    assert (await rich.till.settle(job)).cost_sat == 53  # type: ignore[union-attr]
    assert await rich.sats(ANN) == (before - 53, 0)
    assert (await rich.check_books())["callers"] == -53
    await rich.till.settle(job)
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 53, 0)


async def test_more_than_the_balance_is_refused_and_nothing_begins(rich: Life) -> None:
    balance, _ = await rich.sats(ANN)
    with pytest.raises(BalanceTooLow) as refused:
        await rich.begin(ANN, "job", balance + 1)
    assert (refused.value.needed_sat, refused.value.balance.balance_sat) == (balance + 1, balance)
    assert await rich.post.db.one("SELECT 1 FROM guarantees") is None
    await rich.begin(ANN, "job", balance)
    assert await rich.sats(ANN) == (0, balance)
    with pytest.raises(BalanceTooLow):
        await rich.begin(BOB, "other", 1)


async def test_the_same_job_reserves_once(rich: Life) -> None:
    await rich.begin(ANN, "job", 100)
    await rich.begin(ANN, "job", 100)
    assert (await rich.sats(ANN))[1] == 100


async def test_a_job_for_nothing_leaves_a_row_and_no_posting(life: Life) -> None:
    job = await life.begin(ANN, "job", 0)
    await life.order(job, 1, "done")
    await life.end(job)
    assert (await life.till.settle(job)).cost_sat == 0  # type: ignore[union-attr]
    assert await life.post.db.one("SELECT 1 FROM postings") is None


async def test_one_caller_has_so_many_jobs_under_way_and_no_more(
    rich: Life, payer: Payer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tradepost.facade.money.till.OPEN_JOBS_MAX", 2)
    await rich.bring(BOB, await payer.token(64))
    first = await rich.begin(ANN, "first", 10)
    await rich.begin(ANN, "second", 10)
    with pytest.raises(TooManyRequests, match="2 jobs of yours are under way"):
        await rich.begin(ANN, "third", 10)
    await rich.begin(BOB, "of another", 10)
    await rich.end(first)
    await rich.till.settle(first)
    await rich.begin(ANN, "third", 10)


async def test_a_job_in_vain_costs_the_fees_alone(rich: Life) -> None:
    before, _ = await rich.sats(ANN)
    job = await rich.begin(ANN, "job", 100)
    await rich.order(job, 1, "refunded", price=50, paid=53, back=49)
    await rich.order(job, 2, "cancelled")
    await rich.end(job, "failed")
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 4, 0)


async def test_what_is_beyond_the_reserve_is_the_posts(rich: Life) -> None:
    before, _ = await rich.sats(ANN)
    job = await rich.begin(ANN, "job", 100)
    await rich.order(job, 1, "done", price=100, paid=104)
    await rich.end(job)
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 100, 0)


async def test_more_back_than_was_paid_costs_nothing(rich: Life) -> None:
    before, _ = await rich.sats(ANN)
    job = await rich.begin(ANN, "job", 100)
    await rich.order(job, 1, "refunded", price=50, paid=53, back=60)
    await rich.end(job, "failed")
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before, 0)


@pytest.mark.parametrize("state", ["done", "lost"])
async def test_what_comes_back_later_is_credited_once(rich: Life, state: str) -> None:
    before, _ = await rich.sats(ANN)
    job = await rich.begin(ANN, "job", 100)
    await rich.order(job, 1, state, price=50, paid=53)
    await rich.end(job, "done" if state == "done" else "failed")
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 53, 0)
    await rich.box.clock.advance(3 * DAY_SECONDS)
    await rich.till.settle_all()
    await rich.order(job, 1, "refunded", price=50, paid=53, back=40)  # a part of it: an arbiter split it
    for _ in range(3):
        await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 13, 0)
    assert (await rich.check_books())["callers"] == -13
    assert (await job_row(rich.post.db, job)).cost_sat == 13  # type: ignore[union-attr]


async def test_two_refunds_of_as_much_are_both_credited(rich: Life) -> None:
    before, _ = await rich.sats(ANN)
    job = await rich.begin(ANN, "job", 100)
    for number in (1, 2):
        await rich.order(job, number, "lost", price=20, paid=21)
    await rich.end(job, "failed")
    await rich.till.settle_all()
    for number in (1, 2):
        await rich.order(job, number, "refunded", price=20, paid=21, back=19)
        for _ in range(2):
            await rich.till.settle_all()
        assert await rich.sats(ANN) == (before - 42 + 19 * number, 0)
    assert (await rich.check_books())["callers"] == -4


async def test_a_posting_that_is_in_the_books_moves_nothing_in_silence(rich: Life) -> None:
    async with rich.post.db.transaction() as tx:
        await move(tx, caller(ANN).id, "once", Cause.CREDIT, now=0, free_sat=1)
        with pytest.raises(BooksError, match="already"):
            await move(tx, caller(ANN).id, "once", Cause.CREDIT, now=0, free_sat=1)


async def test_what_is_at_a_mint_that_was_given_up_is_not_waited_for(rich: Life) -> None:
    before, _ = await rich.sats(ANN)
    job = await rich.begin(ANN, "job", 500)
    await rich.order(job, 1, "awaiting_refund", price=20, paid=21)
    async with rich.post.db.transaction() as tx:
        await tx.execute("UPDATE orders SET mint = ?", rich.box.mint.url)
    await rich.end(job, "failed")
    rich.box.mint.down = True
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 500, 500)
    await rich.post.wallet.abandon(rich.box.mint.url)
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 21, 0)
    rich.box.mint.down = False
    await rich.wake()
    await rich.order(job, 1, "refunded", price=20, paid=21, back=19)
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 2, 0)


async def test_what_came_back_while_nobody_looked_is_credited_at_the_next_start(
    box: Box, payer: Payer
) -> None:
    async with box.life() as life:
        await life.bring(ANN, await payer.token(512))
        before, _ = await life.sats(ANN)
        job = await life.begin(ANN, "job", 100)
        await life.order(job, 1, "done", price=50, paid=53)
        await life.end(job)
        await life.till.settle_all()
        await life.order(job, 1, "refunded", price=50, paid=53, back=49)
    await box.clock.advance(30 * DAY_SECONDS)
    async with box.life() as life:
        await life.wake()
        assert await life.sats(ANN) == (before - 4, 0)


async def test_a_refund_of_a_job_that_cost_more_than_was_reserved(rich: Life) -> None:
    """The caller is given back what they paid, not what the post paid beyond it."""
    before, _ = await rich.sats(ANN)
    other = await rich.begin(ANN, "other", 50)
    await rich.order(other, 1, "done", price=50, paid=60)
    await rich.end(other)
    job = await rich.begin(ANN, "job", 50)
    await rich.order(job, 1, "done", price=50, paid=60)
    await rich.end(job)
    await rich.till.settle_all()
    await rich.order(job, 1, "refunded", price=50, paid=60, back=30)
    await rich.order(other, 1, "refunded", price=50, paid=60, back=5)
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 30 - 50, 0)


async def test_a_keys_budgets(life: Life, payer: Payer) -> None:
    await life.till.deposits.bring_token(KEYED, await payer.token(1024))
    async with life.post.db.transaction() as tx:
        await tx.execute("UPDATE caller_keys SET job_sat = 100, day_sat = 150 WHERE key = ?", KEYED.key)
    with pytest.raises(BudgetExceeded, match="100 sat on one"):
        await life.begin("", "too much", 101, KEYED)
    first = await life.begin("", "first", 100, KEYED)
    with pytest.raises(BudgetExceeded, match="in a day") as refused:
        await life.begin("", "second", 51, KEYED)
    assert refused.value.retry_after == DAY_SECONDS - life.box.clock.now() % DAY_SECONDS
    await life.begin("", "second", 50, KEYED)
    await life.order(first, 1, "done", price=20, paid=20)  # what it did not cost may be spent again
    await life.end(first)
    await life.till.settle_all()
    await life.begin("", "third", 80, KEYED)
    await life.box.clock.advance(refused.value.retry_after)
    await life.begin("", "tomorrow", 100, KEYED)


async def dispute(life: Life, sat: int) -> None:
    async with life.post.db.transaction() as tx:
        await tx.execute(
            "INSERT INTO escrows (role, party, request_id, stage, terms, request, created_at, updated_at)"
            " VALUES ('customer', 'us', 'request', 'disputed', '{}', '{}', 0, 0) ON CONFLICT DO NOTHING"
        )
        await life.till.charge_fee(tx, caller(ANN), "request", sat)


async def test_a_hearing_costs_what_the_arbiter_was_paid(rich: Life) -> None:
    before, _ = await rich.sats(ANN)
    for _ in range(2):
        await dispute(rich, 30)
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 30, 30)
    order = await rich.order("none", 1, "paid", price=20, paid=22)
    async with rich.post.db.transaction() as tx:
        await tx.execute("UPDATE escrows SET fee_order = ?", order)
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 30, 30)
    await rich.order("none", 1, "done", price=20, paid=22)
    for _ in range(2):
        await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 22, 0)
    with pytest.raises(BalanceTooLow):
        await rich.begin(ANN, "too much", before)


@pytest.mark.parametrize("state", ["failed", "expired"])
async def test_a_hearing_that_was_not_paid_may_be_ordered_anew_while_its_escrow_is_open(
    rich: Life, state: str
) -> None:
    before, _ = await rich.sats(ANN)
    await dispute(rich, 30)
    order = await rich.order("none", 1, state)
    async with rich.post.db.transaction() as tx:
        await tx.execute("UPDATE escrows SET fee_order = ?", order)
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 30, 30)
    again = await rich.order("none", 2, "done", price=20, paid=22)
    async with rich.post.db.transaction() as tx:
        await tx.execute("UPDATE escrows SET fee_order = ?", again)
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 22, 0)


@pytest.mark.parametrize("state", ["failed", "expired"])
async def test_a_hearing_that_was_not_paid_until_its_escrow_ended_costs_nothing(
    rich: Life, state: str
) -> None:
    before, _ = await rich.sats(ANN)
    await dispute(rich, 30)
    order = await rich.order("none", 1, state)
    async with rich.post.db.transaction() as tx:
        await tx.execute("UPDATE escrows SET fee_order = ?, stage = 'refunded'", order)
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before, 0)


async def test_the_fee_of_a_hearing_is_locked_then_charged_and_credited_if_it_comes_back(rich: Life) -> None:
    before, _ = await rich.sats(ANN)
    await dispute(rich, 30)
    order = await rich.order("none", 1, "paid", price=20, paid=22)
    async with rich.post.db.transaction() as tx:
        await tx.execute("UPDATE escrows SET fee_order = ?", order)
    assert await locked_sat(rich.post.db) == 22
    await rich.order("none", 1, "lost", price=20, paid=22)
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 22, 0)
    assert await locked_sat(rich.post.db) == 0
    await rich.order("none", 1, "refunded", price=20, paid=22, back=19)
    for _ in range(2):
        await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 3, 0)


async def test_a_hearing_is_no_job(rich: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tradepost.facade.money.till.OPEN_JOBS_MAX", 1)
    await rich.begin(ANN, "first", 10)
    await dispute(rich, 30)
    assert (await rich.sats(ANN))[1] == 40
    with pytest.raises(TooManyRequests):
        await rich.begin(ANN, "second", 10)


async def test_strangers_have_so_many_free_jobs_under_way_all_together(
    rich: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tradepost.facade.money.till.STRANGERS_JOBS_MAX", 2)
    first = await rich.begin("stranger", "first", 0)
    await rich.begin("another", "second", 0)
    with pytest.raises(TooManyRequests, match="never brought sats"):
        await rich.begin("a third", "third", 0)
    await rich.begin(ANN, "of one who brought some", 0)
    await rich.end(first)
    await rich.till.settle(first)
    await rich.begin("a third", "third", 0)


async def test_a_hearing_that_never_was_costs_nothing(rich: Life) -> None:
    before, _ = await rich.sats(ANN)
    await dispute(rich, 30)
    async with rich.post.db.transaction() as tx:
        await tx.execute("UPDATE escrows SET stage = 'refunded'")
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before, 0)


async def test_a_job_that_is_stuck_holds_up_no_other(rich: Life) -> None:
    before, _ = await rich.sats(ANN)
    jobs = [await rich.begin(ANN, name, 100) for name in ("one", "two", "three")]
    async with rich.post.db.transaction() as tx:  # somebody else's posting is in the way
        await move(tx, caller(ANN).id, f"charge:{jobs[1]}", Cause.CHARGE, now=0, free_sat=-1)
    for job in jobs:
        await rich.end(job)
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 101, 100)


async def test_a_refund_that_is_stuck_is_tried_again(rich: Life) -> None:
    before, _ = await rich.sats(ANN)
    job = await rich.begin(ANN, "job", 100)
    await rich.order(job, 1, "done", price=50, paid=53)
    await rich.end(job)
    await rich.till.settle_all()
    await rich.order(job, 1, "refunded", price=50, paid=53, back=50)
    name = f"back:{job}:3"
    async with rich.post.db.transaction() as tx:  # somebody else's posting is in the way
        await move(tx, caller(ANN).id, name, Cause.CREDIT, now=0, free_sat=-1)
    await rich.till.settle_all()
    await rich.box.clock.advance(3 * DAY_SECONDS)
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 53 - 1, 0)
    async with rich.post.db.transaction() as tx:  # which is mended by hand
        for table, column in (("ledger", "posting_id"), ("postings", "id")):
            await tx.execute(f"DELETE FROM {table} WHERE {column} = ?", name)
        await move(tx, caller(ANN).id, "mended", Cause.CREDIT, now=0, free_sat=1)
    await rich.till.settle_all()
    assert await rich.sats(ANN) == (before - 3, 0)


async def test_the_amount_of_a_job(life: Life) -> None:
    assert await life.till.amount_for(0) == 0
    assert await life.till.amount_for(21) == 25  # 20 coins at 100 ppk, locked and redeemed
    await life.box.clock.advance(2 * 3600)
    asked = life.box.mint.asked.copy()
    assert await life.till.amount_for(21) == 25
    assert life.box.mint.asked == asked


async def test_the_amount_of_a_job_is_that_of_the_dearest_mint(box: Box) -> None:
    dear = box.add_mint("https://dear.test")
    dear.rotate_keyset(1000)
    async with box.life() as life:
        box.mint.down = dear.down = True
        with pytest.raises(MintUnavailable, match="told its fees"):
            await life.till.amount_for(21)
        box.mint.down = False
        assert await life.till.amount_for(21) == 25
        dear.down = False
        await life.fund_post(100, dear)
        box.mint.down = dear.down = True
        assert await life.till.amount_for(21) == 61


async def a_job(life: Life, token: str) -> None:
    await life.wake()
    await life.bring(ANN, token)
    job = await life.begin(ANN, "job", 100)
    await life.order(job, 1, "done", price=50, paid=53)
    await life.end(job)
    await life.wake()
    await life.order(job, 1, "refunded", price=50, paid=53, back=40)
    await life.wake()


@pytest.mark.no_cover
async def test_death_at_every_point(tmp_path: Path) -> None:
    """A job from its begin to its end, and a late refund; what was cut short goes on in the next life."""
    model = Box(tmp_path / "model")
    async with model.payer(1000) as payer, model.life():
        token = await payer.token(512)
    for at in count():
        box, fate = model.twin(tmp_path / str(at)), Fate(at)
        with suppress(Dead):
            async with box.life(fate) as life:
                await a_job(life, token)
        async with box.life() as again:
            await a_job(again, token)
            assert await again.sats(ANN) == (511 - 13, 0)
            assert (await again.check_books())["callers"] == -13
        if not fate.died.is_set():
            break
    assert at > 10, fate.points
