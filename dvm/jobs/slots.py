"""The slots in which an agent works, and who gets the next one: customers by turns, paid and free jobs by turns."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from typing import Final

_SHARE: Final = 3  # slots a customer may hold for each that is free
_KEPT_FOR_PAID: Final = 4  # free jobs leave one in so many


class Slots:
    """So many jobs at a time.

    One customer holds at most three slots for each that it leaves free, so that there is always one for somebody else,
    whoever fills the rest with work that takes long. Where there are paid jobs (`paid`), free ones leave a quarter.
    Who waits is served by turns, customer by customer, and paid jobs by turns with free ones.
    """

    def __init__(self, count: int, *, paid: bool) -> None:
        self._free = count
        self._kept = count // _KEPT_FOR_PAID if paid else 0
        self._held = Counter[str]()
        #: Those who wait, by whether they pay; the customer at the front has its turn next.
        self._waiting: dict[bool, OrderedDict[str, deque[asyncio.Future[None]]]] = {
            True: OrderedDict(),
            False: OrderedDict(),
        }
        self._paid_is_next = True

    def take_now(self, customer: str, *, paid: bool) -> bool:
        """Take a slot if there is one for this customer, which means that nobody waits who may have it."""
        if not self._may_have(customer, paid):
            return False
        self._free -= 1
        self._held[customer] += 1
        return True

    async def take(self, customer: str, *, paid: bool) -> None:
        """Wait for a slot. Cancelled while waiting, it leaves none behind."""
        if self.take_now(customer, paid=paid):
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[paid].setdefault(customer, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(customer)
            raise

    def release(self, customer: str) -> None:
        """Give a slot back; it goes on at once to whoever may have it."""
        self._free += 1
        self._held[customer] -= 1
        if not self._held[customer]:
            del self._held[customer]
        while self._hand_on():
            pass

    def _hand_on(self) -> bool:
        for paid in (self._paid_is_next, not self._paid_is_next):
            for customer in self._those_who_wait(paid):
                if self._may_have(customer, paid):
                    self._give(customer, paid)
                    return True
        return False

    def _those_who_wait(self, paid: bool) -> Iterable[str]:
        """Customers whose turn it may be, without those that wait no more."""
        lane = self._waiting[paid]
        for customer in tuple(lane) if self._free else ():
            while lane[customer] and lane[customer][0].done():
                lane[customer].popleft()
            if lane[customer]:
                yield customer
            else:
                del lane[customer]

    def _give(self, customer: str, paid: bool) -> None:
        lane = self._waiting[paid]
        lane[customer].popleft().set_result(None)
        lane.move_to_end(customer)
        if not lane[customer]:
            del lane[customer]
        self._free -= 1
        self._held[customer] += 1
        self._paid_is_next = not paid

    def _may_have(self, customer: str, paid: bool) -> bool:
        free = self._free if paid else self._free - self._kept
        return self._held[customer] < _SHARE * free
