"""Escrow jobs at a real mint (nutshell), from the request to the coins in the provider's hands, against what it allows.

A job is two swaps: the customer's coins into a lock of two of three, and out of it with two signatures. The other side
is a bare client that sends ready-made requests of the same two shapes to the same mint, as many at once as our wallets
may. Ours are three posts, of a provider, a customer and an arbiter, each a process with default settings, and the
embedded relay in a fourth. Until the last job is PAID at the provider the clock runs; coins are made before it starts.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.children import Child, child
from bench.measure import ROUNDS, Bar, Figure, Pair, folder, line, spread
from bench.parts.ecash import replay
from bench.parts.escrow import WINDOW
from bench.parts.escrow_swaps import Swaps
from bench.plot import bars
from tradepost.mint_process import MintProcess
from tradepost.mint_venv import mint_python
from wallet.mint import REQUESTS_AT_ONCE_MAX

JOBS, WARM_JOBS = 60, 16
SWAPS_PER_JOB = 2
PARALLEL = 2 * REQUESTS_AT_ONCE_MAX  # as many as the customer and the provider may have open together
ROUNDS_MAX = 2


@dataclass
class Market:
    """The parties, and what they cost in the rounds so far."""

    mint: str
    parties: dict[str, Child]
    paid: int = 0
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def settle(self, jobs: int) -> float:
        """Jobs per second, until the last one is paid."""
        customer, provider = self.parties["customer"], self.parties["provider"]
        customer.ask(b"%d" % -jobs)
        before, asked = self._spent(), self._asked()
        self.paid += jobs
        started = time.perf_counter()
        customer.ask(b"%d" % jobs)
        provider.ask(b"%d" % self.paid)
        seconds = time.perf_counter() - started
        self.asked += self._asked() - asked
        for name, spent in self._spent().items():
            self.cpu_ms.setdefault(name, []).append((spent - before[name]) / jobs * 1e3)
        return jobs / seconds

    def allowed(self, jobs: int) -> float:
        """Jobs per second that the mint could have settled: its swaps per second, by those that a job needs."""
        return asyncio.run(self._allowed(jobs))

    async def _allowed(self, jobs: int) -> float:
        swaps = await Swaps.at(self.mint)
        locking = await swaps.locking(jobs)
        started = time.perf_counter()
        answers = await replay(self.mint, locking, PARALLEL)
        seconds = time.perf_counter() - started
        redeeming = swaps.redeeming(answers)
        started = time.perf_counter()
        await replay(self.mint, redeeming, PARALLEL)
        return 2 * jobs / (seconds + time.perf_counter() - started) / SWAPS_PER_JOB

    def _spent(self) -> dict[str, float]:
        return {name: party.cpu_seconds() for name, party in self.parties.items()}

    def _asked(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for name in ("customer", "provider", "arbiter"):
            total += Counter(msgspec.json.decode(self.parties[name].ask(b"0"), type=dict[str, int]))
        return total


def measure(rounds: int = ROUNDS, jobs: int = JOBS, warm_jobs: int = WARM_JOBS) -> Figure:
    """So many jobs on each side of a round, each side first in turn: the mint slows as its books grow."""
    pairs: list[Pair] = []
    with folder() as data, _market(data) as market:
        market.settle(warm_jobs)
        market.allowed(warm_jobs)
        market.cpu_ms.clear()
        market.asked.clear()
        for number in range(min(rounds, ROUNDS_MAX)):
            sides = [market.settle, market.allowed]
            rates = {side: side(jobs) for side in (sides if number % 2 else reversed(sides))}
            pairs.append((rates[market.settle], rates[market.allowed]))
    ours, other = zip(*pairs, strict=True)
    return Figure(
        "escrow",
        "Escrow jobs, against what the mint allows",
        (
            line(
                f"settled jobs per second, {WINDOW} at once, against the mint's swaps per second ÷ {SWAPS_PER_JOB}",
                "/s",
                pairs,
                Bar(0.85, at_least=True),
            ),
        ),
        {
            "escrow.svg": bars(
                "Escrow jobs at one nutshell mint",
                "jobs per second",
                {f"{WINDOW} at once": {"ours": ours, "ready-made swaps, two for a job": other}},
            )
        },
        _notes(market, len(pairs) * jobs),
    )


def _notes(market: Market, jobs: int) -> tuple[str, ...]:
    requests = ", ".join(f"{kind}: {count / jobs:.2f}" for kind, count in sorted(market.asked.items()))
    cpu = ", ".join(f"{name} {spread(ms, 1)} ms" for name, ms in market.cpu_ms.items())
    return (
        f"Requests to the mint per job (swaps by their coins in → out): {requests}.",
        f"CPU per job: {cpu}.",
    )


@contextmanager
def _market(data: Path) -> Iterator[Market]:
    mint = MintProcess(asyncio.run(mint_python()), data / "mint")
    with ExitStack() as stack:
        mint.start()
        stack.callback(mint.stop)
        parties: dict[str, Child] = {}

        def open_party(role: str, *others: str) -> str:
            parties[role] = stack.enter_context(
                child("bench.parts.escrow", role, str((data / role).absolute()), *others)
            )
            return parties[role].greeting

        relay = open_party("relay")
        arbiter = open_party("arbiter", relay, mint.url)
        provider = open_party("provider", relay, mint.url, arbiter)
        open_party("customer", relay, mint.url, arbiter, provider)
        yield Market(mint.url, parties)
