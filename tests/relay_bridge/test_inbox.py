"""The durable inbox: nothing missed, nothing twice, whatever relays, restarts and handlers do."""

import asyncio
import time

import pytest

from identity.event import Event
from relay_bridge import AlreadyFollowed, Delivery, Filter, Inbox, InboxLimits, RelayPool, queries
from relay_bridge.messages import relay_frame
from store import Database, load_migrations
from tradepost.testing.clock import ManualClock
from tradepost.testing.relay import MemoryRelay, connect_by_url

URL = "ws://relay.test"
KIND = Filter(kinds=(5001,))
DAY = 86_400


class Handler:
    """Collects what it is given; does it in a transaction of its own if it has a database."""

    def __init__(self) -> None:
        self.got: list[Event] = []

    @property
    def ids(self) -> list[str]:
        return sorted(event.id for event in self.got)

    async def __call__(self, delivery: Delivery) -> None:
        self.got.append(delivery.event)


@pytest.fixture
def handler() -> Handler:
    return Handler()


async def states(db: Database) -> list[str]:
    return [
        row["state"]
        for row in await db.all("SELECT state FROM inbox ORDER BY received_at, created_at, event_id")
    ]


async def settled(db: Database, eventually, number: int) -> None:
    async def all_done() -> bool:
        return await states(db) == ["done"] * number

    await eventually(all_done)


async def test_what_is_stored_and_what_is_new_is_handled_once(inbox, db, relay, make, handler, eventually):
    stored, new = make(ago=5), make()
    relay.insert(stored)
    following = await inbox.follow("jobs", [KIND], handler, margin_seconds=60)
    await following.caught_up()
    relay.insert(new)
    relay.lie(new)
    await eventually(lambda: len(handler.got) == 2)
    await settled(db, eventually, 2)
    assert handler.got == [stored, new]
    assert [row["raw"] for row in await db.all("SELECT raw FROM inbox")] == ["", ""]


async def test_the_event_is_on_disk_before_the_handler_runs(inbox, db, relay, make, eventually):
    seen: list[str] = []

    async def look(delivery: Delivery) -> None:
        row = await db.one("SELECT state, relay FROM inbox WHERE event_id = ?", delivery.event.id)
        seen.extend([row["state"], row["relay"], delivery.relay])

    await inbox.follow("jobs", [KIND], look, margin_seconds=60)
    relay.insert(make())
    await eventually(lambda: seen)
    assert seen == ["open", URL, URL]


async def test_done_belongs_to_the_handlers_transaction(inbox, db, relay, make, eventually):
    outcomes: list[list[str]] = []

    async def handle(delivery: Delivery) -> None:
        async with db.transaction() as tx:
            await delivery.done(tx)
            if not outcomes:
                outcomes.append(await states(db))
                raise RuntimeError("undone")
        outcomes.append(await states(db))

    following = await inbox.follow("jobs", [KIND], handle, margin_seconds=60)
    relay.insert(make())
    await eventually(lambda: outcomes)
    assert await states(db) == ["open"]
    await following.close()
    await inbox.follow("jobs", [KIND], handle, margin_seconds=60)
    await eventually(lambda: len(outcomes) == 2)
    assert outcomes[1] == ["done"]


async def test_a_handler_that_fails_after_done_is_not_called_again(inbox, db, relay, make, eventually):
    calls: list[str] = []

    async def handle(delivery: Delivery) -> None:
        async with db.transaction() as tx:
            await delivery.done(tx)
        calls.append(delivery.event.id)
        raise RuntimeError("too late to matter")

    following = await inbox.follow("jobs", [KIND], handle, margin_seconds=60)
    relay.insert(make())
    await eventually(lambda: calls)
    await following.close()
    following = await inbox.follow("jobs", [KIND], handle, margin_seconds=60)
    await following.caught_up()
    assert await states(db) == ["done"]
    assert len(calls) == 1


async def _pass_until(clock: ManualClock, condition, seconds: float = 0.5) -> None:
    async with asyncio.timeout(8):
        while not condition():
            await clock.advance(seconds)
            await asyncio.sleep(0.001)


