"""Relays that are dead, slow or lie, beside a good one: what they do to the rest is nothing."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from identity.event import Event
from relay_bridge import Filter, Inbox, Outbox, PoolLimits, RelayPool
from relay_bridge.messages import relay_frame
from relay_bridge.transport import connect_websocket
from tradepost.testing.relay import MemoryRelay, connect_by_url

GOOD, BAD = "ws://good.test", "ws://bad.test"
KIND = Filter(kinds=(5001,))
PROMPT_SECONDS = (
    3.0  # a relay that says nothing costs a moment once; who waited for it would wait ten seconds
)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[str]:
    """The URL of a server on TCP that is no good relay."""
    async with asyncio.TaskGroup() as group:

        async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await serve(reader, writer)
            except (ConnectionError, asyncio.CancelledError):
                pass
            finally:
                writer.close()

        tasks: list[asyncio.Task[None]] = []
        server = await asyncio.start_server(
            lambda r, w: tasks.append(group.create_task(served(r, w))), "127.0.0.1", 0
        )
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        for task in tasks:
            task.cancel()
    await server.wait_closed()


async def say_nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass


async def say_a_byte_a_second(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 101 Switching Protocols\r\n":
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1)


async def is_prompt(pool: RelayPool, make: Callable[..., Event]) -> None:
    """Whether all that is done at several relays at once is done as if the bad one were not there."""
    event, got = make(), asyncio.Event()
    async with asyncio.timeout(PROMPT_SECONDS):
        subscription = await pool.subscribe([KIND], lambda *_: got.set())
        await subscription.eose()
        assert (await pool.publish(event, [GOOD]))[GOOD].accepted
        await got.wait()
        assert await pool.query([Filter(ids=(event.id,))]) == [event]
    await subscription.close()


@pytest.mark.parametrize("serve", [say_nothing, say_a_byte_a_second])
async def test_a_relay_that_accepts_and_says_nothing_or_little(serve, clock, make, db):
    good = MemoryRelay()
    async with listening(serve) as bad:

        async def connect(url: str):
            return await (good.connect(url) if url == GOOD else connect_websocket(url))

        async with (
            RelayPool([bad, GOOD], clock=clock, connect=connect) as pool,
            Outbox(db, pool, clock) as outbox,
        ):
            await is_prompt(pool, make)
            event = make()
            async with db.transaction() as tx:
                await outbox.add(tx, event)
            async with asyncio.timeout(PROMPT_SECONDS):
                while event not in good.published:
                    await asyncio.sleep(0.002)


@pytest.fixture
async def two(clock) -> AsyncIterator[tuple[MemoryRelay, MemoryRelay, RelayPool]]:
    """A good relay, one that is to become bad, and a pool of both."""
    good, bad = MemoryRelay(), MemoryRelay()
    relays = {GOOD: good, BAD: bad}
    async with RelayPool(
        relays, clock=clock, connect=connect_by_url(relays), limits=PoolLimits(strikes_max=50)
    ) as pool:
        yield good, bad, pool


async def test_one_that_never_says_eose_or_ok(two, make):
    _good, bad, pool = two
    bad.switches.without_eose = bad.switches.without_ok = True
    await is_prompt(pool, make)
    assert pool.health()[BAD].rank < 0.5 < pool.health()[GOOD].rank


async def test_questions_at_a_silent_relay_do_not_wait_for_each_other(clock, relay):
    relay.switches.without_eose = True
    async with RelayPool(
        [GOOD], clock=clock, connect=relay.connect, limits=PoolLimits(queries_max=1)
    ) as pool:
        asking = (pool.query([KIND], relays=[GOOD], seconds_max=0.5) for _ in range(20))
        async with asyncio.timeout(PROMPT_SECONDS):
            assert await asyncio.gather(*asking) == [[]] * 20


async def test_one_that_takes_what_it_does_not_keep_decides_for_no_other(two, make, db, clock, eventually):
    good, bad, pool = two
    bad._store = lambda event: None  # type: ignore[method-assign]  # OK, and forgotten
    answers = iter(["error: busy"])
    good.switches.reject = lambda event: next(answers, None)
    event = make()
    async with Outbox(db, pool, clock) as outbox:
        async with db.transaction() as tx:
            await outbox.add(tx, event)
        await eventually(lambda: bad.published)
        await eventually(lambda: good.events == [event], 20)
    assert bad.events == []


async def test_one_that_says_eose_before_it_tells_hides_nothing(two, make, db, clock, eventually):
    good, bad, pool = two
    told, got = make(ago=60), list[Event]()

    async def handle(delivery):
        got.append(delivery.event)

    async with Inbox(db, pool, clock) as inbox:
        following = await inbox.follow("jobs", [KIND], handler=handle, margin_seconds=3600)
        await following.caught_up()
        bad.lie(told)  # stored before, told after its EOSE
        await eventually(lambda: got == [told])
        other = make(ago=30)
        good.insert(other)
        await eventually(lambda: got == [told, other])


Lie = Callable[[Event], str]


def forged(event: Event) -> str:
    return relay_frame("EVENT", "s1", msgspec.structs.replace(event, content="altered"))


def of_another_id(event: Event) -> str:
    return relay_frame("EVENT", "s1", msgspec.structs.replace(event, id="0" * 64))


def never_asked_for(event: Event) -> str:
    return relay_frame("EVENT", "s1", msgspec.structs.replace(event, kind=1))


def the_same_again(event: Event) -> str:
    return relay_frame("EVENT", "s1", event)


def ok_for_nothing(event: Event) -> str:
    return relay_frame("OK", event.id, True, "")


def chatter(_event: Event) -> str:
    return relay_frame("NOTICE", "did you know?")


@pytest.mark.parametrize(
    "lie", [forged, of_another_id, never_asked_for, the_same_again, ok_for_nothing, chatter]
)
async def test_one_that_floods_is_left_and_the_longer_the_more_often(two, make, eventually, lie):
    good, bad, pool = two
    got: list[Event] = []
    subscription = await pool.subscribe([KIND], lambda event, _: got.append(event))
    await subscription.eose()
    gone_at = []
    for times in (1, 2):
        await bad.flood(itertools.repeat(lie(make()), 5000))
        gone_at.append(time.monotonic())
        await eventually(lambda times=times: pool.health()[BAD].failures == times)
        assert pool.health()[BAD].rank == 0.0
        if times == 1:
            await eventually(lambda: bad.connections_made == 2 and bad.subscriptions)
    assert gone_at[1] - gone_at[0] > 0.4  # a pause of half a second at least
    event = make()
    good.insert(event)
    await eventually(lambda: event in got)
    assert len(got) <= 3  # that, and each repeated one once
    assert pool.health()[GOOD].failures == 0
    await subscription.close()
