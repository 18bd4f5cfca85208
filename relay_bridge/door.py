"""The door: every event from a relay is verified here once, many of them in threads, before anything else reads it."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from identity.errors import InvalidEvent
from identity.event import Event, event_id

_HERE_MAX: Final = 2  # verified sooner than a thread is woken and has answered; on one core that is always so
_PART_MIN: Final = 16  # a thread is worth its while for so many
_REMEMBERED: Final = 4096  # relays tell the same within seconds; about 1.5 MB


class RecentIds:
    """A bounded memory of keys with a value each, forgetting the oldest half at a time."""

    def __init__(self, size_max: int) -> None:
        self._young: dict[str, str] = {}
        self._old: dict[str, str] = {}
        self._half = size_max // 2

    def get(self, key: str) -> str | None:
        """What was remembered with `key`."""
        value = self._young.get(key)
        if value is None and (value := self._old.get(key)) is not None:
            self.add(key, value)
        return value

    def add(self, key: str, value: str = "") -> None:
        """Remember `key`."""
        self._young[key] = value
        if len(self._young) > self._half:
            self._old, self._young = self._young, {}


class Door:
    """Verifies events; shared by all connections of a pool.

    What several relays send is verified in full once: of a copy whose id and signature are known to be good only the
    id is computed again. An event that failed is not remembered, so a forged copy never hides the real one.
    """

    def __init__(self) -> None:
        self._cores = _cores()
        self._threads = ThreadPoolExecutor(self._cores, thread_name_prefix="verify")
        self._verified = RecentIds(_REMEMBERED)

    async def check(self, events: Sequence[Event]) -> list[bool]:
        """For each event whether its id and signature are right. One hop to each thread, however many events."""
        remembered = self._verified.get
        known = [remembered(event.id) == event.sig for event in events]
        if len(events) <= _HERE_MAX or self._cores == 1:
            verdicts = _check_all(events, known)
        else:
            loop = asyncio.get_running_loop()
            size = max(-(-len(events) // self._cores), _PART_MIN)
            parts = [
                loop.run_in_executor(self._threads, _check_all, events[at : at + size], known[at : at + size])
                for at in range(0, len(events), size)
            ]
            verdicts = [verdict for part in parts for verdict in await part]
        for event, valid, was_known in zip(events, verdicts, known, strict=True):
            if valid and not was_known:
                self._verified.add(event.id, event.sig)
        return verdicts

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
