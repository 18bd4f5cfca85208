"""Every answer, whatever was asked: its shape, its headers, and what is told when nothing fits."""

import asyncio
from typing import Any

import pytest
import structlog

from tests.tradepost.facade.conftest import Caller, open_desk
from tradepost.facade.desk import Desk
from tradepost.facade.web.app import BODY_BYTES_MAX
from tradepost.settings import RequestLimits, Settings
from tradepost.testing import Market

PROBLEM = {"code", "message", "action", "retry_after", "money", "payment"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/../../etc/passwd", 404, "not_found"),
        ("GET", "/static/..%2f..%2fserver.py", 404, "not_found"),
        ("DELETE", "/v1/agents", 405, "method_not_allowed"),
        ("GET", "/v1/agents?nothing=1", 400, "not_valid"),
        ("GET", "/v1/agents?kind=5001&kind=5002", 400, "not_valid"),
        ("GET", "/v1/agents?kind=%ff", 400, "not_valid"),
        ("GET", "/v1/agents/npub1nobody", 400, "bad_request"),
        ("GET", "/v1/account", 401, "unauthorized"),
        ("GET", "/v1/report", 401, "unauthorized"),
    ],
)
async def test_a_problem_has_one_shape(
    desk: Desk, stranger: Caller, method: str, path: str, status: int, code: str
) -> None:
    answer = await stranger(method, path)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert set(answer.json) == PROBLEM
    assert answer.json["message"]


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"x"', b"\xff\xfe", b'{"offline": 1e999}', b"[" * 10_000, b'{"a":' * 5_000]
)
async def test_a_body_that_is_none_is_told_so(desk: Desk, stranger: Caller, body: bytes) -> None:
    async with stranger.http.post(f"{desk.url}/v1/jobs", data=body) as response:
        assert response.status == 400
        assert (await response.json())["code"] == "not_valid"


async def test_a_body_is_bounded(desk: Desk, stranger: Caller) -> None:
    async with stranger.http.post(f"{desk.url}/v1/jobs", data=b"x" * (BODY_BYTES_MAX + 1)) as response:
        assert response.status == 413
        assert (await response.json())["code"] == "request_entity_too_large"


async def test_any_page_may_call_and_nothing_is_kept_or_guessed(desk: Desk, stranger: Caller) -> None:
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    answer = await stranger("OPTIONS", "/v1/jobs", **asked)
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers
    for path in ("/v1/agents", "/v1/nothing", "/v1/account"):
        headers = (await stranger("GET", path)).headers
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]


async def test_what_nobody_foresaw_is_logged_and_told_without_its_words(
    desk: Desk, stranger: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(desk.catalogue, "search", broken)
    with structlog.testing.capture_logs() as logs:
        answer = await stranger("GET", "/v1/agents")
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert any(entry["event"] == "request_failed" for entry in logs)


async def test_the_host_that_a_client_writes_has_no_say(desk: Desk, caller: Caller) -> None:
    assert (await caller("GET", "/v1/account", Host="evil.example")).status == 200
    assert (await caller("GET", "/v1/account", X_Forwarded_Host="evil.example")).status == 200


@pytest.mark.parametrize(
    "path", ["/v1/agents", "/llms.txt", "/", "/.well-known/lnurlp/capitals", "/health/live"]
)
async def test_what_can_be_read_has_a_head_and_says_little_of_us(
    desk: Desk, stranger: Caller, path: str
) -> None:
    got, head = await stranger("GET", path), await stranger("HEAD", path)
    assert (head.status, head.text) == (200, "")
    for name in ("Content-Type", "Content-Length", "X-Content-Type-Options"):
        assert head.headers[name] == got.headers[name]
    assert got.headers["Server"] == "tradepost"
    assert got.json is None or got.text.endswith("}\n")


async def test_probes_are_answered_whatever_else_is_asked(
    market: Market, settings: Settings, stranger: Caller
) -> None:
    limits = RequestLimits(anonymous=1, authenticated=1, paying=1, unpaid=1)
    async with open_desk(market, settings.model_copy(update={"http_requests_per_minute": limits})):
        assert [(await stranger("GET", "/llms.txt")).status for _ in range(2)] == [200, 429]
        for _ in range(3):
            assert (await stranger("GET", "/health/live")).status == 200


async def test_what_wallets_ask_is_logged_and_counted_like_all_else(desk: Desk, stranger: Caller) -> None:
    answer = await stranger("GET", "/.well-known/lnurlp/nobody")
    assert answer.json["status"] == "ERROR"
    assert len(answer.headers["X-Request-Id"]) == 16
    assert (await stranger("OPTIONS", "/orders")).status == 204
    _, page = await desk.metrics.read()
    assert 'tradepost_http_requests_total{operation="lnurl_name",status="200"} 1.0' in page.decode()


async def test_the_same_withdrawal_again_is_found(desk: Desk, caller: Caller, fund: Any) -> None:
    await fund(caller, 100)
    wish = {"way": "ecash", "amount_sat": 10}
    told = [await caller("POST", "/v1/balance/withdrawals", wish, Idempotency_Key="a b") for _ in range(2)]
    assert [one.status for one in told] == [201, 200]
    assert told[0].json["withdrawal"]["id"] == told[1].json["withdrawal"]["id"]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
        b"GET /v1/agents HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_a_client_that_goes_away_leaves_nothing_behind(
    desk: Desk, settings: Settings, stranger: Caller, sent: bytes
) -> None:
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", settings.gateway_port)
            writer.write(sent)
            await writer.drain()
            writer.transport.abort()
        assert (await stranger("GET", "/v1/agents")).status == 200
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def test_listeners_leave_half_of_the_connections_to_others(market: Market, settings: Settings) -> None:
    async with open_desk(market, settings.model_copy(update={"gateway_connections_max": 60})) as desk:
        assert desk.watching._limits.all_max == 30
