"""The relay in memory keeps to the protocol, so that tests with it mean something; nostr-sdk's relay is the measure."""

from identity.keys import SecretKey
from relay_bridge import EmbeddedRelay, Filter, RelayPool
from tradepost.testing.relay import MemoryRelay


async def test_it_answers_as_a_real_relay_does(clock, make):
    memory = MemoryRelay()
    me, other = SecretKey.generate(), SecretKey.generate()
    first, second = make(kind=31990, tags=[["d", "x"]], ago=20), make(kind=31990, tags=[["d", "x"]], ago=10)
    gone, kept = make(ago=30), make(ago=25, by=other)
    events = [
        second, first, make(kind=31990, tags=[["d", "y"]]), make(kind=0, ago=9), make(kind=0, ago=5), make(kind=20001),
        gone, kept, make(kind=5, tags=[["e", gone.id]]), gone, make(by=me), make(tags=[["p", me.public_key]]),
        make(tags=[["expiration", "1000"]]),
    ]  # fmt: skip
    questions = [
        Filter(), Filter(kinds=(31990,)), Filter(kinds=(0,)), Filter(kinds=(20001,)), Filter(kinds=(5001,)), Filter(limit=2),
        Filter(authors=(me.public_key,)), Filter(tags={"p": (me.public_key,)}), Filter(ids=(gone.id, kept.id)),
        Filter(since=first.created_at, until=second.created_at),
    ]  # fmt: skip
    answers = []
    async with EmbeddedRelay() as real:
        for url, connect in ((real.url, None), ("ws://memory", memory.connect)):
            async with RelayPool([url], clock=clock, connect=connect) as pool:
                for event in events:
                    await pool.publish(event)
                found = [[event.id for event in await pool.query([one])] for one in questions]
                answers.append(found)
    assert answers[0] == answers[1]
