"""Which relays are ours, which are visited, and which of many are chosen: by the list, and by how they did so far."""

import asyncio

import pytest

from identity.event import Event
from relay_bridge import Filter, InvalidRelayUrl, PoolLimits, RelayHealth, RelayPool, TooManyRelays
from relay_bridge.timing import most
from store import SystemClock
from tradepost.testing.clock import ManualClock
from tradepost.testing.relay import MemoryRelay, connect_by_url

KIND = Filter(kinds=(5001,))
OLD, NEW, VISITED = "ws://old.test", "ws://new.test", "ws://visited.test"


def test_rank_follows_what_a_relay_does():
    quick, slow, refusing, unknown = (RelayHealth(f"ws://{name}") for name in "abcd")
    for _ in range(10):
        quick.keeps(0.05)
        slow.keeps(3.0)
        refusing.breaks()
    assert 1 > quick.rank > unknown.rank > slow.rank > refusing.rank > 0
    assert (quick.kept, refusing.broken) == (10, 10)
    for _ in range(30):  # what was long ago counts less and less
        refusing.keeps(0.05)
        quick.breaks()
    assert refusing.rank > unknown.rank > quick.rank
    refusing.lies()
    assert refusing.rank == 0


def test_who_is_known_to_be_slow_is_waited_for_and_who_was_silent_less_each_time():
    relay = RelayHealth("ws://a")
    assert relay.patience_seconds == 1
    relay.keeps(4.0)
    assert relay.patience_seconds == 12
    for _ in range(100):
        relay.breaks()
    assert 0 < relay.patience_seconds < 0.1
    relay.keeps(4.0)
    assert relay.patience_seconds == 12


async def test_most_waits_for_half_and_then_not_for_long():
    async def step(seconds: float, answers: bool) -> bool:
        await asyncio.sleep(seconds)
        return answers

    clock = SystemClock()
    late = [step(0, True), step(0, False), step(60, True)]
    assert await most(clock, late, [0.01] * 3) == [True, True, False]
    none_answered = [step(0, False), step(0, False), step(0.1, True)]
    assert await most(clock, none_answered, [0.0] * 3) == [True] * 3
    assert await most(clock, [], []) == []


async def test_the_list_changes_while_all_goes_on(clock, make, eventually):
    relays = {url: MemoryRelay() for url in (OLD, NEW, VISITED)}
    got: list[tuple[Event, str]] = []
    async with RelayPool([OLD], clock=clock, connect=connect_by_url(relays)) as pool:
        everywhere = await pool.subscribe([KIND], lambda *told: got.append(told))
        there = await pool.subscribe([KIND], lambda *told: got.append(told), relays=[OLD])
        closed = await pool.subscribe([KIND], lambda *told: got.append(told))
        await closed.close()
        stored = make()
        relays[NEW].insert(stored)
        change = pool.set_urls([NEW + "/", VISITED])
        assert (change.added, change.left) == ((NEW, VISITED), (OLD,))
        assert pool.urls == (NEW, VISITED)
        await eventually(lambda: got == [(stored, NEW)])
        live = make()
        relays[OLD].insert(live)  # only heard by who named that relay
        await eventually(lambda: got[1:] == [(live, OLD)])
        assert set(await pool.publish(make(kind=1))) == {NEW, VISITED}
        with pytest.raises(InvalidRelayUrl):
            pool.set_urls([OLD, "nonsense"])
        assert pool.urls == (NEW, VISITED)
        assert pool.set_urls([VISITED, NEW]).added == ()
        await everywhere.close()
        await there.close()


async def test_a_visited_relay_that_becomes_ours_keeps_its_connection_and_one_of_ours_is_left_when_idle(
    make, eventually
):
    clock = ManualClock()
    relays = {url: MemoryRelay(clock=clock) for url in (OLD, VISITED)}
    async with RelayPool([OLD], clock=clock, connect=connect_by_url(relays)) as pool:
        assert (await pool.publish(make(at=clock.now()), [VISITED]))[VISITED].accepted
        pool.set_urls([VISITED])
        assert (await pool.publish(make(at=clock.now())))[VISITED].accepted
        await clock.advance(100)
        await eventually(lambda: set(pool.health()) == {VISITED})
        assert relays[VISITED].connections_made == 1


async def test_of_listed_relays_the_best_are_chosen_and_none_of_ours(clock, relay, make):
    relays = {OLD: relay, "ws://good.test": MemoryRelay(), "ws://fair.test": MemoryRelay()}
    async with RelayPool([OLD], clock=clock, connect=connect_by_url(relays)) as pool:
        for _ in range(3):
            await pool.publish(make(), ["ws://good.test", "ws://dead.test"])
        listed = ["ws://dead.test", "nonsense", OLD, "ws://new1.test", "ws://new2.test", "ws://good.test/"]
        assert pool.choose(listed, 2) == ("ws://good.test", "ws://new1.test")
        assert pool.choose(listed, 9)[-1] == "ws://dead.test"


async def test_the_worst_of_the_idle_makes_room(make, eventually):
    clock = ManualClock()
    relays = {f"ws://{name}.test": MemoryRelay(clock=clock) for name in "abcd"}
    a, b, c, d = relays
    limits = PoolLimits(outside_relays_max=3)
    async with RelayPool([], clock=clock, connect=connect_by_url(relays), limits=limits) as pool:
        relays[b].switches.reject = lambda event: "blocked: no"
        relays[c].switches.reject = lambda event: "blocked: no"
        event = make(at=clock.now())
        await pool.publish(event, [a, b, c])
        await pool.publish(event, [c])
        busy = await pool.subscribe([KIND], lambda *_: None, relays=[c])
        with pytest.raises(TooManyRelays):
            pool.relay(d)  # nobody was idle for long enough
        await clock.advance(10)
        assert (await pool.publish(event, [d]))[d].accepted
        assert set(pool.health()) == {a, c, d}
        await busy.close()
