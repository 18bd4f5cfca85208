"""A clock that tests own."""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from contextlib import suppress


class ManualClock:
    """Time stands still until `advance`; sleepers wake in the order of their time."""

    def __init__(self, now: int = 1_700_000_000) -> None:
        self._now = float(now)
        self._sleepers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def now(self) -> int:
        """See `store.Clock.now`."""
        return int(self._now)

    async def sleep(self, seconds: float) -> None:
        """Sleep until the clock has been advanced by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        self._at(seconds, wake)
        await future

    def timeout(self, seconds: float) -> asyncio.Timeout:
        """See `store.Clock.timeout`."""
        limit = asyncio.timeout(None)

        def expire() -> None:
            with suppress(RuntimeError):  # the block was left in time
                limit.reschedule(0)

        self._at(seconds, expire)
        return limit

    async def advance(self, seconds: float) -> None:
        """Let time pass; sleepers that are due run before this returns to its caller's next step.

        Tasks that were started a moment ago get their turn first: what they sleep counts from before.
        """
        await asyncio.sleep(0)
        end = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now, _, wake = heapq.heappop(self._sleepers)
            wake()
            await asyncio.sleep(0)
        self._now = end
        await asyncio.sleep(0)

    def _at(self, seconds: float, wake: Callable[[], None]) -> None:
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), wake))
