"""Two things measured side by side: A B A B …, so that a machine that drifts drifts for both."""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROUNDS = 7


@dataclass(frozen=True)
class Bar:
    """What a ratio must reach: `at_least` so much, or at most."""

    value: float
    at_least: bool

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.value:g}"

    def is_met(self, ratio: float) -> bool:
        """Judged as printed: with two digits."""
        return round(ratio, 2) >= self.value if self.at_least else round(ratio, 2) <= self.value


@dataclass(frozen=True)
class Line:
    """One row of the table: ours and the other in `unit`, one value a round; the ratio is ours / other, by rounds."""

    what: str
    unit: str
    ours: tuple[float, ...]
    other: tuple[float, ...]
    bar: Bar | None = None

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(a / b for a, b in zip(self.ours, self.other, strict=True))

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class Figure:
    """What one measurement brought: rows, pictures (file name: SVG), and sentences beneath them."""

    name: str
    title: str
    lines: tuple[Line, ...]
    plots: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


Pair = tuple[float, float]


def side_by_side(ours: Callable[[], float], other: Callable[[], float], rounds: int) -> list[Pair]:
    """Run both in turn; each returns its own figure. One round of warming up is not counted."""
    return [(ours(), other()) for _ in range(rounds + 1)][1:]


def line(what: str, unit: str, pairs: list[Pair], bar: Bar | None = None) -> Line:
    """A row of what `side_by_side` brought."""
    ours, other = zip(*pairs, strict=True)
    return Line(what, unit, ours, other, bar)


def per_second(work: Callable[[], object], count: int) -> float:
    """How often `work` runs in a second, over `count` runs."""
    started = time.perf_counter()
    for _ in range(count):
        work()
    return count / (time.perf_counter() - started)


def spread(values: tuple[float, ...] | list[float], digits: int = 0) -> str:
    """Median, lowest and highest, to be read by people."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} … {high:,.{digits}f})"


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder on this repository's disk: where a system's own one is in memory, an fsync costs nothing."""
    with tempfile.TemporaryDirectory(prefix=".data-", dir=Path(__file__).parent) as name:
        yield Path(name)


def machine() -> str:
    """What this was measured on, and how busy it was."""
    return (
        f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, an fsync of a page {_fsync_us():,.0f} µs, "
        f"load {os.getloadavg()[0]:.1f} at the start"
    )


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "a processor"
    names = (row.partition(":")[2].strip() for row in text.splitlines() if row.startswith("model name"))
    return next(names, "a processor")


def _fsync_us(count: int = 50) -> float:
    with folder() as path, (path / "page").open("wb", buffering=0) as file:

        def write() -> None:
            file.write(bytes(4096))
            os.fsync(file.fileno())

        return 1e6 / per_second(write, count)
