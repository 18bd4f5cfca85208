"""Postings: they balance, are written once, and a settlement is undone exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import Database, load_migrations
from tradepost.testing.mint import Melts, MemoryMint
from wallet import queries_books
from wallet.errors import BooksError
from wallet.ledger import (
    FEES_LIGHTNING,
    FEES_MINT,
    FEES_POST,
    LOST,
    MINT_PREFIX,
    OUTSIDE,
    RESTORED,
    Cause,
    Posting,
    agent_account,
    caller_entries,
    coin_entries,
    counter_account,
    escrow_account,
    post,
    post_found,
    post_gone,
    reverse,
    settle,
    settle_entries,
    unsettle,
)
from wallet.proofs import Lock
from wallet.wallet import Wallet

AGENT = "ab" * 32
SATS = st.integers(-(10**15), 10**15)


@pytest.fixture
async def db(tmp_path):
    async with await Database.open(tmp_path / "books.db", load_migrations("wallet")) as database:
        yield database


def posting(name: str = "p", **entries: int) -> Posting:
    return Posting(name, Cause.OPERATION, entries, 100, None, None)


@given(own=SATS, fee=st.integers(0, 10**6), job=st.none() | st.text(min_size=1), data=st.data())
def test_entries_of_coins_sum_to_zero(own: int, fee: int, job: str | None, data: st.DataObject) -> None:
    routing = data.draw(st.integers(0, fee))
    counter = counter_account(job)
    entries = coin_entries("https://m.test", own_sat=own, fee_sat=fee, lightning_sat=routing, counter=counter)
    assert sum(entries.values()) == 0
    assert entries.get("mint/https://m.test", 0) == 1000 * own
    assert entries.get("fees/mint", 0) == 1000 * (fee - routing)
    assert entries.get("fees/lightning", 0) == 1000 * routing
    assert entries.get("outside" if job is None else f"jobs/{job}", 0) == -1000 * (own + fee)
    assert 0 not in entries.values()


def test_a_fee_is_the_mints_own_unless_some_of_it_was_for_routing() -> None:
    assert coin_entries("m", own_sat=-5, fee_sat=2, counter="outside") == {
        "mint/m": -5000, "fees/mint": 2000, "outside": 3000,
    }  # fmt: skip


@given(amount=st.integers(1, 10**18), bps=st.integers(0, 10_000))
def test_a_settlement_gives_the_agent_all_but_the_cut(amount: int, bps: int) -> None:
    entries = settle_entries("jobs/j", AGENT, amount, bps)
    cut, earned = -entries.get("fees/post", 0), -entries.get(agent_account(AGENT), 0)
    assert sum(entries.values()) == 0
    assert 0 not in entries.values()
    assert entries["jobs/j"] == amount == cut + earned
    assert 10_000 * cut <= amount * bps < 10_000 * (cut + 1)  # rounded down to a msat
    assert reverse(reverse(entries)) == entries


def test_the_cut_is_in_msat_and_rounded_down() -> None:
    assert settle_entries("jobs/j", "a", 21_000, 500) == {
        "jobs/j": 21_000,
        "agent/a": -19_950,
        "fees/post": -1_050,
    }
    assert settle_entries("jobs/j", "a", 1_000, 333) == {"jobs/j": 1_000, "agent/a": -967, "fees/post": -33}
    assert settle_entries("escrow/e", "a", 19, 500) == {"escrow/e": 19, "agent/a": -19}
    assert settle_entries("escrow/e", "a", 1_000, 10_000) == {"escrow/e": 1_000, "fees/post": -1_000}
    assert settle_entries("escrow/e", "a", 1, 0) == {"escrow/e": 1, "agent/a": -1}


@pytest.mark.parametrize(
    ("amount", "bps", "says"),
    [
        (0, 500, "0 msat cannot be settled; nothing was written"),
        (-1, 500, "-1 msat cannot be settled; nothing was written"),
        (1000, -1, "a fee of -1 basis points is not between 0 and 10000"),
        (1000, 10_001, "a fee of 10001 basis points is not between 0 and 10000"),
    ],
)
def test_what_cannot_be_settled_is_refused(amount: int, bps: int, says: str) -> None:
    with pytest.raises(BooksError) as error:
        settle_entries("jobs/j", "a", amount, bps)
    assert str(error.value) == says


def test_a_posting_that_does_not_balance_cannot_be_made() -> None:
    with pytest.raises(BooksError) as error:
        posting("x", a=5, b=-4)
    assert str(error.value) == "the entries of posting x do not balance; nothing was written"
    for entries in ({}, {"a": 0}, {"a": 5, "b": 0, "c": -5}):
        with pytest.raises(BooksError) as error:
            posting("x", **entries)
        assert str(error.value) == "posting x has an entry of nothing; nothing was written"


async def test_a_posting_is_written_once(db: Database) -> None:
    for is_new in (True, False):
        async with db.transaction() as tx:
            told = Posting("p", Cause.ESCROW, {"a": 5, "b": -5}, 100, "op", "job")
            assert await post(tx, told) is is_new
    assert await queries_books.accounts(db) == {"a": 5, "b": -5}
    assert await queries_books.entries(db, "p") == {"a": 5, "b": -5}
    rows = await db.all("SELECT * FROM postings")
    assert [tuple(row) for row in rows] == [("p", "escrow", "op", "job", 100)]


async def test_another_posting_under_the_same_id_is_refused(db: Database) -> None:
    async with db.transaction() as tx:
        await post(tx, posting(a=5, b=-5))
    with pytest.raises(BooksError) as error:
        async with db.transaction() as tx:
            await post(tx, posting(a=6, b=-6))
    assert str(error.value) == "posting p is in the books with other entries"
    assert await queries_books.accounts(db) == {"a": 5, "b": -5}


async def test_a_settlement_is_undone_exactly_and_once(db: Database) -> None:
    async def settled(amount: int) -> bool:
        async with db.transaction() as tx:
            return await settle(
                tx, "pay", source_account="jobs/j", agent="a", amount_msat=amount, fee_bps=333, op_id="o",
                job_id="j", now=7,
            )  # fmt: skip

    async def undone(name: str = "pay") -> bool:
        async with db.transaction() as tx:
            return await unsettle(tx, name, job_id="j", now=8)

    assert not await undone()
    assert [await settled(1000), await settled(1000)] == [True, False]
    before = await queries_books.entries(db, "settle:pay")
    assert before == {"jobs/j": 1000, "agent/a": -967, "fees/post": -33}
    assert [await undone(), await undone(), await undone("other")] == [True, False, False]
    assert await queries_books.entries(db, "unsettle:pay") == reverse(before)
    assert await queries_books.accounts(db) == {"jobs/j": 0, "agent/a": 0, "fees/post": 0}
    rows = await db.all("SELECT * FROM postings ORDER BY posted_at")
    assert [tuple(row) for row in rows] == [
        ("settle:pay", "settlement", "o", "j", 7), ("unsettle:pay", "reversal", None, "j", 8),
    ]  # fmt: skip


@given(SATS, SATS)
def test_what_moves_between_a_callers_accounts_balances(free_sat: int, held_sat: int) -> None:
    entries = caller_entries("c", free_sat=free_sat, held_sat=held_sat, counter=OUTSIDE)
    assert sum(entries.values()) == 0
    assert (entries.get("caller/c", 0), entries.get("held/c", 0)) == (-1000 * free_sat, -1000 * held_sat)
    assert 0 not in entries.values()


async def test_what_is_owed_to_callers(db: Database) -> None:
    assert await queries_books.owed_to_callers_msat(db) == 0
    async with db.transaction() as tx:
        for name, free_sat, held_sat in (("a", 100, 0), ("b", 20, 30), ("a", -40, 40)):
            entries = caller_entries(name, free_sat=free_sat, held_sat=held_sat, counter=OUTSIDE)
            await post(tx, Posting(f"{name}{free_sat}", Cause.HOLD, entries, 7))
        await post(tx, Posting("callers", Cause.CHARGE, {"callers": -5000, "callers/x": 5000}, 7))
    assert await queries_books.owed_to_callers_msat(db) == 150_000


def test_names_in_databases_stay_what_they_are() -> None:
    assert [cause.value for cause in Cause] == [
        "operation", "settlement", "reversal", "escrow", "restored", "abandoned", "returned", "lightning",
        "deposit", "hold", "charge", "credit", "withdrawal",
    ]  # fmt: skip
    assert (FEES_POST, FEES_MINT, FEES_LIGHTNING) == ("fees/post", "fees/mint", "fees/lightning")
    assert (LOST, RESTORED, OUTSIDE, MINT_PREFIX) == ("lost", "restored", "outside", "mint/")
    assert (escrow_account("e"), agent_account("a"), counter_account("j"), counter_account(None)) == (
        "escrow/e", "agent/a", "jobs/j", "outside",
    )  # fmt: skip


async def test_what_was_locked_and_did_not_come_back_is_what_the_job_cost(db: Database) -> None:
    async def gone() -> bool:
        async with db.transaction() as tx:
            return await post_gone(tx, "e", 7)

    async def moved(name: str, msat: int) -> None:
        async with db.transaction() as tx:
            await post(tx, posting(name, **{"escrow/e": msat, "outside": -msat}))

    assert not await gone()
    await moved("taken out", -1)
    assert not await gone()
    await moved("locked", 101)
    assert await gone()
    assert await queries_books.entries(db, "gone:e") == {"jobs/e": 100, "escrow/e": -100}
    assert not await gone()
    rows = await db.all("SELECT * FROM postings WHERE cause = 'escrow'")
    assert [tuple(row) for row in rows] == [("gone:e", "escrow", None, "e", 7)]


async def test_what_an_earlier_life_was_paid_is_found_and_settled(db: Database) -> None:
    for is_new in (True, False):
        async with db.transaction() as tx:
            assert await post_found(tx, "pay", 21, job_id="j", now=7) is is_new
            assert is_new is await settle(
                tx, "pay", source_account="jobs/j", agent="a", amount_msat=21_000, fee_bps=500, op_id=None,
                job_id="j", now=7,
            )  # fmt: skip
    assert await queries_books.accounts(db) == {
        "agent/a": -19_950, "fees/post": -1_050, "jobs/j": 0, "restored": 21_000,
    }  # fmt: skip
    rows = await db.all("SELECT * FROM postings WHERE cause = 'restored'")
    assert [tuple(row) for row in rows] == [("found:pay", "restored", None, "j", 7)]


async def test_every_closed_operation_has_one_balanced_posting(
    mint: MemoryMint, alice: Wallet, bob: Wallet
) -> None:
    await bob.receive(await alice.send(mint.url, 100))
    await alice.pay(mint.url, mint.invoice(50))
    for wallet in (alice, bob):
        for entry in await wallet.history():
            rows = await wallet._desk.db.all(
                "SELECT amount_msat FROM ledger WHERE posting_id = ?", entry.op_id
            )
            assert rows
            assert sum(row["amount_msat"] for row in rows) == 0


async def sent_for_job(wallet: Wallet, mint: MemoryMint, op_id: str, lock: Lock | None) -> None:
    plan = await wallet.plan_send(mint.url, 100, op_id=op_id, purpose="pay", lock=lock, job_id=op_id)
    async with wallet._desk.db.transaction() as tx:
        await wallet.record(tx, plan)
    await wallet.settle(op_id)


async def test_a_job_has_an_account_and_coins_that_two_must_agree_on_another(
    mint: MemoryMint, alice: Wallet, bob: Wallet
) -> None:
    provider, arbiter = bob._desk.seed.job_key("provider"), bob._desk.seed.job_key("arbiter")
    customer = alice._desk.seed.job_key("customer")
    keys = [key.compressed_public_key for key in (provider, arbiter, customer)]
    await sent_for_job(alice, mint, "plain", None)
    await sent_for_job(alice, mint, "alone", Lock(keys[0]))
    await sent_for_job(alice, mint, "two", Lock(keys[0], pubkeys=(keys[1],), n_sigs=2))
    await sent_for_job(alice, mint, "hash", Lock(keys[0], hash="ab" * 32))
    accounts = (await alice.audit()).accounts
    accounts = {name: msat for name, msat in accounts.items() if msat == 100_000}
    assert list(accounts) == ["escrow/hash", "escrow/two", "jobs/alone", "jobs/plain"]
    outcome = await alice.outcome("two")
    assert outcome is not None
    assert outcome.token is not None
    plan = await bob.plan_redeem(
        outcome.token, keys=[provider, arbiter], op_id="r", purpose="claim", job_id="two", record=True
    )
    received = (await bob.settle(plan.op_id)).received_sat
    accounts = (await bob.audit(ask_mints=True)).accounts
    assert accounts == {
        "escrow/two": -100_000, "fees/mint": 1000 * (100 - received), "mint/https://mint.test": 1000 * received,
    }  # fmt: skip


async def test_routing_is_booked_apart_from_the_mints_own_fee(mint: MemoryMint, alice: Wallet) -> None:
    mint.lightning_fee_sat = 2
    outcome = await alice.pay(mint.url, mint.invoice(50))
    accounts = (await alice.audit(ask_mints=True)).accounts
    assert accounts["fees/lightning"] == 2000
    assert accounts["fees/mint"] == 1000 * (outcome.fee_sat - 2) > 0
    assert accounts["outside"] == 1000 * (50 - 1000)


async def test_a_payment_that_failed_costs_the_mints_fee_alone(mint: MemoryMint, alice: Wallet) -> None:
    mint.melts = Melts.FAILED
    outcome = await alice.pay(mint.url, mint.invoice(50))
    assert outcome.state == "failed"
    report = await alice.audit(ask_mints=True)
    assert report.ok
    assert "fees/lightning" not in report.accounts
    assert report.accounts["fees/mint"] == 1000 * outcome.fee_sat
