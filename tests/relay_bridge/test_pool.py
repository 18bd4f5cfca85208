"""The pool against relays in memory: subscribing, asking, publishing, and relays that are away or misbehave."""

import asyncio

import pytest

from identity.event import Event
from relay_bridge import (
    Answer,
    Filter,
    InvalidRelayUrl,
    PoolLimits,
    RelayPool,
    TooManyRelays,
    TooManySubscriptions,
    normalise_relay_url,
)
from tradepost.testing.clock import ManualClock
from tradepost.testing.relay import MemoryRelay, connect_by_url

URL = "ws://relay.test"
KIND = Filter(kinds=(5001,))


async def test_a_subscription_brings_what_is_stored_and_then_what_is_new(pool, relay, make, eventually):
    stored, other, new = make(), make(kind=1), make()
    relay.insert(stored)
    relay.insert(other)
    got: list[tuple[Event, str]] = []
    subscription = await pool.subscribe([KIND], lambda event, url: got.append((event, url)))
    await subscription.eose()
    await eventually(lambda: len(got) == 1)
    relay.insert(new)
    await eventually(lambda: len(got) == 2)
    assert got == [(stored, URL), (new, URL)]
    await subscription.close()
    await eventually(lambda: relay.subscriptions == 0)


async def test_on_event_may_be_a_coroutine_that_asks_the_pool_itself(pool, relay, make, eventually):
    known = make(kind=1)
    relay.insert(known)
    found: list[Event] = []

    async def ask(event: Event, url: str) -> None:
        found.extend(await pool.query([Filter(kinds=(1,))]))

    subscription = await pool.subscribe([KIND], ask)
    relay.insert(make())
    await eventually(lambda: found == [known])
    await subscription.close()


async def test_an_on_event_that_raises_does_not_end_the_subscription(pool, relay, make, eventually):
    got: list[Event] = []

    def fail_first(event: Event, url: str) -> None:
        got.append(event)
        if len(got) == 1:
            raise RuntimeError("a bug of the caller")

    subscription = await pool.subscribe([KIND], fail_first)
    await subscription.eose()
    relay.insert(make())
    relay.insert(make())
    await eventually(lambda: len(got) == 2)
    await subscription.close()


async def test_each_event_comes_once_from_many_relays(clock, make, eventually):
    relays = {"ws://a": MemoryRelay(), "ws://b": MemoryRelay()}
    got: list[Event] = []
    async with RelayPool(relays, clock=clock, connect=connect_by_url(relays)) as pool:
        subscription = await pool.subscribe([KIND], lambda event, url: got.append(event))
        await subscription.eose()
        event, last = make(), make()
        for each in (event, last):
            for relay in relays.values():
                relay.insert(each)
        await eventually(lambda: last in got)
        assert sorted(e.id for e in got) == sorted([event.id, last.id])
        await eventually(lambda: sum(h.events for h in pool.health().values()) == 4)
        await subscription.close()


async def test_it_resubscribes_after_a_lost_connection(pool, relay, make, eventually):
    got: list[Event] = []
    subscription = await pool.subscribe([KIND], lambda event, url: got.append(event))
    await subscription.eose()
    first, missed = make(), make()
    relay.insert(first)
    await eventually(lambda: got == [first])
    relay.drop_connections()
    relay.insert(missed)
    await eventually(lambda: got == [first, missed])
    assert relay.connections_made == 2
    assert pool.health()[URL].failures == 1
    await subscription.close()


async def test_a_subscription_the_relay_closed_is_opened_again(pool, relay, make, eventually):
    got: list[Event] = []
    subscription = await pool.subscribe([KIND], lambda event, url: got.append(event))
    await subscription.eose()
    relay.drop_subscriptions()
    relay.insert(make())
    await eventually(lambda: len(got) == 1)
    assert relay.connections_made == 1
    assert pool.health()[URL].closed == 1
    await subscription.close()


async def test_a_relay_that_was_down_at_the_start_joins_when_it_is_up(clock, relay, make, eventually):
    relay.switches.down = True
    got: list[Event] = []
    async with RelayPool([URL], clock=clock, connect=relay.connect) as pool:
        subscription = await pool.subscribe([KIND], lambda event, url: got.append(event))
        await subscription.eose()  # a relay that is down is not waited for
        relay.insert(make())
        relay.switches.down = False
        await eventually(lambda: len(got) == 1)
        assert pool.health()[URL].connected
        await subscription.close()


async def test_a_dead_relay_does_not_hold_up_the_others(clock, make):
    alive, dead = MemoryRelay(), MemoryRelay()
    dead.switches.down = True
    relays = {"ws://alive": alive, "ws://dead": dead}
    event = make()
    async with asyncio.timeout(2), RelayPool(relays, clock=clock, connect=connect_by_url(relays)) as pool:
        answers = await pool.publish(event)
        assert answers["ws://alive"] == Answer(True)
        assert not answers["ws://dead"].accepted
        assert answers["ws://dead"].message.startswith("error: not connected")
        assert not answers["ws://dead"].refused
        assert await pool.query([KIND]) == [event]


