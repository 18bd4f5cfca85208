"""Customers of others whose wallet is cashu-ts: they pay our offers from the NUT-18 request, and our agent is paid."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dvm import Agent, Job, Post, Provider, ProviderLimits
from dvm.escrow.arbiter import Arbiter
from identity import LocalSigner
from tradepost.post import open_post, own_key
from tradepost.settings import Settings
from wallet import parse_request
from wallet.escrow import Stage

Customer = Callable[..., Awaitable[Any]]  # see conftest.py

pytestmark = [pytest.mark.interop, pytest.mark.process]

PRICE_SAT = 21
SECONDS_MAX = 30


@dataclass(frozen=True)
class Shop:
    """An agent and an arbiter, each with a post of its own."""

    provider: Provider
    post: Post
    arbiter: str

    async def sat(self) -> int:
        report = await self.post.wallet.audit(ask_mints=True)
        assert report.ok, report.problems
        return sum((await self.post.wallet.balance()).values())


@pytest.fixture
async def shop(relay_url: str, mint_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    agent = Agent("Upper")

    @agent.serves(kind=5001, price_sat=PRICE_SAT)
    async def shout(job: Job) -> str:
        return job.text.upper()

    async with AsyncExitStack() as stack:

        async def post(name: str) -> tuple[Post, LocalSigner]:
            settings = Settings(relays=(relay_url,), mints=(mint_url,), data=tmp_path / name)
            return await stack.enter_async_context(open_post(settings)), LocalSigner(own_key(settings, name))

        judge, judge_signer = await post("judge")
        arbiter = Arbiter(judge, judge_signer)
        await arbiter.start()
        stack.push_async_callback(arbiter.stop)
        desk, signer = await post("shop")
        provider = Provider(agent, signer, desk, ProviderLimits(arbiters=(arbiter.public_key,)))
        await provider.start()
        stack.push_async_callback(provider.stop, 0)
        yield Shop(provider, desk, arbiter.public_key)


@pytest.mark.parametrize("settle", ["prepaid", "escrow"])
async def test_cashu_ts_pays_an_offer_and_the_agent_redeems(
    shop: Shop, cashu_customer: Customer, relay_url: str, mint_url: str, settle: str
) -> None:
    key = shop.provider.public_key
    heard = await cashu_customer(
        relay=relay_url, mint=mint_url, kind=5001, input="grüße", to=key, settle=settle, arbiter=shop.arbiter
    )
    assert heard.code == 0
    [request], [offer], [paid] = heard.of("request"), heard.of("offer"), heard.of("paid")
    assert [line["content"] for line in heard.of("result")] == ["GRÜSSE"]
    assert ["settle", settle] in offer["event"]["tags"]
    assert paid["pubkey"] == key
    if settle == "escrow":
        [released] = heard.of("released")
        assert released["signatures"] == paid["proofs"]
        async with asyncio.timeout(SECONDS_MAX):
            while (
                row := await shop.provider._desk.get(request["event"]["id"])
            ) is None or row.stage is not Stage.PAID:
                await asyncio.sleep(0.05)
        asked = parse_request(next(tag[1] for tag in offer["event"]["tags"] if tag[0] == "creq"))
        assert asked.condition is not None
        assert asked.condition.to_lock() == row.terms.lock  # the request alone told it all
        assert row.amount_sat >= PRICE_SAT
    assert await shop.sat() >= PRICE_SAT
