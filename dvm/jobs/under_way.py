"""Background tasks with names: what is under way is not begun twice, and can be ended by its name."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class UnderWay:
    """The tasks of one owner. What they raise is logged."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(
        self, name: str, work: Coroutine[Any, Any, None], *, then: Callable[[], None] | None = None
    ) -> bool:
        """Run `work`, and call `then` when it has ended; False, and neither, if the same is under way already."""
        if name in self._tasks:
            work.close()
            return False
        task = self._tasks[name] = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda done: self._ended(name, done))
        if then:
            task.add_done_callback(lambda _: then())
        return True

    def cancel(self, name: str) -> None:
        """End one, if it is under way and not the task that calls."""
        task = self._tasks.get(name)
        if task and task is not asyncio.current_task():
            task.cancel()

    async def ended(self, prefix: str, seconds_max: float) -> None:
        """Wait until those whose names begin so have ended, but no longer than that."""
        if tasks := [task for name, task in self._tasks.items() if name.startswith(prefix)]:
            await asyncio.wait(tasks, timeout=seconds_max)

    async def close(self) -> None:
        """Cancel all and wait for them."""
        left = list(self._tasks.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(name, None)
        if not task.cancelled() and (error := task.exception()):
            log.error("task_failed", task=name, exc_info=error)
