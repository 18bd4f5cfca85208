"""Wallets on a mint in memory, under a clock that stands still."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from store import Database, load_migrations
from tradepost.testing.clock import ManualClock
from tradepost.testing.mint import MemoryMint
from wallet.mint import HttpTransport
from wallet.seed import Seed
from wallet.wallet import Wallet

MakeWallet = Callable[..., Awaitable[Wallet]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def mint(clock: ManualClock) -> MemoryMint:
    return MemoryMint(clock=clock)


@pytest.fixture
async def make_wallet(tmp_path: Path, clock: ManualClock, mint: MemoryMint) -> AsyncIterator[MakeWallet]:
    """`await make_wallet("name", sat=0)`: a wallet with a database of its own, funded with `sat`."""
    async with AsyncExitStack() as stack:

        async def make(name: str, sat: int = 0) -> Wallet:
            db = await stack.enter_async_context(
                await Database.open(tmp_path / f"{name}.db", load_migrations("wallet"))
            )
            wallet = await stack.enter_async_context(
                Wallet.open(db, Seed.generate(), clock=clock, mints=[mint.url], transport=mint.transport)
            )
            if sat:
                quote = await wallet.mint_quote(mint.url, sat)
                mint.pay(quote.bolt11)
                assert await wallet.claim(quote.id)
            return wallet

        yield make


@pytest.fixture
async def alice(make_wallet: MakeWallet) -> Wallet:
    """A wallet with 1000 sat."""
    return await make_wallet("alice", 1000)


@pytest.fixture
async def bob(make_wallet: MakeWallet) -> Wallet:
    """An empty wallet."""
    return await make_wallet("bob")


@pytest.fixture
async def real_wallet(tmp_path: Path, mint_url: str) -> AsyncIterator[Wallet]:
    """A wallet with 1000 sat at the real mint."""
    from store import SystemClock

    async with (
        await Database.open(tmp_path / "real.db", load_migrations("wallet")) as db,
        Wallet.open(
            db, Seed.generate(), clock=SystemClock(), mints=[mint_url], transport=HttpTransport
        ) as wallet,
    ):
        quote = await wallet.mint_quote(mint_url, 1000)
        assert await wallet.claim(quote.id)  # FakeWallet pays by itself
        yield wallet
