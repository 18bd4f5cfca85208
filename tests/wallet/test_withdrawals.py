"""One payout for each k1, whatever happens between the row and the mint's answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from store import Database, Transaction, load_migrations
from tradepost.testing.clock import ManualClock
from tradepost.testing.mint import Melts, MemoryMint
from wallet.errors import (
    InsufficientFunds,
    InvalidLnurl,
    InvalidRequest,
    LimitExceeded,
    MintError,
    MintUnavailable,
)
from wallet.queries_lnurl import Withdrawal, withdrawals_under_way
from wallet.seed import Seed
from wallet.sweep import payable_sat
from wallet.wallet import Wallet
from wallet.withdrawals import Withdrawals

OWED = 500
SEED = Seed.generate()


class Till:
    """A wallet with a database on disk, which can be closed and opened again."""

    def __init__(self, folder: Path, mint: MemoryMint, clock: ManualClock) -> None:
        self.folder, self.mint, self.clock = folder, mint, clock

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Withdrawals]:
        async with (
            await Database.open(self.folder / "till.db", load_migrations("wallet")) as db,
            Wallet.open(
                db, SEED, clock=self.clock, mints=[self.mint.url], transport=self.mint.transport
            ) as wallet,
        ):
            self.db, self.wallet = db, wallet
            yield Withdrawals(db, wallet, self.clock)

    async def fund(self, sat: int) -> None:
        quote = await self.wallet.mint_quote(self.mint.url, sat)
        self.mint.pay(quote.bolt11)
        assert await self.wallet.claim(quote.id)

    async def promise(self, withdrawals: Withdrawals, owed_sat: int = OWED) -> str:
        async with self.db.transaction() as tx:
            return await withdrawals.promise(tx, mint=self.mint.url, owed_sat=owed_sat, description="left")

    async def sat(self) -> int:
        return sum((await self.wallet.balance()).values())


@pytest.fixture
def till(tmp_path: Path, mint: MemoryMint, clock: ManualClock) -> Till:
    return Till(tmp_path, mint, clock)


@pytest.mark.parametrize(
    ("owed", "paid"), [(3, 0), (4, 1), (100, 97), (300, 296), (301, 296), (10_000, 9899)]
)
def test_what_is_paid_out_leaves_a_reserve(owed: int, paid: int) -> None:
    assert payable_sat(owed) == paid


async def test_a_payout(till: Till) -> None:
    async with till.open() as withdrawals:
        await till.fund(OWED)
        k1 = await till.promise(withdrawals)
        row = await withdrawals.find(k1)
        assert (row.state, row.pay_sat) == (Withdrawal.OPEN, 494)
        assert k1 not in repr(row)
        invoice = till.mint.invoice(494)
        await withdrawals.begin(k1, invoice.upper())
        assert (await withdrawals.find(k1)).state is Withdrawal.PAYING
        assert (await withdrawals.finish(k1)).state is Withdrawal.PAID
        assert await till.sat() >= OWED - 494 - 2
        assert (await till.wallet.audit(ask_mints=True)).ok


async def test_the_same_k1_with_another_invoice_is_refused_and_with_the_same_one_changes_nothing(
    till: Till,
) -> None:
    async with till.open() as withdrawals:
        await till.fund(2 * OWED)
        k1 = await till.promise(withdrawals)
        invoice, other = till.mint.invoice(494), till.mint.invoice(494)
        await withdrawals.begin(k1, invoice)
        for _ in range(2):  # while it is paid, and after
            await withdrawals.begin(k1, invoice)
            with pytest.raises(InvalidLnurl, match="withdrawn already"):
                await withdrawals.begin(k1, other)
            await withdrawals.finish(k1)
        assert till.mint.asked["/v1/melt/bolt11"] == 1


async def test_of_many_at_the_same_time_one_is_paid(till: Till) -> None:
    async with till.open() as withdrawals:
        await till.fund(4 * OWED)
        k1 = await till.promise(withdrawals)
        tries = [withdrawals.begin(k1, till.mint.invoice(494)) for _ in range(6)]
        ended = await asyncio.gather(*tries, return_exceptions=True)
        assert ended.count(None) == 1
        await withdrawals.finish(k1)
        assert till.mint.asked["/v1/melt/bolt11"] == 1
        assert await till.sat() >= 4 * OWED - 494 - 3
        assert (await till.wallet.audit(ask_mints=True)).ok


@pytest.mark.parametrize("sat", [1, 493, 495, 500])
async def test_another_amount_is_refused(till: Till, sat: int) -> None:
    async with till.open() as withdrawals:
        await till.fund(OWED)
        k1 = await till.promise(withdrawals)
        with pytest.raises(InvalidLnurl, match="exactly 494 sat"):
            await withdrawals.begin(k1, till.mint.invoice(sat))
        with pytest.raises(InvalidRequest):
            await withdrawals.begin(k1, "lnbc1junk")
        with pytest.raises(InvalidLnurl, match="nothing to withdraw"):
            await withdrawals.begin("00" * 32, till.mint.invoice(494))
        assert (await withdrawals.find(k1)).state is Withdrawal.OPEN


async def test_a_payout_that_fails_makes_the_k1_good_again(till: Till) -> None:
    async with till.open() as withdrawals:
        await till.fund(OWED)
        k1 = await till.promise(withdrawals)
        till.mint.melts = Melts.FAILED
        await withdrawals.begin(k1, till.mint.invoice(494))
        row = await withdrawals.finish(k1)
        assert (row.state, row.owed_sat, row.pay_sat) == (
            Withdrawal.OPEN,
            OWED - 1,
            493,
        )  # the way back cost one
        till.mint.melts = Melts.PAID
        await withdrawals.begin(k1, till.mint.invoice(493))
        assert (await withdrawals.finish(k1)).state is Withdrawal.PAID
        assert till.mint.asked["/v1/melt/bolt11"] == 2


@pytest.mark.parametrize("paid", [True, False])
async def test_a_payout_in_flight_keeps_the_k1_until_the_mint_tells(till: Till, paid: bool) -> None:
    """The answer to the melt is lost; meanwhile the process dies. Paid once, or the k1 is good again."""
    async with till.open() as withdrawals:
        await till.fund(OWED)
        k1 = await till.promise(withdrawals)
        till.mint.melts = Melts.PENDING
        till.mint.lose_answer("/v1/melt/bolt11")
        invoice = till.mint.invoice(494)
        await withdrawals.begin(k1, invoice)
        with pytest.raises(MintUnavailable):
            await till.wallet.settle((await withdrawals.find(k1)).op_id or "")
        with pytest.raises(InvalidLnurl, match="on its way"):
            await withdrawals.begin(k1, till.mint.invoice(494))
    async with till.open() as withdrawals:
        assert await withdrawals_under_way(till.db) == [k1]
        finishing = asyncio.create_task(withdrawals.finish(k1))
        await till.clock.advance(60)  # the mint is asked again and again
        assert (await withdrawals.find(k1)).state is Withdrawal.PAYING
        till.mint.finish_melt(paid=paid)
        while not finishing.done():
            await till.clock.advance(60)
        row = await finishing
        assert row.state is (Withdrawal.PAID if paid else Withdrawal.OPEN)
        if not paid:
            till.mint.melts = Melts.PAID
            await withdrawals.begin(k1, till.mint.invoice(row.pay_sat))
            assert (await withdrawals.finish(k1)).state is Withdrawal.PAID
        assert (await till.wallet.audit(ask_mints=True)).ok


async def test_a_larger_reserve_lowers_what_can_be_withdrawn(till: Till) -> None:
    async with till.open() as withdrawals:
        await till.fund(2 * OWED)
        k1 = await till.promise(withdrawals)
        till.mint.fee_reserve_sat = 20
        with pytest.raises(LimitExceeded, match="20 sat more for fees"):
            await withdrawals.begin(k1, till.mint.invoice(494))
        amounts = []
        while (row := await withdrawals.find(k1)).state is Withdrawal.OPEN:
            amounts.append(row.pay_sat)
            try:
                await withdrawals.begin(k1, till.mint.invoice(row.pay_sat))
            except LimitExceeded:
                continue
        assert amounts == [488, 476]
        assert (await withdrawals.finish(k1)).state is Withdrawal.PAID


async def test_without_coins_nothing_begins(till: Till) -> None:
    async with till.open() as withdrawals:
        k1 = await till.promise(withdrawals)
        with pytest.raises(InsufficientFunds):
            await withdrawals.begin(k1, till.mint.invoice(494))
        assert (await withdrawals.find(k1)).state is Withdrawal.OPEN


# --- the process dies between any two steps ---------------------------------------------------------------------------

STEPS = 60


class Died(BaseException):
    """As SIGKILL: nothing after it is done."""


class Death:
    """Dies at the n-th write or request, counted over a whole payout."""

    def __init__(self, at: int) -> None:
        self.left = at

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Died


async def pay_out_until(
    till: Till, k1: str, invoice: str, death: Death, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Whether it came to its end before it died."""
    execute, request = Transaction.execute, till.mint.request

    async def dying_execute(self: Transaction, sql: str, *values: object) -> int:
        death.step()
        return await execute(self, sql, *values)  # type: ignore[arg-type]

    async def dying_request(method: str, path: str, body: dict[str, object] | None) -> object:
        death.step()
        answer = await request(method, path, body)
        death.step()
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "execute", dying_execute)
        patch.setattr(till.mint, "request", dying_request)
        try:
            async with till.open() as withdrawals:
                await withdrawals.begin(k1, invoice)
                await withdrawals.finish(k1)
        except Died:
            return False
    return True


