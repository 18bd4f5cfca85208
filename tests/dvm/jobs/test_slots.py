"""Slots: by turns between customers, and between those who pay and those who do not; and none is lost."""

import asyncio
from collections import Counter

import pytest

from dvm.jobs.slots import Slots


class Queue:
    """Jobs that wait, and in which order they come to work."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def wait(self, *customers: str, paid: bool = False) -> None:
        for customer in customers:
            self.tasks.append(asyncio.create_task(self._work(customer, paid)))
        await asyncio.sleep(0)

    async def _work(self, customer: str, paid: bool) -> None:
        await self.slots.take(customer, paid=paid)
        self.order.append(customer)
        await asyncio.sleep(0)
        self.slots.release(customer)

    async def done(self) -> str:
        async with asyncio.timeout(5):
            await asyncio.gather(*self.tasks)
        return "".join(self.order)


async def test_customers_take_turns_whoever_asked_for_more() -> None:
    slots = Slots(1, paid=False)
    assert slots.take_now("z", paid=False)
    queue = Queue(slots)
    await queue.wait(*"aaaaaa")
    await queue.wait("b", "c", "b")
    slots.release("z")
    assert await queue.done() == "abcabaaaa"


async def test_paid_jobs_take_turns_with_free_ones() -> None:
    slots = Slots(1, paid=True)
    assert slots.take_now("z", paid=False)
    queue = Queue(slots)
    await queue.wait(*"abcdef")
    await queue.wait("P", "Q", paid=True)
    slots.release("z")
    assert (await queue.done())[:4] in ("aPbQ", "PaQb")


@pytest.mark.parametrize(("count", "most"), [(1, 1), (2, 2), (4, 3), (8, 6), (64, 48)])
def test_one_customer_leaves_room_for_others(count: int, most: int) -> None:
    slots = Slots(count, paid=False)
    taken = 0
    while slots.take_now("a", paid=False):
        taken += 1
    assert taken == most
    if count > most:
        assert slots.take_now("b", paid=False)


def test_free_jobs_leave_a_quarter_to_paid_ones() -> None:
    slots = Slots(8, paid=True)
    free = sum(slots.take_now(f"free {number}", paid=False) for number in range(20))
    assert free == 6
    assert sum(slots.take_now(f"paid {number}", paid=True) for number in range(20)) == 2


@pytest.mark.parametrize("is_released_first", [False, True])
async def test_whoever_is_cancelled_leaves_no_slot_behind(is_released_first: bool) -> None:
    slots = Slots(1, paid=False)
    assert slots.take_now("a", paid=False)
    waiting = [asyncio.create_task(slots.take(customer, paid=False)) for customer in "bc"]
    await asyncio.sleep(0)
    if is_released_first:
        slots.release("a")
        waiting[0].cancel()
    else:
        waiting[0].cancel()
        slots.release("a")
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    async with asyncio.timeout(5):
        await waiting[1]
    slots.release("c")
    assert slots.take_now("d", paid=False)


async def test_a_job_that_waits_for_its_customers_others_does_not_hold_up_anybody() -> None:
    slots = Slots(4, paid=False)
    held = 0
    while slots.take_now("a", paid=False):
        held += 1
    queue = Queue(slots)
    await queue.wait("a", "a", "b", "b", "c")
    async with asyncio.timeout(5):
        while Counter(queue.order) != Counter("bbc"):
            await asyncio.sleep(0)
    for _ in range(held):
        slots.release("a")
    assert Counter(await queue.done()) == Counter("aabbc")
