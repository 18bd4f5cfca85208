"""Waiting: a jittered back-off and a time limit, both on the post's `Clock`."""

import random
from collections.abc import Awaitable
from typing import Final, TypeVar

from store import Clock

_FIRST_SECONDS: Final = 0.1
_FACTOR: Final = 1.15
_EAGER_CAP_SECONDS: Final = 4.0
_EAGER_SECONDS: Final = 600.0
_PATIENT_CAP_SECONDS: Final = 60.0

T = TypeVar("T")


class Backoff:
    """Growing delays with jitter.

    From a tenth of a second to four in about half a minute: for ten minutes a relay that comes back is found within
    four seconds. One that stays away longer is asked ever more rarely, in the end once a minute.
    """

    def __init__(self, first_seconds: float = _FIRST_SECONDS, *, factor: float = _FACTOR) -> None:
        self._first = first_seconds
        self._factor = factor
        self._next = first_seconds
        self._waited = 0.0

    def next(self) -> float:
        """Seconds to wait before the coming attempt: between half and all of the present step."""
        delay = self._next * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret
        self._waited += delay
        cap = _EAGER_CAP_SECONDS if self._waited < _EAGER_SECONDS else _PATIENT_CAP_SECONDS
        self._next = min(self._next * self._factor, cap)
        return delay

    def reset(self) -> None:
        """Begin again with the shortest delay."""
        self._next = self._first
        self._waited = 0.0


async def within(clock: Clock, seconds: float, step: Awaitable[T]) -> T:
    """Await `step`, at most for `seconds` of the clock's time; then cancel it and raise `TimeoutError`."""
    limit = clock.timeout(seconds)
    try:
        async with limit:
            return await step
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"no answer within {seconds:g} s") from None
        raise
