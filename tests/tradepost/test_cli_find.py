"""`tradepost find` on a real relay, with agents of ours, of others, and of somebody who means harm."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dvm import Agent, Job, Provider
from identity import Event, LocalSigner, SecretKey, encode_npub, make_template, sign_event
from relay_bridge import RelayPool
from store import SystemClock
from tradepost.cli import find as find_module
from tradepost.post import open_post, own_key
from tradepost.settings import Settings

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli

    from tests.conftest import NameServer

FOREIGN, HOSTILE, CUSTOMER = (SecretKey.generate() for _ in range(3))


@pytest.fixture
async def pool(home: Path, relay_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RelayPool]:
    """A way to put strangers' events onto the relay, which is the one of the configuration."""
    monkeypatch.setenv("TRADEPOST_RELAYS", relay_url)
    async with RelayPool([relay_url], clock=SystemClock()) as pool:
        yield pool


@pytest.fixture
async def shop(pool: RelayPool, tmp_path: Path) -> AsyncIterator[Provider]:
    """A free agent of ours, open."""
    agent = Agent("Whisper", about="Says it softly")

    @agent.serves(kind=5001)
    def whisper(job: Job) -> str:
        return job.text.lower()

    settings = Settings(relays=pool.urls, data=tmp_path / "shop")
    async with open_post(settings) as post:
        provider = Provider(agent, LocalSigner(own_key(settings, agent.slug)), post)
        await provider.start()
        await post.outbox.flush(5)
        yield provider
        await provider.stop(0)


async def publish(
    pool: RelayPool, key: SecretKey, kind: int, *tags: tuple[str, ...], content: Any = "", at: int = 0
) -> Event:
    text = content if isinstance(content, str) else json.dumps(content)
    event = sign_event(make_template(kind, content=text, tags=tags, created_at=at or int(time.time())), key)
    for answer in (await pool.publish(event)).values():
        assert answer.accepted, answer
    return event


async def test_agents_of_ours_and_of_others(shop: Provider, pool: RelayPool, cli_beside: "AsyncCli") -> None:
    now = int(time.time())
    content = {
        "name": "Other \x1b[2J\u202eDVM",
        "about": "Shortens\x07 things",
        "amount": "5000",
        "nip90Params": {},
    }
    await publish(pool, FOREIGN, 31990, ("d", "1"), ("k", "5001"), ("t", "summarise"), content=content)
    asked = await publish(pool, CUSTOMER, 5001, ("i", "x", "text"), ("p", FOREIGN.public_key), at=now - 100)
    await publish(pool, FOREIGN, 7000, ("e", asked.id), ("status", "processing"), at=now - 99)
    await publish(pool, FOREIGN, 6001, ("e", asked.id), content="y", at=now - 96)
    await publish(
        pool,
        HOSTILE,
        31990,
        ("d", "1"),
        *(("k", str(kind)) for kind in range(5001, 5400)),
        content="{" * 5000,
    )

    ran = await cli_beside("find", "summarization")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].startswith("● Whisper  free  heartbeat ")
    assert "no answers seen" in lines[0]
    assert lines[1:4] == [encode_npub(shop.public_key), "  5001 summarisation", "  Says it softly"]
    assert lines[4].startswith("○ Other [2J DVM  5 sat  no heartbeat, but it answered ")
    assert lines[4].endswith("result in 4 s (1 job, by their dates)")
    assert lines[5] == encode_npub(FOREIGN.public_key)
    assert lines[8].startswith("○ (no name)  price unknown")
    assert not set("\x1b\x07\u202e") & set(ran.out)

    told = (await cli_beside("find", "5001", "--json")).lines
    assert [one["pubkey"] for one in told] == [shop.public_key, FOREIGN.public_key, HOSTILE.public_key]
    assert [one["alive"] for one in told] == [True, False, False]
    answers = {
        "jobs": 1,
        "first_seconds": 1.0,
        "result_seconds": 4.0,
        "last_at": now - 96,
        "clock": "created_at",
    }
    assert told[1]["answers"] == answers
    assert told[0]["probe"] is None
    assert [one["name"] for one in (await cli_beside("find", "softly", "--json")).lines] == ["Whisper"]
    assert len((await cli_beside("find", "5001", "--limit", 1, "--json")).lines) == 1


