"""The front desk: signed requests against the same desk without checks, many listeners, and a store that fills."""

import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import orjson

from bench.children import Child, child
from bench.measure import ROUNDS, Bar, Figure, Line, Pair, folder, line, side_by_side
from bench.parts.http_load import Asks, Done, Gets, Listens

GETS, CONNECTIONS = 4000, 32
LISTENERS, EVENTS, PAUSE_MS = 1000, 20, 500
LISTENERS_EACH = 100  # as many as one caller may have
STORED, TEMPLATES = 10_000, 50
ASKS, ORDERS = 500, 200
LATE_MS_MAX = 250.0
FUNDS_SAT = 1_000_000
SIXTY, IN_TIME, TWICE = Bar(0.6, at_least=True), Bar(1, at_least=False), Bar(2, at_least=False)


@dataclass(frozen=True)
class Desk:
    """One running desk, and those who call it."""

    process: Child
    load: Child
    url: str
    agents: dict[str, str]

    def ask(self, wish: Gets | Asks | Listens) -> Done:
        return msgspec.json.decode(self.load.ask(msgspec.json.encode(wish)), type=Done)

    def call(
        self, method: str, path: str, wish: Any = None, token: str = ""
    ) -> Any:  # nobody's, without a token
        body = "" if wish is None else orjson.dumps(wish).decode()
        return orjson.loads(bytes(self.ask(Asks(token, [(method, self.url + path, body)])).answers[0]))

    def funded(self) -> str:
        """A ticket with sats."""
        ticket: str = self.call("POST", "/v1/jobs", self.job())["payment"]["ticket"]
        deposit = self.call("POST", "/v1/balance/invoices", {"amount_sat": FUNDS_SAT}, ticket)
        self.process.ask(f"pay {deposit['invoice']}".encode())
        assert self.call("GET", f"/v1/balance/deposits/{deposit['id']}", token=ticket)["state"] == "done"
        return ticket

    def job(self) -> dict[str, Any]:
        """A short one, of the agent that takes a sat for it."""
        return {"agent": self.agents["echo"], "input": "once more", "seconds_max": 60}

    def begin(self, ticket: str, count: int) -> str:
        """Have so many jobs done; returns the id of the last one."""
        wish = orjson.dumps(self.job()).decode()
        done = self.ask(Asks(ticket, [("POST", f"{self.url}/v1/jobs", wish)] * count, jobs=True))
        told: str = orjson.loads(bytes(done.answers[-1]))["id"]
        return told

    def jobs_per_second(self, gets: int) -> float:
        """How often in a second a caller can look at a job that is under way."""
        job = orjson.dumps({"agent": self.agents["patient"], "input": "until I say so"}).decode()
        return gets / self.ask(Gets(f"{self.url}/v1/jobs", gets, CONNECTIONS, job)).seconds

    def balances_per_second(self, gets: int) -> float:
        """How often in a second a caller can see what it has."""
        return gets / self.ask(Gets(f"{self.url}/v1/balance", gets, CONNECTIONS)).seconds

    def times_ms(self, ticket: str, method: str, path: str, wish: Any, count: int) -> list[float]:
        body = orjson.dumps(wish).decode() if wish else ""
        done = self.ask(Asks(ticket, [(method, self.url + path, body)] * count, jobs=wish is not None))
        return [seconds * 1e3 for seconds in done.each]


