"""Many names at one relay share its subscriptions: nothing missed, nothing twice, whatever the relay thinks of it."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from identity.event import Event
from identity.keys import SecretKey
from relay_bridge import Delivery, EmbeddedRelay, Filter, Inbox, PoolLimits, RelayPool, gathering
from relay_bridge.filters import matches_any
from relay_bridge.messages import relay_frame
from tests.relay_bridge.test_inbox import settled
from tradepost.testing.relay import MemoryRelay

URL = "ws://relay.test"
ALLOWED = 20  # subscriptions for a connection, as public relays have it


class Agents:
    """Names that follow requests, wraps and deletions, as agents do, and what came to each."""

    def __init__(self, inbox: Inbox, make, count: int) -> None:
        self._inbox = inbox
        self._make = make
        self.keys = [SecretKey.generate().public_key for _ in range(count)]
        self.wraps: dict[str, list[str]] = {key: [] for key in self.keys}
        self.requests: dict[str, list[str]] = {key: [] for key in self.keys}

    async def start(self, keys: list[str] | None = None) -> None:
        for key in keys or self.keys:
            await self._follow("requests", key, [Filter(kinds=(5001,))], self.requests[key])
            await self._follow("wraps", key, [Filter(kinds=(1059,), tags={"p": (key,)})], self.wraps[key])
            deletions = [Filter(kinds=(5,), tags={"k": ("5001",)}), Filter(kinds=(5,), tags={"p": (key,)})]
            await self._follow("deletions", key, deletions, [])

    async def _follow(self, what: str, key: str, filters: list[Filter], got: list[str]) -> None:
        async def handle(delivery: Delivery) -> None:
            got.append(delivery.event.id)

        await self._inbox.follow(f"{what}:{key}", filters, handle, margin_seconds=60, backlog_seconds=3600)

    def wraps_for_all(self, **more: int) -> list[Event]:
        return [self._make(kind=1059, tags=[["p", key]], **more) for key in self.keys]

    def have(self, wraps: list[Event], requests: list[Event]) -> bool:
        """Whether each has its own wraps and all requests, all of them once."""
        own = {key: sorted(one.id for one in wraps if one.tag("p") == key) for key in self.keys}
        everybodys = sorted(one.id for one in requests)
        return all(
            sorted(self.wraps[key]) == own[key] and sorted(self.requests[key]) == everybodys
            for key in self.keys
        )


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(gathering, "_LINGER_SECONDS", 0.1)


@pytest.fixture
def relay() -> MemoryRelay:
    relay = MemoryRelay()
    relay.switches.subscriptions_max = ALLOWED
    return relay


@asynccontextmanager
async def agents_at(relay, clock, db, make, count, **limits):
    async with (
        RelayPool([URL], clock=clock, connect=relay.connect, limits=PoolLimits(**limits)) as pool,
        Inbox(db, pool, clock) as inbox,
    ):
        yield Agents(inbox, make, count), pool


async def test_fifty_agents_at_a_relay_that_allows_twenty_subscriptions(relay, clock, db, make, eventually):
    async with agents_at(relay, clock, db, make, 50) as (agents, pool):
        stored, request = agents.wraps_for_all(ago=30), make()
        for event in [*stored, request]:
            relay.insert(event)
        await agents.start()
        await eventually(lambda: agents.have(stored, [request]), 20)
        await eventually(lambda: relay.subscriptions <= 2)
        live, other = agents.wraps_for_all(), make()
        for event in [*live, other]:
            relay.insert(event)
        await eventually(lambda: agents.have([*stored, *live], [request, other]))
        health = pool.health()[URL]
        assert (health.closed, health.refused) == (0, {})
        await settled(db, eventually, 200)


async def test_a_few_have_each_a_subscription_of_their_own(relay, clock, db, make, eventually):
    async with agents_at(relay, clock, db, make, 2) as (agents, _):
        await agents.start()
        await eventually(lambda: relay.subscriptions == 6)
        assert all(one.limit is None for filters in relay.requests for one in filters if one.ids is None)


async def test_a_backlog_longer_than_the_relay_tells_is_read_to_the_end(clock, db, make, eventually):
    relay = MemoryRelay(stored_max=3)
    relay.switches.subscriptions_max = ALLOWED
    async with agents_at(relay, clock, db, make, 12) as (agents, _):
        wraps = [event for ago in range(7) for event in agents.wraps_for_all(ago=10 + ago)]
        requests = [make(ago=ago) for ago in range(5, 12)]
        for event in [*wraps, *requests]:
            relay.insert(event)
        await agents.start()
        await eventually(lambda: agents.have(wraps, requests), 20)


class LateRelay(MemoryRelay):
    """Tells of a new event a little after it has it, and only who had asked before it had it, as strfry may."""

    def insert(self, event: Event) -> None:
        self._store(event)
        asked = [
            (socket, name)
            for socket in self._sockets
            for name, filters in socket.subscriptions.items()
            if matches_any(filters, event)
        ]

        def tell() -> None:
            for socket, name in asked:
                if name in socket.subscriptions:
                    socket.push(relay_frame("EVENT", name, event))

        asyncio.get_running_loop().call_later(0.05, tell)


@pytest.mark.parametrize("relay", [MemoryRelay(), LateRelay()], ids=["at once", "late"])
async def test_nothing_is_missed_while_they_come_and_move(relay, clock, db, make, eventually):
    relay.switches.subscriptions_max = ALLOWED
    async with agents_at(relay, clock, db, make, 15) as (agents, pool):
        sent: list[Event] = []

        async def send() -> None:
            while True:
                sent.append(make())
                relay.insert(sent[-1])
                await asyncio.sleep(0.005)

        sending = asyncio.create_task(send())
        for start in range(0, 15, 3):
            await agents.start(agents.keys[start : start + 3])
            many = len(sent) + 10
            await eventually(lambda many=many: len(sent) > many)
        await eventually(lambda: relay.subscriptions <= 2)
        sending.cancel()
        await eventually(lambda: agents.have([], sent), 20)
        assert set(pool.health()[URL].refused) <= {"repeated"}


@pytest.mark.parametrize("how", ["drop_connections", "drop_subscriptions"])
async def test_all_are_heard_again_after_an_end(relay, clock, db, make, eventually, how):
    async with agents_at(relay, clock, db, make, 20) as (agents, _):
        await agents.start()
        before = agents.wraps_for_all(ago=2)
        for event in before:
            relay.insert(event)
        await eventually(lambda: agents.have(before, []))
        await eventually(lambda: relay.subscriptions <= 2)
        getattr(relay, how)()
        missed = agents.wraps_for_all(ago=1)
        for event in missed:
            relay.insert(event)
        await eventually(lambda: agents.have([*before, *missed], []))
        after = agents.wraps_for_all()
        for event in after:
            relay.insert(event)
        await eventually(lambda: agents.have([*before, *missed, *after], []))
        await eventually(lambda: relay.subscriptions <= 2)


async def test_one_that_the_relay_refuses_keeps_nobody_else_out(relay, clock, db, make, eventually):
    async with agents_at(relay, clock, db, make, 20) as (agents, _):
        bad = agents.keys[11]

        def refuse(filters: tuple[Filter, ...]) -> str | None:
            return "blocked: not this one" if any(bad in one.tags.get("p", ()) for one in filters) else None

        relay.switches.refuse = refuse
        await agents.start()
        wraps = agents.wraps_for_all()
        for event in wraps:
            relay.insert(event)
        heard = [event for event in wraps if event.tag("p") != bad]
        await eventually(lambda: agents.have(heard, []))
        relay.switches.refuse = lambda _: None
        await eventually(lambda: agents.have(wraps, []))
        await eventually(lambda: relay.subscriptions < 10)


async def test_a_relay_that_takes_few_filters_gets_more_of_smaller_ones(relay, clock, db, make, eventually):
    relay.switches.refuse = lambda filters: "error: too many filters" if len(filters) > 2 else None
    async with agents_at(relay, clock, db, make, 20) as (agents, _):
        await agents.start()
        wraps, request = agents.wraps_for_all(), make()
        for event in [*wraps, request]:
            relay.insert(event)
        await eventually(lambda: agents.have(wraps, [request]), 20)


async def test_at_a_relay_that_never_ends_its_answer_each_is_asked_for_alone(clock, db, make, eventually):
    relay = MemoryRelay()
    relay.switches.without_eose = True
    async with agents_at(relay, clock, db, make, 10, eose_seconds_max=0.2) as (agents, _):
        await agents.start()
        await eventually(lambda: relay.subscriptions >= 30)
        wraps = agents.wraps_for_all()
        for event in wraps:
            relay.insert(event)
        await eventually(lambda: agents.have(wraps, []))


async def test_a_relay_that_wants_to_know_who_asks(relay, clock, db, make, eventually):
    from identity.signer import LocalSigner

    relay.switches.auth_to_read = True
    async with agents_at(relay, clock, db, make, 10) as (agents, pool):
        pool.add_signer(LocalSigner(SecretKey.generate()))
        await agents.start()
        wraps = agents.wraps_for_all()
        for event in wraps:
            relay.insert(event)
        await eventually(lambda: agents.have(wraps, []))


async def test_the_embedded_relay_serves_bundles_too(clock, db, make, eventually):
    async with (
        EmbeddedRelay() as real,
        RelayPool([real.url], clock=clock) as pool,
        Inbox(db, pool, clock) as inbox,
    ):
        agents = Agents(inbox, make, 30)
        stored = agents.wraps_for_all(ago=20)
        for event in stored:
            assert (await pool.publish(event))[real.url].accepted
        await agents.start()
        live, request = agents.wraps_for_all(), make()
        for event in [*live, request]:
            assert (await pool.publish(event))[real.url].accepted
        await eventually(lambda: agents.have([*stored, *live], [request]), 20)
        assert pool.health()[real.url].closed == 0


async def test_who_is_said_to_listen_hears_what_no_relay_keeps(relay, clock, db, make, eventually):
    async with (
        RelayPool([URL], clock=clock, connect=relay.connect) as pool,
        Inbox(db, pool, clock) as inbox,
    ):
        got: dict[str, list[str]] = {}
        sent: dict[str, list[str]] = {}

        async def begin(key: str) -> None:
            async def handle(delivery: Delivery) -> None:
                got.setdefault(key, []).append(delivery.event.id)

            wraps = Filter(kinds=(21059,), tags={"p": (key,)})
            following = await inbox.follow(f"wraps:{key}", [wraps], handle, margin_seconds=60)
            await following.listening()
            sent[key] = [(event := make(kind=21059, tags=[["p", key]])).id]
            relay.insert(event)

        await asyncio.gather(*(begin(SecretKey.generate().public_key) for _ in range(60)))
        await eventually(lambda: got == sent)


async def test_who_comes_when_others_share_is_heard_at_once(pool, relay, make, eventually, monkeypatch):
    ears = [Ear(kind) for kind in range(5001, 5021)]
    for ear in ears:
        pool.relay(URL).attach(ear)
    await eventually(lambda: relay.subscriptions == 1)
    monkeypatch.setattr(gathering, "_MOMENT_SECONDS", 3600)
    new = Ear(25001)
    pool.relay(URL).attach(new)
    await eventually(lambda: relay.subscriptions == 2)
    relay.insert(make(kind=25001))
    await eventually(lambda: new.got)
    for ear in (*ears, new):
        pool.relay(URL).detach(ear)


async def test_nobody_stops_to_hear_by_one_before_all_that_came_by_it_is_read(clock, eventually):
    asked, done = [], []

    async def prove() -> None:
        done.append("proved")

    async def authenticate(_filters) -> bool:
        return False

    gatherer = gathering.Gathering(
        URL, clock, seconds_max=5, ask=asked.append, close=done.append,
        part=lambda _feed, _ear: done.append("parted"), authenticate=authenticate, prove=prove,
    )  # fmt: skip
    running = asyncio.create_task(gatherer.run())
    for kind in range(5001, 5010):
        gatherer.open(Ear(kind))
    for alone in asked:
        gatherer.told(alone)
    await eventually(lambda: len(asked) == 9)
    gatherer.told(asked[-1])
    await eventually(lambda: len(done) == 10)
    assert done == ["proved", *["parted"] * 9]
    running.cancel()


class Ear:
    """A feed that has no room for some events."""

    lasting = shares = True

    def __init__(self, kind: int) -> None:
        self._filter = Filter(kinds=(kind,))
        self.said: list[str] = []
        self.got: list[Event] = []
        self.free = asyncio.Event()
        self.free.set()

    def filters(self):
        return [self._filter]

    def opened(self, *, shared: bool) -> None:
        self.said.append("shared" if shared else "alone")

    def ignores(self, event: Event) -> bool:
        return False

    async def events(self, events) -> bool:
        if self.free.is_set():
            self.got += events
        return self.free.is_set()

    async def room(self) -> None:
        await self.free.wait()

    def eose(self) -> None:
        self.said.append("eose")

    def lost(self) -> None:
        self.said.append("lost")


async def test_one_that_has_no_room_leaves_its_bundle_and_the_others_stay(pool, relay, make, eventually):
    ears = [Ear(kind) for kind in range(5001, 5021)]
    for ear in ears:
        pool.relay(URL).attach(ear)
    await eventually(lambda: all("eose" in ear.said for ear in ears))
    assert [ear.said for ear in ears] == [["alone", "eose"]] * 8 + [["shared", "eose"]] * 12
    await eventually(lambda: relay.subscriptions == 1)
    full, other = ears[10], ears[11]
    full.free.clear()
    relay.insert(make(kind=5011))
    await eventually(lambda: full.said[-1] == "lost")
    relay.insert(make(kind=5012))
    await eventually(lambda: [event.kind for event in other.got] == [5012])
    full.free.set()
    await eventually(lambda: full.said[-2:] == ["alone", "eose"])
    await eventually(lambda: relay.subscriptions == 1)
    relay.insert(make(kind=5011))
    await eventually(lambda: full.got)
    assert other.said == ["shared", "eose"]
    for ear in ears:
        pool.relay(URL).detach(ear)
    assert all(ear.said[-1] == "lost" for ear in ears)
    await eventually(lambda: relay.subscriptions == 0)


async def test_who_leaves_before_its_turn_is_told_so(pool, relay, make, eventually):
    ears = [Ear(5001) for _ in range(9)]
    for ear in ears:
        pool.relay(URL).attach(ear)
    await eventually(lambda: relay.subscriptions == 8)
    pool.relay(URL).detach(ears[8])
    assert ears[8].said in (["lost"], ["shared", "eose", "lost"])
    for ear in ears[:8]:
        pool.relay(URL).detach(ear)
