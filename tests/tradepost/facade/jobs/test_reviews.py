"""What is left of a job for others to see, over HTTP: its review, its receipt, and the proof that the agent's log has it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
import pytest

from dvm import Agent, Job, Provider, ProviderLimits
from identity import SecretKey, encode_npub, parse_event
from identity.receipts import parse_review
from tests.tradepost.facade.conftest import PRICE
from tradepost.facade.agents import readings
from tradepost.facade.desk import Desk
from tradepost.testing import Market

if TYPE_CHECKING:
    from conftest import Caller

    Fund = Callable[[Caller, int], Awaitable[None]]

SECONDS_MAX = 60.0


@pytest.fixture
async def worker(market: Market) -> Provider:
    """An agent elsewhere that publishes its receipts at once."""
    agent = Agent("elsewhere")

    @agent.serves(kind=5001, price_sat=PRICE)
    async def work(job: Job) -> str:
        return job.text.upper()

    return await market.open(agent, name="elsewhere", limits=ProviderLimits(root_seconds=1))


async def begin(who: "Caller", worker: Provider) -> str:
    wish = {"agent": encode_npub(worker.public_key), "kind": 5001, "input": "hello", "max_sat": PRICE}
    return str((await who("POST", "/v1/jobs?wait=60", wish)).json["links"]["self"])


async def test_a_job_is_reviewed_once_and_its_receipt_can_be_checked_by_anybody(
    desk: Desk,
    caller: "Caller",
    stranger: "Caller",
    fund: "Fund",
    worker: Provider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readings, "KEPT_SECONDS", 0)
    await fund(caller, 100)
    path = await begin(caller, worker)
    first = await caller("POST", f"{path}/review", {"rating": 4, "text": "loud"})
    assert first.status == 201, first.text
    event = parse_event(msgspec.json.encode(first.json["event"]))
    event.verify()
    told = parse_review(event)
    assert (told.rating, told.text, told.provider) == (4, "loud", worker.public_key)
    assert first.json["evidence"] == "lock"
    again = await caller("POST", f"{path}/review", {"rating": 4, "text": "loud"})
    assert again.json == first.json
    other = await caller("POST", f"{path}/review", {"rating": 1})
    assert (other.status, other.json["code"]) == (409, "conflict")

    async with asyncio.timeout(SECONDS_MAX):
        while (receipt := (await caller("GET", f"{path}/receipt")).json)["proof"] is None:
            assert receipt["missing"]
            await asyncio.sleep(0.2)
    assert (receipt["npub"], receipt["missing"]) == (encode_npub(worker.public_key), None)
    assert receipt["review"] == first.json
    for name in ("asked", "offer", "result"):
        parse_event(msgspec.json.encode(receipt[name])).verify()
    assert receipt["request"] == receipt["asked"]["id"] == told.request_id
    assert receipt["result"]["content"] == "HELLO"
    checked = await stranger("POST", f"/v1/verify?offline=true&agent={receipt['npub']}", receipt["proof"])
    assert (checked.status, checked.json["holds"]) == (200, True)


async def test_what_was_not_paid_for_is_not_reviewed_and_has_no_proof(
    desk: Desk, caller: "Caller", fund: "Fund"
) -> None:
    await fund(caller, 100)
    silent = encode_npub(SecretKey.generate().public_key)
    wish = {"agent": silent, "kind": 5001, "input": "x", "max_sat": PRICE}
    path = (await caller("POST", "/v1/jobs", wish)).json["links"]["self"]
    async with asyncio.timeout(SECONDS_MAX):
        while (await caller("GET", path)).json["step"] != "asked":
            await asyncio.sleep(0.05)
        while (await caller("POST", f"{path}/cancel")).json["step"] != "ended":
            await asyncio.sleep(0.05)
    refused = await caller("POST", f"{path}/review", {"rating": 1})
    assert (refused.status, refused.json["code"]) == (409, "conflict")
    assert "nothing" in refused.json["message"]
    receipt = await caller("GET", f"{path}/receipt")
    assert (receipt.json["proof"], receipt.json["review"]) == (None, None)
    for bad in ({"rating": 0}, {"rating": 6}, {"rating": "5"}, {}, {"rating": 5, "text": "x" * 2001}):
        assert (await caller("POST", f"{path}/review", bad)).status == 400
