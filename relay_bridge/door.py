"""The door: every event from a relay is verified here once, many of them in threads, before anything else reads it."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from identity.errors import InvalidEvent
from identity.event import Event, event_id

_THREADS: Final = 2
_HERE_MAX: Final = 2  # verified sooner than a thread is woken and has answered
_REMEMBERED: Final = 20_000  # about 5 MB


class RecentIds:
    """A bounded memory of keys, forgetting the ones not met for longest."""

    def __init__(self, size_max: int) -> None:
        self._keys: OrderedDict[object, None] = OrderedDict()
        self._size_max = size_max

    def __contains__(self, key: object) -> bool:
        if key not in self._keys:
            return False
        self._keys.move_to_end(key)
        return True

    def add(self, key: object) -> None:
        """Remember `key`."""
        self._keys[key] = None
        if len(self._keys) > self._size_max:
            self._keys.popitem(last=False)


class Door:
    """Verifies events; shared by all connections of a pool.

    What several relays send is verified in full once: of a copy whose (id, signature) pair is known to be good only
    the id is computed again. An event that failed is not remembered, so a forged copy never hides the real one.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="verify")
        self._verified = RecentIds(_REMEMBERED)

    async def check(self, events: Sequence[Event]) -> list[bool]:
        """For each event whether its id and signature are right. One hop to a thread, however many."""
        if not events:
            return []
        known = [(event.id, event.sig) in self._verified for event in events]
        if len(events) <= _HERE_MAX:
            verdicts = _check_all(events, known)
        else:
            loop = asyncio.get_running_loop()
            verdicts = await loop.run_in_executor(self._threads, _check_all, events, known)
        for event, valid in zip(events, verdicts, strict=True):
            if valid:
                self._verified.add((event.id, event.sig))
        return verdicts

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)


def _check_all(events: Sequence[Event], known: Sequence[bool]) -> list[bool]:
    return [_check(event, signature_known=is_known) for event, is_known in zip(events, known, strict=True)]


def _check(event: Event, *, signature_known: bool) -> bool:
    try:
        if signature_known:
            return event_id(event.pubkey, event) == event.id
        event.verify()
    except InvalidEvent:
        return False
    return True
