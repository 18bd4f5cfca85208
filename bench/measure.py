"""Two things measured side by side: A B A B …, so that a machine that drifts drifts for both."""

import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

ROUNDS = 7


@dataclass(frozen=True)
class Ratio:
    """How many times as fast (or as slow) ours is as the other, with the spread over the rounds."""

    name: str
    what: str
    ours: float
    other: float
    unit: str
    ratios: tuple[float, ...]

    def row(self) -> str:
        """One line of the table in docs/performance.md."""
        low, high = min(self.ratios), max(self.ratios)
        middle = statistics.median(self.ratios)
        return (
            f"| `{self.name}` | {self.what} | {self.ours:,.0f} {self.unit} | {self.other:,.0f} {self.unit} "
            f"| **{middle:.2f}** ({low:.2f} … {high:.2f}) |"
        )


async def side_by_side(
    name: str,
    what: str,
    ours: Callable[[], Awaitable[float]],
    other: Callable[[], Awaitable[float]],
    unit: str,
) -> Ratio:
    """Run both in turn; each returns its own figure in `unit`. One round of warming up is not counted."""
    pairs = []
    for number in range(ROUNDS + 1):
        pair = (await ours(), await other())
        if number:
            pairs.append(pair)
    a, b = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Ratio(name, what, a, b, unit, tuple(x / y for x, y in pairs))


def per_second(work: Callable[[], object], count: int) -> float:
    """How often `work` runs in a second, over `count` runs."""
    started = time.perf_counter()
    for _ in range(count):
        work()
    return count / (time.perf_counter() - started)


def machine() -> str:
    """What this was measured on, and how busy it was."""
    return (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f} at the start"
    )
