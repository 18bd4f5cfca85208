"""Bad input from relays: what nobody asked for, forgeries, floods, rubbish. It costs little and reaches nobody."""

import asyncio
import itertools

import msgspec

from identity.event import Event
from relay_bridge import Filter, PoolLimits, RelayPool
from relay_bridge.messages import relay_frame
from tradepost.testing.relay import MemoryRelay

URL = "ws://relay.test"
KIND = Filter(kinds=(5001,))


async def listen(pool: RelayPool, got: list[Event]):
    subscription = await pool.subscribe([KIND], lambda event, url: got.append(event))
    await subscription.eose()
    return subscription


async def test_events_never_asked_for_are_dropped_and_counted(pool, relay, make, eventually):
    got: list[Event] = []
    subscription = await listen(pool, got)
    relay.lie(make(kind=1))
    relay.say(relay_frame("EVENT", "no-such-subscription", make()))
    good = make()
    relay.insert(good)
    await eventually(lambda: got)
    assert got == [good]
    assert pool.health()[URL].refused == {"unasked": 2}
    await subscription.close()


async def test_forged_events_are_dropped_and_do_not_hide_the_real_one(pool, relay, make, eventually):
    got: list[Event] = []
    subscription = await listen(pool, got)
    good, other = make(), make()
    relay.lie(msgspec.structs.replace(good, content="altered"))  # the id is not the hash
    relay.lie(msgspec.structs.replace(good, sig=other.sig))  # the id is, the signature is not
    relay.lie(good)
    relay.lie(
        msgspec.structs.replace(good, content="altered again")
    )  # now that id and signature are known as good
    last = make()
    relay.lie(last)
    await eventually(lambda: last in got)
    assert got == [good, last]
    assert pool.health()[URL].refused == {"invalid": 3}
    await subscription.close()


async def test_rubbish_is_counted_and_survived(pool, relay, make, eventually):
    got: list[Event] = []
    subscription = await listen(pool, got)
    rubbish = [
        "", "null", "{}", "[]", "[1]", '["EVENT"]', '["EVENT","s1"]', '["EVENT","s1",{}]', '["OK"]', '["OK","x","yes",""]',
        '["WHAT","ever"]', "[" * 50_000, '["EVENT","s1",' + "[" * 50_000, '["NOTICE","\\ud800"]', "\x00", '["EOSE",7]',
        relay_frame("EVENT", "s1", make().to_dict() | {"kind": -1}),
        relay_frame("EVENT", "s1", make().to_dict() | {"created_at": 2**60}),
        relay_frame("EVENT", "s1", make().to_dict() | {"tags": [["e", 1]]}),
    ]  # fmt: skip
    for frame in rubbish:
        relay.say(frame)
    relay.insert(make())
    await eventually(lambda: got)
    assert pool.health()[URL].refused == {"malformed": len(rubbish)}
    assert relay.connections_made == 1
    await subscription.close()


async def test_harmless_surprises_change_nothing(pool, relay, make, eventually):
    got: list[Event] = []
    subscription = await listen(pool, got)
    for frame in (
        relay_frame("NOTICE", "hello"), relay_frame("OK", "0" * 64, True, ""), relay_frame("EOSE", "unknown"),
        relay_frame("CLOSED", "unknown", "error: x"), relay_frame("COUNT", "unknown", {"count": 1}),
        relay_frame("AUTH", "a challenge nobody needs"), relay_frame("EOSE", "s1"),
    ):  # fmt: skip
        relay.say(frame)
    relay.insert(make())
    await eventually(lambda: got)
    assert pool.health()[URL].last_notice == "hello"
    assert pool.health()[URL].refused == {}
    await subscription.close()


async def test_a_message_above_the_limit_ends_the_connection_only(clock, relay, make, eventually):
    limits = PoolLimits(message_bytes_max=10_000)
    got: list[Event] = []
    async with RelayPool([URL], clock=clock, connect=relay.connect, limits=limits) as pool:
        subscription = await listen(pool, got)
        relay.lie(make(content="x" * 20_000))
        await eventually(lambda: relay.connections_made == 2 and pool.health()[URL].connected)
        relay.insert(make())
        await eventually(lambda: len(got) == 1)
        await subscription.close()


async def test_a_flood_of_strangers_events_ends_the_connection(clock, relay, make, eventually):
    limits = PoolLimits(strikes_max=100)
    got: list[Event] = []
    async with RelayPool([URL], clock=clock, connect=relay.connect, limits=limits) as pool:
        subscription = await listen(pool, got)
        frame = relay_frame("EVENT", "s1", make(kind=1))
        await relay.flood(itertools.repeat(frame, 5000))
        await eventually(lambda: pool.health()[URL].failures == 1)
        assert pool.health()[URL].refused == {"unasked": 101}
        assert got == []
        relay.insert(make())
        await eventually(lambda: len(got) == 1)
        await subscription.close()


async def test_a_flood_of_wanted_events_waits_in_bounded_queues_and_others_go_on(clock, make, eventually):
    flooding, calm = MemoryRelay(), MemoryRelay()
    relays = {"ws://flooding": flooding, "ws://calm": calm}
    limits = PoolLimits(waiting_events_max=10, queue_frames_max=20)
    gate = asyncio.Event()
    got: list[Event] = []

    async def slow(event: Event, url: str) -> None:
        await gate.wait()
        got.append(event)

    async def connect(url: str):
        return await relays[url].connect(url)

    async with RelayPool(relays, clock=clock, connect=connect, limits=limits) as pool:
        subscription = await pool.subscribe([KIND], slow)
        await subscription.eose()
        events = [make() for _ in range(100)]
        for event in events:
            flooding.insert(event)
        published = make(kind=1)
        assert (await pool.publish(published))["ws://flooding"].accepted  # not stuck behind the slow callback
        assert await pool.query([Filter(kinds=(1,))], relays=["ws://calm"]) == [published]
        assert len(subscription._waiting) <= 10
        gate.set()
        await eventually(lambda: len(got) == 100)  # asked for again when there was room
        assert {event.id for event in got} == {event.id for event in events}
        await subscription.close()


async def test_rate_limited_subscriptions_back_off_and_come_back(pool, relay, make, eventually):
    refusals = iter(["rate-limited: slow down", "error: busy"])
    relay.switches.refuse = lambda filters: next(refusals, None)
    got: list[Event] = []
    relay.insert(make())
    subscription = await listen(pool, got)
    await eventually(lambda: got)
    assert len(relay.requests) == 3
    await subscription.close()


async def test_a_flood_that_is_taken_in_time_is_never_left(clock, make, eventually):
    relay, got = MemoryRelay(stored_max=5000), list[Event]()
    events = [make() for _ in range(3000)]  # three times what may wait
    for event in events:
        relay.insert(event)
    async with RelayPool(["ws://flooding"], clock=clock, connect=relay.connect) as pool:
        subscription = await pool.subscribe([KIND], lambda event, _url: got.append(event))
        await eventually(lambda: len(got) == len(events), 20)
        assert len(subscription._waiting) == 0
        assert all(session_feed.told.is_set() for session_feed in subscription._feeds.values())
        await subscription.close()
