"""The slots in which an agent works, and who gets the next one: customers by turns; paid jobs, free ones of customers
and those of strangers by turns."""

import asyncio
from collections import OrderedDict, deque
from typing import Final

from dvm.jobs.room import Neighbour, Room, Standing

_SHARE: Final = 3  # slots a customer may hold for each that is free
_KEPT_FOR_PAID: Final = 4  # free jobs leave one in so many

_Turn = asyncio.Future[None]


class Slots:
    """So many jobs at a time.

    One customer, and all strangers together, hold at most three slots for each that they leave free, so that there is
    always one for somebody else, whoever fills the rest with work that takes long. Where there are paid jobs (`paid`),
    free ones leave a quarter. Who waits is served by turns, customer by customer.
    """

    def __init__(self, count: int, *, paid: bool) -> None:
        self._room = Room(count, share=_SHARE)
        self._kept = count // _KEPT_FOR_PAID if paid else 0
        #: Those who wait, by standing and key; the turn is first with whoever is first, which goes to the end then.
        self._waiting = OrderedDict((standing, OrderedDict[str, deque[_Turn]]()) for standing in Standing)

    def take_now(self, who: Neighbour) -> bool:
        """Take a slot if there is one for this customer, which means that nobody waits who may have it."""
        if not self._may_have(who):
            return False
        self._room.take(who)
        return True

    async def take(self, who: Neighbour) -> None:
        """Wait for a slot. Cancelled while waiting, it leaves none behind."""
        if self.take_now(who):
            return
        lane = self._waiting[who.standing]
        turns = lane.setdefault(who.key, deque())
        turn: _Turn = asyncio.get_running_loop().create_future()
        turns.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(who)
            raise
        finally:
            turns.remove(turn)
            if not turns:
                del lane[who.key]

    def release(self, who: Neighbour) -> None:
        """Give a slot back; it goes on at once to whoever may have it."""
        self._room.release(who)
        while self._hand_on():
            pass

    def _hand_on(self) -> bool:
        for standing, lane in self._waiting.items():
            if self._room.left(standing, kept=self._kept_from(standing)) < 1:
                continue  # without a look at the many who may wait there
            for key, turns in lane.items():
                who = Neighbour(key, standing)
                turn = next((turn for turn in turns if not turn.done()), None)
                if turn is not None and self._may_have(who):
                    self._room.take(who)
                    turn.set_result(None)
                    lane.move_to_end(key)
                    self._waiting.move_to_end(standing)
                    return True
        return False

    def _may_have(self, who: Neighbour) -> bool:
        return self._room.has(who, kept=self._kept_from(who.standing))

    def _kept_from(self, standing: Standing) -> int:
        return 0 if standing is Standing.PAYS else self._kept
