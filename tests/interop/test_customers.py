"""The customers themselves, against a provider written by hand on nostr-sdk: what they send and what they hear."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import nostr_sdk
import pytest
import websockets

Customer = Callable[..., Awaitable[Any]]  # see conftest.py
Reply = Callable[[dict[str, Any]], list[nostr_sdk.Event]]

pytestmark = pytest.mark.interop

PROVIDER = nostr_sdk.Keys.generate()
STRANGER = nostr_sdk.Keys.generate()


def answer(
    request: dict[str, Any], kind: int, content: str = "", *tags: list[str], by: nostr_sdk.Keys = PROVIDER
) -> nostr_sdk.Event:
    """An event that answers a request as NIP-90 wants it."""
    all_tags = [["e", request["id"]], ["p", request["pubkey"]], *tags]
    builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(kind), content).tags(
        [nostr_sdk.Tag.parse(tag) for tag in all_tags]
    )
    return builder.finalize(by)


def feedback(request: dict[str, Any], *status: str) -> nostr_sdk.Event:
    return answer(request, 7000, "", ["status", *status])


def wrapped(request: dict[str, Any], content: str) -> nostr_sdk.Event:
    rumor = nostr_sdk.EventBuilder(nostr_sdk.Kind(14), content).finalize_unsigned(PROVIDER.public_key())
    return nostr_sdk.nip59_make_gift_wrap(PROVIDER, nostr_sdk.PublicKey.parse(request["pubkey"]), rumor)


@asynccontextmanager
async def provider(relay_url: str, reply: Reply) -> AsyncIterator[list[dict[str, Any]]]:
    """Answer every request on the relay by `reply`; yields the requests as they come."""
    requests: list[dict[str, Any]] = []

    async def serve(socket: websockets.ClientConnection) -> None:
        async for message in socket:
            kind, *rest = json.loads(message)
            if kind == "EVENT":
                requests.append(rest[1])
                for event in reply(rest[1]):
                    await socket.send(json.dumps(["EVENT", json.loads(event.as_json())]))

    async with websockets.connect(relay_url) as socket:
        await socket.send(json.dumps(["REQ", "jobs", {"kinds": [5001]}]))
        while json.loads(await socket.recv())[0] != "EOSE":
            pass
        serving = asyncio.create_task(serve(socket))
        try:
            yield requests
        finally:
            serving.cancel()
            await asyncio.wait([serving])


def work(request: dict[str, Any]) -> list[nostr_sdk.Event]:
    text = next(tag[1] for tag in request["tags"] if tag[0] == "i")
    return [feedback(request, "processing", "reading"), answer(request, 6001, text.upper())]


async def test_a_free_job(relay_url: str, customer: Customer) -> None:
    async with provider(relay_url, work) as requests:
        heard = await customer(
            relay=relay_url,
            kind=5001,
            input="grüße",
            to=PROVIDER.public_key().to_hex(),
            params={"length": "3"},
        )
    assert heard.code == 0
    assert heard.statuses == ["processing"]
    assert heard.of("feedback")[0]["info"] == "reading"
    assert [line["content"] for line in heard.of("result")] == ["GRÜSSE"]
    [request] = requests
    assert request == heard.of("request")[0]["event"]
    assert nostr_sdk.Event.from_json(json.dumps(request)).verify()
    assert ["param", "length", "3"] in request["tags"]
    assert ["p", PROVIDER.public_key().to_hex()] in request["tags"]


async def test_a_job_paid_by_a_cashu_tag_under_the_customers_own_key(
    relay_url: str, customer: Customer
) -> None:
    key = nostr_sdk.Keys.generate()
    async with provider(relay_url, work) as requests:
        heard = await customer(
            relay=relay_url,
            kind=5001,
            input="a",
            cashu="cashuBtoken",
            bid_msat=21_000,
            secret_key=key.secret_key().to_hex(),
        )
    assert heard.code == 0
    [request] = requests
    assert request["pubkey"] == key.public_key().to_hex()
    assert ["cashu", "cashuBtoken"] in request["tags"]
    assert ["bid", "21000"] in request["tags"]


async def test_an_error_ends_the_wait(relay_url: str, customer: Customer) -> None:
    async with provider(relay_url, lambda request: [feedback(request, "error", "too long")]):
        heard = await customer(relay=relay_url, kind=5001, input="a")
    assert heard.code == 3
    assert [(line["status"], line["info"]) for line in heard.of("feedback")] == [("error", "too long")]


async def test_silence_ends_in_time(relay_url: str, customer: Customer) -> None:
    heard = await customer(relay=relay_url, kind=5001, input="a", seconds=1)
    assert heard.code == 4
    assert [line["type"] for line in heard.lines] == ["request"]


async def test_answers_to_somebody_else_are_not_heard(relay_url: str, customer: Customer) -> None:
    def confuse(request: dict[str, Any]) -> list[nostr_sdk.Event]:
        other = {**request, "pubkey": STRANGER.public_key().to_hex()}
        return [answer(other, 6001, "for another"), answer(request, 6001, "for you")]

    async with provider(relay_url, confuse):
        heard = await customer(relay=relay_url, kind=5001, input="a")
    assert [line["content"] for line in heard.of("result")] == ["for you"]


async def test_nostr_tools_reads_a_refund_in_a_gift_wrap(relay_url: str, nostr_tools: Customer) -> None:
    def refuse(request: dict[str, Any]) -> list[nostr_sdk.Event]:
        return [feedback(request, "error", "cannot be done"), wrapped(request, "cashuBrefund")]

    async with provider(relay_url, refuse):
        heard = await nostr_tools(relay=relay_url, kind=5001, input="a", until="wrap")
    assert heard.code == 0
    [wrap] = heard.of("wrap")
    assert (wrap["sender"], wrap["rumor"]["content"]) == (PROVIDER.public_key().to_hex(), "cashuBrefund")
    assert heard.statuses == ["error"]
