"""The durable outbox: what was decided gets out, to every relay that takes it, whatever happens in between."""

import asyncio
import time

import pytest

from relay_bridge import InvalidRelayUrl, Outbox, RelayPool
from store import Database
from tradepost.testing.clock import ManualClock
from tradepost.testing.relay import MemoryRelay, connect_by_url

URL = "ws://relay.test"


async def add(db: Database, outbox: Outbox, event, *args, **options) -> None:
    async with db.transaction() as tx:
        await outbox.add(tx, event, *args, **options)


async def state(db: Database, event) -> str:
    """Of an event that was added: when all relays have it nothing is kept of it."""
    row = await db.one("SELECT state FROM outbox WHERE event_id = ?", event.id)
    return "sent" if row is None else row["state"]


async def becomes(db: Database, event, wanted: str) -> None:
    async with asyncio.timeout(8):
        while True:
            if await state(db, event) == wanted:
                return
            await asyncio.sleep(0.002)


async def _pass_until(clock: ManualClock, condition, seconds: float = 0.5) -> None:
    async with asyncio.timeout(8):
        while not condition():
            await clock.advance(seconds)
            await asyncio.sleep(0.001)


async def test_what_is_committed_is_published_in_order(db, outbox, relay, make):
    events = [make() for _ in range(5)]
    for event in events:
        await add(db, outbox, event)
    assert await outbox.flush(5)
    assert relay.published == events
    assert [await state(db, event) for event in events] == ["sent"] * 5


async def test_what_is_undone_is_not(db, outbox, relay, make):
    with pytest.raises(RuntimeError):
        async with db.transaction() as tx:
            await outbox.add(tx, make())
            raise RuntimeError("undone")
    assert await outbox.flush(5)
    assert relay.published == []


async def test_adding_twice_publishes_once(db, outbox, relay, make):
    event = make()
    await add(db, outbox, event)
    await add(db, outbox, event)
    assert await outbox.flush(5)
    assert relay.published == [event]


async def test_it_waits_for_a_relay_that_is_away(db, outbox, relay, make, eventually):
    relay.switches.down = True
    relay.drop_connections()
    await eventually(lambda: not outbox._pool.health()[URL].connected)
    event = make()
    await add(db, outbox, event)
    assert await outbox.flush(5)  # nothing is due while the relay is away
    assert relay.published == []
    relay.switches.down = False
    await becomes(db, event, "sent")
    assert relay.published == [event]


async def test_nothing_to_send_waits_for_no_relay(db, clock):
    async def hang(url: str) -> None:
        await asyncio.Event().wait()

    async with RelayPool([URL], clock=clock, connect=hang) as pool, Outbox(db, pool, clock) as outbox:
        async with asyncio.timeout(2):
            assert await outbox.flush(60)


async def test_a_restart_sends_the_same_event_again(db, relay, clock, make):
    event = make()
    relay.switches.without_ok = True  # as if we were killed between sending and hearing of it
    async with (
        RelayPool([URL], clock=clock, connect=relay.connect) as pool,
        Outbox(db, pool, clock) as outbox,
    ):
        await add(db, outbox, event)
        assert not await outbox.flush(0.1)
    assert relay.published == [event]
    assert await state(db, event) == "open"
    relay.switches.without_ok = False
    async with (
        RelayPool([URL], clock=clock, connect=relay.connect) as pool,
        Outbox(db, pool, clock) as outbox,
    ):
        assert await outbox.flush(5)
    assert [published.id for published in relay.published] == [event.id] * 2
    assert await state(db, event) == "sent"
    assert relay.events == [event]


async def test_what_was_added_before_the_outbox_was_entered_is_sent(db, pool, clock, relay, make):
    outbox, event = Outbox(db, pool, clock), make()
    await add(db, outbox, event)
    async with outbox:
        assert await outbox.flush(5)
    assert relay.published == [event]