async def test_what_was_answered_counts_when_the_request_has_expired(
    pool: RelayPool, cli_beside: "AsyncCli"
) -> None:
    now = int(time.time())
    asked = sign_event(
        make_template(5002, tags=[("i", "x", "text"), ("expiration", str(now - 50))], created_at=now - 100),
        CUSTOMER,
    )
    repeated = ("request", asked.to_json().decode())
    await publish(pool, FOREIGN, 31990, ("d", "1"), ("k", "5002"), content={"name": "Quick"})
    await publish(pool, FOREIGN, 6002, ("e", asked.id), repeated, content="y", at=now - 96)
    assert "result in 4 s (1 job, by their dates)" in (await cli_beside("find", "translation")).out


async def test_names_are_asked_for_where_they_lead(
    pool: RelayPool, cli_beside: "AsyncCli", name_server: "NameServer", monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {FOREIGN: f"foreign@{name_server.domain}", HOSTILE: f"bank@{name_server.domain}"}
    name_server.names = {"foreign": FOREIGN.public_key, "bank": FOREIGN.public_key}
    for key, name in names.items():
        await publish(pool, key, 31990, ("d", "1"), ("k", "5002"), content={"name": name.partition("@")[0]})
        await publish(pool, key, 0, content={"nip05": name})
    await publish(pool, CUSTOMER, 31990, ("d", "1"), ("k", "5002"), content={"name": "nameless"})

    told = {one["name"]: one["nip05"] for one in (await cli_beside("find", "translation", "--json")).lines}
    assert told["nameless"] is None
    for one in (told["foreign"], told["bank"]):  # addresses of our own network are not asked
        assert (one["leads"], "not on the public internet" in one["said"]) == ("unknown", True)
    assert name_server.asked == []

    monkeypatch.setenv("TRADEPOST_ALLOW_PRIVATE_URLS", "true")
    out = (await cli_beside("find", "translation")).out
    assert f"  ✓ {names[FOREIGN]}\n" in out
    other = f"it leads to another key, {encode_npub(FOREIGN.public_key)}"
    assert f"  ✗ {names[HOSTILE]}: not its name, {other}\n" in out
    told = {one["name"]: one["nip05"] for one in (await cli_beside("find", "translation", "--json")).lines}
    assert told["foreign"] == {"name": names[FOREIGN], "leads": "here", "said": None}
    assert told["bank"] == {"name": names[HOSTILE], "leads": "elsewhere", "said": other}


async def test_a_probe_is_a_job_under_a_key_that_is_used_once(
    shop: Provider, cli_beside: "AsyncCli", home: Path
) -> None:
    (told,) = (await cli_beside("find", "whisper", "--probe", "--json")).lines
    probe = told["probe"]
    assert isinstance(probe, dict)
    assert probe["clock"] == "ours"
    assert 0 < probe["first_seconds"] < 5
    assert "probe: 0." in (await cli_beside("find", "whisper", "--probe")).out
    jobs = await shop._post.db.all("SELECT DISTINCT customer FROM jobs")
    assert len(jobs) == 2
    assert not home.exists()  # looking around draws no keys and opens no post


async def test_who_says_it_is_alive_and_does_not_answer(
    pool: RelayPool, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_module, "PROBE_SECONDS_MAX", 1.0)
    await publish(pool, FOREIGN, 31990, ("d", "1"), ("k", "5002"), content={"name": "Mute"})
    await publish(pool, FOREIGN, 11998, ("status", "online"))
    ran = await cli_beside("find", "translation", "--probe")
    assert ran.out.startswith("● Mute  price unknown  heartbeat ")
    assert "probe: no answer" in ran.out


async def test_more_agents_than_are_shown_or_asked_about(pool: RelayPool, cli_beside: "AsyncCli") -> None:
    keys = [SecretKey.generate() for _ in range(40)]
    await asyncio.gather(
        *(
            publish(pool, key, 31990, ("d", "1"), ("k", "5300"), content={"name": f"bot {n}"})
            for n, key in enumerate(keys)
        )
    )
    assert len((await cli_beside("find", "content-discovery", "--json")).lines) == 20
    assert len((await cli_beside("find", "bot", "--json", "--limit", 100)).lines) == 40


async def test_nobody_is_found(pool: RelayPool, cli_beside: "AsyncCli") -> None:
    ran = await cli_beside("find", "juggling", "--json")
    assert (ran.code, ran.out) == (1, "")
    assert json.loads(ran.err)["type"] == "NoAgentFound"
    assert "nobody announces 'juggling'" in ran.err


def test_mistakes(cli: "Cli", monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    assert "6001 is not in 5000–5999" in cli("find", "6001").err
    monkeypatch.setenv("TRADEPOST_RELAYS", f"ws://127.0.0.1:{free_port}")
    ran = cli("find", "translation")
    assert (ran.code, ran.out) == (1, "")
    assert "no relay can be reached" in ran.err.replace("\n", " ")
