"""`tradepost escrow`, with an agent and an arbiter that are open elsewhere, a real relay and a real mint."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from dvm import Agent, Job, Provider, ProviderLimits
from dvm.arbiter import Arbiter, ArbiterLimits
from identity import LocalSigner, encode_npub
from tradepost.post import open_post, own_key
from tradepost.settings import ARBITER, Settings
from wallet.escrow import Stage

if TYPE_CHECKING:
    from conftest import AsyncCli

pytestmark = pytest.mark.process


class Town(NamedTuple):
    shop: str
    provider: Provider
    arbiter: Arbiter
    arbiter_home: Path


@pytest.fixture
async def town(
    configured: str,
    relay_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Town]:
    """An agent that shouts for 21 sat, and an arbiter (with the fee that the test names), each on its own post."""
    agent = Agent("Loud")

    @agent.serves(kind=5001, price_sat=21)
    async def shout(job: Job) -> str:
        return job.text.upper()

    def settings(name: str) -> Settings:
        return Settings(relays=(relay_url,), mints=(configured,), data=tmp_path / name)

    async with AsyncExitStack() as stack:
        posts = [await stack.enter_async_context(open_post(settings(name))) for name in ("court", "shop")]
        fee = ArbiterLimits(fee_sat=getattr(request, "param", 0))
        arbiter = Arbiter(posts[0], LocalSigner(own_key(settings("court"), ARBITER)), fee)
        await arbiter.start()
        stack.push_async_callback(arbiter.stop)
        signer = LocalSigner(own_key(settings("shop"), agent.slug))
        provider = Provider(agent, signer, posts[1], ProviderLimits(arbiters=(arbiter.public_key,)))
        await provider.start()
        stack.push_async_callback(provider.stop, 0)
        await posts[1].outbox.flush(5)
        monkeypatch.setenv("TRADEPOST_ARBITERS", encode_npub(arbiter.public_key))
        yield Town(encode_npub(provider.public_key), provider, arbiter, tmp_path / "court")


async def stage_of(cli: "AsyncCli", stage: Stage, seconds: float = 15) -> dict[str, object]:
    """The one escrow, once it is in a stage; `settle` lets the customer hear what happened meanwhile."""
    async with asyncio.timeout(seconds):
        while True:
            (row,) = (await cli("escrow", "list", "--json")).lines
            if row["stage"] == stage:
                return row
            await cli("settle", "--seconds", 1)


async def test_what_was_reviewed_is_accepted(town: Town, cli_beside: "AsyncCli") -> None:
    await cli_beside("wallet", "fund", 100)
    assert "nothing is or was in escrow" in (await cli_beside("escrow", "list")).err
    asked = await cli_beside("ask", town.shop, "hello", "--kind", 5001, "--max-sat", 50, "--review")
    assert (asked.code, asked.out) == (0, "HELLO\n")
    row = await stage_of(cli_beside, Stage.DELIVERED)
    assert (row["role"], row["price_sat"], row["method"]) == ("customer", 21, "escrow")
    accepted = await cli_beside("escrow", "accept", str(row["id"])[:10])
    assert accepted.code == 0, accepted.err
    assert "released" in accepted.out
    again = await cli_beside("escrow", "accept", str(row["id"]))
    assert again.code == 1
    assert "nothing" in again.err or "not possible" in again.err
    async with asyncio.timeout(15):
        while (earned := await town.provider._desk.get(str(row["id"]))) is None or earned.amount_sat != 21:
            await asyncio.sleep(0.02)


async def test_a_dispute_is_ruled_by_an_arbiter_that_is_running(
    town: Town, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    await cli_beside("wallet", "fund", 100)
    await cli_beside(
        "ask", town.shop, "hello", "--kind", 5001, "--max-sat", 50, "--review", "--settle", "escrow"
    )
    row = await stage_of(cli_beside, Stage.DELIVERED)
    assert (await cli_beside("escrow", "dispute", str(row["id"]), "--reason", "too loud")).code == 0
    shown = await cli_beside("escrow", "show", str(row["id"]))
    assert "too loud" in shown.out
    with monkeypatch.context() as court:
        court.setenv("TRADEPOST_DATA", str(town.arbiter_home))
        async with asyncio.timeout(15):
            while (
                case := await town.arbiter.get(str(row["id"]))
            ) is None or case.stage is not Stage.DISPUTED:
                await asyncio.sleep(0.02)
        assert "too loud" in (await cli_beside("escrow", "show", str(row["id"]))).out
        ruled = await cli_beside("escrow", "rule", str(row["id"]), "--provider", 0)
        assert ruled.code == 0
        assert "was told" in ruled.err
        async with asyncio.timeout(
            15
        ):  # what its post would refuse is refused here, by what is in the database
            while (again := await cli_beside("escrow", "rule", str(row["id"]), "--provider", 0)).code == 0:
                await asyncio.sleep(0.02)
        assert "the escrow is ruled" in again.err
    refunded = await stage_of(cli_beside, Stage.REFUNDED)
    assert refunded["received_sat"] == 21 or int(str(refunded["received_sat"])) >= 20
    (job,) = (await cli_beside("jobs", "--json")).lines
    assert job["state"] == "refunded"
    audited = await cli_beside("audit", "--json")
    assert audited.code == 0


@pytest.mark.parametrize("town", [5], indirect=True)
async def test_a_dispute_costs_what_the_arbiter_named(
    town: Town, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    await cli_beside("wallet", "fund", 100)
    asked = await cli_beside("ask", town.shop, "hello", "--kind", 5001, "--max-sat", 50, "--review")
    assert "a dispute would cost you 5 sat more" in asked.err
    assert "21 sat are locked, and not paid yet" in asked.err
    row = await stage_of(cli_beside, Stage.DELIVERED)
    assert (row["arbiter_fee_sat"], row["fee_order"]) == (5, None)
    assert "5 sat, if disputed" in (await cli_beside("escrow", "show", str(row["id"]))).out
    dispute = ("escrow", "dispute", str(row["id"]), "--reason")
    unasked = await cli_beside(*dispute, "too loud")
    assert (unasked.code, "say --yes" in unasked.err) == (1, True)
    silent = await cli_beside(*dispute, " ", "--yes")
    assert (silent.code, "say why" in silent.err) == (1, True)
    disputed = await cli_beside(*dispute, "too loud", "--yes")
    assert disputed.code == 0, disputed.err
    assert "fee of 5 sat is paid" in disputed.err
    shown = (await cli_beside("escrow", "list")).out
    assert "5 sat, ordered" in shown
    with monkeypatch.context() as court:
        court.setenv("TRADEPOST_DATA", str(town.arbiter_home))
        async with asyncio.timeout(15):
            while (
                case := await town.arbiter.get(str(row["id"]))
            ) is None or case.stage is not Stage.DISPUTED:
                await asyncio.sleep(0.02)
        assert "5 sat, paid" in (await cli_beside("escrow", "list")).out
        assert (await cli_beside("escrow", "rule", str(row["id"]), "--provider", 0)).code == 0
    await stage_of(cli_beside, Stage.REFUNDED)
    async with asyncio.timeout(15):
        while {job["kind"]: job["state"] for job in (await cli_beside("jobs", "--json")).lines} != {
            5001: "refunded", 5957: "done",
        }:  # fmt: skip
            await cli_beside("settle", "--seconds", 1)


async def test_mistakes_are_told(town: Town, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no escrow begins" in (await cli_beside("escrow", "show", "abcd")).err
    refused = await cli_beside("ask", town.shop, "x", "--kind", 5001, "--settle", "barter")
    assert (refused.code, "write escrow" in refused.err) == (1, True)
    monkeypatch.setenv("TRADEPOST_ARBITERS", "nobody")
    assert "TRADEPOST_ARBITERS" in (await cli_beside("escrow", "list")).err
    monkeypatch.delenv("TRADEPOST_ARBITERS")
    needs = await cli_beside("ask", town.shop, "x", "--kind", 5001, "--settle", "escrow")
    assert "needs an arbiter" in needs.err
