"""What the log has of a request: enough to find it, nothing that is the caller's own business."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from tests.tradepost.facade.conftest import Caller, open_desk
from tradepost.facade.desk import Desk
from tradepost.settings import Settings
from tradepost.testing import Market


@pytest.fixture(autouse=True)
def _everything() -> Iterator[None]:
    """Events of the level `info` are told too."""
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("info"))
    yield
    structlog.configure(wrapper_class=before)


FIELDS = {"event", "log_level", "operation", "status", "milliseconds", "tier", "request_id"}


def requests(events: list[Any]) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == "request"]


async def test_each_request_is_one_event_of_few_fields(
    desk: Desk, caller: Caller, stranger: Caller, fund: Any
) -> None:
    with capture_logs() as events:
        seen = await stranger("GET", "/v1/agents?q=very-private-words")
        await stranger("GET", "/v1/auth/lnurl/" + "ab" * 32 + "?sig=00&key=00")
        await caller("GET", "/v1/balance")
        await fund(caller, 50)
        await stranger("GET", "/v1/balance")
    told = requests(events)
    assert [(event["operation"], event["status"], event["tier"]) for event in told] == [
        ("list_agents", 200, "anonymous"),
        ("sign_login", told[1]["status"], "anonymous"),
        ("get_balance", 200, "authenticated"),
        ("fund_by_ecash", 201, "authenticated"),
        ("get_balance", 401, "anonymous"),
    ]
    for event in told:
        assert event.keys() <= FIELDS
        assert event["milliseconds"] >= 0
    text = repr(told)
    for private in (
        "very-private-words",
        "ab" * 32,
        "127.0.0.1",
        "/v1",
        str(caller.key and caller.key.public_key),
    ):
        assert private not in text
    assert len(seen.headers["X-Request-Id"]) == 16


async def test_the_caller_has_the_id_that_the_log_has(desk: Desk, stranger: Caller, monkeypatch: Any) -> None:
    async def fail(*_args: object) -> None:
        raise RuntimeError("nobody foresaw this")

    monkeypatch.setattr("tradepost.facade.web.app.authenticate", fail)
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as events:
        answer = await stranger("GET", "/v1/agents")
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert "nobody foresaw this" not in answer.text
    ids = {
        event["event"]: event["request_id"]
        for event in events
        if event["event"] in ("request", "request_failed")
    }
    assert ids == dict.fromkeys(("request", "request_failed"), answer.headers["X-Request-Id"])


async def test_addresses_are_told_if_asked_for(market: Market, settings: Settings, stranger: Caller) -> None:
    loud = settings.model_copy(update={"log_addresses": True, "gateway_behind_proxy": True})
    async with open_desk(market, loud):
        with capture_logs() as events:
            await stranger("GET", "/v1/agents", X_Forwarded_For="6.6.6.6, 203.0.113.7")
    assert [event["address"] for event in requests(events)] == ["203.0.113.7"]


async def test_what_is_counted_is_what_was_answered(desk: Desk, stranger: Caller) -> None:
    await stranger("GET", "/v1/agents")
    await stranger("GET", "/v1/agents?nothing=1")
    _, page = await desk.metrics.read()
    for status in (200, 400):
        line = f'tradepost_http_requests_total{{operation="list_agents",status="{status}"}} 1.0'
        assert line in page.decode()
    assert "tradepost_http_connections 1.0" in page.decode()
