"""Questions that are asked at the same time go to the mint as one."""

import asyncio
from collections.abc import Sequence

import pytest

from wallet.errors import MintUnavailable
from wallet.together import Together


class Slow:
    """Answers each key with itself in capitals, once it is let go on."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.go_on = asyncio.Semaphore(0)
        self.fails = False

    async def __call__(self, keys: Sequence[str]) -> dict[str, str]:
        self.asked.append(list(keys))
        await self.go_on.acquire()
        if self.fails:
            raise MintUnavailable("down")
        return {key: key.upper() for key in keys}


async def started(*asking: asyncio.Task[dict[str, str]]) -> None:
    """Let the tasks run until all wait."""
    for _ in range(10 * len(asking)):
        await asyncio.sleep(0)


async def test_who_comes_while_questions_are_under_way_shares_the_next() -> None:
    ask = Slow()
    together = Together(ask)
    tasks = [asyncio.create_task(together(keys)) for keys in (["a"], ["b"], ["b", "c"], ["c", "d"], ["a"])]
    await started(*tasks)
    assert ask.asked == [["a"], ["b"]]  # the first ones do not wait for company
    for _ in range(3):
        ask.go_on.release()
    assert await asyncio.gather(*tasks) == [
        {"a": "A"}, {"b": "B"}, {"b": "B", "c": "C"}, {"c": "C", "d": "D"}, {"a": "A"},
    ]  # fmt: skip
    assert ask.asked[2:] == [["b", "c", "d", "a"]]  # again: what is under way may be older than the call


async def test_a_question_without_an_answer_holds_up_nobody_else() -> None:
    never = asyncio.Event()

    async def ask(keys: Sequence[str]) -> dict[str, str]:
        if "a" in keys:
            await never.wait()
        return {key: key.upper() for key in keys}

    together = Together(ask)
    stuck = asyncio.create_task(together(["a"]))
    await started(stuck)
    assert [await together([key]) for key in "bc"] == [{"b": "B"}, {"c": "C"}]
    stuck.cancel()


async def test_an_answer_is_never_older_than_the_call() -> None:
    ask = Slow()
    together = Together(ask)
    for _ in range(2):
        ask.go_on.release()
        await together(["a"])
    assert ask.asked == [["a"], ["a"]]


async def test_a_failure_is_everybody_s_who_shares_it_and_nobody_else_s() -> None:
    ask = Slow()
    together = Together(ask)
    first = [asyncio.create_task(together([key])) for key in "ax"]
    others = [asyncio.create_task(together([key])) for key in "bc"]
    await started(*first, *others)
    for _ in first:
        ask.go_on.release()
    assert await asyncio.gather(*first) == [{"a": "A"}, {"x": "X"}]
    ask.fails = True
    ask.go_on.release()
    for other in others:
        with pytest.raises(MintUnavailable):
            await other
    ask.fails = False
    ask.go_on.release()
    assert await together(["b"]) == {"b": "B"}
    assert ask.asked == [["a"], ["x"], ["b", "c"], ["b"]]


async def test_who_gives_up_takes_nobody_along() -> None:
    ask = Slow()
    together = Together(ask)
    first, second, leader, other = (asyncio.create_task(together([key])) for key in "axbc")
    await started(first, second, leader, other)
    ask.go_on.release()
    await first
    await started(leader, other)
    leader.cancel()
    for _ in range(2):
        ask.go_on.release()
    assert await other == {"c": "C"}
    await second
    assert ask.asked == [["a"], ["x"], ["b", "c"], ["b", "c"]]
