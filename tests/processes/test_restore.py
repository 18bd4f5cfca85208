"""With a real mint and a real relay: a post earns and spends, its folder is deleted, and its words bring all of it back."""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dvm import Agent, Job, Provider
from identity import LocalSigner
from tradepost.api import open_customer
from tradepost.post import open_post, open_wallet, own_key, read_seed
from tradepost.restore import keep_record
from tradepost.settings import Settings
from tradepost.testing import MemoryMint

pytestmark = pytest.mark.process


def make_agent() -> Agent:
    agent = Agent("Loud")

    @agent.serves(kind=5001, price_sat=21)
    async def shout(job: Job) -> str:
        return job.text.upper()

    return agent


async def sats(settings: Settings) -> int:
    async with open_wallet(settings) as wallet:
        report = await wallet.audit(ask_mints=True)
        assert report.ok, report.problems
        return sum((await wallet.balance()).values())


async def restored(settings: Settings, words: str, *options: str) -> dict[str, Any]:
    """What `tradepost restore` says, in a process of its own that knows the relay and the words, and no mint."""
    environment = {"TRADEPOST_DATA": str(settings.data), "TRADEPOST_RELAYS": settings.relays[0]}
    command = [sys.executable, "-m", "tradepost", "restore", "--words", "-", "--json", *options]
    ran = await asyncio.to_thread(
        subprocess.run, command, input=words, env={**_environment(), **environment}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert not any(words in text for text in (ran.stdout, ran.stderr))
    return dict(json.loads(ran.stdout))


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TRADEPOST_")} | {
        "PYTHONPATH": str(Path(__file__).parents[2])
    }


async def test_the_words_bring_back_every_sat(
    mint_url: str, relay_url: str, fund: Callable[[Path], Awaitable[None]], tmp_path: Path
) -> None:
    sold, bought = (
        Settings(relays=(relay_url,), mints=(mint_url,), data=tmp_path / name)
        for name in ("agent", "customer")
    )
    await fund(bought.data)
    agent = make_agent()
    async with open_post(sold) as shop, open_post(bought) as post, open_customer(bought, post) as customer:
        provider = Provider(agent, LocalSigner(own_key(sold, agent.slug)), shop)
        await provider.start()
        await keep_record(sold, shop)
        orders = [
            await customer.ask(provider.public_key, f"job {number}", kind=5001, max_sat=50)
            for number in range(5)
        ]
        async with asyncio.timeout(30):
            assert [await order.result() for order in orders] == [f"JOB {number}" for number in range(5)]
        await shop.wallet.receive(await post.wallet.send(mint_url, 300))
        await shop.wallet.pay(mint_url, MemoryMint(f"https://{secrets.token_hex(8)}.test").invoice(120))
        await post.wallet.receive(await shop.wallet.send(mint_url, 33))
        await provider.stop()
        who = {"agent": provider.public_key, "customer": customer.public_key}
    for settings, name in ((sold, "loud"), (bought, "customer")):
        before, words = await sats(settings), read_seed(settings).words
        shutil.rmtree(settings.data)
        told = await restored(settings, words)
        assert told["balance_sat"] == before
        assert told["untrusted"] == [mint_url]
        assert {key["name"]: key["public_key"] for key in told["keys"]}[name] in who.values()
        assert await sats(settings) == before
        again = await restored(settings, words)
        assert (again["balance_sat"], again["mints"][0]["found_sat"]) == (before, 0)
    assert told["orders"]["done"] == 5


async def test_the_restored_go_on_to_trade(
    mint_url: str, relay_url: str, fund: Callable[[Path], Awaitable[None]], tmp_path: Path
) -> None:
    """The coins are good, and none of the outputs made from now on was signed before."""
    settings = Settings(relays=(relay_url,), mints=(mint_url,), data=tmp_path / "post")
    await fund(settings.data)
    async with open_wallet(settings) as wallet:
        tokens = [await wallet.send(mint_url, 100) for _ in range(5)]
        for token in tokens:
            await wallet.receive(token)
    before, words = await sats(settings), read_seed(settings).words
    shutil.rmtree(settings.data)
    told = await restored(settings, words, "--mint", mint_url)  # it never was at the relay
    assert told["balance_sat"] == before
    async with open_wallet(settings) as wallet:
        tokens = await asyncio.gather(*(wallet.send(mint_url, 64) for _ in range(10)))
        for token in tokens:
            await wallet.receive(token)
        fees_sat = sum(entry.fee_sat for entry in await wallet.history())
        assert sum((await wallet.balance()).values()) == before - fees_sat
    assert await sats(settings) == before - fees_sat
