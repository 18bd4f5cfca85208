"""Private jobs and jobs taken back, from the command line, against a real relay."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dvm import Agent, Job, Provider
from dvm.jobs.lifecycle import JobState
from dvm.queries import get_job
from identity import LocalSigner, encode_npub
from tradepost.api import open_customer
from tradepost.post import open_post, own_key
from tradepost.settings import Settings

if TYPE_CHECKING:
    from conftest import AsyncCli

SECRET = "Xyzzy"


@pytest.fixture
async def shop(
    home: Path, relay_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Provider]:
    """An agent that whispers (5002) and one thing it never ends (5050), free, on a post of its own."""
    monkeypatch.setenv("TRADEPOST_RELAYS", relay_url)
    agent = Agent("Quiet")

    @agent.serves(kind=5002)
    async def whisper(job: Job) -> str:
        await job.progress("reading")
        return job.text.lower()

    @agent.serves(kind=5050)
    async def wait(job: Job) -> str:
        await asyncio.Event().wait()
        return "never"

    settings = Settings(relays=(relay_url,), data=tmp_path / "shop")
    async with open_post(settings) as post:
        provider = Provider(agent, LocalSigner(own_key(settings, agent.slug)), post)
        await provider.start()
        await post.outbox.flush(5)
        yield provider
        await provider.stop(0)


async def test_a_private_job_is_read_by_its_two_parties(
    shop: Provider, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran = await cli_beside("ask", encode_npub(shop.public_key), SECRET, "--kind", 5002, "--private")
    assert (ran.code, ran.out) == (0, "xyzzy\n")
    job_id = ran.err.split()[1]
    stored = await get_job(shop._post.db, shop.public_key, job_id)
    assert stored is not None
    assert SECRET not in stored.request.to_json().decode()

    shown = await cli_beside("job", job_id[:12])
    assert shown.out.splitlines()[-1] == "xyzzy"
    assert SECRET in shown.out
    assert "private" in shown.out
    (line,) = (await cli_beside("job", job_id, "--json")).lines
    assert (line["private"], line["result"]) == (True, "xyzzy")
    assert ["i", SECRET, "text"] in line["tags"]  # type: ignore[operator]

    monkeypatch.setenv("TRADEPOST_HOME", str(tmp_path / "shop"))
    sold = await cli_beside("job", "show", job_id)
    assert "private" in sold.out
    assert SECRET not in sold.out


async def test_a_job_taken_back(shop: Provider, cli_beside: "AsyncCli") -> None:
    settings = Settings.load()
    async with open_post(settings) as post, open_customer(settings, post) as customer:
        order = await customer.ask(shop.public_key, "x", kind=5050)
    ran = await cli_beside("job", "cancel", order.id[:10])
    assert ran.code == 0
    assert ran.out.splitlines()[1].split()[:2] == [order.id[:12], "bought"]
    assert "cancelled" in ran.out
    async with asyncio.timeout(10):
        while (job := await get_job(shop._post.db, shop.public_key, order.id)) is None or (
            job.state is not JobState.CANCELLED
        ):
            await asyncio.sleep(0.02)
    again = await cli_beside("job", "cancel", order.id)
    assert again.code == 1
    assert "nothing to cancel" in again.err.replace("\n", " ")
    nobodys = await cli_beside("job", "cancel", "00" if order.id.startswith("f") else "ff")
    assert "no job you asked for" in nobodys.err.replace("\n", " ")
