"""A post on 3 and on 10 relays, against the same on one: its jobs, and the events it takes in.

An agent and its customer are on the same relays: each request comes to the agent from all of them, each answer goes to
all of them, and the customer takes the first. All relays of a set are one process, so that they take one core and no
more; the agent is a process with default settings. Ingestion: all relays tell the same events.
"""

import statistics
from contextlib import ExitStack

from bench.children import child
from bench.measure import ROUNDS, Bar, Figure, Line, folder
from bench.plot import bars
from bench.sides import Client, Side, agent, relay_and_client

COUNTS = (1, 3, 10)
ALONE, MANY, WINDOW = 100, 600, 100
EVENTS = 9_000
CPU_MAX = {3: 2.5, 10: 6.5}  # times the CPU of a job at one relay


def measure(
    rounds: int = ROUNDS,
    *,
    counts: tuple[int, ...] = COUNTS,
    alone: int = ALONE,
    many: int = MANY,
    window: int = WINDOW,
    events: int = EVENTS,
) -> Figure:
    """`alone` jobs one after the other, `many` with `window` open at a time, and `events` from each relay.

    The first of `counts` is what the others are compared with.
    """
    taken: dict[int, list[float]] = {count: [] for count in counts}
    with ExitStack() as stack:
        ingest = stack.enter_context(child("bench.parts.ingest_many", str(events)))
        clients: dict[int, Client] = {}
        sides: dict[int, Side] = {}
        for count in counts:
            url, clients[count] = stack.enter_context(relay_and_client(count))
            data = stack.enter_context(folder())
            sides[count] = Side(stack.enter_context(agent(url, data)))
        for number in range(rounds + 1):
            if number == 1:  # the first round warms up
                sides = {count: side.warmed_up() for count, side in sides.items()}
                taken = {count: [] for count in counts}
            for count, side in sides.items():
                side.one_at_a_time(clients[count], alone)
                side.many_at_once(clients[count], many, window)
                taken[count].append(float(ingest.ask(str(count).encode())))
    lines = [line for count in counts[1:] for line in _lines(count, sides[count], sides[1], taken, window)]
    return Figure(
        "relays", "On several relays, against one", tuple(lines), _plots(sides, taken), _notes(sides)
    )


def _lines(count: int, many: Side, one: Side, taken: dict[int, list[float]], window: int) -> list[Line]:
    def line(what: str, unit: str, values: str, bar: Bar | None = None) -> Line:
        ours, other = getattr(many, values), getattr(one, values)
        return Line(f"{count} relays: {what}", unit, tuple(ours), tuple(other), bar)

    return [
        line("median latency, one job at a time", "ms", "latency_ms"),
        line(f"jobs per second, {window} at once", "/s", "per_second"),
        line(
            f"CPU of the agent per job, {window} at once",
            "ms",
            "cpu_many_ms",
            Bar(CPU_MAX[count], at_least=False),
        ),
        Line(f"{count} relays: different events taken in", "/s", tuple(taken[count]), tuple(taken[1])),
    ]


def _plots(sides: dict[int, Side], taken: dict[int, list[float]]) -> dict[str, str]:
    return {
        "relays-jobs.svg": bars(
            "Free jobs per second by the number of relays",
            "jobs per second",
            {"jobs": {f"{count} relays": side.per_second for count, side in sides.items()}},
        ),
        "relays-events.svg": bars(
            "Different events taken in by the number of relays that tell them",
            "events per second",
            {"events": {f"{count} relays": values for count, values in taken.items()}},
        ),
    }


def _notes(sides: dict[int, Side]) -> tuple[str, ...]:
    told = ", ".join(f"{count}: {statistics.mean(side.feedbacks):.2f}" for count, side in sides.items())
    return (f"Feedback events (kind 7000) per job by the number of relays: {told}.",)
