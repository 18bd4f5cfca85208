"""The door: every event from a relay is verified here once, many of them in threads, before anything else reads it."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from identity.errors import InvalidEvent
from identity.event import Event, event_id, verify_all

_SHARE_MIN: Final = 16  # so many are verified sooner than a thread is woken and has answered
_CORES_MAX: Final = 8
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
        self._threads = ThreadPoolExecutor(max(self._cores - 1, 1), thread_name_prefix="verify")
        self._verified = RecentIds(_REMEMBERED)

    async def check(self, events: Sequence[Event]) -> list[bool]:
        """For each event whether its id and signature are right. Every core takes a share of a long list."""
        remembered = self._verified.get
        known = [remembered(event.id) == event.sig for event in events]
        share = max(-(-len(events) // self._cores), _SHARE_MIN)
        loop = asyncio.get_running_loop()
        others = [
            loop.run_in_executor(self._threads, _check_all, events[at : at + share], known[at : at + share])
            for at in range(share, len(events), share)
        ]
        # The loop's thread takes a share, too: it would only hinder the others by what else it does in Python.
        verdicts = _check_all(events[:share], known[:share])
        for other in others:
            verdicts += await other
        for event, valid, was_known in zip(events, verdicts, known, strict=True):
            if valid and not was_known:
                self._verified.add(event.id, event.sig)
        return verdicts

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, _CORES_MAX)


def _check_all(events: Sequence[Event], known: Sequence[bool]) -> list[bool]:
    """`known`: whether the signature was found good with that id before, so that only the id is in question."""
    unknown = iter(verify_all([event for event, is_known in zip(events, known, strict=True) if not is_known]))
    return [
        _has_its_id(event) if is_known else next(unknown)
        for event, is_known in zip(events, known, strict=True)
    ]


def _has_its_id(event: Event) -> bool:
    try:
        return event_id(event.pubkey, event) == event.id
    except InvalidEvent:
        return False
