"""Posts with 10 and with 100 agents, against one with one: the same jobs, addressed to all of them by turns.

Each post is a process on a relay of its own with a client of its own; what its agents share is the process, its
database and its connection to the relay, which tells each of them of every request.
"""

from contextlib import ExitStack

from bench.measure import ROUNDS, Figure, Line, folder
from bench.plot import bars
from bench.sides import Client, Side, agent, relay_and_client

COUNTS = (1, 10, 100)
ALONE, MANY, WINDOW = 200, 1000, 100


def measure(
    rounds: int = ROUNDS,
    *,
    counts: tuple[int, ...] = COUNTS,
    alone: int = ALONE,
    many: int = MANY,
    window: int = WINDOW,
) -> Figure:
    """`alone` jobs one after the other, then `many` with `window` open at a time, of each post by turns.

    The first of `counts` is what the others are compared with.
    """
    with ExitStack() as stack:
        clients: dict[int, Client] = {}
        sides: dict[int, Side] = {}
        for count in counts:
            url, clients[count] = stack.enter_context(relay_and_client())
            data = stack.enter_context(folder())
            sides[count] = Side(stack.enter_context(agent(url, data, count=count)))
        for number in range(rounds + 1):
            if number == 1:  # the first round warms up
                sides = {count: side.warmed_up() for count, side in sides.items()}
            for count, side in sides.items():
                side.one_at_a_time(clients[count], alone)
                side.many_at_once(clients[count], many, window)
    one, lines = sides[counts[0]], []
    for count in counts[1:]:
        lines += _lines(count, sides[count], one, window)
    return Figure("agents", "Many agents in one post, against one", tuple(lines), _plots(sides, window))


def _lines(count: int, many: Side, one: Side, window: int) -> list[Line]:
    def line(what: str, unit: str, values: str) -> Line:
        ours, other = tuple(getattr(many, values)), tuple(getattr(one, values))
        return Line(f"{count} agents: {what}", unit, ours, other)

    return [
        line("median latency, one job at a time", "ms", "latency_ms"),
        line(f"jobs per second, {window} at once", "/s", "per_second"),
        line(f"CPU of the post per job, {window} at once", "ms", "cpu_many_ms"),
    ]


def _plots(sides: dict[int, Side], window: int) -> dict[str, str]:
    def drawn(title: str, unit: str, values: str) -> str:
        return bars(
            title, unit, {str(count): {"agents": getattr(side, values)} for count, side in sides.items()}
        )

    return {
        "agents-latency.svg": drawn(
            "Median latency by the number of agents, one job at a time", "milliseconds", "latency_ms"
        ),
        "agents-rate.svg": drawn(
            f"Free jobs per second by the number of agents, {window} at once", "jobs per second", "per_second"
        ),
    }
