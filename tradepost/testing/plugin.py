"""pytest fixtures with the in-memory twins. In your `conftest.py`:

    pytest_plugins = ["tradepost.testing.plugin"]

Needs pytest and pytest-asyncio, which Tradepost itself does not install.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tradepost.testing.clock import ManualClock
from tradepost.testing.market import Market
from tradepost.testing.mint import MemoryMint
from tradepost.testing.relay import MemoryRelay


@pytest_asyncio.fixture
async def market() -> AsyncIterator[Market]:
    """A relay, a mint and any number of posts, all in memory."""
    async with Market() as market:
        yield market


@pytest.fixture
def memory_relay() -> MemoryRelay:
    """A relay in memory."""
    return MemoryRelay()


@pytest.fixture
def memory_mint() -> MemoryMint:
    """A Cashu mint in memory."""
    return MemoryMint()


@pytest.fixture
def manual_clock() -> ManualClock:
    """A clock that stands still until the test advances it."""
    return ManualClock()
