"""Where people read: looked up once, behind everybody's back, and what was sent before is sent on."""

import asyncio
import time

import pytest

from identity.keys import SecretKey
from relay_bridge import Mailboxes, Outbox, RelayPool
from relay_bridge.mailboxes import (
    EVENTS_MAX,
    FRESH_SECONDS,
    RELAYS_MAX,
    WAITING_MAX,
    message_relays,
    read_relays,
)
from tradepost.testing.clock import ManualClock
from tradepost.testing.relay import MemoryRelay, connect_by_url

OURS, THEIRS, MESSAGES = "ws://ours.test", "ws://theirs.test", "ws://messages.test"


@pytest.fixture
async def world(db):
    """Relays by URL, the mailboxes of a post on the first, and its clock."""
    clock = ManualClock(int(time.time()))
    relays = {url: MemoryRelay(clock=clock) for url in (OURS, THEIRS, MESSAGES)}
    async with (
        RelayPool([OURS], clock=clock, connect=connect_by_url(relays)) as pool,
        Outbox(db, pool, clock) as outbox,
        Mailboxes(db, pool, outbox, clock) as boxes,
    ):
        yield relays, boxes, clock


async def send(boxes, event, reader, *args, **options):
    async with boxes._db.transaction() as tx:
        await boxes.send(tx, event, reader, *args, **options)


def test_the_relays_to_read_from(make):
    tags = [
        ["r", "wss://both"], ["r", "wss://in/", "read"], ["r", "wss://out", "write"], ["r"], ["r", "nonsense"], ["x", "wss://x"],
        ["r", "wss://third", ""], ["r", "wss://fourth"], *(["r", f"wss://{number}.more"] for number in range(9)),
    ]  # fmt: skip
    listed = read_relays(make(10002, tags=tags))
    assert listed[:4] == ("wss://both", "wss://in", "wss://third", "wss://fourth")
    assert len(listed) == 8
    assert message_relays(make(10050, tags=[["relay", "wss://in/"], ["relay"], ["r", "wss://no"]])) == (
        "wss://in",
    )


async def test_mail_goes_where_its_reader_reads_and_gift_wraps_where_it_takes_messages(
    world, make, eventually
):
    relays, boxes, clock = world
    reader = SecretKey.generate()
    relays[OURS].insert(make(10002, tags=[["r", "ws://old.test"]], by=reader, at=clock.now() - 9))
    relays[OURS].insert(make(10002, tags=[["r", OURS], ["r", THEIRS]], by=reader, at=clock.now()))
    relays[OURS].insert(make(10050, tags=[["relay", MESSAGES]], by=reader, at=clock.now()))
    answer, wrap, later = (make(kind, at=clock.now()) for kind in (6001, 1059, 1059))
    assert boxes.ways_to(reader.public_key) is None
    await send(boxes, answer, reader.public_key)
    await send(boxes, wrap, reader.public_key)
    await eventually(lambda: relays[THEIRS].published == [answer])
    await eventually(lambda: relays[MESSAGES].published == [wrap])
    await send(boxes, later, reader.public_key)
    await eventually(lambda: relays[MESSAGES].published == [wrap, later])
    assert relays[OURS].published == [answer, wrap, later]
    await clock.advance(FRESH_SECONDS)
    assert boxes.ways_to(reader.public_key) is None


async def test_who_has_no_relays_for_messages_gets_them_where_it_reads(world, make, eventually):
    relays, boxes, clock = world
    reader = SecretKey.generate()
    relays[OURS].insert(make(10002, tags=[["r", THEIRS]], by=reader, at=clock.now()))
    wrap = make(1059, at=clock.now())
    await send(boxes, wrap, reader.public_key, [MESSAGES])
    await eventually(lambda: relays[THEIRS].published == relays[MESSAGES].published == [wrap])


async def test_a_relay_that_is_away_gets_it_later(world, make, eventually):
    relays, boxes, clock = world
    reader = SecretKey.generate()
    relays[THEIRS].switches.down = True
    relays[OURS].insert(make(10002, tags=[["r", THEIRS]], by=reader, at=clock.now()))
    answer = make(6001, at=clock.now())
    await send(boxes, answer, reader.public_key)
    await eventually(lambda: relays[OURS].published == [answer])
    await eventually(lambda: THEIRS in {one.url for one in boxes._pool.known()})
    relays[THEIRS].switches.down = False
    async with asyncio.timeout(8):
        while relays[THEIRS].published != [answer]:
            await clock.advance(1)
            await asyncio.sleep(0.001)


async def test_of_those_without_a_list_that_is_remembered(world, make, eventually):
    _, boxes, clock = world
    nobody = SecretKey.generate().public_key
    await send(boxes, make(6001, at=clock.now()), nobody)
    await eventually(lambda: (ways := boxes.ways_to(nobody)) is not None and not ways.read)


async def test_of_many_listed_relays_the_best_are_used(world, make, eventually):
    relays, boxes, clock = world
    reader = SecretKey.generate()
    dead = [f"ws://dead{number}.test" for number in range(RELAYS_MAX)]
    await boxes._pool.publish(make(at=clock.now()), dead)  # now we know them
    relays[OURS].insert(make(10002, tags=[["r", url] for url in (*dead, THEIRS)], by=reader, at=clock.now()))
    answer = make(6001, at=clock.now())
    await send(boxes, answer, reader.public_key)
    await eventually(lambda: relays[THEIRS].published == [answer])


async def test_strangers_fill_no_memory(world, make, db):
    _, boxes, clock = world
    unopened = Mailboxes(db, boxes._pool, boxes._outbox, clock)
    async with db.transaction() as tx:
        for number in range(WAITING_MAX + 5):
            await unopened.send(tx, make(), f"{number:064x}")
        for _ in range(20):
            await unopened.send(tx, make(), f"{0:064x}")
    assert len(unopened._waiting) == WAITING_MAX
    assert len(unopened._waiting[f"{0:064x}"]) == EVENTS_MAX
