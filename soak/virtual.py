"""Time that passes when nobody has anything to do, and randomness that a seed decides: the same seed, the same run."""

import asyncio
import contextvars
import logging
import os
import random
import selectors
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import structlog

EPOCH: Final = 1_700_000_000
T = TypeVar("T")


class NothingHappensError(Exception):
    """Everybody waits for somebody else, for ever."""


class _Skipping(selectors.SelectSelector):
    """Waits for no file: it moves the loop's time to where the next timer is due."""

    def __init__(self, time: float) -> None:
        super().__init__()
        self.time = time

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise NothingHappensError
        self.time += max(timeout, 0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time jumps from timer to timer. What others do in threads happens here at once, in its turn."""

    def __init__(self, time: float) -> None:
        self._skipping = _Skipping(time)
        super().__init__(self._skipping)

    def time(self) -> float:
        """Seconds since the run began."""
        return self._skipping.time

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":  # type: ignore[override]  # of what is returned, callers only await it
        """Run it at once."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(contextvars.copy_context().run(func, *args))
        except Exception as error:  # noqa: BLE001 - whoever awaits it gets it
            done.set_exception(error)
        return done


class VirtualClock:
    """The loop's time as a `store.Clock`; `skew` is how many seconds it is ahead of the others."""

    def __init__(self, skew: int = 0) -> None:
        self._skew = skew

    def now(self) -> int:
        """See `store.Clock.now`."""
        return EPOCH + self._skew + int(asyncio.get_running_loop().time())

    async def sleep(self, seconds: float) -> None:
        """See `store.Clock.sleep`."""
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float) -> asyncio.Timeout:
        """See `store.Clock.timeout`."""
        return asyncio.timeout(seconds)


def quiet() -> None:
    """Log nothing: processes are killed here, and what they leave behind is meant to look bad."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger(asyncio.__name__).setLevel(logging.CRITICAL + 1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let every key, nonce and id inside come from `seed`. Not for anything but tests: all secrets are then known."""
    draw = random.Random(seed)
    before = os.urandom, random._urandom  # type: ignore[attr-defined]  # what `secrets` draws from
    os.urandom = random._urandom = draw.randbytes  # type: ignore[attr-defined]  # typeshed hides it, too
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        os.urandom, random._urandom = before  # type: ignore[attr-defined]  # as above
        random.setstate(state)


def run_virtually(main: Callable[[], Awaitable[T]], seed: int, time: float = 0.0) -> T:
    """Run `main` on a virtual loop of its own, from `time` on, with everything drawn from `seed`."""
    loop = VirtualLoop(time)
    try:
        with seeded(seed):
            asyncio.set_event_loop(loop)
            return loop.run_until_complete(main())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
