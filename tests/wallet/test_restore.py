"""The database is lost, or an old copy of it came back: the words find every sat, and no output is ever made twice."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from identity import SecretKey
from store import Database, Transaction, load_migrations
from tradepost.testing.clock import ManualClock
from tradepost.testing.mint import Melts, MemoryMint
from wallet import queries
from wallet.errors import MintUnavailable
from wallet.operations import Kind, State
from wallet.proofs import Lock
from wallet.restore import drop_spent
from wallet.seed import Seed
from wallet.wallet import Wallet

if TYPE_CHECKING:
    from conftest import MakeWallet

Open = Callable[..., Awaitable[Wallet]]
SEED = Seed.generate()


@asynccontextmanager
async def life(path: Path, mint: MemoryMint) -> AsyncIterator[Wallet]:
    """One process of the wallet of `SEED`, on the database at `path`."""
    async with (
        await Database.open(path, load_migrations("wallet")) as db,
        Wallet.open(db, SEED, clock=mint.clock, mints=[mint.url], transport=mint.transport) as wallet,
    ):
        yield wallet


async def fund(wallet: Wallet, mint: MemoryMint, sat: int) -> None:
    quote = await wallet.mint_quote(mint.url, sat)
    mint.pay(quote.bolt11)
    assert await wallet.claim(quote.id)


async def sat(wallet: Wallet) -> int:
    return sum((await wallet.balance()).values())


async def assert_sound(wallet: Wallet) -> None:
    report = await wallet.audit(ask_mints=True)
    assert report.ok, report.problems


async def earn_and_spend(wallet: Wallet, friend: Wallet, mint: MemoryMint) -> int:
    """Mint, send, receive, pay a bill with change, lock: every way in which a counter is used; returns the balance."""
    mint.lightning_fee_sat = 1
    await fund(wallet, mint, 700)
    for amount in (16, 70, 41):
        await friend.receive(await wallet.send(mint.url, amount))
    await wallet.receive(await friend.send(mint.url, 99))
    await wallet.pay(mint.url, mint.invoice(120))
    key = SecretKey.generate()
    await friend.receive(await wallet.send(mint.url, 55, lock=Lock(key.compressed_public_key)), [key])
    return await sat(wallet)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("fee_ppk", [0, 100, 2000])
async def test_the_words_alone_bring_the_balance_back(
    tmp_path: Path, make_wallet: "MakeWallet", mint: MemoryMint, version: int, fee_ppk: int
) -> None:
    mint._keyset_version = version
    mint.rotate_keyset(fee_ppk)
    friend = await make_wallet("friend", 300)
    async with life(tmp_path / "first", mint) as wallet:
        before = await earn_and_spend(wallet, friend, mint)
    async with life(tmp_path / "second", mint) as wallet:
        report = await wallet.restore(mint.url)
        assert (report.found_sat, report.pending_sat, report.unproven, report.trouble) == (before, 0, 0, None)
        assert report.spent > 0
        assert await sat(wallet) == before
        await assert_sound(wallet)
        assert (await wallet.audit()).accounts["restored"] == -1000 * before
        again = await wallet.restore(mint.url)
        assert (again.found_sat, again.lost_sat, await sat(wallet)) == (0, 0, before)
        signed = len(mint.signed)
        await friend.receive(await wallet.send(mint.url, before // 2))  # none of the counters served before
        assert len(mint.signed) > signed
        await assert_sound(wallet)


async def test_keysets_that_retired_are_looked_through(tmp_path: Path, mint: MemoryMint) -> None:
    async with life(tmp_path / "first", mint) as wallet:
        for version, amount in ((1, 100), (2, 30), (2, 7)):
            mint._keyset_version = version
            mint.rotate_keyset()
            await wallet._desk.keyring.refresh(mint.url)
            await fund(wallet, mint, amount)
    mint.rotate_keyset()
    async with life(tmp_path / "second", mint) as wallet:
        report = await wallet.restore(mint.url)
        assert (report.found_sat, report.keysets) == (137, len(mint.keysets))
        await wallet.send(mint.url, 130)
        await assert_sound(wallet)


@pytest.mark.parametrize(("gap", "is_found"), [(299, True), (450, False)])
async def test_a_gap_of_counters_is_looked_over(
    tmp_path: Path, mint: MemoryMint, gap: int, is_found: bool
) -> None:
    async with life(tmp_path / "first", mint) as wallet:
        await fund(wallet, mint, 64)
        keyset = next(iter(mint.keysets))
        async with wallet._desk.db.transaction() as tx:
            await queries.take_counters(tx, keyset, gap)
        await fund(wallet, mint, 32)
    async with life(tmp_path / "second", mint) as wallet:
        assert (await wallet.restore(mint.url)).found_sat == (96 if is_found else 64)
        assert await queries.next_counter(wallet._desk.db, keyset) > (gap if is_found else 0) + 1


async def test_plans_that_a_process_died_with_leave_no_gap(tmp_path: Path, mint: MemoryMint) -> None:
    async with life(tmp_path / "first", mint) as wallet:
        await fund(wallet, mint, 1023)
        keyset = next(iter(mint.keysets))
        for number in range(8):
            await wallet.plan_send(mint.url, 1 << number, op_id=f"plan {number}", purpose="never recorded")
        used = await queries.next_counter(wallet._desk.db, keyset)
    async with life(tmp_path / "first", mint) as wallet:
        await wallet.recover()
        assert await queries.next_counter(wallet._desk.db, keyset) == 10 < used
        plan = await wallet.plan_send(mint.url, 3, op_id="in hand", purpose="test")
        await wallet.recover()
        async with wallet._desk.db.transaction() as tx:
            await wallet.record(tx, plan)
        await wallet.settle("in hand")
        await assert_sound(wallet)
    async with life(tmp_path / "second", mint) as wallet:
        await wallet.restore(mint.url)
        floor = await queries.next_counter(wallet._desk.db, keyset)
    async with life(tmp_path / "second", mint) as wallet:
        await wallet.recover()
        assert await queries.next_counter(wallet._desk.db, keyset) == floor


@pytest.mark.parametrize("is_paid", [True, False])
async def test_coins_in_a_payment_under_way_wait_for_the_mint(
    tmp_path: Path, mint: MemoryMint, is_paid: bool
) -> None:
    mint.melts = Melts.PENDING
    async with life(tmp_path / "first", mint) as wallet:
        await fund(wallet, mint, 200)
        with pytest.raises(MintUnavailable):
            await wallet.pay(mint.url, mint.invoice(100))
    async with life(tmp_path / "second", mint) as wallet:
        report = await wallet.restore(mint.url)
        assert report.pending_sat > 0
        assert report.found_sat + report.pending_sat == 200
        assert len(await wallet.recover()) == 1, "still under way"
        assert (await wallet.restore(mint.url)).pending_sat == report.pending_sat
        await assert_sound(wallet)
        mint.finish_melt(paid=is_paid)
        assert await wallet.recover() == []
        assert await sat(wallet) == (report.found_sat if is_paid else 200)
        await assert_sound(wallet)
        last = await wallet.restore(mint.url)  # the change of the payment
        assert (last.pending_sat, await sat(wallet)) == (0, mint.outstanding_sat)
        await assert_sound(wallet)


async def test_signatures_of_another_key_are_no_coins(tmp_path: Path, mint: MemoryMint) -> None:
    async with life(tmp_path / "first", mint) as wallet:
        await fund(wallet, mint, 15)
    mint.wrong_dleq = True
    mint.sign_again()
    async with life(tmp_path / "second", mint) as wallet:
        report = await wallet.restore(mint.url)
        assert (report.found_sat, report.unproven) == (0, 4)
        mint.wrong_dleq = False
        mint.sign_again()
        assert (await wallet.restore(mint.url)).found_sat == 15


async def test_signatures_from_before_proofs_are_taken(tmp_path: Path, mint: MemoryMint) -> None:
    async with life(tmp_path / "first", mint) as wallet:
        await fund(wallet, mint, 15)
    for signature in mint.signed.values():
        del signature["dleq"]
    async with life(tmp_path / "second", mint) as wallet:
        assert (await wallet.restore(mint.url)).found_sat == 15
        await wallet.send(mint.url, 9)
        await assert_sound(wallet)


async def test_a_mint_that_is_down_is_restored_later(tmp_path: Path, mint: MemoryMint) -> None:
    async with life(tmp_path / "first", mint) as wallet:
        await fund(wallet, mint, 100)
    async with life(tmp_path / "second", mint) as wallet:
        mint.down = True
        report = await wallet.restore(mint.url)
        assert report.found_sat == 0
        assert "connection refused" in (report.trouble or "")
        mint.down = False
        assert (await wallet.restore(mint.url)).found_sat == 100


async def test_a_mint_that_limits_questions_is_waited_for(
    tmp_path: Path, mint: MemoryMint, clock: ManualClock
) -> None:
    async with life(tmp_path / "first", mint) as wallet:
        await fund(wallet, mint, 100)
    async with life(tmp_path / "second", mint) as wallet:
        request, asked = mint.request, 0

        async def limited(method: str, path: str, body: Any) -> Any:
            nonlocal asked
            asked += path == "/v1/restore"
            if path == "/v1/restore" and asked in (2, 3):
                raise MintUnavailable("answered 429")
            return await request(method, path, body)

        mint.request = limited  # type: ignore[method-assign]
        restoring = asyncio.create_task(wallet.restore(mint.url))
        while not restoring.done():
            await clock.advance(1)
            await asyncio.sleep(0.001)
        assert ((await restoring).found_sat, restoring.result().trouble) == (100, None)


async def test_what_an_open_operation_made_is_not_booked_twice(tmp_path: Path, mint: MemoryMint) -> None:
    async with life(tmp_path / "first", mint) as wallet:
        await fund(wallet, mint, 100)
        plan = await wallet.plan_send(mint.url, 60, op_id="s", purpose="test")
        async with wallet._desk.db.transaction() as tx:
            await wallet.record(tx, plan)
        mint.lose_answer("/v1/swap")
        for _ in range(2):
            mint.refuse("/v1/checkstate")  # so that nobody knows whether it was done
        with suppress(MintUnavailable):
            await wallet.settle("s")
    async with life(tmp_path / "first", mint) as wallet:
        await wallet._desk.keyring.keysets(mint.url)
        assert (await wallet.restore(mint.url)).found_sat == 0
        outcome = await wallet.settle("s")
        assert (outcome.state, outcome.sent_sat) == (State.DONE, 60)
        await assert_sound(wallet)


async def test_words_that_were_put_back_without_a_restore_use_no_counter_twice(
    tmp_path: Path, make_wallet: "MakeWallet", mint: MemoryMint
) -> None:
    async with life(tmp_path / "first", mint) as wallet:
        before = await earn_and_spend(wallet, await make_wallet("friend", 300), mint)
    async with life(tmp_path / "second", mint) as wallet:
        await fund(wallet, mint, 50)
        assert (await sat(wallet), await wallet.recover()) == (50, [])
        assert (await wallet.restore(mint.url)).found_sat == before
        await assert_sound(wallet)


async def test_an_old_copy_of_the_database_is_brought_up_to_date(
    tmp_path: Path, make_wallet: "MakeWallet", mint: MemoryMint
) -> None:
    friend = await make_wallet("friend", 300)
    async with life(tmp_path / "now", mint) as wallet:
        await fund(wallet, mint, 700)
    shutil.copy(tmp_path / "now", tmp_path / "old")
    async with life(tmp_path / "now", mint) as wallet:
        before = await earn_and_spend(wallet, friend, mint)
    async with life(tmp_path / "old", mint) as wallet:
        assert await sat(wallet) == 700
        report = await wallet.restore(mint.url)
        assert report.lost_sat == 700 - (before - report.found_sat)
        assert await sat(wallet) == before
        await assert_sound(wallet)
        await friend.receive(await wallet.send(mint.url, 200))


async def test_an_old_copy_that_nobody_restores_loses_nothing(
    tmp_path: Path, make_wallet: "MakeWallet", mint: MemoryMint
) -> None:
    """Its coins are spent and its counters used: operations fail, but none believes in signatures made for another."""
    friend = await make_wallet("friend", 300)
    async with life(tmp_path / "now", mint) as wallet:
        await fund(wallet, mint, 512)
    shutil.copy(tmp_path / "now", tmp_path / "old")
    async with life(tmp_path / "now", mint) as wallet:
        await friend.receive(await wallet.send(mint.url, 100))
        left = await sat(wallet)
    async with life(tmp_path / "old", mint) as wallet:
        await fund(wallet, mint, 64)
        plan = await wallet.plan_send(mint.url, 100, op_id="s", purpose="test")
        async with wallet._desk.db.transaction() as tx:
            await wallet.record(tx, plan)
        assert (await wallet.settle("s")).state is State.LOST
        await wallet.restore(mint.url)
        assert await sat(wallet) == left + 64
        await assert_sound(wallet)


@pytest.mark.parametrize("way", ["swap", "mint", "melt"])
async def test_outputs_that_another_copy_used_are_replaced(
    tmp_path: Path, make_wallet: "MakeWallet", mint: MemoryMint, way: str
) -> None:
    """Two copies alive at once, which nobody should do: the mint refuses, and its old signatures are not taken for ours."""
    friend = await make_wallet("friend", 300)
    async with life(tmp_path / "now", mint) as wallet:
        await fund(wallet, mint, 512)
        await fund(wallet, mint, 512)
    shutil.copy(tmp_path / "now", tmp_path / "old")
    async with life(tmp_path / "now", mint) as now, life(tmp_path / "old", mint) as old:
        for wallet in (now, old):
            await wallet.recover()
            await wallet._desk.keyring.keysets(mint.url)
            old._desk.counted.update(mint.keysets)  # both have looked before either acted
        await friend.receive(await now.send(mint.url, 256))
        await drop_spent(old._desk, mint.url)
        if way == "swap":
            assert (await old.send(mint.url, 256)).amount == 256
        elif way == "mint":
            await fund(old, mint, 256 + 128 + 64)
        else:
            mint.melts = Melts.FAILED
            assert (await old.pay(mint.url, mint.invoice(100))).state is State.FAILED
        assert await old.recover() == []
        await old.restore(mint.url)
        await now.restore(mint.url)
        report = await old.audit(ask_mints=True)
        assert report.ok, report.problems


async def test_a_token_sent_before_is_taken_back_after_its_locktime(
    tmp_path: Path, mint: MemoryMint, clock: ManualClock
) -> None:
    key = SEED.job_key("test", "refund")
    lock = Lock(SecretKey.generate().compressed_public_key, clock.now() + 100, (key.compressed_public_key,))
    async with life(tmp_path / "first", mint) as wallet:
        await fund(wallet, mint, 100)
        token = await wallet.send(mint.url, 60, lock=lock)
        left = await sat(wallet)
    async with life(tmp_path / "second", mint) as wallet:
        assert (await wallet.restore(mint.url)).found_sat == left
        assert await wallet.restore_sent(token, op_id="order:1", job_id="1")
        assert not await wallet.restore_sent(token, op_id="order:1", job_id="1")
        await assert_sound(wallet)
        await clock.advance(101)
        plan = await wallet.plan_reclaim("order:1", op_id="r", purpose="test", key=key)
        async with wallet._desk.db.transaction() as tx:
            await wallet.record(tx, plan)
        outcome = await wallet.settle("r")
        assert outcome.received_sat == 60 - outcome.fee_sat
        assert await sat(wallet) == mint.outstanding_sat
        await assert_sound(wallet)


class Death(BaseException):
    """What SIGKILL looks like from inside."""


@asynccontextmanager
async def mortal_life(
    path: Path, mint: MemoryMint, at: int | None
) -> AsyncIterator[tuple[Wallet, list[str]]]:
    """A life that ends at commit or answer number `at`; the points it passed."""
    points: list[str] = []

    def point(name: str) -> None:
        points.append(name)
        if at is not None and len(points) > at:
            raise Death

    class Transport:
        async def request(self, method: str, where: str, body: Any = None) -> Any:
            answer = await mint.request(method, where, body)
            point(where)
            return answer

        async def close(self) -> None:
            pass

    async with await Database.open(path, load_migrations("wallet")) as db:
        transaction = db.transaction

        @asynccontextmanager
        async def mortal() -> AsyncIterator[Transaction]:
            async with transaction() as tx:
                yield tx
            point("commit")

        db.transaction = mortal  # type: ignore[method-assign]
        with suppress(Death):
            yield (
                Wallet.open(db, SEED, clock=mint.clock, mints=[mint.url], transport=lambda _: Transport()),
                points,
            )


async def test_a_restore_that_is_killed_anywhere_is_run_again(
    tmp_path: Path, make_wallet: "MakeWallet", mint: MemoryMint
) -> None:
    async with life(tmp_path / "first", mint) as wallet:
        before = await earn_and_spend(wallet, await make_wallet("friend", 300), mint)
    async with mortal_life(tmp_path / "whole", mint, None) as (wallet, points):
        await wallet.restore(mint.url)
    assert points.count("commit") >= 3
    for at in range(len(points)):
        path = tmp_path / str(at)
        async with mortal_life(path, mint, at) as (wallet, _):
            await wallet.restore(mint.url)
            raise AssertionError("it should have died")
        async with life(path, mint) as wallet:
            await wallet.restore(mint.url)
            assert await sat(wallet) == before
            await assert_sound(wallet)


async def test_history_names_what_was_restored(tmp_path: Path, mint: MemoryMint) -> None:
    async with life(tmp_path / "first", mint) as wallet:
        await fund(wallet, mint, 100)
    async with life(tmp_path / "second", mint) as wallet:
        await wallet.restore(mint.url)
        entry = (await wallet.history())[0]
        assert (entry.kind, entry.state, entry.received_sat) == (Kind.RESTORE, State.DONE, 100)
