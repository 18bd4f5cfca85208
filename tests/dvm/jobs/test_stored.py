"""Paging back through what relays have stored, and the records among it."""

from collections.abc import AsyncIterator

import pytest

from dvm.records import RECORD, make_record, read_records
from dvm.stored import stored_events
from identity import Event, LocalSigner, SecretKey, make_template, sign_event
from relay_bridge import Filter, RelayPool
from tradepost.testing import ManualClock, MemoryRelay
from wallet import Seed

PAGE = 5


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def relay(clock: ManualClock) -> MemoryRelay:
    return MemoryRelay(clock=clock, stored_max=PAGE)


@pytest.fixture
async def pool(relay: MemoryRelay, clock: ManualClock) -> AsyncIterator[RelayPool]:
    async with RelayPool(["ws://one.test", "ws://two.test"], clock=clock, connect=relay.connect) as pool:
        yield pool


def note(key: SecretKey, text: str, created_at: int) -> Event:
    return sign_event(make_template(1, content=text, created_at=created_at), key)


@pytest.mark.parametrize("per_second", [1, 2, PAGE])
async def test_all_pages_are_asked_for(pool: RelayPool, relay: MemoryRelay, per_second: int) -> None:
    key = SecretKey.generate()
    notes = [note(key, str(number), 1000 + number // per_second) for number in range(4 * PAGE + 1)]
    for event in notes:
        relay.insert(event)
    found = await stored_events(pool, Filter(authors=(key.public_key,)))
    assert sorted(event.id for event in found) == sorted(event.id for event in notes)
    assert [event.created_at for event in found] == sorted((e.created_at for e in notes), reverse=True)


async def test_a_second_with_more_than_a_page_does_not_hide_what_is_older(
    pool: RelayPool, relay: MemoryRelay
) -> None:
    key = SecretKey.generate()
    old = note(key, "old", 999)
    for event in (old, *(note(key, str(number), 1000) for number in range(2 * PAGE))):
        relay.insert(event)
    assert old in await stored_events(pool, Filter(authors=(key.public_key,)))


async def test_records_are_for_the_seed_alone(
    pool: RelayPool, relay: MemoryRelay, clock: ManualClock
) -> None:
    seed, now = Seed.generate(), clock.now()
    assert await read_records(pool, seed, clock) == []
    events = [
        await make_record(seed, "a", {"number": 1}, now=now - 10),
        await make_record(seed, "a", {"number": 2}, now=now),
        await make_record(seed, "b", {"number": 3}, now=now - 5, expires_at=now + 60),
        await make_record(Seed.generate(), "a", {"number": 4}, now=now),
        sign_event(make_template(RECORD, content="theirs", tags=[("d", "app")], created_at=now), seed.identity("customer")),
    ]  # fmt: skip
    for event in events:
        relay.insert(event)
        assert "number" not in event.content
        assert event.tag("d") not in ("a", "b")
    assert events[0].tag("d") == events[1].tag("d") != events[3].tag("d")
    assert await read_records(pool, seed, clock) == [{"number": 2}, {"number": 3}]
    await clock.advance(61)
    assert await read_records(pool, seed, clock) == [{"number": 2}]


async def test_a_record_of_another_shape_is_left_out(
    pool: RelayPool, relay: MemoryRelay, clock: ManualClock
) -> None:
    seed = Seed.generate()
    signer = LocalSigner(seed.identity("customer"))
    for text in ("[]", "no json", "7"):
        content = await signer.nip44_encrypt(signer.public_key, text)
        template = make_template(RECORD, content=content, tags=[("d", text)], created_at=clock.now())
        relay.insert(await signer.sign(template))
    assert await read_records(pool, seed, clock) == []
