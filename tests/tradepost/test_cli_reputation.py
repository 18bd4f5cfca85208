"""`tradepost reputation`, and the same from Python, on a real relay and a mint in memory."""

import re
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nostr_sdk
import orjson
import pytest

from identity import Event, SecretKey, encode_npub, make_template, parse_event, sign_event
from identity.nip19 import encode_nprofile
from identity.receipt_file import Verdict
from identity.roots import ROOT_REPLACEABLE, parse_root
from relay_bridge import RelayPool
from store import SystemClock
from tests.dvm.reputation.booth import Booth, Sold, handed_on, honest
from tradepost import Reputation, verify_receipt
from tradepost.post import open_post
from tradepost.settings import Settings
from tradepost.testing import MemoryMint
from tradepost.verifying import Asked

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli

    from tests.conftest import NameServer

PAGE = Path(__file__).parents[2] / "docs" / "reputation.md"
DAY = 86_400


@pytest.fixture
async def pool(
    home: Path, relay_url: str, memory_mint: MemoryMint, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RelayPool]:
    """A way to put events onto the relay of the configuration."""
    monkeypatch.setenv("TRADEPOST_RELAYS", relay_url)
    async with RelayPool([relay_url], clock=SystemClock()) as pool:
        yield pool


@pytest.fixture
async def other_pool(home: Path) -> AsyncIterator[RelayPool]:
    """Another real relay."""
    relay = nostr_sdk.LocalRelayBuilder().addr("127.0.0.1").build()
    await relay.run()
    async with RelayPool([str(await relay.url())], clock=SystemClock()) as pool:
        yield pool
    relay.shutdown()


async def put(pool: RelayPool, events: Iterable[Event]) -> None:
    for event in events:
        answers = (await pool.publish(event)).values()  # of replaceable ones the relay keeps the newest
        assert event.kind == ROOT_REPLACEABLE or all(answer.accepted for answer in answers)


@pytest.fixture
async def booth(pool: RelayPool, memory_mint: MemoryMint) -> Booth:
    """An honest agent with four customers."""
    booth, events = honest(int(time.time()) - 10 * DAY, memory_mint)
    await put(pool, events)
    return booth


@pytest.fixture
def npub(booth: Booth) -> str:
    return encode_npub(booth.log)


def fresh() -> Booth:
    return Booth(int(time.time()) - 10 * DAY)


# --- root ----------------------------------------------------------------------------------------------------------


async def test_the_newest_root(booth: Booth, npub: str, pool: RelayPool, cli_beside: "AsyncCli") -> None:
    ran = await cli_beside("reputation", "root", npub)
    assert ran.code == 0
    assert booth.published.root in ran.out
    assert "3 leaves: its proof holds" in " ".join(ran.out.split())
    assert f"✓ {pool.urls[0]}" in ran.out
    (told,) = (await cli_beside("reputation", "root", npub, "--json")).lines
    assert (told["npub"], told["size"], told["root"]) == (npub, 8, booth.published.root)
    assert told["consistent"] is True
    assert told["findings"] == []
    assert told["relays"] == [{"url": pool.urls[0], "size": 8, "root": booth.published.root, "trouble": None}]


async def test_no_root(pool: RelayPool, cli_beside: "AsyncCli") -> None:
    ran = await cli_beside("reputation", "root", encode_npub(SecretKey.generate().public_key))
    assert ran.code == 1
    assert "no root of this agent was found" in ran.err


