"""What the figures about jobs share: a relay with a client on it, agents that are asked, and what that cost them."""

import statistics
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.children import Child, child
from bench.parts.load import Done, Job


class Client:
    """The load client."""

    def __init__(self, process: Child) -> None:
        self._process = process

    def run(self, jobs: int, *, window: int = 1, agent: Child | None = None) -> Done:
        """So many jobs of an agent, at most `window` of them open at a time; without an agent, bare round trips."""
        job = Job(jobs, window, agent.greeting if agent else "")
        return msgspec.json.decode(self._process.ask(msgspec.json.encode(job)), type=Done)


@dataclass
class Side:
    """One agent, and what it did in each round. CPU is all of its process's, user and system."""

    agent: Child
    latency_ms: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    cpu_alone_ms: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    cpu_many_ms: list[float] = field(default_factory=list)
    feedbacks: list[float] = field(default_factory=list)

    def one_at_a_time(self, client: Client, jobs: int) -> None:
        """Latencies, with nothing else to do."""
        done, cpu_ms = self._run(client, jobs, 1)
        latencies_ms = [seconds * 1e3 for seconds in done.latencies]
        self.latencies_ms += latencies_ms
        self.latency_ms.append(statistics.median(latencies_ms))
        self.cpu_alone_ms.append(cpu_ms)

    def many_at_once(self, client: Client, jobs: int, window: int) -> None:
        """Jobs per second, with `window` of them always open."""
        done, cpu_ms = self._run(client, jobs, window)
        self.per_second.append(jobs / done.seconds)
        self.cpu_many_ms.append(cpu_ms)

    def warmed_up(self) -> "Side":
        """The same agent without the rounds so far."""
        return Side(self.agent)

    def _run(self, client: Client, jobs: int, window: int) -> tuple[Done, float]:
        before = self.agent.cpu_seconds()
        done = client.run(jobs, window=window, agent=self.agent)
        self.feedbacks.append(done.feedbacks / jobs)
        return done, (self.agent.cpu_seconds() - before) / jobs * 1e3


@contextmanager
def relay_and_client(relays: int = 1) -> Iterator[tuple[str, Client]]:
    """A relay's URL (those of several with commas), and a client of it."""
    with child("bench.parts.relay", str(relays)) as relay, child("bench.parts.load", relay.greeting) as load:
        yield relay.greeting, Client(load)


def agent(url: str, data: Path, *, count: int = 1) -> AbstractContextManager[Child]:
    """Our agent on a relay, with its data in a folder; or so many agents in one post."""
    return child("bench.parts.agent", url, str(data.absolute()), str(count))
