"""What Prometheus reads: parsed as Prometheus parses it, and each figure against what made it."""

import asyncio

import aiohttp
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from dvm import Agent
from tradepost.facade.running import queries_metrics
from tradepost.facade.running.metrics import Metrics, serving_metrics
from tradepost.testing import ManualClock, Market


async def read(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample as (name, label values…)."""
    _, body = await metrics.read()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse(body.decode())
        for sample in family.samples
    }


async def test_requests_are_counted_by_operation_and_status() -> None:
    async with Market() as market:
        metrics = Metrics(await market.post("p"))
        metrics.answered("get_job", 200, 0.02)
        metrics.answered("get_job", 200, 0.2)
        metrics.answered("get_job", 404, 0.001)
        metrics.refused("too_many")
        metrics.ask(connections=lambda: 3, listeners=lambda: 1)
        found = await read(metrics)
        assert found["tradepost_http_requests_total", "get_job", "200"] == 2
        assert found["tradepost_http_requests_total", "get_job", "404"] == 1
        assert found["tradepost_http_request_duration_seconds_bucket", "0.025", "get_job"] == 2
        assert found["tradepost_http_request_duration_seconds_count", "get_job"] == 3
        assert found["tradepost_http_event_listeners",] == 1
        assert found["tradepost_http_connections_refused_total", "too_many"] == 1
        assert found["tradepost_http_connections",] == 3


async def test_what_the_database_knows_is_read_at_the_time_of_asking(
    agent: Agent, gate: asyncio.Event
) -> None:
    async with Market() as market:
        provider = await market.open(agent)
        customer = await market.customer(sat=100)
        post = customer._post
        metrics = Metrics(post)
        before = await read(metrics)
        assert before["tradepost_wallet_sats", market.mint.url] == 100
        assert ("tradepost_orders", "done") not in before
        gate.clear()
        order = await customer.ask(provider.public_key, "x", kind=5001, max_sat=50)
        open_now = {
            key: value for key, value in (await read(metrics)).items() if key[0] == "tradepost_orders"
        }
        assert sum(open_now.values()) == 1
        assert ("tradepost_orders", "done") not in open_now
        gate.set()
        await order.result()
        after = await read(metrics)
        assert after["tradepost_orders", "done"] == 1
        assert after["tradepost_wallet_sats", market.mint.url] < 80
        assert (await read(Metrics(provider._post)))["tradepost_jobs", "done"] == 1


async def test_a_mint_and_a_relay_that_are_away_are_seen() -> None:
    async with Market() as market:
        post = await market.post("p")
        metrics = Metrics(post)
        relay = post.pool.urls[0]
        await post.pool.up()
        found = await read(metrics)
        assert (
            found["tradepost_mint_reachable", market.mint.url],
            found["tradepost_relay_connected", relay],
        ) == (1, 1)
        market.mint.down = True
        assert (await read(metrics))["tradepost_mint_reachable", market.mint.url] == 0


async def test_callers_money_and_what_waits(tmp_path: object) -> None:
    async with Market(clock=ManualClock()) as market:
        post = await market.post("p")
        now = post.clock.now()
        async with post.db.transaction() as tx:
            await tx.execute("INSERT INTO callers (id, created_at) VALUES (?, ?)", "abc", now)
            await tx.execute_many(
                "INSERT INTO accounts (account, balance_msat) VALUES (?, ?)",
                [("caller/abc", -5_500), ("caller/of-nobody", -1), ("held/abc", -2_000), ("callers", 7_500)],
            )
            await tx.execute(
                "INSERT INTO caller_jobs (id, caller, key, wish, reserved_sat, created_at) VALUES (?, ?, ?, ?, ?, ?)",
                "job", "abc", "k", "{}", 2, now - 40,
            )  # fmt: skip
        found = await read(Metrics(post))
        assert found["tradepost_callers_owed_sats", "balance"] == 5.5
        assert found["tradepost_callers_owed_sats", "held"] == 2
        assert (found["tradepost_backlog", "jobs"], found["tradepost_backlog_oldest_seconds", "jobs"]) == (
            1,
            40,
        )
        assert (
            found["tradepost_backlog", "withdrawals"],
            found["tradepost_backlog_oldest_seconds", "withdrawals"],
        ) == (0, 0)
        assert found["tradepost_backlog", "outbox"] >= 0


async def test_the_page_is_text_and_openmetrics_as_asked(free_port: int) -> None:
    async with Market() as market:
        metrics = Metrics(await market.post("p"))
        metrics.answered("live", 200, 0.1)
        url = f"http://127.0.0.1:{free_port}"
        async with serving_metrics(metrics, "127.0.0.1", free_port), aiohttp.ClientSession() as http:
            async with http.get(f"{url}/metrics") as answer:
                plain = await answer.text()
                assert answer.headers["Content-Type"].startswith("text/plain; version=")
            async with http.get(
                f"{url}/metrics", headers={"Accept": "application/openmetrics-text"}
            ) as answer:
                open_form = await answer.text()
                assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            async with http.get(f"{url}/v1/agents") as answer:
                assert answer.status == 404
        names = {family.name for family in parse(plain)}
        assert {family.name for family in parse_openmetrics(open_form)} >= {
            name for name in names if not name.endswith("_created")
        }


async def test_two_at_a_time_read_whole_pages() -> None:
    async with Market() as market:
        metrics = Metrics(await market.post("p"))
        pages = await asyncio.gather(*(metrics.read() for _ in range(4)))
        for _, body in pages:
            assert body.count(b"# TYPE tradepost_wallet_sats gauge") == 1


async def test_no_figure_reads_what_ended_long_ago() -> None:
    async with Market() as market:
        post = await market.post("p")
        asked: list[str] = []

        class Spy:
            async def all(self, sql: str, *values: object) -> list[object]:
                asked.append(sql)
                return []

        for query in (queries_metrics.jobs, queries_metrics.orders, queries_metrics.escrows):
            await query(Spy(), 0)  # type: ignore[arg-type] # it only listens
        for query in (
            queries_metrics.payments,
            queries_metrics.caller_money,
            queries_metrics.caller_work,
            queries_metrics.backlogs,
        ):
            await query(Spy())  # type: ignore[arg-type] # it only listens
        for sql in asked:
            plan = await post.db.all(f"EXPLAIN QUERY PLAN {sql}", *([0] * sql.count("?")))
            scans = [
                row["detail"]
                for row in plan
                if row["detail"].startswith("SCAN") and "USING" not in row["detail"]
            ]
            assert [scan for scan in scans if scan not in ("SCAN callers", "SCAN CONSTANT ROW")] == [], sql
