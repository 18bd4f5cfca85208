"""The clock: everything that asks for the time or waits does it through a `Clock`, so that tests can own time."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Wall time and waiting. Twin for tests: `tradepost.testing.ManualClock`."""

    def now(self) -> int:
        """Unix time in whole seconds, as Nostr's `created_at` and Cashu's `locktime` count it."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; returns early only by cancellation."""
        ...

    def timeout(self, seconds: float) -> asyncio.Timeout:
        """`asyncio.timeout` on this clock: an `async with` block that takes longer raises `TimeoutError`."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> int:
        """See `Clock.now`."""
        return int(time.time())

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float) -> asyncio.Timeout:
        """See `Clock.timeout`."""
        return asyncio.timeout(seconds)
