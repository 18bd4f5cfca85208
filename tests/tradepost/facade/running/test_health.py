"""How a desk is: for whoever restarts it, for whoever sends callers there, and for its operator."""

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from store import StoreError
from tests.tradepost.facade.conftest import capitals, open_desk
from tradepost.facade.desk import Desk
from tradepost.post import own_key
from tradepost.settings import Settings
from tradepost.testing import Market

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from conftest import Caller

SECONDS_MAX = 30


async def test_live(desk: Desk, stranger: "Caller") -> None:
    answer = await stranger("GET", "/health/live")
    assert (answer.status, answer.json) == (200, {"status": "live"})


async def ready(stranger: "Caller") -> None:
    """Wait until it is: relays have told what they had."""
    async with asyncio.timeout(SECONDS_MAX):
        while (await stranger("GET", "/health/ready")).status != 200:
            await asyncio.sleep(0.01)


async def test_ready(desk: Desk, stranger: "Caller") -> None:
    await ready(stranger)
    assert (await stranger("GET", "/health/ready")).json == {"status": "ready"}


async def test_not_ready_without_a_relay(desk: Desk, market: Market, stranger: "Caller") -> None:
    await ready(stranger)
    market.relay.switches.down = True
    market.relay.drop_connections()
    async with asyncio.timeout(SECONDS_MAX):
        while (answer := await stranger("GET", "/health/ready")).status == 200:
            await asyncio.sleep(0.01)
    assert (answer.status, answer.json["code"], answer.json["action"]) == (503, "not_ready", "retry_after")
    assert answer.json["message"] == "not ready: no relay is connected"
    assert answer.headers["Retry-After"] == "5"
    assert (await stranger("GET", "/health/live")).status == 200


async def test_not_ready_until_relays_have_told_what_they_had(
    desk: Desk, stranger: "Caller", monkeypatch: pytest.MonkeyPatch
) -> None:
    await ready(stranger)
    monkeypatch.setattr(type(desk.customer), "is_listening", property(lambda _self: False))
    answer = await stranger("GET", "/health/ready")
    assert answer.status == 503
    assert "what agents answered" in answer.json["message"]


async def test_not_ready_without_its_database(
    desk: Desk, stranger: "Caller", monkeypatch: pytest.MonkeyPatch
) -> None:
    await ready(stranger)

    async def fail(*_args: Any) -> None:
        raise StoreError("the disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr(type(desk.post.db), "one", fail)
        answer = await stranger("GET", "/health/ready")
    assert answer.status == 503
    assert answer.json["message"] == "not ready: the database does not answer"


async def test_the_report_is_for_operators(desk: Desk, stranger: "Caller", caller: "Caller") -> None:
    assert (await stranger("GET", "/v1/report")).status == 401
    assert (await caller("GET", "/v1/report")).status == 403


async def test_the_report(
    market: Market, settings: Settings, caller: "Caller", other: "Caller",
    fund: "Callable[[Caller, int], Awaitable[None]]",
) -> None:  # fmt: skip
    assert caller.key
    trusting = settings.model_copy(update={"operators": (caller.key.public_key,)})
    async with open_desk(market, trusting, [capitals()]) as desk:
        await fund(other, 500)
        answer = await caller("GET", "/v1/report")
        assert answer.status == 200, answer.text
        told = answer.json
        (relay,) = told["relays"]
        assert (relay["url"], relay["connected"]) == (desk.post.pool.urls[0], True)
        (mint,) = told["mints"]
        assert (mint["url"], mint["reachable"]) == (market.mint.url, True)
        balance = (await other("GET", "/v1/balance")).json["balance_sat"]
        assert mint["free_sat"] == balance
        assert told["owed_msat"]["balance"] == 1000 * balance
        assert {"outbox", "inbox", "operations", "jobs", "deposits", "withdrawals"} <= set(told["backlogs"])
        assert told["database_bytes"] > 0
        assert told["uptime_seconds"] >= 0
        assert settings.seed_file.read_text().strip() not in answer.text
        assert own_key(settings, "capitals").to_bytes().hex() not in answer.text
        assert other.key
        assert other.key.public_key not in answer.text
        market.mint.down = True
        told = (await caller("GET", "/v1/report")).json
        assert told["mints"][0]["reachable"] is False
