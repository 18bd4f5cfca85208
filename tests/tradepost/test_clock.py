"""The clock that tests own."""

import asyncio

from tradepost.testing import ManualClock


async def test_time_stands_still_until_it_is_advanced() -> None:
    clock = ManualClock(1000)
    sleeper = asyncio.create_task(clock.sleep(10))
    await clock.advance(9.5)
    assert (clock.now(), sleeper.done()) == (1009, False)
    await clock.advance(0.5)
    assert (clock.now(), sleeper.done()) == (1010, True)


async def test_sleepers_wake_in_the_order_of_their_time_and_see_it() -> None:
    clock = ManualClock(0)
    woken: list[tuple[str, int]] = []

    async def sleep(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.now()))

    tasks = [asyncio.create_task(sleep(name, s)) for name, s in (("c", 3), ("a", 1), ("b", 2), ("b2", 2))]
    await asyncio.sleep(0)
    await clock.advance(10)
    await asyncio.gather(*tasks)
    assert woken == [("a", 1), ("b", 2), ("b2", 2), ("c", 3)]
    assert clock.now() == 10


async def test_who_sleeps_again_is_woken_again_within_one_advance() -> None:
    clock = ManualClock(0)
    beats: list[int] = []

    async def beat() -> None:
        while True:
            await clock.sleep(3)
            beats.append(clock.now())

    task = asyncio.create_task(beat())
    await asyncio.sleep(0)
    await clock.advance(10)
    assert beats == [3, 6, 9]
    task.cancel()


async def test_it_is_fair_to_others() -> None:
    """A loop that sleeps for no time, as a back-off of zero may, lets others run; and a cancelled sleeper holds up none."""
    clock = ManualClock()
    turns: list[str] = []

    async def spin() -> None:
        while len(turns) < 10:
            turns.append("spin")
            await clock.sleep(0)

    async def other() -> None:
        while len(turns) < 10:
            turns.append("other")
            await clock.sleep(-1)

    await asyncio.gather(spin(), other())
    assert turns == ["spin", "other"] * 5
    cancelled, kept = asyncio.create_task(clock.sleep(1)), asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    cancelled.cancel()
    await clock.advance(1)
    assert kept.done()
    assert cancelled.cancelled()
