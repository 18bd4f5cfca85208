"""`tradepost ask` of an agent that is named, and what it is given to work on, on a real relay."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dvm import Agent, Job, Provider
from dvm.discovery.directory import Listing
from dvm.orders.asking import named_key
from identity import LocalSigner, SecretKey, encode_npub, make_template, sign_event
from relay_bridge import RelayPool
from store import SystemClock
from tradepost.cli.ask import _params
from tradepost.cli.targets import doubts
from tradepost.errors import TradepostError
from tradepost.post import open_post, own_key
from tradepost.settings import Settings

if TYPE_CHECKING:
    from conftest import AsyncCli

NOW = 1_800_000_000
OTHER = SecretKey.generate()


def listing(*, alive: bool = True, beat_at: int | None = NOW, price_msat: int | None = 21_000) -> Listing:
    return Listing(
        public_key=OTHER.public_key, slug="shouter", name="Shouter", about="", words=(), kinds=(5001,),
        prices_msat={5001: price_msat}, price_msat=price_msat, alive=alive, beat_at=beat_at, announced_at=NOW,
    )  # fmt: skip


def test_what_speaks_against_an_agent() -> None:
    def told(one: Listing, kind: int = 5001, max_sat: int = 21, *, others: bool = False) -> str:
        return "; ".join(doubts([one], kind, max_sat, NOW, others=others))

    assert told(listing()) == told(listing(price_msat=None), max_sat=0) == ""
    assert doubts([], 5001, 0, NOW, others=False) == []  # an agent need not announce itself
    assert told(listing(), max_sat=20) == "Shouter announces 21 sat for this, and --max-sat is 20"
    dead = listing(alive=False, beat_at=NOW - 7200)
    assert told(dead) == (
        "Shouter seems not to run: its last heartbeat is 2 h old; with --or-others the next agent is asked if it does "
        "not answer"
    )
    assert told(listing(alive=False, beat_at=None), others=True) == (
        "Shouter seems not to run: there is no heartbeat of it"
    )
    instead = "Shouter announces no translation (5002), but summarisation (5001, 21 sat)"
    with pytest.raises(TradepostError) as refusal:
        told(listing(), 5002)
    assert str(refusal.value) == f"{instead}. Ask for that, or say --or-others: another agent is asked then"
    assert told(listing(), 5002, others=True) == f"{instead}: others are asked"


@pytest.fixture
async def pool(home: Path, relay_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RelayPool]:
    """A way to put strangers' events onto the relay, which is the one of the configuration."""
    monkeypatch.setenv("TRADEPOST_RELAYS", relay_url)
    async with RelayPool([relay_url], clock=SystemClock()) as pool:
        yield pool


@pytest.fixture
async def shop(pool: RelayPool, tmp_path: Path) -> AsyncIterator[Provider]:
    """A free agent of ours, open. It tells what it was given."""
    agent = Agent("Echo")

    @agent.serves(kind=5001)
    def echo(job: Job) -> str:
        return " | ".join(f"{part.type}: {part.text}" for part in job.inputs)

    settings = Settings(relays=pool.urls, data=tmp_path / "shop")
    async with open_post(settings) as post:
        provider = Provider(agent, LocalSigner(own_key(settings, agent.slug)), post)
        await provider.start()
        await post.outbox.flush(5)
        yield provider
        await provider.stop(0)


async def test_an_agent_that_does_one_kind_only_need_not_be_told_which(
    shop: Provider, cli_beside: "AsyncCli"
) -> None:
    npub = encode_npub(shop.public_key)
    for target in (npub, shop.public_key, "Echo", "ECHO"):
        ran = await cli_beside("ask", target, "hello")
        assert (ran.code, ran.out) == (0, "text: hello\n"), ran.err
    started = time.monotonic()
    ran = await cli_beside("ask", npub, "hello", "--kind", 5002)
    assert ran.code == 1
    assert time.monotonic() - started < 10
    assert "Echo announces no translation (5002), but summarisation (5001, free)" in ran.err.replace(
        "\n", " "
    )
    for unknown in ("Ohce", encode_npub(OTHER.public_key)):
        ran = await cli_beside("ask", unknown, "hello")
        assert ran.code == 1
        assert "which kind of job? Say it with --kind" in ran.err.replace("\n", " ")