async def test_a_restart_resumes_from_the_cursor_less_the_margin(db, relay, clock, make, handler, eventually):
    first, late, missed = make(), make(ago=50), make()
    async with RelayPool([URL], clock=clock, connect=relay.connect) as pool, Inbox(db, pool, clock) as inbox:
        following = await inbox.follow("jobs", [KIND], handler, margin_seconds=60)
        await following.caught_up()
        relay.insert(first)
        await settled(db, eventually, 1)
    relay.insert(missed)
    relay.insert(late)  # dated back, within the margin
    relay.insert(make(ago=3600))  # far beyond it: the name never asked for this
    async with RelayPool([URL], clock=clock, connect=relay.connect) as pool, Inbox(db, pool, clock) as inbox:
        following = await inbox.follow("jobs", [KIND], handler, margin_seconds=60)
        await following.caught_up()
        await settled(db, eventually, 3)
    assert handler.ids == sorted([first.id, late.id, missed.id])


async def test_a_reconnect_resumes_from_the_cursor_and_not_from_the_start(db, make, eventually):
    clock = ManualClock(int(time.time()))
    relay = MemoryRelay(clock=clock)
    handler = Handler()
    async with RelayPool([URL], clock=clock, connect=relay.connect) as pool, Inbox(db, pool, clock) as inbox:
        following = await inbox.follow("jobs", [KIND], handler, margin_seconds=60)
        await following.caught_up()
        await _pass_until(clock, lambda: _proofs(relay) >= 3, 10)
        known_at = clock.now()
        relay.drop_connections()
        event = make(at=clock.now())
        relay.insert(event)
        await _pass_until(clock, lambda: handler.got == [event], 0.1)
        since = [
            filters[0].since for filters in relay.requests if filters[0].kinds and filters[0].limit is None
        ]
        assert len(since) == 2
        assert known_at - 200 < since[1] + 60 <= known_at
        assert since[0] + 60 < since[1]


def _proofs(relay: MemoryRelay) -> int:
    return sum(filters[0].ids is not None for filters in relay.requests)


async def test_the_cursor_stays_while_eose_is_missing_and_events_come_all_the_same(db, make, eventually):
    clock = ManualClock(int(time.time()))
    relay = MemoryRelay(clock=clock)
    relay.switches.without_eose = True
    handler = Handler()
    stored = make(at=clock.now() - 5)
    relay.insert(stored)
    async with RelayPool([URL], clock=clock, connect=relay.connect) as pool, Inbox(db, pool, clock) as inbox:
        started = clock.now()
        following = await inbox.follow("jobs", [KIND], handler, margin_seconds=60)
        await eventually(lambda: handler.got == [stored])
        caught_up = asyncio.ensure_future(following.caught_up())
        await _pass_until(clock, caught_up.done, 10)
        await clock.advance(300)
        assert (await db.one("SELECT current_at FROM inbox_cursor"))["current_at"] == started
        relay.switches.without_eose = False
        await _pass_until(clock, lambda: _proofs(relay) >= 2, 10)
        row = await db.one("SELECT current_at FROM inbox_cursor")
        assert row["current_at"] > started + 300


async def test_a_backlog_longer_than_the_relay_gives_at_once_is_read_to_the_end(
    db, clock, make, handler, eventually
):
    relay = MemoryRelay(stored_max=7)
    jobs = [make(ago=ago) for ago in range(2, 62)]  # one a second
    crowd = [make(kind=1, ago=1) for _ in range(30)]  # all in one second, more than can be paged apart
    for event in [*jobs, *crowd]:
        relay.insert(event)
    async with RelayPool([URL], clock=clock, connect=relay.connect) as pool, Inbox(db, pool, clock) as inbox:
        both = [KIND, Filter(kinds=(1,))]
        following = await inbox.follow("jobs", both, handler, margin_seconds=60, backlog_seconds=3600)
        await following.caught_up()
        await eventually(lambda: {event.id for event in jobs} <= set(handler.ids))
        assert len(handler.ids) == len(set(handler.ids)) == 67
        assert relay.subscriptions == 1


