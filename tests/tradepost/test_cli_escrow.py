"""`tradepost escrow`, with an agent and an arbiter that are open elsewhere, a real relay and a real mint."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from dvm import Agent, Job, Provider, ProviderLimits
from dvm.escrow.arbiter import Arbiter, ArbiterLimits
from identity import LocalSigner, encode_npub
from tradepost.api import open_customer
from tradepost.cli import escrow_wishes
from tradepost.post import open_post, own_key
from tradepost.settings import ARBITER, Settings
from wallet.escrow import Stage

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli

pytestmark = pytest.mark.process

SHOP = Path(__file__).parents[1] / "interop" / "shop"


class Town(NamedTuple):
    shop: str
    provider: Provider
    arbiter: Arbiter
    arbiter_home: Path
    court: AsyncExitStack  # closed: no process has the arbiter's post open


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
        court = await stack.enter_async_context(AsyncExitStack())
        posts = [
            await court.enter_async_context(open_post(settings("court"))),
            await stack.enter_async_context(open_post(settings("shop"))),
        ]
        fee = ArbiterLimits(fee_sat=getattr(request, "param", 0))
        arbiter = Arbiter(posts[0], LocalSigner(own_key(settings("court"), ARBITER)), fee)
        await arbiter.start()
        court.push_async_callback(arbiter.stop)
        signer = LocalSigner(own_key(settings("shop"), agent.slug))
        provider = Provider(
            agent, signer, posts[1], ProviderLimits(arbiters=(arbiter.public_key,), reveal_msat_max=100_000)
        )
        await provider.start()
        stack.push_async_callback(provider.stop, 0)
        await posts[1].outbox.flush(5)
        monkeypatch.setenv("TRADEPOST_ARBITERS", encode_npub(arbiter.public_key))
        yield Town(encode_npub(provider.public_key), provider, arbiter, tmp_path / "court", court)


async def stage_of(
    cli: "AsyncCli", stage: Stage, seconds: float = 15, settle: bool = True
) -> dict[str, object]:
    """The one escrow, once it is in a stage; `settle` lets the customer hear what happened meanwhile."""
    async with asyncio.timeout(seconds):
        while True:
            (row,) = (await cli("escrow", "list", "--json")).lines
            if row["stage"] == stage:
                return row
            if settle:
                await cli("settle", "--seconds", 1)


async def test_what_was_reviewed_is_accepted(
    town: Town, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    await cli_beside("wallet", "fund", 100)
    assert "nothing is or was in escrow" in (await cli_beside("escrow", "list")).err
    asked = await cli_beside("ask", town.shop, "hello", "--kind", 5001, "--max-sat", 50, "--review")
    assert (asked.code, asked.out) == (0, "HELLO\n")
    row = await stage_of(cli_beside, Stage.DELIVERED)
    assert (row["role"], row["price_sat"], row["method"]) == ("customer", 21, "escrow")
    assert "done, delivered" in (await cli_beside("jobs")).out
    (purse,) = (await cli_beside("wallet", "balance", "--json")).lines
    assert (purse["escrow_sat"], purse["locked_sat"]) == (21, 0)
    started = time.monotonic()
    (settled,) = (await cli_beside("settle", "--seconds", 600, "--json")).lines
    assert (settled["id"], settled["stage"]) == (row["id"], "delivered")
    assert time.monotonic() - started < 60
    with monkeypatch.context() as cut_off:
        cut_off.setenv("TRADEPOST_RELAYS", f"ws://127.0.0.1:{free_port}")
        cut_off.setenv(
            "TRADEPOST_ALLOW_PRIVATE_RELAYS", "true"
        )  # the agent's, which the letter still reaches
        cut_off.setattr(escrow_wishes, "READ_SECONDS_MAX", 1)
        accepted = await cli_beside("escrow", "accept", str(row["id"])[:10])
    assert accepted.code == 0, accepted.err
    assert "could be read in 1 s" in accepted.err.replace("\n", " ")
    assert "released" in accepted.out
    again = await cli_beside("escrow", "accept", str(row["id"]))
    assert again.code == 1
    assert "which is released; went to the agent" in again.err
    (listed,) = (await cli_beside("jobs", "--json")).lines
    assert listed["escrow"] == {
        "stage": "released", "method": "escrow", "received_sat": 0, "awarded_sat": None,
    }  # fmt: skip
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
        rule = ("escrow", "rule", str(row["id"]), "--provider")
        assert "the price is 21 sat" in (await cli_beside(*rule, 22)).err
        assert "the agent can have 19 or 21 sat" in (await cli_beside(*rule, 20)).err
        (ruled,) = (await cli_beside(*rule, 10, "--json")).lines
        assert (ruled["stage"], ruled["awarded_sat"]) == ("ruled", {"provider": 10, "customer": 11})
        again = await cli_beside(*rule, 10)
        assert (again.code, "you cannot rule on escrow" in again.err) == (1, True)
        stranger = await cli_beside("escrow", "accept", str(row["id"]))
        assert "this post is the arbiter of escrow" in stranger.err
        assert "not its customer" in stranger.err
    refunded = await stage_of(cli_beside, Stage.REFUNDED)
    got_sat = int(str(refunded["received_sat"]))
    assert 10 <= got_sat <= 11
    assert f"{got_sat} of 21 sat came back" in (await cli_beside("escrow", "list")).out
    shown = await cli_beside("escrow", "show", str(row["id"]))
    assert "10 sat to the agent, 11 sat to the customer" in shown.out
    assert f"refunded {got_sat} of 21" in (await cli_beside("jobs")).out
    assert "10 sat to the agent" in (await cli_beside("job", str(row["id"]))).out
    audited = await cli_beside("audit", "--json")
    assert audited.code == 0


async def test_an_arbiter_reads_its_letters_before_it_rules(
    town: Town, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    await cli_beside("wallet", "fund", 100)
    await cli_beside("ask", town.shop, "hello", "--kind", 5001, "--max-sat", 50, "--review")
    row = await stage_of(cli_beside, Stage.DELIVERED)
    await town.court.aclose()
    assert (await cli_beside("escrow", "dispute", str(row["id"]), "--reason", "too loud")).code == 0
    with monkeypatch.context() as court:
        court.setenv("TRADEPOST_DATA", str(town.arbiter_home))
        (case,) = (await cli_beside("escrow", "list", "--json")).lines
        assert case["stage"] != "disputed"
        ruled = await cli_beside("escrow", "rule", str(row["id"]), "--provider", 21)
        assert (ruled.code, ruled.err) == (0, "")
        assert "21 agent 21 sat, customer 0 sat" in ruled.out
        shown = (await cli_beside("escrow", "show", str(row["id"]))).out
        assert "customer: too loud" in shown
        assert "input        hello" in shown
        assert shown.endswith("HELLO\n")
    settled = await cli_beside("settle", "--seconds", 1)
    assert f"{str(row['id'])[:12]}: 21 sat in escrow, " in settled.err
    released = await stage_of(cli_beside, Stage.RELEASED)
    assert (released["reason"], released["received_sat"]) == ("the arbiter ruled", 0)


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
    assert "5 sat, if the customer disputes" in (await cli_beside("escrow", "show", str(row["id"]))).out
    dispute = ("escrow", "dispute", str(row["id"]), "--reason")
    unasked = await cli_beside(*dispute, "too loud")
    assert (unasked.code, "say --yes" in unasked.err) == (1, True)
    silent = await cli_beside(*dispute, " ", "--yes")
    assert (silent.code, "say why" in silent.err) == (1, True)
    disputed = await cli_beside(*dispute, "too loud", "--yes")
    assert disputed.code == 0, disputed.err
    assert "the arbiter's fee: 5 sat, paid" in disputed.err
    (listed,) = (await cli_beside("escrow", "list", "--json")).lines
    assert (listed["fee_state"], listed["possible"]) == ("paid", ["accept"])
    with monkeypatch.context() as court:
        court.setenv("TRADEPOST_DATA", str(town.arbiter_home))
        async with asyncio.timeout(15):
            while (
                case := await town.arbiter.get(str(row["id"]))
            ) is None or case.stage is not Stage.DISPUTED:
                await asyncio.sleep(0.02)
        assert "5 sat, paid" in (await cli_beside("escrow", "show", str(row["id"]))).out
        assert (await cli_beside("escrow", "rule", str(row["id"]), "--provider", 0)).code == 0
    await stage_of(cli_beside, Stage.REFUNDED)
    async with asyncio.timeout(15):
        while {job["kind"]: job["state"] for job in (await cli_beside("jobs", "--json")).lines} != {
            5001: "refunded", 5957: "done",
        }:  # fmt: skip
            await cli_beside("settle", "--seconds", 1)


@pytest.mark.parametrize("town", [5], indirect=True)
async def test_a_fee_that_was_not_paid_leaves_a_dispute_unheard_until_it_is(
    town: Town, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    await cli_beside("wallet", "fund", 26)  # the price and the mint's fees, and not the arbiter's
    await cli_beside("ask", town.shop, "hello", "--kind", 5001, "--max-sat", 50, "--review")
    row = await stage_of(cli_beside, Stage.DELIVERED)
    disputed = await cli_beside("escrow", "dispute", str(row["id"]), "--reason", "too loud", "--yes")
    assert disputed.code == 0
    assert "not paid" in disputed.err
    assert "pay with `tradepost settle`" in disputed.err
    assert "unheard: fee of 5 sat not paid" in disputed.out
    await cli_beside("wallet", "fund", 10)
    async with asyncio.timeout(15):
        while "5 sat, paid" not in (await cli_beside("escrow", "show", str(row["id"]))).out:
            assert (await cli_beside("settle", "--seconds", 1)).code == 0


async def test_a_post_that_runs_is_told_and_answers(
    town: Town,
    cli_beside: "AsyncCli",
    process: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = process(
        "-m", "tradepost", "up", SHOP, "--json",
        TRADEPOST_DATA=str(tmp_path / "running"), TRADEPOST_RAILS="mint",
    )  # fmt: skip
    agent = json.loads(await running.start())["npub"]
    await cli_beside("wallet", "fund", 100)
    asked = await cli_beside("ask", agent, "hello", "--kind", 5001, "--max-sat", 50, "--review")
    assert asked.code == 0, asked.err
    row = await stage_of(cli_beside, Stage.DELIVERED)
    with monkeypatch.context() as shop:
        shop.setenv("TRADEPOST_DATA", str(tmp_path / "running"))
        early = await cli_beside("escrow", "answer", str(row["id"]), "--text", "it is loud")
        assert "you cannot answer escrow" in early.err
    async with open_post(Settings.load()) as post, open_customer(Settings.load(), post):
        # This process is the one that has the customer's post open.
        silent = await cli_beside("escrow", "dispute", str(row["id"]), "--reason", " ")
        assert (silent.code, "say why" in silent.err) == (1, True)
        (disputed,) = (
            await cli_beside("escrow", "dispute", str(row["id"]), "--reason", "too loud", "--json")
        ).lines
        assert disputed["stage"] == "disputed"
    with monkeypatch.context() as shop:
        shop.setenv("TRADEPOST_DATA", str(tmp_path / "running"))
        await stage_of(cli_beside, Stage.DISPUTED, settle=False)
        answered = await cli_beside("escrow", "answer", str(row["id"]), "--text", "it is loud")
        assert (answered.code, "disputed" in answered.out) == (0, True), answered.err
        given = await cli_beside("escrow", "refund", str(row["id"]))
        assert (given.code, "conceded" in given.out) == (0, True), given.err
        again = await cli_beside("escrow", "refund", str(row["id"]))
        assert "which is conceded; you gave it back" in again.err
    # Nothing ran here meanwhile: what the agent did is read before the wish is done.
    late = await cli_beside("escrow", "accept", str(row["id"]))
    assert late.code == 1
    assert "you cannot accept" in late.err
    await stage_of(cli_beside, Stage.REFUNDED)
    async with asyncio.timeout(15):  # letters come in any order
        while "provider: it is loud" not in (
            shown := (await cli_beside("escrow", "show", str(row["id"]))).out
        ):
            await cli_beside("settle", "--seconds", 1)
    # Both sign the coins back, the agent as it was told and its arbiter as it heard of it: either comes first.
    assert (
        "refunded: the agent gave the money back" in shown or "refunded: the arbiter signed for it" in shown
    )


async def test_a_post_that_reads_for_others_only_leaves_it_for_later(
    town: Town, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    await cli_beside("wallet", "fund", 100)
    await cli_beside("ask", town.shop, "hello", "--kind", 5001, "--max-sat", 50, "--review")
    row = await stage_of(cli_beside, Stage.DELIVERED)
    async with open_post(Settings.load()):  # as `up` without a gateway: no customer is open
        monkeypatch.setattr(escrow_wishes, "ANSWER_SECONDS_MAX", 1)
        silent = await cli_beside("escrow", "accept", str(row["id"]))
    assert (silent.code, silent.out) == (1, "")
    assert "did not answer in 1 s" in silent.err
    assert "then `tradepost settle`" in silent.err
    await stage_of(cli_beside, Stage.RELEASED)


async def test_mistakes_are_told(town: Town, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no escrow begins" in (await cli_beside("escrow", "show", "abcd")).err
    hasty = await cli_beside("ask", town.shop, "x", "--kind", 5001, "--settle", "escrow", "--seconds", 20)
    assert (hasty.code, "say --seconds 60 or more" in hasty.err) == (1, True)
    lent = await cli_beside("ask", town.shop, "x", "--kind", 5001, "--max-sat", 21, "--settle", "reveal")
    assert (lent.code, "reveal_msat_max" in lent.err) == (1, True)
    refused = await cli_beside("ask", town.shop, "x", "--kind", 5001, "--settle", "barter")
    assert (refused.code, "write escrow" in refused.err) == (1, True)
    monkeypatch.setenv("TRADEPOST_ARBITERS", "nobody")
    assert "TRADEPOST_ARBITERS" in (await cli_beside("escrow", "list")).err
    monkeypatch.delenv("TRADEPOST_ARBITERS")
    needs = await cli_beside("ask", town.shop, "x", "--kind", 5001, "--settle", "escrow")
    assert "needs an arbiter" in needs.err
    assert "an id is needed" in (await cli_beside("escrow", "accept", "")).err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--settle", "prepaid"), "say --settle escrow"),
        (("--settle", "reveal"), "by reveal the agent is paid before you see the result"),
        (("--lightning",), "--review and --lightning"),
        (("--settle", "escrow", "--private"), "Leave --private out"),
        (("--private",), "Leave out --review or --private"),
        ((), "an escrow needs an arbiter"),
    ],
)
def test_nobody_reviews_what_is_not_in_escrow(options: tuple[str, ...], told: str, cli: "Cli") -> None:
    refused = cli("ask", "summarisation", "x", "--kind", 5001, "--review", *options)
    assert (refused.code, told in refused.err) == (1, True), refused.err


async def test_what_its_key_opened_is_seen_to_be_paid(town: Town, cli_beside: "AsyncCli") -> None:
    await cli_beside("wallet", "fund", 100)
    asking = ("ask", town.shop, "hello", "--kind", 5001, "--max-sat", 50, "--settle")
    first = (await cli_beside(*asking, "escrow", "--json")).lines[-1]
    assert first["escrow"]["stage"] == "released"  # type: ignore[index] - a line that is a tree
    async with asyncio.timeout(15):
        while (earned := await town.provider._desk.get(str(first["job"]))) is None or not earned.amount_sat:
            await asyncio.sleep(0.02)
    assert (await cli_beside(*asking, "reveal")).out == "HELLO\n"
    newest = (await cli_beside("escrow", "list", "--json")).lines[0]
    assert (newest["method"], newest["stage"]) == ("reveal", "released")


@pytest.mark.parametrize("command", ["escrow list", "jobs", "wallet balance"])
def test_looking_makes_no_post(command: str, cli: "Cli", home: Path) -> None:
    assert cli(*command.split()).code == 0
    assert not home.exists()


def test_the_bare_command_prints_its_help(cli: "Cli") -> None:
    bare = cli("escrow")
    assert (bare.code, bare.out) == (1, "")
    assert bare.err == cli("escrow", "--help").out
