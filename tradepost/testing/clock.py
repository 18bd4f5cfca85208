"""A clock that tests own."""

import asyncio
import heapq
import itertools


class ManualClock:
    """Time stands still until `advance`; sleepers wake in the order of their time."""

    def __init__(self, now: int = 1_700_000_000) -> None:
        self._now = float(now)
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
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
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Let time pass; sleepers that are due run before this returns to its caller's next step.

        Tasks that were started a moment ago get their turn first: what they sleep counts from before.
        """
        await asyncio.sleep(0)
        end = self._now + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            self._now, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
            await asyncio.sleep(0)
        self._now = end
        await asyncio.sleep(0)
