"""Where people read: looked up once, behind everybody's back, and what was sent before is sent on."""

import pytest

from identity.keys import SecretKey
from relay_bridge import Mailboxes, RelayPool
from relay_bridge.mailboxes import EVENTS_MAX, FRESH_SECONDS, WAITING_MAX, read_relays
from tradepost.testing.clock import ManualClock
from tradepost.testing.relay import MemoryRelay, connect_by_url

OURS, THEIRS = "ws://ours.test", "ws://theirs.test"


@pytest.fixture
async def world():
    """Our relay, the customer's, a pool of the first, and the mailboxes."""
    clock = ManualClock()
    ours, theirs = MemoryRelay(clock=clock), MemoryRelay(clock=clock)
    connect = connect_by_url({OURS: ours, THEIRS: theirs})
    async with (
        RelayPool([OURS], clock=clock, connect=connect) as pool,
        Mailboxes(pool, clock) as boxes,
    ):
        yield ours, theirs, boxes, clock


def test_the_relays_to_read_from(make):
    tags = [
        ["r", "wss://both"], ["r", "wss://in/", "read"], ["r", "wss://out", "write"], ["r"], ["r", "nonsense"], ["x", "wss://x"],
        ["r", "wss://third", ""], ["r", "wss://fourth"], ["r", "wss://fifth"],
    ]  # fmt: skip
    assert read_relays(make(10002, tags=tags)) == ("wss://both", "wss://in", "wss://third", "wss://fourth")


async def test_an_answer_is_sent_on_to_where_its_reader_reads(world, make, key, eventually):
    ours, theirs, boxes, clock = world
    reader = SecretKey.generate()
    ours.insert(make(10002, tags=[["r", "ws://old.test"]], by=reader, at=clock.now() - 9))
    ours.insert(make(10002, tags=[["r", OURS], ["r", THEIRS]], by=reader, at=clock.now()))
    answer = make(6001, at=clock.now())
    assert boxes.relays_of(reader.public_key) is None
    boxes.send_on(reader.public_key, [answer], [OURS])
    await eventually(lambda: theirs.events == [answer])
    assert boxes.relays_of(reader.public_key) == (OURS, THEIRS)
    assert answer not in ours.events
    await clock.advance(FRESH_SECONDS)
    assert boxes.relays_of(reader.public_key) is None


async def test_of_those_without_a_list_that_is_remembered(world, make, eventually):
    *_, boxes, clock = world
    nobody = SecretKey.generate().public_key
    boxes.send_on(nobody, [make(6001, at=clock.now())], [OURS])
    await eventually(lambda: boxes.relays_of(nobody) == ())


async def test_strangers_fill_no_memory(make):
    boxes = Mailboxes(None, ManualClock())  # type: ignore[arg-type]  # not opened: nothing is looked up
    for number in range(WAITING_MAX + 5):
        boxes.send_on(f"{number:064x}", [make()] if number == 0 else [], [])
    boxes.send_on(f"{0:064x}", [make() for _ in range(20)], [])
    assert len(boxes._waiting) == WAITING_MAX
    assert len(boxes._waiting[f"{0:064x}"]) == EVENTS_MAX