async def test_query_is_newest_first_and_closes_what_it_opened(pool, relay, make, eventually):
    events = [make(ago=ago) for ago in (30, 10, 20)]
    for event in events:
        relay.insert(event)
    assert await pool.query([KIND]) == [events[1], events[2], events[0]]
    await eventually(lambda: relay.subscriptions == 0)


async def test_query_takes_what_there_is_when_eose_never_comes(pool, relay, make):
    relay.switches.without_eose = True
    relay.insert(make())
    assert len(await pool.query([KIND], seconds_max=0.1)) == 1


async def test_query_keeps_no_more_than_its_limit(clock, relay, make):
    async with RelayPool(
        [URL], clock=clock, connect=relay.connect, limits=PoolLimits(query_events_max=3)
    ) as pool:
        for _ in range(10):
            relay.insert(make())
        assert len(await pool.query([KIND])) == 3


async def test_count(pool, relay, make):
    relay.insert(make())
    assert await pool.count([KIND]) == {URL: 1}
    relay.switches.refuse = lambda filters: "unsupported: no counting here"
    assert await pool.count([KIND]) == {}


async def test_publish_passes_on_what_the_relay_says(pool, relay, make):
    event = make()
    assert await pool.publish(event) == {URL: Answer(True, "")}
    assert (await pool.publish(event))[URL].accepted  # duplicate
    relay.switches.reject = lambda event: "blocked: not you"
    answer = (await pool.publish(make()))[URL]
    assert answer == Answer(False, "blocked: not you")
    assert answer.refused
    relay.switches.reject = lambda event: "rate-limited: slow down"
    assert not (await pool.publish(make()))[URL].refused


async def test_a_duplicate_counts_as_accepted_even_if_the_relay_says_false(pool, relay, make):
    relay.switches.reject = lambda event: "duplicate: already have this event"
    assert (await pool.publish(make()))[URL].accepted


async def test_a_relay_that_never_says_ok_is_waited_for_only_so_long(clock, relay, make):
    relay.switches.without_ok = True
    async with RelayPool(
        [URL], clock=clock, connect=relay.connect, limits=PoolLimits(publish_seconds_max=0.1)
    ) as pool:
        answer = (await pool.publish(make()))[URL]
        assert not answer.accepted
        assert answer.message.startswith("error: no answer within")


async def test_a_connection_lost_before_the_ok_is_an_answer(pool, relay, make, eventually):
    relay.switches.without_ok = True
    publishing = asyncio.ensure_future(pool.publish(make()))
    await eventually(lambda: relay.published)
    relay.drop_connections()
    assert (await publishing)[URL].message.startswith("error: ")


async def test_malformed_urls_are_answers_or_errors(pool, make):
    assert (await pool.publish(make(), relays=["http://not.a.relay"]))["http://not.a.relay"].refused
    with pytest.raises(InvalidRelayUrl):
        await pool.query([KIND], relays=["nonsense"])


async def test_private_addresses_named_by_others_are_not_connected_to(clock, make):
    async with RelayPool([], clock=clock) as pool:
        for url in ("ws://127.0.0.1:1", "ws://localhost:1", "ws://[::1]:1", "ws://[::ffff:127.0.0.1]:1"):
            answer = (await pool.publish(make(), relays=[url]))[normalise_relay_url(url)]
            assert answer.refused
            assert "not public" in answer.message


async def test_relays_of_others_are_limited_and_left_when_idle(make, eventually):
    clock = ManualClock()
    relay = MemoryRelay(clock=clock)
    limits = PoolLimits(outside_relays_max=2)
    async with RelayPool([], clock=clock, connect=relay.connect, limits=limits) as pool:
        answers = await pool.publish(make(), relays=["ws://a", "ws://b", "ws://c"])
        assert [answers[f"ws://{name}"].accepted for name in "abc"] == [True, True, False]
        with pytest.raises(TooManyRelays):
            await pool.query([KIND], relays=["ws://c"])
        await clock.advance(100)
        await eventually(lambda: not pool.health())
        assert (await pool.publish(make(), relays=["ws://c"]))["ws://c"].accepted


async def test_subscriptions_are_limited(clock, relay):
    async with RelayPool(
        [URL], clock=clock, connect=relay.connect, limits=PoolLimits(subscriptions_max=1)
    ) as pool:
        subscription = await pool.subscribe([KIND], lambda event, url: None)
        with pytest.raises(TooManySubscriptions):
            await pool.subscribe([KIND], lambda event, url: None)
        await subscription.close()
        again = await pool.subscribe([KIND], lambda event, url: None)
        await again.close()


async def test_closing_the_pool_releases_everybody_who_waits(clock, relay, make, eventually):
    relay.switches.without_ok = relay.switches.without_eose = True
    async with RelayPool([URL], clock=clock, connect=relay.connect) as pool:
        publishing = asyncio.ensure_future(pool.publish(make(kind=1)))
        querying = asyncio.ensure_future(pool.query([KIND]))
        await eventually(lambda: relay.published and relay.requests)
    assert not (await publishing)[URL].accepted
    assert await querying == []


async def test_a_subscription_may_be_closed_by_its_own_callback(pool, relay, make, eventually):
    async def close(event: Event, url: str) -> None:
        await subscription.close()

    subscription = await pool.subscribe([KIND], close)
    relay.insert(make())
    await eventually(lambda: relay.subscriptions == 0 and relay.requests)
