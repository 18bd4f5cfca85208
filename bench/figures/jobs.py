"""A free job, against the same job by hand on nostr-sdk (bench/rival.py): the same relay, the same load client.

Ours is a real process with default settings: inbox and outbox durable, `synchronous=FULL`. The other keeps nothing.
"""

import statistics

from bench.children import child
from bench.measure import ROUNDS, Bar, Figure, Line, folder, spread
from bench.plot import bars, curve
from bench.sides import Side, agent, relay_and_client

ALONE, MANY, WINDOW = 300, 2000, 200
OURS, RIVAL = "ours, durable", "nostr-sdk by hand, nothing durable"


def measure(rounds: int = ROUNDS, alone: int = ALONE, many: int = MANY, window: int = WINDOW) -> Figure:
    """`alone` jobs one after the other, then `many` with `window` of them open at a time."""
    bare_us: list[float] = []
    with folder() as data, relay_and_client() as (url, client), agent(url, data) as ours:
        tells = ["--processing"] if client.run(5, agent=ours).feedbacks else []
        with child("bench.rival", url, *tells) as rival:
            sides = Side(ours), Side(rival)
            for number in range(rounds + 1):
                if number == 1:
                    sides, bare_us = (sides[0].warmed_up(), sides[1].warmed_up()), []
                bare_us.append(statistics.median(client.run(alone).latencies) * 1e6)
                for side in sides:
                    side.one_at_a_time(client, alone)
                for side in sides:
                    side.many_at_once(client, many, window)
    return Figure(
        "jobs",
        "A free job, against the same by hand on nostr-sdk",
        _lines(*sides, window),
        _plots(*sides, window),
        _notes(*sides, bare_us),
    )


def _lines(ours: Side, rival: Side, window: int) -> tuple[Line, ...]:
    def line(what: str, unit: str, values: str, bar: Bar) -> Line:
        return Line(what, unit, tuple(getattr(ours, values)), tuple(getattr(rival, values)), bar)

    half = Bar(0.5, at_least=False)
    return (
        line("median latency, one job at a time", "ms", "latency_ms", Bar(1.0, at_least=False)),
        line(f"jobs per second, {window} at once", "/s", "per_second", Bar(1.5, at_least=True)),
        line(f"CPU of the agent per job, {window} at once", "ms", "cpu_many_ms", half),
        line("CPU of the agent per job, one at a time", "ms", "cpu_alone_ms", half),
    )


def _plots(ours: Side, rival: Side, window: int) -> dict[str, str]:
    percent = [float(n) for n in range(1, 100)]
    sides = {OURS: ours, RIVAL: rival}
    return {
        "jobs-latency.svg": curve(
            "Latency of a free job, one at a time",
            "percent of jobs that took no longer",
            "milliseconds",
            {
                name: list(zip(percent, statistics.quantiles(side.latencies_ms, n=100), strict=True))
                for name, side in sides.items()
            },
        ),
        "jobs-rate.svg": bars(
            "Free jobs per second",
            "jobs per second",
            {f"{window} at once": {name: side.per_second for name, side in sides.items()}},
        ),
        "jobs-cpu.svg": bars(
            "CPU of the agent for a free job",
            "milliseconds of CPU per job",
            {
                f"{window} at once": {name: side.cpu_many_ms for name, side in sides.items()},
                "one at a time": {name: side.cpu_alone_ms for name, side in sides.items()},
            },
        ),
    }


def _notes(ours: Side, rival: Side, bare_us: list[float]) -> tuple[str, ...]:
    return (
        f"A bare round trip through the same relay, from publishing to receiving back: {spread(bare_us)} µs.",
        f"Feedback events (kind 7000) per job: ours {statistics.mean(ours.feedbacks):.2f}, "
        f"nostr-sdk {statistics.mean(rival.feedbacks):.2f}; one result each.",
        f"Latency over all rounds, 5th and 95th percentile: ours {_tails(ours)}, nostr-sdk {_tails(rival)}.",
    )


def _tails(side: Side) -> str:
    twentieths = statistics.quantiles(side.latencies_ms, n=20)
    return f"{twentieths[0]:.2f} and {twentieths[-1]:.2f} ms"