@pytest.mark.parametrize(("melts", "stride"), [(Melts.PAID, 1), (Melts.FAILED, 3)])
async def test_killed_at_every_step_it_is_paid_once_or_the_k1_is_good(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, melts: Melts, stride: int
) -> None:
    for at in range(0, STEPS, stride):
        mint = MemoryMint(clock=clock)
        till = Till(tmp_path / f"{melts}{at}", mint, clock)
        till.folder.mkdir()
        async with till.open() as withdrawals:
            await till.fund(OWED)
            k1 = await till.promise(withdrawals)
        mint.melts = melts
        invoice = mint.invoice(494)
        ended = await pay_out_until(till, k1, invoice, Death(at), monkeypatch)
        mint.melts = Melts.PAID
        async with till.open() as withdrawals:
            await till.wallet.recover()
            row = await withdrawals.finish(k1)
            if row.state is Withdrawal.OPEN:
                await withdrawals.begin(k1, mint.invoice(row.pay_sat))
                row = await withdrawals.finish(k1)
            assert row.state is Withdrawal.PAID
            assert row.pay_sat >= 492
            spent = OWED - await till.sat()
            assert row.pay_sat <= spent <= OWED, f"died at step {at}"
            assert (await till.wallet.audit(ask_mints=True)).ok
        if ended:
            assert at > 10  # it did die before
            return
    pytest.fail("it never came to its end")


async def test_a_mint_that_refuses_the_quote_leaves_the_k1(till: Till) -> None:
    async with till.open() as withdrawals:
        await till.fund(OWED)
        k1 = await till.promise(withdrawals)
        till.mint.refuse("/v1/melt/quote/bolt11")
        with pytest.raises(MintError):
            await withdrawals.begin(k1, till.mint.invoice(494))
        assert (await withdrawals.find(k1)).state is Withdrawal.OPEN


async def test_a_promise_is_taken_back_once_and_only_while_nobody_has_it(till: Till) -> None:
    async with till.open() as withdrawals:
        await till.fund(OWED)
        k1, other = await till.promise(withdrawals), await till.promise(withdrawals, 100)

        async def take_back(name: str) -> int | None:
            async with till.db.transaction() as tx:
                return await withdrawals.take_back(tx, name)

        assert [await take_back(other), await take_back(other)] == [100, None]
        with pytest.raises(InvalidLnurl):
            await withdrawals.begin(other, till.mint.invoice(97))
        await withdrawals.begin(k1, till.mint.invoice(494))
        assert await take_back(k1) is None
        assert (await withdrawals.finish(k1)).state is Withdrawal.PAID
        assert await take_back(k1) is None