async def test_one_that_does_several_is_to_be_told_which(pool: RelayPool, cli_beside: "AsyncCli") -> None:
    tags = [("d", "1"), ("k", "5001"), ("k", "5002"), ("price", "5001", "2000")]
    template = make_template(
        31990, content='{"name": "Two", "amount": "free"}', tags=tags, created_at=int(time.time())
    )
    await pool.publish(sign_event(template, OTHER))
    told = (await cli_beside("ask", encode_npub(OTHER.public_key), "x")).err.replace("\n", " ")
    assert "--kind, by number or name: it does summarisation (5001, 2 sat), translation (5002, free)" in told
    asked = await cli_beside("ask", OTHER.public_key, "x", "--kind", 5001, "--seconds", 1)
    assert asked.code == 1
    told = asked.err.replace("\n", " ")
    assert "Two announces 2 sat for this, and --max-sat is 0" in told
    assert "Two seems not to run: there is no heartbeat of it; with --or-others the next" in told


async def test_inputs_of_every_type(shop: Provider, pool: RelayPool, cli_beside: "AsyncCli") -> None:
    note = sign_event(make_template(1, content="a note", created_at=int(time.time())), OTHER)
    await pool.publish(note)
    Path("file.txt").write_text("a file")
    first = await cli_beside("ask", "Echo", "hello")
    job_id = first.err.split()[1]
    ran = await cli_beside(
        "ask", "Echo", "one", "--input", "text:two", "--input", "text:@file.txt",
        "--input", f"event:{note.id}@{pool.urls[0]}", "--input", f"job:{job_id[:12]}",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    expected = ["text: one", "text: two", "text: a file", "event: a note", "job: text: hello"]
    assert ran.out.rstrip().split(" | ") == expected
    ran = await cli_beside("ask", "Echo", "--input", "https://127.0.0.1:1/private")
    assert ran.code == 1
    assert "not on the public internet" in ran.err.replace("\n", " ")

    assert "begins with '0000" in (await cli_beside("ask", "Echo", "--input", f"job:{'0' * 40}")).err.replace(
        "\n", " "
    )
    secret = await cli_beside("ask", "Echo", "hush", "--private")
    ran = await cli_beside("ask", "Echo", "--input", f"job:{secret.err.split()[1]}")
    assert ran.code == 1
    assert "was private" in ran.err


async def test_what_is_printed_for_an_npub_names_whole_jobs(
    shop: Provider, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = (await cli_beside("ask", "Echo", "hello")).err.split()[1]
    asked = ("ask", shop.public_key, "--kind", 5001, "--input", f"job:{job_id[:8]}")
    (event,) = (await cli_beside(*asked, "--sec", encode_npub(OTHER.public_key), "--json")).lines
    assert ["i", job_id, "job", shop._post.pool.urls[0]] in event["tags"]  # type: ignore[operator]
    assert named_key(encode_npub(OTHER.public_key)) == event["pubkey"]


def test_a_parameter_has_as_many_values_as_it_is_given() -> None:
    assert _params(["relay=a", "top-k=5", "relay=b=c"]) == {"relay": ["a", "b=c"], "top-k": ["5"]}


async def test_an_agent_that_announces_nothing_is_asked_and_that_is_said(
    pool: RelayPool, cli_beside: "AsyncCli"
) -> None:
    for more in ((), ("--json",)):
        ran = await cli_beside(
            "ask", encode_npub(OTHER.public_key), "x", "--kind", 5001, "--seconds", 1, *more
        )
        assert ran.code == 1
        assert "announces nothing on ws://" in (
            ran.lines[0]["message"] if more else " ".join(ran.err.split())
        )


async def test_who_only_looks_makes_no_post(home: Path, cli_beside: "AsyncCli") -> None:
    for command in (("relays",), ("wallet", "allowances"), ("audit", "--offline")):
        assert (await cli_beside(*command)).code == 0
    assert not Settings.load().database.exists()
    assert not Settings.load().seed_file.exists()