async def test_rate_limits_are_waited_out_and_what_is_invalid_is_not_sent_again(db, make, eventually):
    clock = ManualClock(int(time.time()))
    relay = MemoryRelay(clock=clock)
    async with (
        RelayPool([URL], clock=clock, connect=relay.connect) as pool,
        Outbox(db, pool, clock) as outbox,
    ):
        relay.switches.reject = lambda event: "rate-limited: slow down"
        patient = make(at=clock.now())
        await add(db, outbox, patient)
        await outbox.flush(60)
        await clock.advance(4)
        await outbox.flush(60)
        assert len(relay.published) == 1
        relay.switches.reject = lambda event: None
        await _pass_until(clock, lambda: len(relay.published) == 2)
        await becomes(db, patient, "sent")
        relay.switches.reject = lambda event: "invalid: never"
        refused = make(at=clock.now())
        await add(db, outbox, refused)
        await becomes(db, refused, "refused")
        for _ in range(100):
            await clock.advance(600)
        assert len(relay.published) == 3


async def test_a_relay_that_refuses_and_takes_it_after_all(db, outbox, relay, make):
    answers = iter(["error: database busy"])
    relay.switches.reject = lambda event: next(answers, None)
    event = make()
    await add(db, outbox, event)
    await becomes(db, event, "sent")
    assert relay.published == [event, event]


async def test_no_relay_decides_for_another(db, clock, make, eventually):
    good, away, refusing, busy = MemoryRelay(), MemoryRelay(), MemoryRelay(), MemoryRelay()
    away.switches.down = True
    refusing.switches.reject = lambda event: "blocked: no"
    answers = iter(["error: busy"])
    busy.switches.reject = lambda event: next(answers, None)
    relays = {"ws://good": good, "ws://away": away, "ws://refusing": refusing, "ws://busy": busy}
    async with (
        RelayPool(relays, clock=clock, connect=connect_by_url(relays)) as pool,
        Outbox(db, pool, clock) as outbox,
    ):
        event = make()
        await add(db, outbox, event)
        assert await outbox.flush(5)
        assert good.events == [event]
        await eventually(lambda: busy.events == [event])
        assert await state(db, event) == "open"
        away.switches.down = False
        await becomes(db, event, "sent")
        assert away.events == refusing.published == [event]


async def test_what_not_all_relays_took_in_time_is_forgotten_like_the_rest(db, make):
    clock = ManualClock(int(time.time()))
    good, away = MemoryRelay(clock=clock), MemoryRelay(clock=clock)
    away.switches.down = True
    relays = {"ws://good": good, "ws://away": away}
    async with (
        RelayPool(relays, clock=clock, connect=connect_by_url(relays)) as pool,
        Outbox(db, pool, clock) as outbox,
    ):
        event = make(at=clock.now())
        await add(db, outbox, event, until=clock.now() + 100)
        assert await outbox.flush(60)
        assert await state(db, event) == "open"
        async with asyncio.timeout(8):
            while await db.all("SELECT * FROM outbox"):
                await clock.advance(10)
                await asyncio.sleep(0.001)


async def test_until_ends_it(db, make):
    clock = ManualClock(int(time.time()))
    relay = MemoryRelay(clock=clock)
    relay.switches.down = True
    async with (
        RelayPool([URL], clock=clock, connect=relay.connect) as pool,
        Outbox(db, pool, clock) as outbox,
    ):
        await add(db, outbox, make(), until=clock.now() + 100)
        async with asyncio.timeout(8):
            while await db.all("SELECT * FROM outbox"):
                await clock.advance(10)
                await asyncio.sleep(0.001)
        relay.switches.down = False
        await _pass_until(clock, lambda: pool.health()[URL].connected)
        assert await outbox.flush(60)
    assert relay.published == []


async def test_named_relays_get_it_and_bad_names_are_refused_at_once(db, clock, make):
    relays = {"ws://own": MemoryRelay(), "ws://other": MemoryRelay()}
    async with (
        RelayPool(["ws://own"], clock=clock, connect=connect_by_url(relays)) as pool,
        Outbox(db, pool, clock) as outbox,
    ):
        event = make()
        await add(db, outbox, event, ["ws://other/", "ws://OTHER"])
        assert await outbox.flush(5)
        assert relays["ws://other"].published == relays["ws://own"].published == [event]
        aside = make()
        await add(db, outbox, aside, ["ws://other"], own=False)
        assert await outbox.flush(5)
        assert relays["ws://other"].published == [event, aside]
        assert relays["ws://own"].published == [event]
        with pytest.raises(InvalidRelayUrl):
            await add(db, outbox, make(), ["http://nope"])


