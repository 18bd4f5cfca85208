"""The door: every event from a relay is verified here once, in a flood on all cores, before anything else reads it."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from identity.event import Event, claim_of
from identity.keys import verify_claims
from relay_bridge.verifier import Verifier
from store import Clock

_FLOOD: Final = 2048  # so many events, no list of them a short one, and it is worth to start a process
_LONG: Final = 64  # shorter lists are verified here: sooner than sent and answered
_AHEAD: Final = 768  # claims that may wait in a process: 25 ms, in which the loop may do something else
_VERIFIERS_MAX: Final = 3  # one core reads for no more than about four that verify
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


@dataclass(frozen=True, slots=True)
class Check:
    """A list of events whose verification has begun."""

    events: Sequence[Event]
    verdicts: list[bool]  # whether the id is right, and of those known whether the event is
    unsure: list[int]  # where the signature is the question
    answers: "list[bool] | asyncio.Future[list[bool]]"  # to that


class Door:
    """Verifies events; shared by all connections of a pool.

    What several relays send is verified in full once: of a copy whose id and signature are known to be good only the
    id is computed again. An event that failed is not remembered, so a forged copy never hides the real one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._verified = RecentIds(_REMEMBERED)
        self._verifiers: list[Verifier] = []
        self._verifiers_max = min(_cores() - 1, _VERIFIERS_MAX)
        self._in_a_row = 0  # events in long lists since the last short one

    def begin(self, events: Sequence[Event]) -> Check:
        """Begin to verify. Several lists may be under verification; what follows from them is for `end` to tell."""
        claims = [claim_of(event) for event in events]
        remembered = self._verified.get
        unsure = [
            number
            for number, (event, claim) in enumerate(zip(events, claims, strict=True))
            if claim is not None and remembered(event.id) != event.sig
        ]
        answers = self._verify([claim for number in unsure if (claim := claims[number]) is not None])
        return Check(events, [claim is not None for claim in claims], unsure, answers)

    async def end(self, check: Check) -> list[bool]:
        """For each event whether its id and signature are right."""
        answers = check.answers if isinstance(check.answers, list) else await check.answers
        for number, right in zip(check.unsure, answers, strict=True):
            check.verdicts[number] = right
            if right:
                self._verified.add(check.events[number].id, check.events[number].sig)
        return check.verdicts

    async def close(self) -> None:
        """End the processes, if there are any."""
        for verifier in self._verifiers:
            await verifier.close()

    def _verify(self, claims: list[bytes]) -> "list[bool] | asyncio.Future[list[bool]]":
        if len(claims) < _LONG:
            self._in_a_row = 0
        else:
            self._in_a_row += len(claims)
            if (verifier := self._free_verifier()) is not None:
                return verifier.verify(claims)
        return verify_claims(claims)

    def _free_verifier(self) -> Verifier | None:
        self._verifiers = [one for one in self._verifiers if not one.ended]
        for verifier in self._verifiers:
            if verifier.ready and verifier.waiting < _AHEAD:
                return verifier
        if self._in_a_row >= _FLOOD and len(self._verifiers) < self._verifiers_max:
            self._verifiers.append(Verifier(self._clock))
            self._in_a_row = 0
        return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
