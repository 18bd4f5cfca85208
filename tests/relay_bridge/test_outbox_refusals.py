"""What a relay refuses is not lost: other relays get it, and that one again, for as long as it matters."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from relay_bridge import Outbox, RelayPool
from tests.relay_bridge.test_outbox import _pass_until, add, becomes, state
from tradepost.testing.clock import ManualClock
from tradepost.testing.relay import MemoryRelay, connect_by_url

HOURS = 3600
DAY = 86_400


@asynccontextmanager
async def outbox_at(db, clock, **relays):
    connect = connect_by_url({f"ws://{name}": relay for name, relay in relays.items()})
    async with (
        RelayPool([f"ws://{name}" for name in relays], clock=clock, connect=connect) as pool,
        Outbox(db, pool, clock) as outbox,
    ):
        yield outbox


def refusing(clock, words: str) -> MemoryRelay:
    relay = MemoryRelay(clock=clock)
    relay.switches.reject = lambda _event: words
    return relay


async def in_time_becomes(clock: ManualClock, db, event, wanted: str) -> None:
    async with asyncio.timeout(8):
        while await state(db, event) != wanted:
            await clock.advance(20)
            await asyncio.sleep(0.001)


@pytest.fixture
def manual() -> ManualClock:
    return ManualClock(int(time.time()))


async def test_it_goes_to_a_relay_that_is_added(db, clock, make):
    liar, new = refusing(clock, "restricted: not today"), MemoryRelay()
    connect = connect_by_url({"ws://liar": liar, "ws://new": new})
    async with (
        RelayPool(["ws://liar"], clock=clock, connect=connect) as pool,
        Outbox(db, pool, clock) as outbox,
    ):
        refund, late = make(kind=1059), make(kind=1059)
        await add(db, outbox, refund)
        await add(db, outbox, late, until=clock.now() - 1)
        await becomes(db, refund, "refused")
        pool.set_urls(["ws://new"])
        await outbox.follow_pool()
        await becomes(db, refund, "sent")
    assert new.published == [refund]


@pytest.mark.parametrize("words", ["blocked: no", "restricted: members only"])
async def test_it_goes_to_the_same_relay_at_a_restart(db, clock, make, words):
    relay, event = refusing(clock, words), make()
    async with outbox_at(db, clock, ours=relay) as outbox:
        await add(db, outbox, event)
        await becomes(db, event, "refused")
    relay.switches.reject = lambda _event: None
    async with outbox_at(db, clock, ours=relay):
        await becomes(db, event, "sent")
    assert relay.events == [event]


async def test_and_a_relay_that_is_new_at_a_restart_gets_it(db, clock, make):
    event, new = make(), MemoryRelay()
    async with outbox_at(db, clock, ours=refusing(clock, "pow: 30 bits, please")) as outbox:
        await add(db, outbox, event)
        await becomes(db, event, "refused")
    async with outbox_at(db, clock, new=new):
        await becomes(db, event, "sent")
    assert new.events == [event]


async def test_it_is_tried_again_every_few_hours(db, manual, make):
    relay, other = refusing(manual, "blocked: no"), refusing(manual, "invalid: too new")
    async with outbox_at(db, manual, one=relay, other=other) as outbox:
        event = make(at=manual.now())
        await add(db, outbox, event)
        await becomes(db, event, "refused")
        await manual.advance(HOURS)
        assert len(relay.published) == 1
        await _pass_until(manual, lambda: len(relay.published) == 3, 600)
        assert manual.now() > event.created_at + 4 * HOURS - 600
        relay.switches.reject = lambda _event: None
        await in_time_becomes(manual, db, event, "sent")
        assert relay.events == [event]
        assert other.published == [event]  # what is invalid stays so


async def test_who_did_not_authenticate_is_not_the_end(db, manual, make):
    relay = MemoryRelay(clock=manual)
    relay.switches.auth_to_write = True  # and we have no key to show
    async with outbox_at(db, manual, ours=relay) as outbox:
        event = make(at=manual.now())
        await add(db, outbox, event)
        await _pass_until(manual, lambda: len(relay.published) > 3, 5)
        relay.switches.auth_to_write = False
        await in_time_becomes(manual, db, event, "sent")
        assert relay.events == [event]


async def test_what_one_relay_took_is_not_sent_again_to_the_one_that_refused(db, manual, make):
    good, bad, away = MemoryRelay(clock=manual), refusing(manual, "blocked: no"), MemoryRelay(clock=manual)
    away.switches.down = True
    async with outbox_at(db, manual, good=good, bad=bad, away=away) as outbox:
        event = make(at=manual.now())
        await add(db, outbox, event)
        await _pass_until(manual, lambda: bad.published and good.published)
        await manual.advance(5 * HOURS)
        assert await outbox.flush(60)
        assert (bad.published, await state(db, event)) == ([event], "open")


async def test_it_ends_with_its_time(db, manual, make):
    relay = refusing(manual, "blocked: no")
    async with outbox_at(db, manual, ours=relay) as outbox:
        soon, endless = make(at=manual.now()), make(at=manual.now())
        await add(db, outbox, soon, until=manual.now() + 3 * HOURS)
        await add(db, outbox, endless)
        await becomes(db, endless, "refused")
        await _pass_until(manual, lambda: relay.published.count(endless) > 4, 600)
        assert relay.published.count(soon) == 2
        assert await state(db, soon) == "sent"  # nothing is kept of it
        for days in (29, 2):
            await manual.advance(60)
            assert await db.all("SELECT * FROM outbox_relay")
            async with db.transaction() as tx:
                await tx.execute("UPDATE outbox SET closed_at = closed_at - ?", days * DAY)
        async with asyncio.timeout(8):
            while await db.all("SELECT * FROM outbox_relay"):
                await manual.advance(20)
