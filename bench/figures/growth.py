"""What a free job costs an agent that has done many already, against one that has done none, by turns on one relay."""

import statistics
import time
from pathlib import Path

from bench.measure import ROUNDS, Bar, Figure, Line, folder
from bench.parts.fill import fill
from bench.plot import curve
from bench.sides import Client, Side, agent, relay_and_client

SIZES = (10_000, 100_000, 1_000_000)
TEMPLATES = 50  # jobs really done, whose rows are copied
ALONE, MANY, WINDOW = 100, 500, 50
IDLE_SECONDS = 16  # the outbox is swept every 15
ROUNDS_MAX = 5
FLAT = Bar(1.1, at_least=False)
COSTS = {"latency_ms": "median latency, one at a time", "cpu_many_ms": f"CPU per job, {WINDOW} at once"}


def measure(
    rounds: int = ROUNDS,
    sizes: tuple[int, ...] = SIZES,
    alone: int = ALONE,
    many: int = MANY,
    idle_seconds: float = IDLE_SECONDS,
) -> Figure:
    """For each of `sizes`, a store with so many finished jobs against an empty one."""
    compared: dict[int, tuple[Side, Side]] = {}
    notes: list[str] = []
    for size in sizes:
        with relay_and_client() as (url, client), folder() as data:
            seconds = _fill(url, client, data / "full", size)
            started = time.perf_counter()
            with agent(url, data / "full") as full, agent(url, data / "empty") as empty:
                notes.append(
                    f"{size:,} finished jobs: filled in {seconds:.0f} s, {_megabytes(data / 'full'):,.0f} MB, "
                    f"both agents open after {time.perf_counter() - started:.1f} s."
                )
                compared[size] = _compare(
                    client, Side(full), Side(empty), min(rounds, ROUNDS_MAX), alone, many
                )
                if size == max(sizes):
                    notes.append(_idle(compared[size], size, idle_seconds))
    lines = tuple(
        Line(
            f"{what}, {size:,} finished jobs",
            "ms",
            tuple(getattr(full, cost)),
            tuple(getattr(empty, cost)),
            FLAT,
        )
        for cost, what in COSTS.items()
        for size, (full, empty) in compared.items()
    )
    plots = {f"growth-{cost.split('_')[0]}.svg": _plot(cost, what, compared) for cost, what in COSTS.items()}
    return Figure("growth", "A free job as finished jobs pile up", lines, plots, tuple(notes))


def _fill(url: str, client: Client, data: Path, size: int) -> float:
    """Make a post with `size` finished jobs; returns the seconds it took."""
    with agent(url, data) as process:
        client.run(TEMPLATES, agent=process)
    started = time.perf_counter()
    fill(data / "post.sqlite", size)
    return time.perf_counter() - started


def _compare(
    client: Client, full: Side, empty: Side, rounds: int, alone: int, many: int
) -> tuple[Side, Side]:
    for number in range(rounds + 1):
        if number == 1:
            full, empty = full.warmed_up(), empty.warmed_up()
        for side in (full, empty):
            side.one_at_a_time(client, alone)
        for side in (full, empty):
            side.many_at_once(client, many, WINDOW)
    return full, empty


def _idle(sides: tuple[Side, Side], size: int, seconds: float) -> str:
    """What the two cost when nobody asks."""
    before = [side.agent.cpu_seconds() for side in sides]
    time.sleep(seconds)
    full, empty = ((side.agent.cpu_seconds() - was) * 1e3 for side, was in zip(sides, before, strict=True))
    costs = f"{full:.0f} ms with {size:,} finished jobs, {empty:.0f} ms with none"
    return f"CPU while nobody asks, in {seconds:.0f} s: {costs}."


def _plot(cost: str, what: str, compared: dict[int, tuple[Side, Side]]) -> str:
    names = ("so many finished jobs", "empty store, same rounds")
    return curve(
        f"Free job: {what}",
        "finished jobs in the store",
        "milliseconds",
        {
            name: [
                (float(size), statistics.median(getattr(sides[n], cost))) for size, sides in compared.items()
            ]
            for n, name in enumerate(names)
        },
        log_x=True,
    )


def _megabytes(data: Path) -> float:
    return sum(file.stat().st_size for file in data.rglob("*") if file.is_file()) / 1e6
