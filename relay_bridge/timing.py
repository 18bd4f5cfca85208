"""Waiting: a jittered back-off and a time limit, both on the post's `Clock`."""

import asyncio
import random
from collections.abc import Awaitable
from typing import TypeVar

from store import Clock

T = TypeVar("T")


class Backoff:
    """Growing delays with jitter.

    With the default factor a delay is about a sixth of the time that has passed since the first failure: a relay
    that was away for twenty seconds is found again within four, and one that is gone for good is asked once a minute.
    """

    def __init__(
        self, first_seconds: float = 0.1, *, factor: float = 1.15, cap_seconds: float = 60.0
    ) -> None:
        self._first = first_seconds
        self._factor = factor
        self._cap = cap_seconds
        self._next = first_seconds

    def next(self) -> float:
        """Seconds to wait before the coming attempt: between half and all of the present step."""
        delay = self._next * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret
        self._next = min(self._next * self._factor, self._cap)
        return delay

    def reset(self) -> None:
        """Begin again with the shortest delay."""
        self._next = self._first


async def within(clock: Clock, seconds: float, step: Awaitable[T]) -> T:
    """Await `step`, at most for `seconds` of the clock's time; then cancel it and raise `TimeoutError`."""
    work = asyncio.ensure_future(step)
    timer = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait((work, timer), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise TimeoutError(f"no answer within {seconds:g} s")
        return work.result()
    finally:
        work.cancel()
        timer.cancel()
        await asyncio.gather(work, timer, return_exceptions=True)
