"""The gate of an inbox: what it keeps out costs no row, and where it can, no look at the signature."""

import itertools

import msgspec
import pytest

from identity.event import Event
from relay_bridge import Delivery, Filter, PoolLimits, RelayPool
from relay_bridge.messages import relay_frame
from store import Transaction

URL = "ws://relay.test"
KIND = Filter(kinds=(5001,))


class Gate:
    """Keeps out what says so, and knows before verification of what says so loudly."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.verified: list[str] = []

    def ignores(self, event: Event) -> bool:
        self.asked.append(event.content)
        return event.content == "NO"

    async def admits(self, event: Event, _tx: Transaction) -> bool:
        self.verified.append(event.content)
        return event.content.lower() != "no"


@pytest.fixture
def gate() -> Gate:
    return Gate()


async def follow(inbox, gate: Gate, got: list[str]):
    async def handle(delivery: Delivery) -> None:
        got.append(delivery.event.content)

    following = await inbox.follow("jobs", [KIND], handler=handle, gate=gate, margin_seconds=60)
    await following.caught_up()
    return following


async def test_what_the_gate_keeps_out_is_not_written_down(inbox, db, relay, pool, make, gate, eventually):
    got: list[str] = []
    await follow(inbox, gate, got)
    for content in ("NO", "no", "yes"):
        relay.insert(make(content=content))
    await eventually(lambda: got)
    assert gate.asked == ["NO", "no", "yes"]
    assert gate.verified == ["no", "yes"]
    assert len(await db.all("SELECT 1 FROM inbox")) == 1
    assert pool.health()[URL].ignored == 1
    assert pool.health()[URL].refused == {}


async def test_what_is_ignored_is_not_verified(inbox, relay, pool, make, gate, eventually):
    got: list[str] = []
    await follow(inbox, gate, got)
    for number in range(50):
        relay.lie(msgspec.structs.replace(make(content="NO"), id=f"{number:064x}"))
    relay.insert(make(content="yes"))
    await eventually(lambda: got)
    assert pool.health()[URL].refused == {}


async def test_stored_events_are_all_looked_at(inbox, relay, make, gate, eventually):
    """By those the inbox knows how far back the relay told; what it skipped could hide older ones."""
    relay._stored_max = 5
    for number in range(20):
        relay.insert(make(content="NO", ago=number))
    relay.insert(make(content="yes", ago=30))
    got: list[str] = []
    await follow(inbox, gate, got)
    await eventually(lambda: got)
    assert gate.asked == []
    assert gate.verified.count("NO") >= 20


async def test_an_event_of_several_relays_is_shown_to_the_gate_until_it_is_in(
    inbox, relay, make, gate, eventually
):
    got: list[str] = []
    await follow(inbox, gate, got)
    for event in (make(content="yes"), make(content="also")):
        relay.insert(event)
        relay.lie(event)
    await eventually(lambda: len(got) == 2)
    relay.drop_connections()
    relay.insert(make(content="later"))
    await eventually(lambda: len(got) == 3)
    assert sorted(gate.verified) == ["also", "later", "yes"]


async def test_a_relay_through_which_others_send_forgeries_is_not_left_for_them(
    clock, relay, make, eventually
):
    """Half of what comes is forged; a relay that sent little else is left."""
    async with RelayPool(
        [URL], clock=clock, connect=relay.connect, limits=PoolLimits(strikes_max=100)
    ) as pool:
        got: list[Event] = []
        subscription = await pool.subscribe([KIND], lambda event, _url: got.append(event))
        await subscription.eose()
        events = [make() for _ in range(300)]
        forged = (msgspec.structs.replace(event, content="forged") for event in events)
        mixed = itertools.chain.from_iterable(zip(forged, events, strict=True))
        await relay.flood(relay_frame("EVENT", "s1", event) for event in mixed)
        await eventually(lambda: len(got) == 300)
        assert pool.health()[URL].refused == {"invalid": 300}
        assert pool.health()[URL].failures == 0
        await relay.flood(relay_frame("EVENT", "s1", msgspec.structs.replace(e, content="x")) for e in events)
        await eventually(lambda: pool.health()[URL].failures == 1)
        await subscription.close()
