"""Room that neighbours share: slots, the queue, places of jobs that wait for others, payments that are looked at.

One rule for all: nobody holds more than a share of what is left, and strangers together are one neighbour, who leaves a
quarter. So whoever has paid, or is allowed, finds a place, however many keys somebody makes.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

STRANGERS_SHARE: Final = 3  # places all strangers together may hold for each that they leave


class Standing(Enum):
    """As whom somebody asks."""

    PAYS = auto()  # whoever it is: what is asked for costs something
    CUSTOMER = auto()  # has paid the agent before, or is allowed
    STRANGER = auto()  # perhaps a key made a second ago


@dataclass(frozen=True)
class Neighbour:
    """Somebody who asks for a place. It is given back by an equal one."""

    key: str
    standing: Standing


def _more(share: int, left: int, held: int) -> int:
    """How many more of those left somebody may take who is to leave one for every `share`; the first in any case."""
    if left < 1:
        return 0
    return max((share * left - held) // (share + 1), 0 if held else 1)


class Room:
    """So many places; one key holds at most `share` for each that it leaves."""

    def __init__(self, places: int, *, share: int = 1) -> None:
        self._left = places
        self._share = share
        self._held = Counter[str]()
        self._by_strangers = 0

    def left(self, standing: Standing, *, kept: int = 0) -> int:
        """Places that those of a standing may still find between them, if `kept` are for others."""
        left = self._left - kept
        return _more(STRANGERS_SHARE, left, self._by_strangers) if standing is Standing.STRANGER else left

    def has(self, who: Neighbour, *, kept: int = 0) -> bool:
        """Whether there is one more for `who`."""
        return _more(self._share, self.left(who.standing, kept=kept), self._held[who.key]) > 0

    def take(self, who: Neighbour) -> None:
        """`who` holds one more, whether there was one or not: what was begun before a restart is not ended for it."""
        self._count(who, 1)

    def release(self, who: Neighbour) -> None:
        """`who` holds one less."""
        self._count(who, -1)
        if not self._held[who.key]:
            del self._held[who.key]

    @contextmanager
    def held(self, who: Neighbour) -> Iterator[None]:
        """Hold one more until the context is left."""
        self.take(who)
        try:
            yield
        finally:
            self.release(who)

    def _count(self, who: Neighbour, change: int) -> None:
        self._left -= change
        self._held[who.key] += change
        if who.standing is Standing.STRANGER:
            self._by_strangers += change