async def test_a_relay_that_was_down_at_the_first_start_loses_nothing(
    db, clock, relay, make, handler, eventually
):
    relay.switches.down = True
    async with RelayPool([URL], clock=clock, connect=relay.connect) as pool, Inbox(db, pool, clock) as inbox:
        following = await inbox.follow("jobs", [KIND], handler, margin_seconds=0)
        await following.caught_up()
        event = make()
        relay.insert(event)
        relay.switches.down = False
        await eventually(lambda: handler.got == [event])


async def test_what_was_stored_is_read_when_it_is_handled(db, clock, make):
    answers, silent = MemoryRelay(clock=clock), MemoryRelay(clock=clock)
    silent.switches.without_eose = True
    gate, handled = asyncio.Event(), []

    async def handler(delivery):
        await gate.wait()
        handled.append(delivery.event)

    event = make()
    answers.insert(event)
    connect = connect_by_url({"ws://silent": silent, "ws://answers": answers})
    async with (
        RelayPool(["ws://answers"], clock=clock, connect=connect) as pool,
        Inbox(db, pool, clock) as inbox,
    ):
        following = await inbox.follow("jobs", [KIND], handler, margin_seconds=5)
        reading = asyncio.ensure_future(following.read(patience_seconds=60))
        await following.caught_up()
        assert not reading.done()
        assert not await following.read(patience_seconds=0.01)  # it is on disk, and not handled
        gate.set()
        assert await reading
        assert handled == [event]
        unread = await inbox.follow("more", [KIND], handler, margin_seconds=5, relays=["ws://silent"])
        assert not await unread.read(patience_seconds=0.01)


async def test_a_relay_added_later_is_asked_from_when_the_name_was_last_current(db, make, eventually):
    clock = ManualClock(int(time.time()))
    old, new = MemoryRelay(clock=clock), MemoryRelay(clock=clock)
    relays = {"ws://old": old, "ws://new": new}
    handler = Handler()
    both = make(at=clock.now())
    async with (
        RelayPool(["ws://old"], clock=clock, connect=connect_by_url(relays)) as pool,
        Inbox(db, pool, clock) as inbox,
    ):
        await (await inbox.follow("jobs", [KIND], handler, margin_seconds=5)).caught_up()
        old.insert(both)
        new.insert(both)
        await settled(db, eventually, 1)
    await clock.advance(1000)
    only_new = make(at=clock.now() - 900)
    new.insert(only_new)
    async with (
        RelayPool(relays, clock=clock, connect=connect_by_url(relays)) as pool,
        Inbox(db, pool, clock) as inbox,
    ):
        await (await inbox.follow("jobs", [KIND], handler, margin_seconds=5)).caught_up()
        await settled(db, eventually, 2)
    assert handler.got == [both, only_new]


async def test_the_relays_change_while_names_are_followed(db, make, eventually):
    clock = ManualClock(int(time.time()))
    old, new = MemoryRelay(clock=clock), MemoryRelay(clock=clock)
    relays = {"ws://old": old, "ws://new": new}
    handler, elsewhere = Handler(), Handler()
    async with (
        RelayPool(["ws://old"], clock=clock, connect=connect_by_url(relays)) as pool,
        Inbox(db, pool, clock) as inbox,
    ):
        following = await inbox.follow("jobs", [KIND], handler, margin_seconds=5, backlog_seconds=600)
        await inbox.follow("other", [KIND], elsewhere, relays=["ws://old"], margin_seconds=5)
        await following.caught_up()
        missed, both = make(at=clock.now() - 500), make(at=clock.now())
        new.insert(missed)
        new.insert(both)
        old.insert(both)
        await eventually(lambda: handler.got == [both])
        pool.set_urls(["ws://new"])
        await inbox.follow_pool()
        await following.caught_up()
        await eventually(lambda: handler.got == [both, missed])
        assert new.requests[0][0].since == clock.now() - 605
        old.insert(make(at=clock.now()))
        live = make(at=clock.now())
        new.insert(live)
        await eventually(lambda: handler.got == [both, missed, live])
        await eventually(
            lambda: len(elsewhere.got) == 2
        )  # asked for at one relay by name, and heard there on
        pool.set_urls(["ws://old", "ws://new"])
        await inbox.follow_pool()
        await eventually(lambda: len(handler.got) == 4)  # what the old one had meanwhile


