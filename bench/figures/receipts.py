"""Merkle logs as they grow: appends, proofs and verification, ours against pymerkle's, in memory and on disk.

Each side is a process with one log of the same leaves; their roots are compared at each size. Pymerkle's are its own
two: `InmemoryTree`, which keeps all its nodes, and `SqliteTree`, which keeps the hashes of leaves.
"""

import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field

import orjson

from bench.children import Child, child
from bench.measure import ROUNDS, Bar, Figure, Line, Pair, folder, line
from bench.parts.receipts import LEAF_BYTES, TOGETHER
from bench.plot import curve

SIZES = (1_000, 10_000, 100_000, 1_000_000)
PLACES = ("memory", "disk")
NAMES = ("ours", "pymerkle")
EACH = {"memory": 5_000, "disk": 1_000}
PROOFS = {"memory": 100, "disk": 25}
PROOF_LINES = {
    ("memory", "prove"): "both proofs of a leaf, in memory",
    ("memory", "verify"): "both verified",
    ("disk", "prove"): "both proofs of a leaf, from disk",
}
WEIGHED = 100
TEN_TIMES, NO_SLOWER, FLAT = Bar(10, at_least=True), Bar(1, at_least=False), Bar(1.05, at_least=False)


@dataclass
class Seen:
    """What was measured, in the units of the answers of `bench.parts.receipts`."""

    grown: dict[str, dict[int, Pair]] = field(default_factory=lambda: {where: {} for where in PLACES})
    each: dict[str, list[Pair]] = field(default_factory=dict)
    proofs: dict[tuple[str, str], dict[int, list[Pair]]] = field(
        default_factory=lambda: {kind: {} for kind in PROOF_LINES}
    )
    peaks: dict[int, Pair] = field(default_factory=dict)
    megabytes: dict[int, dict[str, float]] = field(default_factory=dict)


class Logs:
    """All four, told the same by turns."""

    def __init__(self, sides: dict[str, Child]) -> None:
        self._sides = sides

    def ask(self, where: str, *told: str | int) -> Pair:
        """What ours there answers, and pymerkle's."""
        ours, other = (
            orjson.loads(self._sides[f"{side}-{where}"].ask(orjson.dumps(told))) for side in ("ours", "other")
        )
        return ours, other

    def weigh(self) -> dict[str, float]:
        """What each holds, in MB."""
        assert len({side.ask(b'["root"]') for side in self._sides.values()}) == 1, "they are different logs"
        return {name: side.memory_bytes() / 1e6 for name, side in self._sides.items()}


def measure(rounds: int = ROUNDS, sizes: tuple[int, ...] = SIZES) -> Figure:
    """At each size proofs are measured, and appends all the way from the last but one to the last."""
    seen = Seen()
    with folder() as data, ExitStack() as running:
        sides = [f"{side}-{where}" for where in PLACES for side in ("ours", "other")]
        logs = Logs(
            {side: running.enter_context(child("bench.parts.receipts", side, str(data))) for side in sides}
        )
        for size in _steps(sizes):
            for where in PLACES:
                seen.grown[where][size] = logs.ask(where, "grow", size)
            if size in sizes:
                _look(logs, seen, size, rounds)
        for where, count in EACH.items():
            seen.each[where] = [logs.ask(where, "each", count) for _ in range(rounds + 1)][1:]
    return Figure(
        "receipts",
        "The log of receipts, against pymerkle",
        _lines(seen, sizes),
        {
            "receipts-appends.svg": _plot_appends(seen),
            **{f"receipts-proofs-{where}.svg": _plot_proofs(seen, where) for where in PLACES},
        },
        _notes(seen, sizes),
    )


def _steps(sizes: tuple[int, ...]) -> list[int]:
    step = sizes[-2] // 2
    return [*sizes[:-1], *range(sizes[-2] + step, sizes[-1] + 1, step)]


def _look(logs: Logs, seen: Seen, size: int, rounds: int) -> None:
    """All that is measured at each size."""
    for (where, what), found in seen.proofs.items():
        found[size] = [logs.ask(where, what, seed, PROOFS[where]) for seed in range(rounds + 1)][1:]
    _, seen.peaks[size] = (logs.ask(where, "peak", WEIGHED) for where in PLACES)
    seen.megabytes[size] = logs.weigh()


def _lines(seen: Seen, sizes: tuple[int, ...]) -> tuple[Line, ...]:
    first, last = sizes[0], sizes[-1]
    together = {where: list(pairs.values())[len(sizes) - 1 :] for where, pairs in seen.grown.items()}
    weighed = (
        f"peak of Python's memory while {WEIGHED} are appended, on disk, {last:,} leaves, against {first:,}"
    )
    return (
        line(f"appends, {TOGETHER:,} together, in memory", "/s", together["memory"], TEN_TIMES),
        line("appends, one by one, in memory", "/s", seen.each["memory"]),
        line(f"appends, {EACH['disk']:,} callers at once, on disk", "/s", seen.each["disk"], TEN_TIMES),
        line(f"appends, {TOGETHER:,} in one transaction, on disk", "/s", together["disk"]),
        *(
            line(f"{PROOF_LINES[kind]}, {size:,} leaves", "µs", pairs, NO_SLOWER)
            for kind, found in seen.proofs.items()
            for size, pairs in found.items()
        ),
        Line(weighed, "KB", (seen.peaks[last][0] / 1e3,), (seen.peaks[first][0] / 1e3,), FLAT),
    )


def _notes(seen: Seen, sizes: tuple[int, ...]) -> tuple[str, ...]:
    first, last = seen.megabytes[sizes[0]], seen.megabytes[sizes[-1]]
    held = "; ".join(
        f"{name.replace('-', ', ').replace('other', 'pymerkle')}: {first[name]:,.0f} and {last[name]:,.0f} MB"
        for name in last
    )
    return (
        f"Leaves of {LEAF_BYTES} bytes. {TOGETHER:,} together: from {sizes[-2]:,} leaves to {sizes[-1]:,}; one by one: "
        "after these.",
        "In memory nearly all that ours takes is SHA-256, twice a leaf: with longer leaves, of which each side hashes "
        "as much, the two come closer. One by one, each leaf with calls of its own, ours stays far below ten times.",
        "On disk callers share a commit, and pymerkle makes one for each leaf. In a large transaction ours is slower: "
        "it writes three rows a leaf, to prove from, where pymerkle writes one and hashes anew for each proof.",
        f"Resident with {sizes[0]:,} and with {sizes[-1]:,} leaves: {held}. In memory ours keeps every hash here, to "
        "prove from; who only appends keeps a kilobyte.",
    )


def _plot_appends(seen: Seen) -> str:
    grown = seen.grown["memory"]
    return curve(
        f"Appends as the log grows, {TOGETHER:,} together, in memory",
        "leaves",
        "thousand leaves per second",
        {
            name: [(float(size), pair[n] / 1e3) for size, pair in grown.items()]
            for n, name in enumerate(NAMES)
        },
    )


def _plot_proofs(seen: Seen, where: str) -> str:
    found = {
        size: [statistics.median(values) for values in zip(*pairs, strict=True)]
        for size, pairs in seen.proofs[where, "prove"].items()
    }
    return curve(
        f"Both proofs of a leaf ({where})",
        "leaves",
        "microseconds",
        {
            name: [(float(size), medians[n]) for size, medians in found.items()]
            for n, name in enumerate(NAMES)
        },
        log_x=True,
    )
