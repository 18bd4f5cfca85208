"""A job over HTTP survives the death of the post in the middle of everything: answered once, charged once."""

import asyncio
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest

from identity import SecretKey, nip98, sign_event
from store import SystemClock
from tradepost.post import open_database
from wallet import Wallet, encode_token

if TYPE_CHECKING:
    from conftest import Gate, Post, Witness

pytestmark = pytest.mark.process

HERE = Path(__file__).parent
SECONDS_MAX = 120.0
BROUGHT = 200
PRICE = 21
JOBS = 3


class Caller:
    """A program that knows HTTP and NIP-98, and asks again until it is answered."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url = url
        self._http = http
        self._key = SecretKey.generate()

    async def ask(self, method: str, path: str, json: Any = None, **headers: str) -> Any:
        """The answer, once there is one."""
        async with asyncio.timeout(SECONDS_MAX):
            while True:
                try:
                    status, told = await self._once(method, path, json, headers)
                except (aiohttp.ClientError, TimeoutError):  # it is dead just now
                    status, told = 0, None
                if status in (200, 201):
                    return told
                assert status in (0, 401, 503), told  # 401: signed before this life began
                await asyncio.sleep(0.1)

    async def _once(self, method: str, path: str, json: Any, headers: dict[str, str]) -> tuple[int, Any]:
        url, body = self.url + path, b"" if json is None else msgspec.json.encode(json)
        now, nonce = SystemClock().now(), secrets.token_hex(8)
        signed = sign_event(
            nip98.make(url=url, method=method, body=body, created_at=now, nonce=nonce), self._key
        )
        told = {"Authorization": nip98.header(signed)} | {
            name.replace("_", "-"): v for name, v in headers.items()
        }
        limit = aiohttp.ClientTimeout(total=30)
        async with self._http.request(method, url, data=body, headers=told, timeout=limit) as response:
            return response.status, await response.json()


@pytest.fixture
def url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


async def test_jobs_over_http_are_answered_once_and_charged_once_whenever_the_post_is_killed(
    witness: "Witness", gate: "Gate", make_post: "Callable[..., Post]", purse: Wallet, mint_url: str, url: str
) -> None:
    port = url.rpartition(":")[2]
    command = ("-m", "tradepost", "up", HERE / "project", "--json")
    environment = {"GATE": str(gate.folder), "TRADEPOST_GATEWAY_URL": url, "TRADEPOST_GATEWAY_PORT": port}
    post = make_post(*command, name="desk", **environment)
    await purse.plan_send(mint_url, BROUGHT, op_id="token", purpose="a test", record=True)
    token = (await purse.settle("token")).token
    assert token is not None
    await post.start()
    async with aiohttp.ClientSession() as http:
        caller = Caller(url, http)
        await caller.ask("POST", "/v1/balance/tokens", {"token": encode_token(token)})
        brought_sat = (await caller.ask("GET", "/v1/balance"))["balance_sat"]

        async def job(number: int) -> Any:
            wish = {"kind": 5001, "input": str(number), "max_sat": PRICE}
            begun = await caller.ask("POST", "/v1/jobs", wish, Idempotency_Key=str(number))
            while (shown := await caller.ask("GET", f"{begun['links']['self']}?wait=20"))[
                "state"
            ] == "working":
                pass
            return shown

        working = [asyncio.create_task(job(number)) for number in range(JOBS)]
        for kind, status in ((7000, "payment-required"), (1059, None), (7000, "processing")):
            await witness.until(lambda k=kind, s=status: bool(witness.told(k, s)), f"{kind} {status}")  # type: ignore[misc]  # as `until` takes it
            await post.kill()
            await post.start()
        gate.open(1)
        await witness.until(lambda: bool(witness.told(6001)), "a result")
        await post.kill()
        await post.start()
        gate.open(JOBS)
        jobs = await asyncio.gather(*working)
        assert [shown["result"] for shown in jobs] == [f"{number} is done" for number in range(JOBS)]
        assert len({shown["id"] for shown in jobs}) == JOBS
        listed = (await caller.ask("GET", "/v1/jobs"))["jobs"]
        assert {shown["id"] for shown in listed} == {shown["id"] for shown in jobs}
        balance = await caller.ask("GET", "/v1/balance")
        assert (balance["held_sat"], {len(shown["attempts"]) for shown in jobs}) == (0, {1})
        assert balance["balance_sat"] == brought_sat - sum(shown["cost_sat"] for shown in jobs)
        assert all(PRICE <= shown["cost_sat"] <= PRICE + 4 for shown in jobs)
    await post.stop()
    asked = {shown["attempts"][0]["request"] for shown in jobs}
    answers = [event for event in witness.told(6001) if event.tag("e") in asked]
    assert len({event.id for event in answers}) == JOBS
    assert await post.count("jobs") == {"done": JOBS}
    assert await post.count("guarantees") == {"done": JOBS}
    await post.books()
    async with await open_database(post.settings) as db:
        row = await db.one("SELECT COUNT(*) AS n FROM caller_jobs WHERE cost_sat IS NULL")
    assert row is not None
    assert row["n"] == 0
