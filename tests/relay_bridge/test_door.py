"""Verification at the door."""

import asyncio
import os
import signal
import subprocess

import msgspec
import pytest

from relay_bridge import door as door_module
from relay_bridge.door import Door, RecentIds
from store import SystemClock
from tradepost.testing import ManualClock

LONG = 256


async def check(door, events):
    return await door.end(door.begin(events))


async def test_it_tells_good_from_bad_and_remembers_only_the_good(make):
    door = Door(SystemClock())
    good, other = make(), make()
    altered = msgspec.structs.replace(good, content="altered")
    resigned = msgspec.structs.replace(good, sig=other.sig)
    no_point = msgspec.structs.replace(good, pubkey="ff" * 32)
    surrogate = msgspec.structs.replace(good, content="\ud800")
    for _ in range(2):
        verdicts = await check(door, [altered, resigned, good, no_point, surrogate, other])
        assert verdicts == [False, False, True, False, False, True]
    assert await check(door, []) == []
    await door.close()


def test_memory_is_bounded_and_forgets_what_was_not_met_for_long():
    recent = RecentIds(200)
    recent.add("met again", "value")
    for number in range(1000):
        recent.add(str(number))
        if number % 50 == 0:
            assert recent.get("met again") == "value"
    assert recent.get("999") == ""
    assert recent.get("700") is None
    assert recent.get("never") is None
    assert len(recent._young) + len(recent._old) <= 201


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(door_module, "_cores", lambda: 2)


@pytest.fixture
def processes(monkeypatch):
    """Those that are started."""
    started, start = [], subprocess.Popen

    def note(*args, **named):
        started.append(start(*args, **named))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", note)
    return started


@pytest.fixture
def lists(make):
    """Long lists of events, some forged, with what is true of them. The same events in another order each time."""
    events = [make() for _ in range(LONG)]
    events[3::50] = [msgspec.structs.replace(event, sig=events[0].sig) for event in events[3::50]]
    events[7::60] = [msgspec.structs.replace(event, content="forged") for event in events[7::60]]
    events[9] = msgspec.structs.replace(events[9], pubkey="ff" * 32)
    good = {
        event.id
        for number, event in enumerate(events)
        if number % 50 != 3 and number % 60 != 7 and number != 9
    }

    def next_list(turn):
        asked = events[turn % LONG :] + events[: turn % LONG]
        return asked, [event.id in good and event.content != "forged" for event in asked]

    return next_list


async def flood(door, lists, until):
    """Lists of new events, several under verification at a time, until the condition holds."""
    begun = []
    for turn in range(100_000):
        asked, truth = lists(turn)
        door._verified = RecentIds(1)  # so that all of them are new
        begun.append((door.begin(asked), truth))
        if turn % 3 == 2:
            for one, expected in begun:
                assert await door.end(one) == expected
            begun.clear()
        await asyncio.sleep(0)
        if until():
            break
    for one, expected in begun:
        assert await door.end(one) == expected


async def test_in_a_flood_another_process_verifies_too(two_cores, processes, lists):
    door = Door(SystemClock())
    await flood(door, lists, lambda: any(verifier.waiting for verifier in door._verifiers))
    assert len(processes) == 1
    await door.close()
    assert processes[0].returncode == -signal.SIGKILL


async def test_what_a_process_had_when_it_died_is_verified_here(two_cores, processes, lists):
    door = Door(SystemClock())
    await flood(door, lists, lambda: any(verifier.waiting for verifier in door._verifiers))
    asked, truth = lists(0)
    os.kill(processes[0].pid, signal.SIGSTOP)
    door._verified = RecentIds(1)
    begun = [door.begin(asked) for _ in range(3)]
    assert any(verifier.waiting for verifier in door._verifiers)
    processes[0].kill()
    for one in begun:
        assert await door.end(one) == truth
    await flood(door, lists, lambda: len(processes) == 2)  # and there is another one, should the flood go on
    await door.close()


async def test_closing_leaves_nothing_unanswered(two_cores, processes, lists):
    door = Door(SystemClock())
    await flood(door, lists, lambda: any(verifier.ready for verifier in door._verifiers))
    os.kill(processes[0].pid, signal.SIGSTOP)
    asked, truth = lists(0)
    door._verified = RecentIds(1)
    begun = door.begin(asked)
    await door.close()
    assert await door.end(begun) == truth


async def test_a_process_without_work_ends(two_cores, processes, lists, eventually):
    clock = ManualClock()
    door = Door(clock)
    await flood(door, lists, lambda: any(verifier.waiting for verifier in door._verifiers))

    async def ended():
        await clock.advance(10)
        return all(verifier.ended for verifier in door._verifiers)

    await eventually(ended)
    assert processes[0].returncode is not None
    assert await check(door, lists(0)[0]) == lists(0)[1]
    await door.close()


async def test_a_machine_that_starts_no_process_verifies_alone(two_cores, monkeypatch, lists):
    def fail(*_args, **_named):
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", fail)
    door, turns = Door(SystemClock()), iter(range(30))
    await flood(door, lists, lambda: next(turns) == 29)
    await door.close()


async def test_one_core_verifies_alone(monkeypatch, processes, lists):
    monkeypatch.setattr(door_module, "_cores", lambda: 1)
    door, turns = Door(SystemClock()), iter(range(30))
    await flood(door, lists, lambda: next(turns) == 29)
    assert not processes
    await door.close()