async def test_a_far_future_event_is_handled_once_and_moves_no_cursor(
    db, clock, relay, make, handler, eventually
):
    future = make(at=2**40)
    for _ in range(2):
        async with (
            RelayPool([URL], clock=clock, connect=relay.connect) as pool,
            Inbox(db, pool, clock) as inbox,
        ):
            await (await inbox.follow("jobs", [KIND], handler, margin_seconds=60)).caught_up()
            relay.insert(future)
            await eventually(lambda: handler.got)
            cursor = await db.one("SELECT current_at FROM inbox_cursor")
            assert cursor["current_at"] <= clock.now()
            await settled(db, eventually, 1)
    assert handler.got == [future]


async def test_pruning_forgets_nothing_that_could_come_again(db, make, eventually):
    clock = ManualClock(int(time.time()))
    relay = MemoryRelay(clock=clock)
    handler = Handler()
    event, future = make(at=clock.now()), make(at=clock.now() + 400 * DAY)
    relay.insert(event)
    relay.insert(future)
    for _ in range(3):
        async with (
            RelayPool([URL], clock=clock, connect=relay.connect) as pool,
            Inbox(db, pool, clock, InboxLimits(retention_seconds=30 * DAY)) as inbox,
        ):
            following = await inbox.follow(
                "jobs", [KIND], handler, margin_seconds=2 * DAY, backlog_seconds=10 * DAY
            )
            await following.caught_up()
            relay.lie(event)  # relays repeat what they like
            relay.lie(future)
            relay.say(relay_frame("EVENT", "s1", event))
            last = make(at=clock.now())
            relay.insert(last)
            await eventually(lambda last=last: last in handler.got)
        await clock.advance(20 * DAY)
    assert handler.ids.count(event.id) == handler.ids.count(future.id) == 1
    kept = [row["event_id"] for row in await db.all("SELECT event_id FROM inbox")]
    assert event.id not in kept
    assert future.id in kept


async def test_a_clock_that_was_ahead_does_not_make_us_skip(db, clock, relay, make, handler, eventually):
    async with db.transaction() as tx:
        await queries.set_cursor(tx, "jobs", URL, clock.now() + 10 * DAY)
    event = make(ago=30)
    relay.insert(event)
    async with RelayPool([URL], clock=clock, connect=relay.connect) as pool, Inbox(db, pool, clock) as inbox:
        await inbox.follow("jobs", [KIND], handler, margin_seconds=60)
        await eventually(lambda: handler.got == [event])


async def test_a_slow_handler_blocks_neither_others_nor_the_reader(inbox, relay, make, eventually):
    gate = asyncio.Event()
    quick: list[Event] = []

    async def handle(delivery: Delivery) -> None:
        if delivery.event.content == "slow":
            await gate.wait()
        else:
            quick.append(delivery.event)

    await inbox.follow("jobs", [KIND], handle, margin_seconds=60)
    relay.insert(make(content="slow"))
    relay.insert(make())
    await eventually(lambda: quick)
    gate.set()


async def test_handlers_at_one_time_are_bounded_and_all_rows_are_handled(
    db, pool, clock, relay, make, eventually
):
    running, most, handled = 0, 0, 0

    async def handle(delivery: Delivery) -> None:
        nonlocal running, most, handled
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        handled += 1

    async with Inbox(db, pool, clock, InboxLimits(handlers_max=3)) as inbox:
        for _ in range(50):
            relay.insert(make())
        await inbox.follow("jobs", [KIND], handle, margin_seconds=60)
        await settled(db, eventually, 50)
    assert handled == 50
    assert most == 3


