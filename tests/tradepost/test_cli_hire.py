"""`tradepost ask` for work and not for a certain agent, and what agents may spend, on a real relay and a real mint."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dvm import Agent, AllowanceExceeded, Job, Post, Provider
from dvm.discovery.announce import heartbeat
from identity import LocalSigner, SecretKey, encode_npub, make_template, sign_event
from relay_bridge import RelayPool
from store import SystemClock
from tradepost.api import open_customer, serve
from tradepost.post import open_post, own_key
from tradepost.settings import Settings

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli

pytestmark = pytest.mark.process
PATIENCE_SECONDS = 1


@pytest.fixture
async def shop(
    configured: str, relay_url: str, agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Provider]:
    """The agent of these tests, on a post of its own; a sign of life is waited for a short while only."""
    monkeypatch.setattr("dvm.orders.guarantee_lifecycle.PATIENCE_SECONDS", PATIENCE_SECONDS)
    settings = Settings(relays=(relay_url,), mints=(configured,), data=tmp_path / "shop")
    async with open_post(settings) as post:
        provider = Provider(agent, LocalSigner(own_key(settings, agent.slug)), post)
        await provider.start()
        await post.outbox.flush(5)
        yield provider
        await provider.stop(0)


@pytest.fixture
async def dead(shop: Provider, relay_url: str) -> SecretKey:
    """A cheaper agent that looks alive, and is not."""
    key, now = SecretKey.generate(), int(time.time())
    tags = [("d", "dead"), ("k", "5001"), ("t", "summarisation"), ("price", "5001", "1000")]
    async with RelayPool([relay_url], clock=SystemClock()) as pool:
        for template in (
            make_template(31990, content="{}", tags=tags, created_at=now),
            heartbeat(Agent("Dead"), now),
        ):
            for answer in (await pool.publish(sign_event(template, key))).values():
                assert answer.accepted, answer
    return key


async def test_the_next_agent_is_asked(
    shop: Provider,
    dead: SecretKey,
    cli_beside: "AsyncCli",
    home: Path,
    fund: Callable[[Path], Awaitable[None]],
) -> None:
    await fund(home)
    asked = ("--kind", 5001, "--max-sat", 30, "--seconds", 60)
    ran = await cli_beside("ask", "summarisation", "hello", *asked)
    assert (ran.code, ran.out) == (0, "HELLO\n")
    told = ran.err.replace("\n", " ")
    first, second = encode_npub(dead.public_key)[:12], encode_npub(shop.public_key)[:12]
    assert f"asking: {first}…" in told
    assert f"{first}…: no sign of life; asking {second}…" in told
    jobs = (await cli_beside("jobs", "--json")).lines
    assert {job["state"] for job in jobs} == {"done", "cancelled"}

    # An agent that is named is the only one, unless others will do.
    alone = await cli_beside("ask", encode_npub(dead.public_key), "hello", *asked[:4], "--seconds", 1)
    assert alone.code == 1
    assert "nobody answered in time" in alone.err.replace("\n", " ")
    ran = await cli_beside("ask", encode_npub(dead.public_key), "again", *asked, "--or-others", "--json")
    assert ran.lines[-1]["content"] == "AGAIN"
    assert len({line["job"] for line in ran.lines}) == 2
    assert [line["step"] for line in ran.lines].count("asking") == 2


async def test_nobody_to_ask(shop: Provider, cli_beside: "AsyncCli") -> None:
    ran = await cli_beside("ask", "upper", "hello", "--kind", 5001, "--max-sat", 20)
    assert (ran.code, ran.out) == (1, "")
    assert "all ask more than 20 sat" in ran.err.replace("\n", " ")


async def test_settle_goes_on_with_it(
    shop: Provider, dead: SecretKey, cli_beside: "AsyncCli", home: Path
) -> None:
    """A process that died after it had asked the dead agent, for nothing that costs anything."""
    settings = Settings.load()
    async with open_post(settings) as post, open_customer(settings, post) as customer:
        key = dead.public_key
        guarantee = await customer.hire(key, "HELLO", kind=5002, seconds_max=60)
        async with asyncio.timeout(10):
            async for update in guarantee:
                if update.step == "asking":
                    break
    ran = await cli_beside("settle", "--seconds", 30, "--json")
    assert ran.code == 0
    assert {(job["state"], job["kind"]) for job in ran.lines} == {("done", 5002), ("cancelled", 5002)}


def test_allowances_are_shown(cli: "Cli") -> None:
    assert "allowances: {summariser:" in cli("wallet", "allowances").err.replace("\n", " ")
    Path("tradepost.yaml").write_text("allowances: {writer: {job_sat: 50, day_sat: 500}}\n")
    shown = cli("wallet", "allowances")
    assert shown.out.splitlines()[1].split() == [
        "writer",
        "50",
        "sat",
        "500",
        "sat",
        "0",
        "sat",
        "500",
        "sat",
    ]
    (line,) = cli("wallet", "allowances", "--json").lines
    assert line.pop("renews_at") > time.time()  # type: ignore[operator]
    assert line == {"agent": "writer", "job_sat": 50, "day_sat": 500, "spent_sat": 0, "left_sat": 500}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("writer: {job_sat: 0, day_sat: 5}", "more than 0"),
        ("writer: {job_sat: 5}", "allowances.writer.day_sat"),
        ("writer: {job_sat: 5, day_sat: 5, week_sat: 9}", "allowances.writer.week_sat"),
        ("writer: much", "allowances.writer"),
    ],
)
def test_a_bad_allowance_is_named(text: str, said: str, cli: "Cli") -> None:
    Path("tradepost.yaml").write_text(f"allowances: {{{text}}}\n")
    ran = cli("wallet", "allowances")
    assert ran.code == 1
    assert said.replace(" ", "") in ran.err.replace("\n", "").replace(" ", "")


async def test_an_agent_that_is_served_buys_within_its_allowance(
    shop: Provider,
    relay_url: str,
    configured: str,
    home: Path,
    fund: Callable[[Path], Awaitable[None]],
    cli_beside: "AsyncCli",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer = Agent("Writer")

    @writer.serves(kind=5005)
    async def write(job: Job) -> str:
        bought = await job.ask("summarisation", job.text, max_sat=25)
        with pytest.raises(AllowanceExceeded):
            await job.ask("summarisation", "more", max_sat=25)
        return f"{bought}!"

    await fund(home)
    monkeypatch.setenv("TRADEPOST_ALLOWANCES", '{"writer": {"job_sat": 30, "day_sat": 100}}')
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def on_ready(providers: Sequence[Provider], post: Post) -> None:
        (rail,) = post.lightning.rails
        assert (await rail.limits()).pays_itself  # the mint is for play
        ready.set_result(providers[0].public_key)

    serving = asyncio.create_task(serve([writer], Settings.load(), on_ready=on_ready))
    try:
        key = await asyncio.wait_for(ready, 20)
        settings = Settings(relays=(relay_url,), data=home / "buyer")
        async with open_post(settings) as post, open_customer(settings, post) as customer:
            order = await customer.ask(key, "hello", kind=5005)
            assert await asyncio.wait_for(order.result(), 30) == "HELLO!"
        (line,) = (await cli_beside("wallet", "allowances", "--json")).lines  # while it runs
        spent_sat = int(str(line["spent_sat"]))  # with the mint's fees
        assert (line["agent"], spent_sat in range(21, 25), line["left_sat"]) == (
            "writer",
            True,
            100 - spent_sat,
        )
    finally:
        serving.cancel()
        await asyncio.wait([serving])
