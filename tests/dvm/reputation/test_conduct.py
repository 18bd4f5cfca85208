"""What the keys of a log did besides it, as its readers find out: another log, and deletions."""

import pytest

from dvm.reputation.reader import Reader
from identity import Event, SecretKey, make_template, sign_event
from identity.published import Kind
from identity.receipts import Outcome
from identity.rotation import Rotation, commitment
from relay_bridge import RelayPool
from tests.dvm.reputation.booth import Booth, Sold, handed_on
from tests.dvm.reputation.reading import ONE, TWO, kinds, put, read
from tradepost.testing import ManualClock, MemoryRelay


def begun_to_lead_to(key: SecretKey, now: int) -> tuple[Booth, list[Event]]:
    """A log that was begun only to be handed on to that key, with all its events."""
    fresh = Booth(now)
    fresh.next_key = key
    first = fresh.publish()
    after, rotation = handed_on(fresh)
    return after, [*first, rotation, *after.publish()]


@pytest.mark.parametrize("asked", ["own", "fresh"])
async def test_a_fresh_log_does_not_wash_a_key_that_has_its_own(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth, asked: str
) -> None:
    """Whichever of both is asked for, its own log is not hidden by the other, and the key signed both."""
    for _ in range(3):
        booth.append(Sold(booth).leaf(outcome=Outcome.LOST))
    put(relays[ONE], booth.publish())
    fresh, events = begun_to_lead_to(booth.key, booth.now)
    put(relays[ONE], events)
    agent = booth.log if asked == "own" else fresh.log
    reader = Reader(pool, clock)
    material = await reader.read(agent)
    judged = await reader.judge(material)
    assert judged.chain.log == agent
    assert len(judged.receipts) == (3 if asked == "own" else 0)
    for findings in (judged.findings, reader.check_roots(material)):
        (found,) = [one for one in findings if one.kind is Kind.TWO_LOGS]
        assert found.is_proven
        assert {event.pubkey for event in found.events} <= {booth.log, fresh.log}


# --- what was taken back -------------------------------------------------------------------------------------------


def deletion(by: SecretKey, now: int, *tags: tuple[str, str]) -> Event:
    return sign_event(make_template(5, tags=tags, created_at=now), by)


async def test_what_the_agent_asked_relays_to_delete(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth
) -> None:
    booth.append(Sold(booth).leaf())
    regular, replaceable, page = booth.publish()
    put(relays[ONE], [regular, replaceable, page])
    note = deletion(booth.key, booth.now, ("e", "ab" * 32), ("k", "1"))
    by_stranger = deletion(SecretKey.generate(), booth.now, ("e", regular.id), ("k", "78"))
    put(relays[TWO], [note, by_stranger])
    _, judged = await read(pool, clock, booth.log)
    assert kinds(judged) == set()
    put(relays[TWO], [deletion(booth.key, booth.now, ("e", "cd" * 32), ("k", "78"))])
    _, judged = await read(pool, clock, booth.log)
    assert kinds(judged) == {Kind.MISSING}  # of what kind it was nobody knows
    for tag in (("e", page.id), ("a", f"30078:{booth.log}:tradepost:root")):
        relays[TWO]._stored.clear()
        put(relays[TWO], [deletion(booth.key, booth.now, tag)])
        _, judged = await read(pool, clock, booth.log)
        (found,) = judged.findings
        assert (found.kind, found.is_proven) == (Kind.DELETED, True)


async def test_what_a_thief_asked_relays_to_delete_is_not_the_owner_s_word(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth
) -> None:
    first = booth.publish()
    after = booth.twin()
    after.key, after.next_key = booth.next_key, SecretKey.generate()
    step = Rotation(
        log=booth.log, old=booth.log, new=after.key.public_key, head=booth.published,
        next=commitment(after.next_key.public_key), at=booth.now, by_both=False,
    )  # fmt: skip
    recovery = sign_event(step.to_template(), after.key)
    put(relays[ONE], [*first, recovery])
    put(relays[TWO], [deletion(booth.key, booth.now, ("e", first[0].id))])
    material, judged = await read(pool, clock, booth.log)
    assert material.state.chain.current == after.key.public_key
    assert kinds(judged) == {Kind.MISSING}
