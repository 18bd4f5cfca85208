"""Caps: what would pass one is refused before money moves; what moved already never is."""

import asyncio
import json

import pytest

from store import Database, load_migrations
from tradepost.testing.clock import ManualClock
from tradepost.testing.mint import MemoryMint
from wallet import queries_books
from wallet.errors import Action, ExposureExceeded
from wallet.exposure import MINT_SAT_MAX, Caps, check_room, exposure_sat
from wallet.proofs import Lock
from wallet.seed import Seed
from wallet.wallet import Wallet


@pytest.fixture
async def small(tmp_path, clock: ManualClock, mint: MemoryMint):
    """An empty wallet that wants no more than 500 sat at the mint."""
    async with (
        await Database.open(tmp_path / "small.db", load_migrations("wallet")) as db,
        Wallet.open(
            db, Seed.generate(), clock=clock, mints=[mint.url], transport=mint.transport, caps=Caps(500)
        ) as wallet,
    ):
        yield wallet


async def held(wallet: Wallet, mint: MemoryMint) -> int:
    return await exposure_sat(wallet._desk.db, mint.url)


def test_a_mint_has_its_own_cap_and_a_sweep_leaves_no_more_than_it() -> None:
    caps = Caps(500, {"https://a.test": 40}, sweep_above_sat=100)
    assert (caps.of("https://a.test"), caps.of("https://b.test")) == (40, 500)
    assert (caps.level("https://a.test"), caps.level("https://b.test")) == (40, 100)
    assert Caps().level("https://b.test") == Caps().of("https://b.test") == MINT_SAT_MAX == 100_000


async def test_funding_above_the_cap_is_refused_before_the_mint_is_asked(
    small: Wallet, mint: MemoryMint
) -> None:
    with pytest.raises(ExposureExceeded) as error:
        await small.mint_quote(mint.url, 501)
    assert error.value.action is Action.WAIT
    assert (error.value.held_sat, error.value.more_sat, error.value.max_sat) == (0, 501, 500)
    assert str(error.value) == (
        f"501 sat more at {mint.url} would pass its cap of 500 sat, 0 sat are there or on their way; use another mint, "
        "or make room: `tradepost wallet sweep`"
    )
    assert not mint.asked
    quote = await small.mint_quote(mint.url, 500)
    other = await small.mint_quote(mint.url, 500)
    for one in (quote, other):
        mint.pay(one.bolt11)
        assert await small.claim(one.id)  # paid: refusing it would lose it
    assert await held(small, mint) == 1000
    assert await small.mints_with_room(-500) == (mint.url,)
    assert await small.mints_with_room(-499) == ()


async def test_receiving_above_the_cap_is_refused_and_the_coins_stay_the_senders(
    small: Wallet, alice: Wallet, mint: MemoryMint
) -> None:
    await small.receive(await alice.send(mint.url, 300))
    before = await held(small, mint)
    token = await alice.send(mint.url, 300)
    with pytest.raises(ExposureExceeded):
        await small.receive(token)
    with pytest.raises(ExposureExceeded):
        await small.plan_return(token, lock=None, op_id="r", purpose="test", keep_sat=290)
    assert await held(small, mint) == before
    assert not any(mint.is_spent(proof) for proof in token.proofs)
    plan = await small.plan_return(token, lock=None, op_id="r", purpose="test", keep_sat=500 - before)
    assert await held(small, mint) == 500
    await small.release(plan)
    await small.plan_return(token, lock=None, op_id="r", purpose="test")  # nothing of it would be ours


async def test_two_at_once_do_not_both_take_the_last_room(
    small: Wallet, alice: Wallet, mint: MemoryMint
) -> None:
    tokens = [await alice.send(mint.url, 300) for _ in range(2)]
    ended = await asyncio.gather(*map(small.receive, tokens), return_exceptions=True)
    assert sorted(type(one).__name__ for one in ended) == ["ExposureExceeded", "Outcome"]


async def test_coins_that_were_locked_for_a_job_are_claimed_above_the_cap(
    small: Wallet, alice: Wallet, mint: MemoryMint
) -> None:
    mine, theirs = small._desk.seed.job_key("a"), alice._desk.seed.job_key("b")
    lock = Lock(mine.compressed_public_key, pubkeys=(theirs.compressed_public_key,), n_sigs=2)
    token = await alice.send(mint.url, 700, lock=lock)
    assert (await small.receive(token, keys=[mine, theirs])).received_sat > 500
    assert (await small.audit(ask_mints=True)).ok


async def test_change_and_refunds_are_never_refused(small: Wallet, mint: MemoryMint) -> None:
    quotes = [await small.mint_quote(mint.url, 500) for _ in range(2)]
    for quote in quotes:
        mint.pay(quote.bolt11)
        await small.claim(quote.id)
    await small.plan_send(mint.url, 100, op_id="s", purpose="test", record=True)
    await small.settle("s")
    plan = await small.plan_reclaim("s", op_id="back", purpose="test")
    async with small._desk.db.transaction() as tx:
        await small.record(tx, plan)
    assert (await small.settle("back")).state == "done"
    assert await held(small, mint) > 500


async def test_coins_inside_operations_count(alice: Wallet, mint: MemoryMint) -> None:
    assert await held(alice, mint) == 1000
    plan = await alice.plan_send(mint.url, 300, op_id="s", purpose="test")
    assert await held(alice, mint) == 1000  # the coins are ours until the mint swapped them
    await alice.release(plan)
    token = await alice.send(mint.url, 300)
    left = await held(alice, mint)
    assert left < 700
    redeeming = await alice.plan_redeem(token, op_id="r", purpose="test")
    assert await held(alice, mint) == left + redeeming.keep_sat
    assert await queries_books.coming_sat(alice._desk.db, "https://other.test") == 0


async def test_what_is_locked_for_open_jobs_counts(alice: Wallet, mint: MemoryMint) -> None:
    def row(role: str, number: int, stage: str, url: str, sat: int) -> tuple[str, ...]:
        return role, f"{number}", stage, json.dumps({"mint": url, "price_sat": sat})

    stages = (
        "proposed",
        "agreed",
        "held",
        "overdue",
        "delivered",
        "disputed",
        "claiming",
        "paid",
        "void",
        "lost",
    )
    rows = [row("provider", n, stage, mint.url, 2**n) for n, stage in enumerate(stages)]
    rows += [
        row("customer", 20, "held", mint.url, 1 << 20),
        row("arbiter", 21, "held", mint.url, 1 << 21),
        row("provider", 22, "held", "https://other.test", 1 << 22),
    ]
    async with alice._desk.db.transaction() as tx:
        await tx.execute_many(
            "INSERT INTO escrows (role, request_id, stage, terms, party, request, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, 'me', '', 1, 1)",
            rows,
        )
    assert await queries_books.escrowed_sat(alice._desk.db, mint.url) == 0b1111100 + (1 << 20)
    assert await held(alice, mint) == 1000 + 0b1111100 + (1 << 20)
    caps = Caps(1000 + 0b1111100 + (1 << 20) + 5)
    await check_room(alice._desk.db, caps, mint.url, 5)
    with pytest.raises(ExposureExceeded):
        await check_room(alice._desk.db, caps, mint.url, 6)
