"""Waiting: a jittered back-off, a time limit, and not for the last of many; all on the post's `Clock`."""

import asyncio
import random
from collections.abc import Awaitable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

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
    four seconds. One that stays away longer is asked ever more rarely, in the end once a minute. With `cap_seconds`
    they grow to that instead.
    """

    def __init__(
        self,
        first_seconds: float = _FIRST_SECONDS,
        *,
        factor: float = _FACTOR,
        cap_seconds: float | None = None,
    ) -> None:
        self._first = first_seconds
        self._factor = factor
        self._cap = cap_seconds
        self._next = first_seconds
        self._waited = 0.0

    def next(self) -> float:
        """Seconds to wait before the coming attempt: between half and all of the present step."""
        delay = self._next * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret
        self._waited += delay
        cap = _EAGER_CAP_SECONDS if self._waited < _EAGER_SECONDS else _PATIENT_CAP_SECONDS
        self._next = min(self._next * self._factor, self._cap or cap)
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


async def most(
    clock: Clock, steps: Sequence[Coroutine[Any, Any, bool]], patience_seconds: Sequence[float]
) -> list[bool]:
    """Run all side by side; of each, whether it came to its end.

    Once half of them have ended, one at least with True, the others have as long as the most patient of theirs says;
    then they are cancelled.
    """
    tasks = [asyncio.create_task(step) for step in steps]
    pending = set(tasks)
    try:
        while pending and not _is_half(tasks):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            seconds = max(s for task, s in zip(tasks, patience_seconds, strict=True) if task in pending)
            with suppress(TimeoutError):
                await within(clock, seconds, asyncio.wait(pending))
        return [task.done() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_half(tasks: Sequence["asyncio.Task[bool]"]) -> bool:
    done = [task for task in tasks if task.done()]
    return 2 * len(done) >= len(tasks) and any(task.result() for task in done)