async def test_one_event_under_two_names_is_handled_by_each(inbox, relay, make, handler, eventually):
    other = Handler()
    await inbox.follow("one", [KIND], handler, margin_seconds=60)
    await inbox.follow("two", [KIND], other, margin_seconds=60)
    event = make()
    relay.insert(event)
    await eventually(lambda: handler.got == other.got == [event])


async def test_a_name_is_followed_once_at_a_time(inbox, handler):
    following = await inbox.follow("jobs", [KIND], handler, margin_seconds=60)
    with pytest.raises(AlreadyFollowed):
        await inbox.follow("jobs", [KIND], handler, margin_seconds=60)
    await following.close()
    await inbox.follow("jobs", [KIND], handler, margin_seconds=60)
    with pytest.raises(ValueError, match="retention"):
        await inbox.follow("more", [KIND], handler, margin_seconds=31 * DAY)


async def test_closing_cancels_handlers_and_leaves_their_events_open(
    db, pool, clock, relay, make, handler, eventually
):
    started = asyncio.Event()

    async def hang(delivery: Delivery) -> None:
        started.set()
        await asyncio.Event().wait()

    event = make()
    relay.insert(event)
    async with Inbox(db, pool, clock) as inbox:
        await inbox.follow("jobs", [KIND], hang, margin_seconds=60)
        await started.wait()
    assert await states(db) == ["open"]
    relay.drop_connections()
    async with Inbox(db, pool, clock) as inbox:
        await inbox.follow("jobs", [KIND], handler, margin_seconds=60)
        await eventually(lambda: handler.got == [event])
        await settled(db, eventually, 1)


async def test_open_rows_are_delivered_at_the_start_even_with_the_relay_away(
    db, clock, relay, make, handler, eventually
):
    event = make()
    async with db.transaction() as tx:
        await queries.keep_event(tx, "jobs", URL, event, clock.now())
    relay.switches.down = True
    async with RelayPool([URL], clock=clock, connect=relay.connect) as pool, Inbox(db, pool, clock) as inbox:
        await inbox.follow("jobs", [KIND], handler, margin_seconds=60)
        await eventually(lambda: handler.got == [event])


async def test_a_store_that_fails_loses_nothing(
    db, pool, inbox, relay, make, handler, eventually, monkeypatch
):
    following = await inbox.follow("jobs", [KIND], handler, margin_seconds=60)
    await following.caught_up()
    keep, failures = queries.keep_event, iter([OSError("disk full")])

    async def fail_once(*args, **options):
        for failure in failures:
            raise failure
        return await keep(*args, **options)

    monkeypatch.setattr(queries, "keep_event", fail_once)
    event = make()
    relay.insert(event)
    await eventually(lambda: handler.got == [event])
    assert relay.connections_made == 2


async def test_the_schema_is_the_same_fresh_and_reopened(db_path, db):
    async with await Database.open(db_path, load_migrations("relay_bridge")) as again:
        tables = {
            row["name"] for row in await again.all("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
    assert {"inbox", "inbox_cursor", "outbox", "outbox_relay"} <= tables


async def test_a_simple_event_is_ended_in_the_transaction_that_keeps_it(
    inbox, db, relay, make, handler, eventually
):
    ended: list[str] = []

    async def at_once(delivery, tx) -> bool:
        match delivery.event.content:
            case "simple":
                tx.after_commit(lambda: ended.append(delivery.event.id))
                return True
            case "broken":
                await tx.execute("DELETE FROM inbox")
                raise RuntimeError("a bug")
        return False

    following = await inbox.follow("jobs", [KIND], handler, at_once=at_once, margin_seconds=60)
    await following.caught_up()
    simple, other, broken = make(content="simple"), make(content="other"), make(content="broken")
    for event in (simple, other, broken, simple):
        relay.insert(event)
    await eventually(lambda: len(handler.got) == 2)
    assert {event.id for event in handler.got} == {other.id, broken.id}
    assert ended == [simple.id]
    rows = await db.all("SELECT event_id, state, raw FROM inbox")
    assert {(row["event_id"], row["state"]) for row in rows} >= {(simple.id, "done")}
    assert len(rows) == 3
