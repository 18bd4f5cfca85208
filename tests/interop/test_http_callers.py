"""Callers made of other people's libraries, at a real desk: nostr-tools' NIP-98, http-message-signatures, lnurl's wallet."""

import asyncio
import json
import secrets
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import http_message_signatures as published
import lnurl
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from yarl import URL

from dvm import Agent, Job, Provider
from identity import LocalSigner
from tradepost.api import open_customer
from tradepost.facade.server import open_facade
from tradepost.post import open_post, own_key
from tradepost.testing import Market

HERE = Path(__file__).parent
KIND = 5001
SECONDS_MAX = 60
WISH = {"kind": KIND, "input": "grüße", "max_sat": 50}

Calls = Callable[..., Awaitable[list[dict[str, Any]]]]

pytestmark = pytest.mark.interop


@pytest.fixture
async def url(tmp_path: Path, free_port: int) -> AsyncIterator[str]:
    """Where a desk with one agent is reached."""
    agent = Agent("capitals")

    @agent.serves(kind=KIND, price_sat=0)
    async def shout(job: Job) -> str:
        return job.text.upper()

    url = f"http://127.0.0.1:{free_port}"
    async with Market(folder=tmp_path) as market, AsyncExitStack() as stack:
        at = {"gateway_url": url, "gateway_port": free_port}
        settings = market.settings("desk").model_copy(update=at)
        memory = {"connect": market.relay.connect, "transport": market.mint.transport}
        post = await stack.enter_async_context(open_post(settings, clock=market.clock, **memory))
        customer = await stack.enter_async_context(open_customer(settings, post))
        provider = Provider(agent, LocalSigner(own_key(settings, agent.slug)), post)
        await stack.enter_async_context(open_facade(settings, post, customer, [provider]))
        yield url


@pytest.fixture
def nostr_tools(node: Path, node_modules: Path) -> Calls:
    """Make calls: `told = await nostr_tools({"url": …, "method": "get"}, …)`."""

    async def run(*calls: dict[str, Any]) -> list[dict[str, Any]]:
        process = await asyncio.create_subprocess_exec(
            node, HERE / "http_nostr_tools.mjs", json.dumps(calls),
            cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(SECONDS_MAX):
                output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, errors.decode()
        return [json.loads(line) for line in output.splitlines()]

    return run


async def test_nostr_tools(nostr_tools: Calls, url: str) -> None:
    account, price = f"{url}/v1/account", f"{url}/v1/jobs/price"
    told = await nostr_tools(
        {"url": account, "method": "get"},
        {"url": f"{account}?a=%2F&b", "method": "GET"},
        {"url": price, "method": "post", "body": WISH},
        {"url": account, "method": "get", "signed_url": f"{account}/"},
        {"url": f"{account}?a=1", "method": "get", "signed_url": account},
        {"url": price, "method": "post", "body": WISH, "signed_body": WISH | {"max_sat": 5}},
        {"url": price, "method": "post", "body": WISH, "signed_body": None},
    )
    assert [call["status"] for call in told[:3]] == [200, 200, 200], told
    assert [key["key"] for key in told[0]["answer"]["keys"]] == [f"nostr:{told[0]['public_key']}"]
    for call, said in zip(told[3:], (account, f"{account}?a=1", "`payload`", "`payload`"), strict=True):
        assert (call["status"], call["answer"]["code"]) == (401, "unauthorized")
        assert said in call["answer"]["message"]
    stolen = {"Authorization": told[0]["authorization"]}
    async with aiohttp.ClientSession(headers=stolen) as thief, thief.get(account) as replayed:
        assert replayed.status == 401
        assert "used before" in (await replayed.json())["message"]


@dataclass
class Message:
    """A request as http-message-signatures wants it."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


class Keys(published.HTTPSignatureKeyResolver):
    """Has one key."""

    def __init__(self) -> None:
        self.secret = Ed25519PrivateKey.generate()
        self.public = self.secret.public_key().public_bytes_raw().hex()

    def resolve_private_key(self, key_id: str) -> Ed25519PrivateKey:
        assert key_id == self.public
        return self.secret


async def test_http_message_signatures(url: str) -> None:
    keys = Keys()
    signer = published.HTTPMessageSigner(signature_algorithm=published.algorithms.ED25519, key_resolver=keys)
    body = json.dumps(WISH).encode()
    async with aiohttp.ClientSession() as http:
        for method, path, data in (("GET", "/v1/account?a=%2F&b", b""), ("POST", "/v1/jobs/price", body)):
            message = Message(method, url + path)
            signer.sign(
                message, key_id=keys.public, nonce=secrets.token_urlsafe(16), created=datetime.now(UTC), body=data or None
            )  # fmt: skip
            for status in (200, 401):  # the second is a replay
                asked = http.request(
                    method, URL(url + path, encoded=True), data=data, headers=message.headers
                )
                async with asked as answer:
                    told = await answer.json()
                    assert answer.status == status, told
                    if method == "GET" and status == 200:
                        assert told["keys"][0]["key"] == f"ed25519:{keys.public}"


@pytest.mark.parametrize("wallet", [{"seed": "11" * 64}, {"signed_message": "a node's signature"}])
async def test_lnurl_auth(url: str, wallet: dict[str, str]) -> None:
    async with aiohttp.ClientSession() as http:
        keys = set()
        for _ in range(2):  # the wallet is known again
            async with http.post(f"{url}/v1/auth/lnurl") as answer:
                login = await answer.json()
            asked = await lnurl.handle(login["lnurl"])
            assert isinstance(asked, lnurl.LnurlAuthResponse)
            assert (await lnurl.execute_login(asked, **wallet)).ok
            again = await lnurl.execute_login(asked, **wallet)
            assert not again.ok
            async with http.post(f"{url}/v1/auth/lnurl/token", json={"poll": login["poll"]}) as answer:
                tokens = (await answer.json())["tokens"]
            as_wallet = {"Authorization": f"Bearer {tokens['access']}"}
            async with http.get(f"{url}/v1/account", headers=as_wallet) as answer:
                keys.add((await answer.json())["keys"][0]["key"])
        assert [key.partition(":")[0] for key in keys] == ["lnurl"]