def measure(
    rounds: int = ROUNDS,
    gets: int = GETS,
    listeners: int = LISTENERS,
    events: int = EVENTS,
    stored: int = STORED,
    templates: int = TEMPLATES,
    asks: int = ASKS,
    orders: int = ORDERS,
) -> Figure:
    """Callers are a process of their own in all three parts."""
    with folder() as data, child("bench.parts.http_load") as load, ExitStack() as running:
        ours, bare, full = (
            running.enter_context(_desk(data / name, load, *more))
            for name, *more in (("ours",), ("bare", "unchecked"), ("full",))
        )
        jobs = side_by_side(lambda: ours.jobs_per_second(gets), lambda: bare.jobs_per_second(gets), rounds)
        balances = side_by_side(
            lambda: ours.balances_per_second(gets), lambda: bare.balances_per_second(gets), rounds
        )
        late = [_late(ours, listeners, events) for _ in range(rounds)]
        growth = _growth(full, ours, rounds, stored, templates, asks, orders)
    what = f"p99 of one request at a time, {stored:,} more jobs in the store"
    return Figure(
        "http",
        "The front desk over HTTP",
        (
            line("GET /v1/jobs/{id}, each signed (NIP-98), against no checks", "/s", jobs, SIXTY),
            line("GET /v1/balance, the same", "/s", balances),
            Line(
                f"event to listener, p99, {listeners:,} listeners, against {LATE_MS_MAX:.0f} ms",
                "ms",
                tuple(_p99(one) for one in late),
                (LATE_MS_MAX,) * rounds,
                IN_TIME,
            ),
            *(line(f"{name}, {what}", "ms", pairs, TWICE) for name, pairs in growth.items()),
        ),
        notes=(
            f"Signed requests: {CONNECTIONS} connections, kept alive; every signature is another one, made before the "
            "time is taken. No checks: the same desk and the same bytes, but nobody looks who calls, or how often. The "
            "checks take as long whatever is asked for: of an answer as short as a balance they are a larger part.",
            f"Listeners: Server-Sent Events of {-(-listeners // LISTENERS_EACH)} jobs, {events} events each, from the "
            "moment that the desk has one to when its listener has read it. Median "
            f"{statistics.median([ms for one in late for ms in one]):.0f} ms.",
            "A job in the store is a finished and paid one of the same caller, with its rows in the books. Either "
            f"store has {templates} of them, so that both list a full page. Of create_job the time is that of the "
            "answer; the job ends before the next one begins.",
        ),
    )


@contextmanager
def _desk(data: Path, load: Child, *more: str) -> Iterator[Desk]:
    with child("bench.parts.desk", str(data.absolute()), *more) as process:
        told = orjson.loads(process.greeting)
        yield Desk(process, load, told.pop("url"), told)


def _late(desk: Desk, listeners: int, events: int) -> list[float]:
    """In ms, of each event at each listener. Each job is watched by as many as one caller may have."""
    wish = {"agent": desk.agents["patient"], "input": "until I say so"}
    jobs = [desk.call("POST", "/v1/jobs", wish) for _ in range(-(-listeners // LISTENERS_EACH))]
    streams = [(desk.url + job["links"]["events"], job["ticket"]) for job in jobs] * LISTENERS_EACH
    desk.ask(Listens(streams[:listeners], events))
    desk.process.ask(f"tell {events} {PAUSE_MS} {' '.join(job['id'] for job in jobs)}".encode())
    done = msgspec.json.decode(desk.load.read(), type=Done)
    for job in jobs:  # nobody listens to them any more
        desk.call("POST", f"{job['links']['self']}/cancel", {}, job["ticket"])
    return [seconds * 1e3 for seconds in done.each]


def _growth(
    full: Desk, empty: Desk, rounds: int, stored: int, templates: int, asks: int, orders: int
) -> dict[str, list[Pair]]:
    """By operation, the p99 of each round in ms."""
    tickets = {desk.url: desk.funded() for desk in (full, empty)}
    jobs = {desk.url: desk.begin(tickets[desk.url], templates) for desk in (full, empty)}
    full.process.ask(f"fill {stored}".encode())
    found: dict[str, list[Pair]] = {}
    for name, path in (("get_job", "/v1/jobs/"), ("list_jobs", "/v1/jobs"), ("get_balance", "/v1/balance")):

        def get(desk: Desk, path: str = path) -> float:
            whole = path + jobs[desk.url] if path.endswith("/") else path
            return _p99(desk.times_ms(tickets[desk.url], "GET", whole, None, asks))

        found[name] = side_by_side(lambda get=get: get(full), lambda get=get: get(empty), rounds)

    def create(desk: Desk) -> float:
        return _p99(desk.times_ms(tickets[desk.url], "POST", "/v1/jobs", desk.job(), orders))

    found["create_job"] = side_by_side(lambda: create(full), lambda: create(empty), rounds)
    return found


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]
