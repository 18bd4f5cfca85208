"""Relays, a mint and an agent's log in memory, for what reads them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay_bridge import RelayPool
from store import Database
from tests.dvm.reputation.booth import Booth
from tests.dvm.reputation.reading import DAY, ONE, THREE, TWO
from tradepost.post import all_migrations
from tradepost.testing import ManualClock, MemoryMint, MemoryRelay
from tradepost.testing.relay import connect_by_url


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def relays(clock: ManualClock) -> dict[str, MemoryRelay]:
    return {url: MemoryRelay(clock=clock, stored_max=20) for url in (ONE, TWO, THREE)}


@pytest.fixture
def mint(clock: ManualClock) -> MemoryMint:
    return MemoryMint(clock=clock)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with await Database.open(tmp_path / "db", all_migrations()) as db:
        yield db


@pytest.fixture
async def pool(relays: dict[str, MemoryRelay], clock: ManualClock) -> AsyncIterator[RelayPool]:
    """Two relays are configured, the third one is somebody's."""
    async with RelayPool([ONE, TWO], clock=clock, connect=connect_by_url(relays)) as pool:
        yield pool


@pytest.fixture
def booth(clock: ManualClock) -> Booth:
    return Booth(clock.now() - 10 * DAY)
