"""What Prometheus reads of a post, on a port of its own. The table of it all: docs/operating.md.

What happens in this process is counted as it happens; what the database knows is read when somebody asks, at one moment
and beside the writers. No name, key or amount of a single caller is in it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from dvm import Post
from store import Snapshot
from tradepost.facade.running import queries_metrics as queries
from tradepost.facade.running.queries_metrics import Backlog
from tradepost.facade.web.sockets import listening
from wallet import WalletError
from wallet.queries_books import free_sat

MINT_SECONDS_MAX: Final = 3.0
ENDED_SECONDS: Final = 86_400
#: From a page of ours to a job that somebody waits for.
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The metrics of one front desk. Starts nothing; `read` is to be called by one reader at a time or by several."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._figures: tuple[Metric, ...] = ()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "tradepost_http_requests",
            "HTTP requests answered.",
            ("operation", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "tradepost_http_request_duration_seconds",
            "From a request read to its answer, or to the end of a stream.",
            ("operation",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._listeners = Gauge(
            "tradepost_http_event_listeners", "Callers who follow a job by SSE now.", registry=self._registry
        )
        self._refused = Counter(
            "tradepost_http_connections_refused",
            "Connections that were closed for passing a limit.",
            ("reason",),
            registry=self._registry,
        )
        self._connections = Gauge(
            "tradepost_http_connections", "Connections of callers that are open now.", registry=self._registry
        )

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """Count one request to the operation of that name."""
        self._requests.labels(operation, str(status)).inc()
        self._seconds.labels(operation).observe(seconds)

    def refused(self, reason: str) -> None:
        """Count one connection that was closed for passing a limit; `reason` is one of few words."""
        self._refused.labels(reason).inc()

    def ask(self, *, connections: Callable[[], float], listeners: Callable[[], float]) -> None:
        """Ask these how many there are, whenever somebody reads the metrics."""
        self._connections.set_function(connections)
        self._listeners.set_function(listeners)

    def collect(self) -> Iterable[Metric]:
        """What `read` found in the database and around us: prometheus-client asks for it while it writes."""
        return self._figures

    async def read(self, accept: str = "") -> tuple[str, bytes]:
        """Content type and text of all metrics now, in the form that `accept` (a header) asks for."""
        async with self._post.db.snapshot() as rows:
            figures = await _figures(rows, self._post.clock.now())
        self._figures = (*figures, _relays(self._post), _mints(await self.reached_mints()))
        write, media = choose_encoder(accept)
        return media, write(self._registry)  # no pause since the line above: nobody else's figures are in it

    async def reached_mints(self) -> dict[str, bool]:
        """Whether each of our mints answers, asked now."""
        mints = self._post.wallet.mints
        return dict(zip(mints, await asyncio.gather(*map(self._reaches, mints)), strict=True))

    async def _reaches(self, mint: str) -> bool:
        try:
            async with self._post.clock.timeout(MINT_SECONDS_MAX):
                await self._post.wallet.mint_info(mint)
        except (TimeoutError, WalletError):
            return False
        return True


@asynccontextmanager
async def serving_metrics(metrics: Metrics, host: str, port: int) -> AsyncIterator[None]:
    """Serve GET /metrics to whoever reaches that address, while the context lasts. Raises `OSError` if it is taken."""

    async def answer(request: web.Request) -> web.Response:
        media, body = await metrics.read(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": media})

    app = web.Application()
    app.router.add_get("/metrics", answer)
    async with listening(app, host, port):
        yield


async def _figures(rows: Snapshot, now: int) -> list[Metric]:
    since = now - ENDED_SECONDS
    ended = "open, or begun within a day and ended"
    states = (
        ("jobs", f"Jobs that others ordered of us: {ended}.", ("state",), await queries.jobs(rows, since)),
        ("orders", f"Jobs that we ordered: {ended}.", ("state",), await queries.orders(rows, since)),
        ("escrows", f"Escrows by our part in them: {ended}.", ("role", "stage"), await queries.escrows(rows, since)),
        ("payments", "Payments for jobs that have not come to rest.", ("state",), await queries.payments(rows)),
    )  # fmt: skip
    owed = ((key, msat / 1000) for key, msat in (await queries.caller_money(rows)).items())
    own = (((mint,), sat) for mint, sat in (await free_sat(rows)).items())
    return [
        *(_family(name, about, labels, counts.items()) for name, about, labels, counts in states),
        _family("callers_owed_sats", "What we owe callers, and hold for their jobs.", ("what",), owed),
        _family("wallet_sats", "Coins that are ours and free.", ("mint",), own),
        *_backlogs({**await queries.backlogs(rows), **await queries.caller_work(rows)}, now),
    ]


def _backlogs(waiting: Mapping[str, Backlog], now: int) -> list[Metric]:
    about = "What waits: outbox for relays, inbox for us, operations for mints, the others for their end."
    age = "How many seconds the oldest of it has waited."
    ages = {
        name: 0 if one.oldest_at is None else max(0, now - one.oldest_at) for name, one in waiting.items()
    }
    return [
        _family("backlog", about, ("of",), (((name,), one.count) for name, one in waiting.items())),
        _family(
            "backlog_oldest_seconds", age, ("of",), (((name,), seconds) for name, seconds in ages.items())
        ),
    ]


def _relays(post: Post) -> Metric:
    health = post.pool.health()
    found = (((url,), url in health and health[url].connected) for url in post.pool.urls)
    return _family("relay_connected", "Whether our relays are connected (1).", ("relay",), found)


def _mints(reached: Mapping[str, bool]) -> Metric:
    found = (((mint,), is_reached) for mint, is_reached in reached.items())
    return _family("mint_reachable", "Whether our mints answer, asked just now (1).", ("mint",), found)


def _family(
    name: str, about: str, labels: Sequence[str], values: Iterable[tuple[tuple[str, ...], float]]
) -> Metric:
    family = GaugeMetricFamily(f"tradepost_{name}", about, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family