async def test_a_shorter_log_than_before_is_found_out(
    pool: RelayPool, other_pool: RelayPool, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    """One relay shows the log, then another one as it was before: the post's database remembers."""
    agent = fresh()
    old = agent.publish()
    agent.append(Sold(agent).leaf())
    await put(pool, [*old, *agent.publish()])
    await put(other_pool, old)
    npub = encode_npub(agent.log)
    async with open_post(Settings.load()):  # as `tradepost up` has it
        assert (await cli_beside("reputation", "root", npub)).code == 0
    monkeypatch.setenv("TRADEPOST_RELAYS", other_pool.urls[0])
    ran = await cli_beside("reputation", "root", npub)
    assert ran.code == 1
    assert "hidden_root: a root over 2 leaves was seen before" in ran.err
    monkeypatch.setenv("TRADEPOST_RELAYS", ",".join((*pool.urls, *other_pool.urls)))
    ran = await cli_beside("reputation", "root", npub)
    assert ran.code == 0
    assert "its newest is over 1 leaves" in ran.out


async def test_a_log_that_was_handed_on(pool: RelayPool, cli_beside: "AsyncCli") -> None:
    before = fresh()
    await put(pool, before.publish())
    after, rotation = handed_on(before)
    await put(pool, [rotation, *after.publish()])
    for key in (before.key, after.key):
        ran = await cli_beside("reputation", "root", encode_npub(key.public_key))
        assert ran.code == 0
        assert "(handed-on, since " in ran.out
        (told,) = (await cli_beside("reputation", "root", key.public_key, "--json")).lines
        assert (told["npub"], told["log"]) == (encode_npub(after.key.public_key), before.log)
        assert [(one["key"], one["how"]) for one in told["keys"]] == [
            (before.key.public_key, "first"), (after.key.public_key, "handed-on"),
        ]  # fmt: skip


async def test_an_agent_by_its_other_names(
    booth: Booth, npub: str, pool: RelayPool, name_server: "NameServer", cli_beside: "AsyncCli",
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("TRADEPOST_ALLOW_PRIVATE_URLS", "true")
    name_server.names["bob"] = booth.log
    profile = orjson.dumps({"name": "Bob's shouting"}).decode()
    tags = [("d", "bob"), ("k", "5001")]
    announced = make_template(31990, content=profile, tags=tags, created_at=int(time.time()))
    await put(pool, [sign_event(announced, booth.key)])
    for name in (booth.log, encode_nprofile(booth.log), f"bob@{name_server.domain}", "bob", "Bob's shouting"):
        (told,) = (await cli_beside("reputation", "root", name, "--json")).lines
        assert told["npub"] == npub
    for name, reason in (
        (f"eve@{name_server.domain}", "knows no eve"),
        ("nobody", "nobody is called 'nobody'"),
        ("npub1rubbish", "npub"),
    ):
        ran = await cli_beside("reputation", "root", name)
        assert ran.code == 1
        assert reason in ran.err


# --- prove and verify ----------------------------------------------------------------------------------------------


async def test_a_file_is_proved_by_itself_and_online(
    booth: Booth, npub: str, memory_mint: MemoryMint, cli_beside: "AsyncCli", tmp_path: Path
) -> None:
    listed = (await cli_beside("reputation", "audit", npub, "--json")).lines
    job, file = str(listed[0]["request"]), tmp_path / "receipt.json"
    assert (await cli_beside("reputation", "prove", npub, job[:12], "--out", file)).code == 0
    assert (await cli_beside("reputation", "prove", npub, job)).out == file.read_text()
    asked = memory_mint.asked.total()

    ran = await cli_beside("reputation", "verify", file)
    assert ran.code == 0
    assert "FAILED" not in ran.out
    assert "asked: nobody" in ran.err
    assert memory_mint.asked.total() == asked
    steps = (await cli_beside("reputation", "verify", file, "--of", npub, "--json")).lines
    assert {step["asked"] for step in steps} == {"nobody"}

    for arguments in ((file, "--online"), (npub, job[:12])):
        ran = await cli_beside("reputation", "verify", *arguments)
        assert ran.code == 0
        assert "asked: mint, relays" in ran.err
        assert re.search(r"ok +mint +paid, by evidence that names this job", ran.out)


async def test_a_file_that_was_changed(
    booth: Booth, npub: str, cli_beside: "AsyncCli", tmp_path: Path
) -> None:
    listed = (await cli_beside("reputation", "audit", npub, "--json")).lines
    file, other = tmp_path / "receipt.json", encode_npub(SecretKey.generate().public_key)
    await cli_beside("reputation", "prove", npub, listed[1]["request"], "--out", file)
    ran = await cli_beside("reputation", "verify", file, "--of", other)
    assert ran.code == 1
    assert "1 check failed" in ran.err
    file.write_text(file.read_text().replace('"content": "quick"', '"content": "great"'))
    for option in ((), ("--online",)):
        ran = await cli_beside("reputation", "verify", file, *option)
        assert ran.code == 1
        assert "FAILED" in ran.out
        assert "asked: nobody" in ran.err  # what is wrong by itself is not asked about
    ran = await cli_beside("reputation", "verify", file, "--of", "bob@example.com")
    assert (ran.code, ran.out) == (1, "")
    assert "leads to no key: name the agent by its npub" in ran.err
    file.write_text("{}")
    assert "no file of a receipt" in (await cli_beside("reputation", "verify", file)).err


async def test_a_file_of_a_log_that_was_forked(
    pool: RelayPool,
    other_pool: RelayPool,
    cli_beside: "AsyncCli",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By itself it is good; the relays that we ask show another log."""
    agent = fresh()
    first = agent.publish()
    other, sold = agent.twin(), Sold(agent)
    agent.append(sold.leaf())
    other.append(Sold(other).leaf(), Sold(other).leaf())
    await put(pool, [*first, *agent.publish()])
    await put(other_pool, [*first, *other.publish()])
    file, npub = tmp_path / "receipt.json", encode_npub(agent.log)
    assert (await cli_beside("reputation", "prove", npub, sold.request, "--out", file)).code == 0
    assert (await cli_beside("reputation", "verify", file, "--online")).code == 0
    monkeypatch.setenv("TRADEPOST_RELAYS", other_pool.urls[0])
    assert (await cli_beside("reputation", "verify", file)).code == 0
    ran = await cli_beside("reputation", "verify", file, "--online", "--json")
    assert ran.code == 1
    failed = [step for step in ran.lines if step["verdict"] == "FAILED"]
    assert {step["asked"] for step in failed} == {"relays"}
    assert "does not begin with the 2 leaves" in str(failed)


async def test_what_is_not_shown_leaves_a_receipt_unchecked_and_does_not_refute_it(
    pool: RelayPool, cli_beside: "AsyncCli"
) -> None:
    """A relay hides one of the two forms of the root, and the review of another job."""
    agent = fresh()
    silent, other = Sold(agent), Sold(agent)
    agent.append(silent.leaf(), other.leaf(), other.answer(other.review()))
    await put(pool, [event for event in agent.publish() if event.kind != ROOT_REPLACEABLE])
    ran = await cli_beside("reputation", "verify", encode_npub(agent.log), silent.request, "--json")
    assert ran.code == 0, ran.err
    unchecked = [step["what"] for step in ran.lines if step["verdict"] == "not checked"]
    assert any("as kind 30078 none over more than 0" in check for check in unchecked)
    assert any("reviews that the log names are not shown" in check for check in unchecked)


async def test_a_key_that_signed_for_two_logs_vouches_for_neither(
    pool: RelayPool, cli_beside: "AsyncCli"
) -> None:
    notorious, washed = fresh(), fresh()
    await put(pool, notorious.publish())
    washed.next_key = notorious.key
    await put(pool, washed.publish())
    after, rotation = handed_on(washed)
    await put(pool, [rotation, *after.publish()])
    for command in ("root", "audit", "verify"):
        ran = await cli_beside("reputation", command, encode_npub(notorious.log))
        assert ran.code == 1
        assert "signed for this log, and for another one" in " ".join((ran.out + ran.err).split())


def test_what_cannot_be_verified(home: Path, cli: "Cli") -> None:
    ran = cli("reputation", "verify", "missing.json")
    assert ran.code == 1
    assert "there is no file missing.json" in ran.err


async def test_a_job_that_nobody_knows(booth: Booth, npub: str, cli_beside: "AsyncCli") -> None:
    ran = await cli_beside("reputation", "prove", npub, "ff" * 32)
    assert ran.code == 1
    assert "neither the log nor a review tells of a job" in ran.err
    assert "beginning of several jobs" in (await cli_beside("reputation", "prove", npub, "")).err


# --- audit and score -----------------------------------------------------------------------------------------------


async def test_every_job_with_its_verdict(booth: Booth, npub: str, cli_beside: "AsyncCli") -> None:
    ran = await cli_beside("reputation", "audit", npub)
    assert ran.code == 0
    rows = [line.split() for line in ran.out.splitlines() if line.split()[0].isdigit()]
    assert [(row[0], row[3], row[4], row[5], row[6]) for row in rows] == [
        ("1", "21", "paid", "5/5", "settled"),
        ("2", "21", "paid", "4/5", "settled"),
        ("3", "21", "paid", "3/5", "no"),
        ("4", "21", "paid", "–", "silent:"),
    ]
    lines = (await cli_beside("reputation", "audit", npub, "--json")).lines
    assert lines.pop() == {"ok": True, "receipts": 4, "findings": 0}
    assert [line["verdict"] for line in lines] == ["settled", "settled", "no_payment", "silent"]
    assert lines[0]["answer"] == {"leaf": 5, "text": "thank you"}


async def test_only_mints_that_one_trusts_are_asked(
    booth: Booth, npub: str, memory_mint: MemoryMint, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEPOST_MINTS", "")
    ran = await cli_beside("reputation", "audit", npub)
    assert "unasked" in ran.out
    assert f"not asked: mint {memory_mint.url}: not one of your mints" in ran.err
    lines = (await cli_beside("reputation", "audit", npub, "--json")).lines
    assert {"mint": memory_mint.url, "not_asked": "not one of your mints"} in lines
    assert memory_mint.asked.total() == 0
    assert "unasked" not in (await cli_beside("reputation", "audit", npub, "--mint", memory_mint.url)).out
    asked = memory_mint.asked.total()
    both = ("--mint", memory_mint.url, "--no-mints")
    assert "unasked" in (await cli_beside("reputation", "audit", npub, *both)).out
    assert memory_mint.asked.total() == asked


async def test_findings_and_the_events_that_show_them(
    pool: RelayPool, memory_mint: MemoryMint, cli_beside: "AsyncCli", tmp_path: Path
) -> None:
    agent = fresh()
    other, dropped = agent.twin(), Sold(agent)
    agent.append(Sold(agent).leaf())
    other.append(Sold(other).leaf())
    review = dropped.review(dropped.paid_at(memory_mint))
    await put(pool, [*agent.publish(), *other.publish(), review])
    ran = await cli_beside("reputation", "audit", encode_npub(agent.log), "--out", tmp_path / "evidence")
    assert ran.code == 1
    assert "fork (proven): two roots over 2 leaves" in ran.err
    assert "dropped: " in ran.err
    assert "finding" in ran.err.splitlines()[-1]
    (fork,) = (tmp_path / "evidence").glob("*-fork.jsonl")
    roots = [parse_root(parse_event(line)) for line in fork.read_bytes().splitlines()]
    assert len({root.head.root for root in roots}) == 2
    lines = (await cli_beside("reputation", "audit", encode_npub(agent.log), "--json")).lines
    findings = {line["finding"]: line for line in lines if "finding" in line}
    assert findings["fork"]["proven"] is True
    assert findings["dropped"] == findings["dropped"] | {"proven": False, "events": [review.id]}


async def test_the_score_with_its_numbers(booth: Booth, npub: str, cli_beside: "AsyncCli") -> None:
    ran = await cli_beside("reputation", "score", npub)
    assert ran.code == 0
    factors = ["completion", "quality", "disputes", "longevity", "volume", "calibration", "stake", "together"]
    assert [line.split()[0] for line in ran.out.splitlines() if line.split()[0] in factors] == factors
    (told,) = (await cli_beside("reputation", "score", npub, "--json")).lines
    async with Reputation.open() as reputation:
        found = orjson.loads(orjson.dumps((await reputation.score(npub)).to_dict()))
    assert told == {"npub": npub, "findings": 0} | found


async def test_a_stranger_s_word_does_not_stand_before_the_agent_s_own(
    pool: RelayPool, cli_beside: "AsyncCli"
) -> None:
    agent, stranger = fresh(), SecretKey.generate()
    sold = Sold(agent)
    agent.append(sold.leaf())
    await put(pool, [*agent.publish(), sold.review(rating=1, by=stranger)])
    npub = encode_npub(agent.log)
    lines = (await cli_beside("reputation", "audit", npub, "--json")).lines
    assert {line["verdict"] for line in lines if "verdict" in line} == {"never_paid", "silent"}
    ran = await cli_beside("reputation", "verify", npub, sold.request)
    assert ran.code == 0
    assert "its customer said nothing" in " ".join(ran.out.split())


# --- from Python ---------------------------------------------------------------------------------------------------


async def test_the_example_of_the_page_runs(
    booth: Booth, npub: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)asyncio.run", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    space: dict[str, Any] = {}
    exec(compile(example.replace("npub1…", npub), "docs/reputation.md", "exec"), space)
    await space["main"]()
    printed = capsys.readouterr().out
    assert "settled" in printed
    assert "silent" in printed


async def test_a_file_from_python(booth: Booth, npub: str) -> None:
    async with Reputation.open() as reputation:
        (job, *_) = (await reputation.audit(npub)).receipts
        file = await reputation.prove(npub, job.request)
    steps = verify_receipt(file, npub)
    assert {step.verdict for step in steps} == {Verdict.OK, Verdict.NOT_CHECKED}
    assert {step.asked for step in steps} == {Asked.NOBODY}
