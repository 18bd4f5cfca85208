"""`tradepost gateway` with a real relay, mint and agent, used by the published `lnurl` package; and killed, again and again."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import lnurl
import pytest

import dvm.queries
from tradepost.post import open_database, wallet_on
from tradepost.settings import Settings
from tradepost.testing.mint import MemoryMint

SHOP = Path(__file__).parent / "shop"
PRICE_SAT = 21
SECONDS_MAX = 60

pytestmark = [pytest.mark.interop, pytest.mark.process]


class Gateway:
    """The running command, and a stranger in front of it."""

    def __init__(self, process: Any, settings: Settings, url: str, http: aiohttp.ClientSession) -> None:
        self.process, self.settings, self.url, self.http = process, settings, url, http

    async def order(self, agent: str, **wish: Any) -> Any:
        body = {"agent": agent, "kind": 5001, "text": "grüße", "max_sat": 50} | wish
        async with self.http.post(f"{self.url}/orders", json=body) as response:
            return await response.json()

    async def state(self, order_id: str) -> Any:
        async with self.http.get(f"{self.url}/orders/{order_id}") as response:
            return await response.json()

    async def until(self, order_id: str, *states: str) -> Any:
        async with asyncio.timeout(SECONDS_MAX):
            while (told := await self.state(order_id))["state"] not in states:
                await asyncio.sleep(0.05)
            return told

    async def payout_ended(self, order_id: str) -> Any:
        async with asyncio.timeout(SECONDS_MAX):
            while (left := (await self.state(order_id))["refund"])["state"] == "paying":
                await asyncio.sleep(0.05)
            return left

    async def kill_and_start(self) -> None:
        await self.process.kill()
        await self.process.start()

    async def close(self) -> int:
        """Stop it; returns what it holds, in sat, after an audit, and sees that it had one job only."""
        self.process.terminate()
        assert await self.process.ended() == 0
        async with await open_database(self.settings) as db, wallet_on(self.settings, db) as wallet:
            report = await wallet.audit(ask_mints=True)
            assert report.ok, report
            assert len(await dvm.queries.recent_orders(db, 10)) <= 1
            return sum((await wallet.balance()).values())


@pytest.fixture
async def gateway(
    process: Any, relay_url: str, mint_url: str, tmp_path: Path, free_port: int
) -> AsyncIterator[Gateway]:
    settings = Settings(relays=(relay_url,), mints=(mint_url,), data=tmp_path / "gateway")
    url = f"http://127.0.0.1:{free_port}"
    command = process(
        "-m", "tradepost", "gateway", "--url", url, "--port", str(free_port), "--json",
        TRADEPOST_DATA=str(settings.data), TRADEPOST_RELAYS=relay_url, TRADEPOST_MINTS=mint_url,
        TRADEPOST_GATEWAY_REQUESTS_PER_MINUTE_MAX="10000",
    )  # fmt: skip
    told = json.loads(await command.start())
    assert told["addresses"] == [f"tips@127.0.0.1:{free_port}"]
    async with aiohttp.ClientSession() as http:
        yield Gateway(command, settings, url, http)


@pytest.fixture
async def agent(process: Any, relay_url: str, mint_url: str, tmp_path: Path) -> str:
    shop = process(
        "-m", "tradepost", "up", SHOP, "--json",
        TRADEPOST_DATA=str(tmp_path / "shop"), TRADEPOST_RELAYS=relay_url, TRADEPOST_MINTS=mint_url,
    )  # fmt: skip
    key: str = json.loads(await shop.start())["pubkey"]
    return key


def foreign_invoice(amount_sat: int) -> str:
    """An invoice of no mint; FakeWallet pays any."""
    return MemoryMint(f"https://{secrets.token_hex(8)}.test").invoice(amount_sat)


async def test_the_published_client_pays_an_address(gateway: Gateway) -> None:
    request = await lnurl.handle(lnurl.encode(f"{gateway.url}/.well-known/lnurlp/tips"))
    assert isinstance(request, lnurl.LnurlPayResponse)
    paid = await lnurl.execute_pay_request(request, 21_000, comment="thanks")
    assert isinstance(paid.successAction, lnurl.MessageAction)
    async with asyncio.timeout(SECONDS_MAX):
        while not (
            told := await lnurl.get(str(paid.verify), response_class=lnurl.LnurlPayVerifyResponse)
        ).settled:
            await asyncio.sleep(0.05)
    assert told.pr == paid.pr
    assert await gateway.close() == 21


async def test_up_serves_its_agents_addresses_too(
    process: Any, relay_url: str, mint_url: str, tmp_path: Path, free_port: int
) -> None:
    url = f"http://127.0.0.1:{free_port}"
    shop = process(
        "-m", "tradepost", "up", SHOP, "--json",
        TRADEPOST_DATA=str(tmp_path / "shop"), TRADEPOST_RELAYS=relay_url, TRADEPOST_MINTS=mint_url,
        TRADEPOST_GATEWAY_URL=url, TRADEPOST_GATEWAY_PORT=str(free_port),
    )  # fmt: skip
    key = json.loads(await shop.start())["pubkey"]
    paid = await lnurl.execute(lnurl.encode(f"{url}/.well-known/lnurlp/shop"), "21000")
    assert isinstance(paid, lnurl.LnurlPayActionResponse)
    async with aiohttp.ClientSession() as http:
        own = await Gateway(shop, Settings(), url, http).order(key)
    assert "belongs to this very post" in own["reason"]


async def test_an_order_paid_and_withdrawn_by_the_published_client_while_the_gateway_is_killed_at_every_stage(
    gateway: Gateway, agent: str
) -> None:
    told = await gateway.order(agent)
    paid = await lnurl.execute(told["lnurl"], str(1000 * told["amount_sat"]))
    assert isinstance(paid, lnurl.LnurlPayActionResponse)
    assert paid.pr == told["bolt11"]
    await gateway.kill_and_start()
    await gateway.until(told["order"], "paid", "asked", "done")
    await gateway.kill_and_start()
    await gateway.until(told["order"], "asked", "done")
    await gateway.kill_and_start()
    ended = await gateway.until(told["order"], "done", "failed")
    assert ended["result"] == "GRÜSSE"
    kills = 2
    while (left := await gateway.payout_ended(told["order"]))[
        "state"
    ] == "open":  # at first, and if the mint was not asked
        assert (await lnurl.execute(left["lnurl"], foreign_invoice(left["amount_sat"]))).ok
        if kills:
            kills -= 1
            await gateway.kill_and_start()
    assert await gateway.close() <= told["amount_sat"] - PRICE_SAT - left["amount_sat"]
