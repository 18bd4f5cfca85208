"""The market in memory, as its documentation promises it to people who test their agents."""

import asyncio
from pathlib import Path

import pytest

from dvm import ProviderLimits
from tradepost import Agent, Job, JobFailed, OrderFailed
from tradepost.testing import ManualClock, Market


@pytest.fixture
def agent() -> Agent:
    agent = Agent("Shorts")

    @agent.serves(kind=5001, price_sat=21)
    async def shorten(job: Job) -> str:
        return job.text.replace("long", "short")

    @agent.serves(kind=5050)
    async def fail(job: Job) -> str:
        raise JobFailed("not today")

    return agent


async def test_the_example_of_its_documentation(agent: Agent) -> None:
    async with Market() as market:
        provider = await market.open(agent)
        customer = await market.customer(sat=100)
        order = await customer.ask(provider.public_key, "a long text", kind=5001, max_sat=50)
        assert await order.result() == "a short text"
        posts = [provider._post, customer._post]
        held = [sum((await post.wallet.balance()).values()) for post in posts]
        assert held[0] == 21
        assert sum(held) + market.mint.fees_sat == 100


async def test_posts_are_separate_and_gone_afterwards(agent: Agent) -> None:
    async with Market() as market:
        await market.open(agent, name="one", sat=5)
        await market.post("two")
        folders = [market.settings(name).data for name in ("one", "two")]
        assert all((folder / "post.sqlite").exists() for folder in folders)
    assert not any(folder.exists() for folder in folders)


async def test_a_named_folder_keeps_the_posts_for_the_next_market(agent: Agent, tmp_path: Path) -> None:
    async with Market(folder=tmp_path) as market:
        first = (await market.open(agent)).public_key
    async with Market(folder=tmp_path) as market:
        assert (await market.open(agent)).public_key == first


async def test_a_manual_clock_rules_relay_mint_and_posts(agent: Agent) -> None:
    clock = ManualClock()
    async with Market(clock=clock) as market:
        customer = await market.customer()
        order = await customer.ask("ab" * 32, "anybody there?", kind=5001, seconds_max=3600)
        await clock.advance(3601)
        with pytest.raises(OrderFailed, match="nobody answered"):
            await order.result()


async def test_limits_and_failures_are_those_of_production(agent: Agent) -> None:
    async with Market() as market:
        provider = await market.open(agent, limits=ProviderLimits(input_bytes_max=5))
        customer = await market.customer()
        for text, said in (("short", "not today"), ("much too long", "at most 5")):
            order = await customer.ask(provider.public_key, text, kind=5050)
            with pytest.raises(OrderFailed, match=said):
                await order.result()


async def test_what_the_person_configured_for_real_is_not_touched(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RELAYS", "MINTS", "DATA"):
        monkeypatch.setenv(
            f"TRADEPOST_{name}", "wss://real.test" if name == "RELAYS" else "https://real.test"
        )
    async with Market() as market:
        settings = market.settings("shop")
        assert (settings.relays, settings.mints) == (("ws://relay.test",), (market.mint.url,))
        assert (await market.post("shop", sat=10)).wallet.mints == (market.mint.url,)
        await asyncio.sleep(0)
