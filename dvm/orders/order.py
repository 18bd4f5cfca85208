"""What a customer holds in hand after asking: an `Order` or a `Guarantee`, its updates and its result."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from dvm.errors import OrderFailed
from dvm.orders.lifecycle import OrderState
from wallet.errors import Action

UPDATES_MAX: Final = 10_000  # a provider that reports for ever does not fill our memory
CONTENT_CHARACTERS_MAX: Final = 10_000_000  # of all updates together


@dataclass(frozen=True)
class Update:
    """One step of an order. `step`: offer, paid, working, partial, exposed, failed, result, error, refunded; asking, of
    a guarantee that asks the next agent. `order_id`: of which order, where there may be several.
    """

    step: str
    message: str = ""
    content: str = ""
    price_sat: int = 0
    order_id: str = ""

    def __str__(self) -> str:
        parts = [self.step]
        if self.price_sat:
            parts.append(f"{self.price_sat} sat")
        if self.message or self.content:
            parts.append(self.message or self.content)
        return ": ".join(parts)


class Asked:
    """Something that was asked for. Iterate over it for its updates (from the first one, any number of times)."""

    def __init__(self) -> None:
        self._updates: list[Update] = []
        self._characters = 0
        self._changed = asyncio.Event()
        self._result: str | None = None
        self._failure: OrderFailed | None = None

    @property
    def told(self) -> Sequence[Update]:
        """Its updates so far."""
        return self._updates

    @property
    def ended(self) -> bool:
        """Whether a result or an error is there."""
        return self._result is not None or self._failure is not None

    def __aiter__(self) -> AsyncIterator[Update]:
        return self.updates()

    async def updates(self, position: int = 0) -> AsyncIterator[Update]:
        """Its updates from that one on, counted from 0; those that are still to come are waited for."""
        while True:
            while position < len(self._updates):
                position += 1
                yield self._updates[position - 1]
            if self.ended:
                return
            await self._changed.wait()

    async def wait(self) -> None:
        """Wait for a result or an error."""
        while not self.ended:
            await self._changed.wait()

    async def result(self) -> str:
        """Wait for the result's text. Raises `OrderFailed`, which says where the money is."""
        await self.wait()
        if self._failure is not None:
            raise self._failure
        assert self._result is not None
        return self._result

    def push(self, update: Update) -> None:
        """Tell whoever iterates, of so much and no more. Called by whoever drives it."""
        self._characters += len(update.message) + len(update.content)
        if len(self._updates) < UPDATES_MAX and self._characters <= CONTENT_CHARACTERS_MAX:
            self._tell(update)

    def finish(self, result: str, *, order_id: str = "") -> None:
        """End with a result. Called by whoever drives it."""
        self._result = result
        self._failure = None
        self._tell(Update("result", content=result, order_id=order_id))

    def end(self, failure: OrderFailed) -> None:
        """End without a result. Called by whoever drives it."""
        self._failure = failure
        self._tell(Update("error", message=str(failure)))

    def _tell(self, update: Update) -> None:
        self._updates.append(update)
        self._changed.set()
        self._changed = asyncio.Event()


class Order(Asked):
    """One job that we asked one agent for."""

    def __init__(self, order_id: str, provider: str, cancel: Callable[[str], Awaitable[None]]) -> None:
        super().__init__()
        self.id = order_id
        self.provider = provider
        self._cancel = cancel
        self.state = OrderState.REQUESTED
        self.confidence: float | None = None  #: How sure the agent said that it is of its result, 0 … 1.

    async def cancel(self) -> None:
        """Take the request back; see `Customer.cancel`. `result` raises `OrderFailed` once that is settled."""
        await self._cancel(self.id)

    def fail(self, reason: str, money: str, code: str) -> None:
        """End without a result. Called by `OrderBook`."""
        action = Action.GIVE_UP if self.state is OrderState.LOST else Action.RETRY_AFTER
        self.end(OrderFailed(reason, state=self.state, money=money, action=action, code=code))

    def __repr__(self) -> str:
        return f"Order(id={self.id!r}, state={self.state.value!r})"


class Guarantee(Asked):
    """Work that we want of one agent or another (`Customer.hire`)."""

    def __init__(self, guarantee_id: str) -> None:
        super().__init__()
        self.id = guarantee_id

    def __repr__(self) -> str:
        return f"Guarantee(id={self.id!r})"
