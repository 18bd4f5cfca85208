"""What is too much at a mint goes to Lightning, once."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from tradepost.testing.mint import Melts, MemoryMint
from wallet.errors import LnurlUnavailable
from wallet.exposure import Caps
from wallet.sweep import ASKS_MAX, SWEEP_SAT_MIN, Swept, sweep
from wallet.wallet import Wallet


def with_caps(wallet: Wallet, caps: Caps) -> Wallet:
    return Wallet(replace(wallet._desk, caps=caps))


def invoices(mint: MemoryMint, asked: list[int]) -> Callable[[int], Awaitable[str]]:
    async def get_invoice(sat: int) -> str:
        asked.append(sat)
        return mint.invoice(sat)

    return get_invoice


async def test_what_is_above_the_level_is_sent_and_the_fee_is_on_top(alice: Wallet, mint: MemoryMint) -> None:
    asked: list[int] = []
    wallet = with_caps(alice, Caps(5000, sweep_above_sat=600))
    assert await wallet.sweepable() == {mint.url: 400}
    (swept,) = await sweep(wallet, invoices(mint, asked))
    assert asked == [400]
    assert swept == Swept(mint.url, 400, swept.fee_sat)
    assert swept.fee_sat > 0
    assert await wallet.balance() == {mint.url: 600 - swept.fee_sat}
    assert await sweep(wallet, invoices(mint, asked)) == []
    assert (await wallet.audit(ask_mints=True)).ok


async def test_nothing_is_sent_below_the_level_or_for_a_trifle(alice: Wallet, mint: MemoryMint) -> None:
    assert await alice.sweepable() == {}
    assert await with_caps(alice, Caps(1000 - SWEEP_SAT_MIN + 1)).sweepable() == {}
    assert await with_caps(alice, Caps(1000 - SWEEP_SAT_MIN)).sweepable() == {mint.url: SWEEP_SAT_MIN}


async def test_the_fee_comes_out_of_it_when_nothing_else_is_there(alice: Wallet, mint: MemoryMint) -> None:
    asked: list[int] = []
    mint.fee_reserve_sat = 10
    wallet = with_caps(alice, Caps(0))
    (swept,) = await sweep(wallet, invoices(mint, asked))
    assert asked[0] == 1000
    assert 1 < len(asked) <= ASKS_MAX
    assert swept.sent_sat == asked[-1] > 980
    assert (await wallet.audit(ask_mints=True)).ok


async def test_a_payment_that_hangs_is_not_sent_again(alice: Wallet, mint: MemoryMint) -> None:
    asked: list[int] = []
    wallet = with_caps(alice, Caps(100))
    mint.melts = Melts.PENDING
    (swept,) = await sweep(wallet, invoices(mint, asked))
    assert swept.error is not None
    assert swept.sent_sat == 0
    assert await wallet.sweepable() == {}
    mint.finish_melt(paid=True)
    await wallet.recover()
    assert len(asked) == 1
    assert sum((await wallet.balance()).values()) <= 100
    assert (await wallet.audit(ask_mints=True)).ok


async def test_a_payment_that_fails_leaves_the_coins_and_says_why(alice: Wallet, mint: MemoryMint) -> None:
    mint.melts = Melts.FAILED
    (swept,) = await sweep(with_caps(alice, Caps(100)), invoices(mint, []))
    assert swept.error is not None
    assert swept.error.startswith("the payment failed: ")
    assert await alice.sweepable() == {}
    assert sum((await alice.balance()).values()) > 990


async def test_nobody_to_pay_is_told_and_nothing_moves(alice: Wallet, mint: MemoryMint) -> None:
    async def get_invoice(_sat: int) -> str:
        raise LnurlUnavailable("the address does not answer")

    wallet = with_caps(alice, Caps(100))
    assert await sweep(wallet, get_invoice) == [Swept(mint.url, error="the address does not answer")]
    assert await wallet.balance() == {mint.url: 1000}


async def test_mints_whose_fees_never_fit_are_given_up(alice: Wallet, mint: MemoryMint) -> None:
    asked: list[int] = []
    mint.fee_reserve_sat = 990
    (swept,) = await sweep(with_caps(alice, Caps(0)), invoices(mint, asked))
    assert swept.error is not None
    assert "sat are needed" in swept.error
    assert await alice.balance() == {mint.url: 1000}
