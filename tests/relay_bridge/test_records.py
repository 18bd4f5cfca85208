"""How relays did is known after a restart."""

from relay_bridge import RelayPool, RelayRecords
from relay_bridge.queries import relay_records
from tradepost.testing.clock import ManualClock
from tradepost.testing.relay import MemoryRelay, connect_by_url

OURS, DEAD = "ws://ours.test", "ws://dead.test"


async def test_what_was_learned_is_kept_and_goes_on(db, make, eventually):
    clock = ManualClock()
    connect = connect_by_url({OURS: MemoryRelay(clock=clock)})
    async with RelayPool([OURS], clock=clock, connect=connect) as pool, RelayRecords(db, pool, clock):
        for _ in range(3):
            await pool.publish(make(at=clock.now()), [OURS, DEAD])
        dead = {one.url: one for one in pool.known()}
        await clock.advance(60)
        await eventually(lambda: relay_records(db))
    records = {one.url: one for one in await relay_records(db)}
    assert (records[OURS].kept, records[DEAD].kept) == (3, 0)
    assert records[DEAD].broken == dead[DEAD].broken
    assert records[DEAD].last_error == "cannot connect: no relay at ws://dead.test"
    async with RelayPool([OURS], clock=clock, connect=connect) as pool, RelayRecords(db, pool, clock):
        assert pool.choose([DEAD, "ws://new.test"], 1) == ("ws://new.test",)
        await pool.publish(make(at=clock.now()))
    again = {one.url: one for one in await relay_records(db)}
    assert again[OURS].kept == 4
    assert again[OURS].rank > records[OURS].rank > 0.5 > again[DEAD].rank
    await clock.advance(100 * 86_400)
    async with RelayPool([OURS], clock=clock, connect=connect) as pool, RelayRecords(db, pool, clock):
        pass  # nothing was asked of any for so long
    assert DEAD not in {one.url for one in await relay_records(db)}