async def test_a_private_address_named_by_others_is_refused(db, clock, make):
    async with RelayPool([], clock=clock) as pool, Outbox(db, pool, clock) as outbox:
        event = make()
        await add(db, outbox, event, ["ws://127.0.0.1:1"])
        await becomes(db, event, "refused")


async def test_dead_relays_of_others_are_given_up(db, make):
    clock = ManualClock(int(time.time()))
    relay = MemoryRelay(clock=clock)
    relay.switches.down = True
    async with RelayPool([], clock=clock, connect=relay.connect) as pool, Outbox(db, pool, clock) as outbox:
        event = make()
        await add(db, outbox, event, [URL])
        async with asyncio.timeout(20):
            while await state(db, event) != "refused" or pool.health():
                await clock.advance(15)
                await asyncio.sleep(0)


async def test_own_relays_are_those_of_the_present_configuration(db, clock, relay, make):
    event = make()
    async with (
        RelayPool(["ws://gone"], clock=clock, connect=connect_by_url({})) as pool,
        Outbox(db, pool, clock) as outbox,
    ):
        await add(db, outbox, event)
        assert await outbox.flush(5)
    async with (
        RelayPool([URL], clock=clock, connect=relay.connect) as pool,
        Outbox(db, pool, clock) as outbox,
    ):
        await becomes(db, event, "sent")


async def test_nothing_is_kept_of_sent_events(db, outbox, make):
    await add(db, outbox, make())
    assert await outbox.flush(5)
    assert await db.all("SELECT * FROM outbox") == await db.all("SELECT * FROM outbox_relay") == []


async def test_a_silent_relay_holds_up_no_other(db, clock, make):
    silent, quick = MemoryRelay(), MemoryRelay()
    silent.switches.without_ok = True
    relays = {"ws://silent": silent, "ws://quick": quick}
    async with (
        RelayPool(relays, clock=clock, connect=connect_by_url(relays)) as pool,
        Outbox(db, pool, clock) as outbox,
    ):
        events = [make() for _ in range(100)]
        async with asyncio.timeout(5):
            for event in events:
                await add(db, outbox, event)
            while len(quick.published) < len(events):
                await asyncio.sleep(0.002)
        assert quick.published == events
        assert not pool.health()["ws://silent"].kept


async def test_the_relays_change_and_what_is_still_to_be_sent_follows(db, clock, make, eventually):
    dead, new = MemoryRelay(), MemoryRelay()
    dead.switches.down = True
    relays = {"ws://dead": dead, "ws://new": new}
    async with (
        RelayPool(["ws://dead"], clock=clock, connect=connect_by_url(relays)) as pool,
        Outbox(db, pool, clock) as outbox,
    ):
        first, second = make(), make()
        await add(db, outbox, first)
        assert await outbox.flush(5)
        pool.set_urls(["ws://new"])
        await outbox.follow_pool()
        await eventually(lambda: new.published == [first])
        await add(db, outbox, second)
        await eventually(lambda: new.published == [first, second])
        await becomes(db, second, "sent")
        assert (
            await state(db, first) == "open"
        )  # where it was to go at first it is still tried, as at a stranger's
        dead.switches.down = False
        await becomes(db, first, "sent")
        assert dead.published == [first]


async def test_more_relays_for_an_event_are_added_to_those_it_has(db, clock, make):
    relays = {"ws://own": MemoryRelay(), "ws://more": MemoryRelay()}
    relays["ws://own"].switches.reject = lambda event: "blocked: no"
    async with (
        RelayPool(["ws://own"], clock=clock, connect=connect_by_url(relays)) as pool,
        Outbox(db, pool, clock) as outbox,
    ):
        event = make()
        await add(db, outbox, event)
        await becomes(db, event, "refused")
        await add(db, outbox, event, ["ws://more"])
        await becomes(db, event, "sent")
        assert relays["ws://more"].published == relays["ws://own"].published == [event]
