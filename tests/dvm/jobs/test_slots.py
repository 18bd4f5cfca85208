"""Slots: by turns between customers, and between those who pay and those who do not; and none is lost."""

import asyncio
from collections import Counter

import pytest

from dvm.jobs.room import Neighbour, Standing
from dvm.jobs.slots import Slots


def free(key: str) -> Neighbour:
    return Neighbour(key, Standing.CUSTOMER)


def paid(key: str) -> Neighbour:
    return Neighbour(key, Standing.PAYS)


def stranger(key: str) -> Neighbour:
    return Neighbour(key, Standing.STRANGER)


class Queue:
    """Jobs that wait, and in which order they come to work."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def wait(self, *customers: Neighbour) -> None:
        for customer in customers:
            self.tasks.append(asyncio.create_task(self._work(customer)))
        await asyncio.sleep(0)

    async def _work(self, who: Neighbour) -> None:
        await self.slots.take(who)
        self.order.append(who.key)
        await asyncio.sleep(0)
        self.slots.release(who)

    async def done(self) -> str:
        async with asyncio.timeout(5):
            await asyncio.gather(*self.tasks)
        return "".join(self.order)


async def test_customers_take_turns_whoever_asked_for_more() -> None:
    slots = Slots(1, paid=False)
    assert slots.take_now(free("z"))
    queue = Queue(slots)
    await queue.wait(*map(free, "aaaaaa"))
    await queue.wait(*map(free, "bcb"))
    slots.release(free("z"))
    assert await queue.done() == "abcabaaaa"


async def test_paid_jobs_take_turns_with_free_ones() -> None:
    slots = Slots(1, paid=True)
    assert slots.take_now(free("z"))
    queue = Queue(slots)
    await queue.wait(*map(free, "abcdef"))
    await queue.wait(*map(paid, "PQ"))
    slots.release(free("z"))
    assert (await queue.done())[:4] in ("aPbQ", "PaQb")


@pytest.mark.parametrize(("count", "most"), [(1, 1), (2, 1), (4, 3), (8, 6), (64, 48)])
def test_one_customer_leaves_room_for_others(count: int, most: int) -> None:
    slots = Slots(count, paid=False)
    taken = 0
    while slots.take_now(free("a")):
        taken += 1
    assert taken == most
    if count > most:
        assert slots.take_now(free("b"))


def test_free_jobs_leave_a_quarter_to_paid_ones() -> None:
    slots = Slots(8, paid=True)
    assert sum(slots.take_now(free(f"{number}")) for number in range(20)) == 6
    assert sum(slots.take_now(paid(f"{number}")) for number in range(20, 40)) == 2


@pytest.mark.parametrize("is_released_first", [False, True])
async def test_whoever_is_cancelled_leaves_no_slot_behind(is_released_first: bool) -> None:
    slots = Slots(1, paid=False)
    assert slots.take_now(free("a"))
    waiting = [asyncio.create_task(slots.take(free(customer))) for customer in "bc"]
    await asyncio.sleep(0)
    if is_released_first:
        slots.release(free("a"))
        waiting[0].cancel()
    else:
        waiting[0].cancel()
        slots.release(free("a"))
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    async with asyncio.timeout(5):
        await waiting[1]
    slots.release(free("c"))
    assert slots.take_now(free("d"))


async def test_a_job_that_waits_for_its_customers_others_does_not_hold_up_anybody() -> None:
    slots = Slots(4, paid=False)
    held = 0
    while slots.take_now(free("a")):
        held += 1
    queue = Queue(slots)
    await queue.wait(*map(free, "aabbc"))
    async with asyncio.timeout(5):
        while Counter(queue.order) != Counter("bbc"):
            await asyncio.sleep(0)
    for _ in range(held):
        slots.release(free("a"))
    assert Counter(await queue.done()) == Counter("aabbc")


@pytest.mark.parametrize(("count", "most"), [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (64, 48)])
def test_any_number_of_strangers_leaves_room_for_customers(count: int, most: int) -> None:
    """However many keys somebody makes, and whatever each of them holds."""
    slots = Slots(count, paid=False)
    taken = sum(slots.take_now(stranger(str(number))) for number in range(100) for _ in range(100))
    assert taken == most
    assert slots.take_now(free("a")) == (count > most)


def test_free_jobs_of_strangers_leave_room_for_those_of_customers_where_there_are_paid_ones() -> None:
    slots = Slots(64, paid=True)
    assert sum(slots.take_now(stranger(str(number))) for number in range(100)) == 36
    assert sum(slots.take_now(free(f"free {number}")) for number in range(100)) == 12
    assert sum(slots.take_now(paid(f"paid {number}")) for number in range(100)) == 16


async def test_strangers_customers_and_paid_jobs_take_turns() -> None:
    slots = Slots(1, paid=False)
    assert slots.take_now(free("z"))
    queue = Queue(slots)
    await queue.wait(*(stranger(f"s{number}") for number in range(20)))
    await queue.wait(*map(free, "ab"), *map(paid, "P"))
    slots.release(free("z"))
    await queue.done()
    assert {"P", "a", "b"} < set(queue.order[:6])
    assert len(queue.order) == 23


async def test_a_slot_that_a_stranger_gives_back_goes_to_the_next_stranger() -> None:
    slots = Slots(4, paid=False)
    holders = [stranger(key) for key in "abc"]
    assert all(map(slots.take_now, holders))
    queue = Queue(slots)
    await queue.wait(stranger("d"))
    assert queue.order == []
    slots.release(holders[0])
    assert await queue.done() == "d"
