"""One question for many: what is asked while questions are under way goes to the mint together, as the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from wallet.errors import WalletError

QUESTIONS_AT_ONCE_MAX: Final = 2  # so that one without an answer holds up nobody but who asked it

_T = TypeVar("_T")


@dataclass
class _Round(Generic[_T]):
    keys: dict[str, None] = field(default_factory=dict)
    answers: dict[str, _T] | None = None
    error: WalletError | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Together(Generic[_T]):
    """Shares out the answers of `ask`, one of which there must be for each key. Nobody waits while nothing is asked."""

    def __init__(self, ask: Callable[[Sequence[str]], Awaitable[dict[str, _T]]]) -> None:
        self._ask = ask
        self._turns = asyncio.Semaphore(QUESTIONS_AT_ONCE_MAX)
        self._next = _Round[_T]()

    async def __call__(self, keys: Sequence[str]) -> dict[str, _T]:
        """The answers for `keys`, asked after this call began. What `ask` raises, all who share the question get."""
        shared = self._next
        shared.keys |= dict.fromkeys(keys)
        async with shared.lock:
            # The first of a round to get here asks for all; if it is cancelled meanwhile, the next one does.
            if shared.answers is None and shared.error is None:
                async with self._turns:
                    if self._next is shared:
                        self._next = _Round()
                    try:
                        shared.answers = await self._ask(list(shared.keys))
                    except WalletError as error:
                        shared.error = error
        if shared.answers is None:
            assert shared.error is not None
            raise shared.error
        return {key: shared.answers[key] for key in keys}
