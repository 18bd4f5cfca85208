"""Turns: first come, first served, and none is lost."""

import asyncio

import pytest

from store import Turns


async def test_first_come_first_served() -> None:
    turns, order = Turns(2), list[int]()

    async def work(number: int) -> None:
        await turns.take()
        order.append(number)
        await asyncio.sleep(0)
        turns.release()

    async with asyncio.timeout(5):
        await asyncio.gather(*(work(number) for number in range(10)))
    assert order == list(range(10))
    assert turns.take_now()
    assert turns.take_now()
    assert not turns.take_now()


async def test_a_turn_given_back_goes_to_who_waits_not_to_who_comes() -> None:
    turns = Turns(1)
    assert turns.take_now()
    waiting = asyncio.create_task(turns.take())
    await asyncio.sleep(0)
    turns.release()
    assert not turns.take_now()
    await waiting


@pytest.mark.parametrize("is_released_first", [False, True])
async def test_whoever_is_cancelled_leaves_no_turn_behind(is_released_first: bool) -> None:
    turns = Turns(1)
    assert turns.take_now()
    waiting = [asyncio.create_task(turns.take()) for _ in range(2)]
    await asyncio.sleep(0)
    if is_released_first:
        turns.release()
        waiting[0].cancel()
    else:
        waiting[0].cancel()
        turns.release()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    async with asyncio.timeout(5):
        await waiting[1]
    turns.release()
    assert turns.take_now()
