"""Events from wire bytes to the subscriber, against nothing but their verification by coincurve.

Ours reads the relay's message, makes the event, checks its id and signature, drops what was met before and calls the
subscriber. The other has its hex read and its ids given, and does `coincurve.PublicKeyXOnly(key).verify(…)`. A second
line compares with verification alone, all authors' points at hand, as ours has those of authors met before. A third
of the events passes before ours is counted: in a flood a second process starts to verify, which takes 0.3 s.
"""

import statistics

import msgspec

from bench.children import child
from bench.measure import ROUNDS, Bar, Figure, line
from bench.parts.ingest import Speeds
from bench.plot import bars

EVENTS = 45_000


def measure(rounds: int = ROUNDS, events: int = EVENTS) -> Figure:
    """`events` different events of 1.2 KB in each round."""
    measured: dict[str, list[Speeds]] = {"one": [], "two": []}
    with child("bench.parts.ingest", str(events)) as process:
        for number in range(rounds + 1):
            for cores, speeds in measured.items():
                answer = msgspec.json.decode(process.ask(cores.encode()), type=Speeds)
                if number:  # the first round warms up
                    speeds.append(answer)
    one, two = measured.values()
    both = statistics.median(speed.bare_all / speed.bare for speed in two)
    return Figure(
        "ingestion",
        "Events in, against bare verification",
        (
            line("one core, against bare coincurve on it", "/s", _pairs(one), Bar(0.85, at_least=True)),
            line(
                "one core, against bare coincurve with all keys made before",
                "/s",
                [(speed.ours, speed.bare_known) for speed in one],
            ),
            line("two cores, against bare coincurve on one", "/s", _pairs(two), Bar(1.7, at_least=True)),
        ),
        {
            "ingestion.svg": bars(
                "Events from wire bytes to the subscriber",
                "events per second",
                {
                    name: {
                        "ours": [speed.ours for speed in speeds],
                        "bare coincurve, one core": [speed.bare for speed in speeds],
                        "bare coincurve, a thread on each core": [speed.bare_all for speed in speeds],
                    }
                    for name, speeds in (("one core", one), ("two cores", two))
                },
            )
        },
        (f"Bare coincurve in two threads comes to {both:.2f} times its own figure in one.",),
    )


def _pairs(speeds: list[Speeds]) -> list[tuple[float, float]]:
    return [(speed.ours, speed.bare) for speed in speeds]
