"""The mint as a rail: with a mint in memory that fails as told, and with nutshell."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from store import Database, SystemClock, load_migrations
from tradepost.testing import ManualClock, MemoryMint
from tradepost.testing.mint import Melts
from wallet import Seed, Wallet
from wallet.errors import RailCannot
from wallet.invoice import parse_invoice
from wallet.mint import HttpTransport, MintInfo
from wallet.rails import InvoiceState, Lightning, MintRail, SendState, Wish
from wallet.rails.mint import limits_of
from wallet.witness import is_preimage


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with await Database.open(tmp_path / "rails.db", load_migrations("wallet")) as opened:
        yield opened


@pytest.fixture
async def purse(db: Database, clock: ManualClock, mint: MemoryMint) -> AsyncIterator[Wallet]:
    """A wallet with 1000 sat in the same database as its rail."""
    async with Wallet.open(
        db, Seed.generate(), clock=clock, mints=[mint.url], transport=mint.transport
    ) as wallet:
        quote = await wallet.mint_quote(mint.url, 1000)
        mint.pay(quote.bolt11)
        assert await wallet.claim(quote.id)
        yield wallet


@pytest.fixture
def lightning(db: Database, clock: ManualClock, purse: Wallet) -> Lightning:
    return Lightning(db, clock, [MintRail(purse, clock)])


async def test_what_is_paid_to_us_arrives_as_ecash(
    lightning: Lightning, purse: Wallet, mint: MemoryMint
) -> None:
    invoice = await lightning.make_invoice("sale", Wish(21_000, description="work", job_id="j"))
    assert (await lightning.look("sale")).state is InvoiceState.OPEN
    assert invoice.bolt11 is not None
    mint.pay(invoice.bolt11)
    assert (await lightning.look("sale")).state is InvoiceState.SETTLED
    assert sum((await purse.balance()).values()) == 1021
    report = await purse.audit()
    assert report.ok, report.problems
    assert report.accounts["jobs/j"] == -21_000


async def test_invoices_of_jobs_are_not_asked_for_every_minute(
    lightning: Lightning, purse: Wallet, mint: MemoryMint
) -> None:
    await purse.recover()
    made = await lightning.make_invoice("sale", Wish(21_000, job_id="j"))
    path = f"/v1/mint/quote/bolt11/{made.handle}"
    await purse.recover()
    assert mint.asked[path] == 0
    own = await purse.mint_quote(mint.url, 5)
    await purse.recover()
    assert mint.asked[f"/v1/mint/quote/bolt11/{own.id}"] == 1
    assert mint.asked[path] == 0


async def test_a_mint_counts_in_sats_and_hashes_no_descriptions(
    lightning: Lightning, mint: MemoryMint
) -> None:
    for wish, word in ((Wish(1500), "whole sats"), (Wish(1000, description_hash="ab" * 32), "hash")):
        with pytest.raises(RailCannot, match=word):
            await lightning.make_invoice("x", wish)
    assert mint.asked["/v1/mint/quote/bolt11"] == 1  # the fixture's own


async def test_a_limit_of_fees_is_kept(lightning: Lightning, purse: Wallet, mint: MemoryMint) -> None:
    mint.fee_reserve_sat, mint.lightning_fee_sat = 5, 3
    refused = await lightning.pay("a", mint.invoice(100), fee_max_msat=4000)
    assert (refused.state, sum((await purse.balance()).values())) == (SendState.FAILED, 1000)
    paid = await lightning.pay("b", mint.invoice(100), fee_max_msat=5000)
    assert paid.state is SendState.PAID
    assert sum((await purse.balance()).values()) == 1000 - 100 - paid.fee_msat // 1000
    assert (await purse.audit(ask_mints=True)).ok


async def test_a_payment_in_flight_stays_unknown_until_the_mint_says(
    db: Database, clock: ManualClock, lightning: Lightning, purse: Wallet, mint: MemoryMint
) -> None:
    mint.melts = Melts.PENDING
    bill = mint.invoice(100)
    assert (await lightning.pay("a", bill)).state is SendState.ASKED
    again = Lightning(db, clock, [MintRail(purse, clock)])
    assert await again.recover() == ["a"]
    assert (await again.pay("a", bill)).state is SendState.ASKED
    mint.finish_melt(paid=True)
    assert await again.recover() == []
    assert (await again.settle("a")).state is SendState.PAID
    assert (await purse.audit(ask_mints=True)).ok


async def test_a_payment_that_the_mint_refused_leaves_the_coins_ours(
    lightning: Lightning, purse: Wallet, mint: MemoryMint
) -> None:
    mint.melts = Melts.FAILED
    failed = await lightning.pay("a", mint.invoice(100))
    assert failed.state is SendState.FAILED
    assert sum((await purse.balance()).values()) in range(998, 1001)
    mint.down = True
    assert (await lightning.pay("b", mint.invoice(100))).state is SendState.FAILED  # nothing was begun


async def test_without_mints_it_can_do_nothing_and_says_so(db: Database, clock: ManualClock) -> None:
    async with Wallet.open(db, Seed.generate(), clock=clock, mints=[]) as wallet:
        lightning = Lightning(db, clock, [MintRail(wallet, clock)])
        with pytest.raises(RailCannot, match="it makes no invoices"):
            await lightning.make_invoice("x", Wish(1000))


def test_what_a_mint_says_of_itself_is_read_leniently() -> None:
    sat = {"method": "bolt11", "unit": "sat", "min_amount": 5, "max_amount": 1000}
    limits = limits_of(
        MintInfo(nuts={"4": {"methods": [{"unit": "usd"}, sat], "disabled": False}, "5": {"disabled": True}})
    )
    assert (limits.makes, limits.pays, limits.min_msat, limits.max_msat) == (True, False, 5000, 1_000_000)
    for nuts in (
        {},
        {"4": 7, "5": []},
        {"4": {"methods": 7}},
        {"4": {"methods": [7, {**sat, "max_amount": "x"}]}},
    ):
        assert limits_of(MintInfo(nuts=nuts)).makes


async def test_nutshell_makes_and_pays(tmp_path: Path, mint_url: str) -> None:
    clock = SystemClock()
    async with (
        await Database.open(tmp_path / "real.db", load_migrations("wallet")) as db,
        Wallet.open(db, Seed.generate(), clock=clock, mints=[mint_url], transport=HttpTransport) as wallet,
    ):
        rail = MintRail(wallet, clock)
        lightning = Lightning(db, clock, [rail])
        assert (await rail.limits()).makes
        invoice = await lightning.make_invoice("sale", Wish(1_000_000))
        assert invoice.bolt11 is not None
        assert (await lightning.look("sale")).state is InvoiceState.SETTLED  # FakeWallet pays by itself
        paid = await lightning.pay(
            "purchase", MemoryMint(f"https://{uuid4()}.test").invoice(100), fee_max_msat=5000
        )
        assert paid.state is SendState.PAID
        assert await rail.balance_msat() == 1_000_000 - 100_000 - paid.fee_msat
        assert (await wallet.audit(ask_mints=True)).ok


async def test_the_preimage_is_kept_where_the_mint_tells_one_that_fits(
    lightning: Lightning, mint: MemoryMint
) -> None:
    paid = await lightning.pay("own", mint.invoice(5))
    assert paid.preimage is not None
    assert is_preimage(paid.preimage, paid.payment_hash)
    assert (await lightning.pay("foreign", MemoryMint("https://other.test").invoice(5))).preimage is None
    made = mint.invoice(6)
    mint._preimages[parse_invoice(made).payment_hash] = "1" * 64
    assert (await lightning.pay("false", made)).preimage is None
