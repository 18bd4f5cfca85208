"""The doctor: what it judges, each case of it, and a real set-up that is well and then is not."""

import re
import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from dvm import Agent
from identity import SecretKey, make_template, sign_event
from store import Migration, SystemClock
from tradepost.doctor import Finding, Level
from tradepost.doctor.agents import judge_agent
from tradepost.doctor.configuration import judge_addresses, judge_variables
from tradepost.doctor.machine import judge_clock, judge_disk, judge_files, judge_python
from tradepost.doctor.mints import judge_mint
from tradepost.doctor.probes import MintFacts, RelayFacts, probe_relay
from tradepost.doctor.queries import Form, Records
from tradepost.doctor.records import judge_file, judge_money, judge_outbox, judge_tokens
from tradepost.doctor.relays import judge_relay
from tradepost.post import open_database, open_post, own_key
from tradepost.settings import Settings
from wallet.mint import KeysetAnswer, MintInfo

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli, Ran

    from tests.conftest import NameServer

OK, WARN, FAIL = Level
NOW = 1_800_000_000
RELAY, MINT = "wss://relay.test", "https://mint.test"
NUTS: dict[str, Any] = {str(nut): {"supported": True} for nut in (7, 9, 10, 11, 12)}


# -- judgements


@pytest.mark.parametrize(
    ("version", "level"), [((3, 11, 7), OK), ((3, 12, 0), OK), ((3, 10, 9), FAIL), ((3, 13, 0), FAIL)]
)
def test_python(version: tuple[int, int, int], level: Level) -> None:
    assert judge_python(version).level is level


@pytest.mark.parametrize(("free_bytes", "level"), [(10**10, OK), (5 * 10**8, WARN), (10**6, FAIL)])
def test_disk(free_bytes: int, level: Level) -> None:
    assert judge_disk(Path("post"), free_bytes).level is level


@pytest.mark.parametrize(("limit", "level"), [(-1, OK), (65_536, OK), (256, WARN), (64, FAIL)])
def test_open_files(limit: int, level: Level) -> None:
    finding = judge_files(limit)
    assert finding.level is level
    assert level is OK or finding.mend == "ulimit -n 1024"


@pytest.mark.parametrize(
    ("skews", "level", "said"),
    [
        ([], OK, "nobody to compare with"), ([1.0], OK, "agrees"), ([1.0, -2.0, 4000.0], OK, "agrees"),
        ([60.0, 61.0], WARN, "60 s behind 2"), ([-400.0], FAIL, "400 s ahead of 1"),
    ],
)  # fmt: skip
def test_clock(skews: list[float], level: Level, said: str) -> None:
    finding = judge_clock(skews)
    assert finding.level is level
    assert said in finding.said


def test_variables_that_mean_nothing() -> None:
    (typo, alien) = judge_variables(
        ["TRADEPOST_RELAY", "TRADEPOST_MINTS", "TRADEPOST_HOME", "TRADEPOST_QQQQQQQ"][::-1]
    )
    assert (alien.level, typo.level) == (WARN, WARN)
    found = {finding.mend: finding.said for finding in (typo, alien)}
    assert "did you mean TRADEPOST_RELAYS?" in found["unset TRADEPOST_RELAY"]
    assert "did you mean" not in found["unset TRADEPOST_QQQQQQQ"]


def test_every_variable_of_ours_is_known() -> None:
    sources = (Path(__file__).parents[2] / "tradepost").rglob("*.py")
    named = {name for path in sources for name in re.findall(r"\bTRADEPOST_[A-Z_]*[A-Z]\b", path.read_text())}
    assert named
    assert judge_variables(named) == []


@pytest.mark.parametrize(
    ("relays", "mints", "levels"),
    [
        ([RELAY], [MINT], []), ([], [MINT], [FAIL]), ([RELAY], [], [WARN]), (["ws://relay.test"], [MINT], [WARN]),
        (["ws://127.0.0.1:7", "ws://localhost", "ws://abc.onion", "ws://[::1]:7"], ["http://mint.test"], [WARN]),
    ],
)  # fmt: skip
def test_addresses(relays: list[str], mints: list[str], levels: list[Level]) -> None:
    assert [finding.level for finding in judge_addresses({"relays": relays, "mints": mints})] == levels


WELL = RelayFacts(RELAY, connect_seconds=0.1, accepted=True, publish_seconds=0.1)


@pytest.mark.parametrize(
    ("facts", "level", "said"),
    [
        (WELL, OK, "no NIP-11 page"),
        (replace(WELL, page={"software": "git+https://x.test/strfry", "version": "1.0"}), OK, "strfry 1.0"),
        (RelayFacts(RELAY, error="cannot connect: refused"), WARN, "cannot be reached: cannot connect: refused"),
        (replace(WELL, accepted=False, answer="pow: 20 bits"), WARN, "refuses our events: pow: 20 bits"),
        (replace(WELL, accepted=False, answer="x" * 9999), WARN, "…"),
        (replace(WELL, connect_seconds=4.0), WARN, "slow"),
        (replace(WELL, page={"limitation": {"payment_required": True}}), WARN, "paid"),
        (replace(WELL, page={"limitation": {"max_message_length": 16_384}}), WARN, "16384 bytes"),
        (replace(WELL, page={"limitation": {"min_pow_difficulty": 20, "restricted_writes": True}}), WARN, "20 bits"),
        (replace(WELL, page={"limitation": [], "software": 7, "version": None}), OK, "7"),
    ],
)  # fmt: skip
def test_relays(facts: RelayFacts, level: Level, said: str) -> None:
    finding = judge_relay(facts)
    assert finding.level is level
    assert said in finding.said
    assert bool(finding.mend) is (level is not OK)
    assert len(finding.said) < 300


KEYSET = KeysetAnswer("00" * 8, "sat", True, 100)
GOOD = MintFacts(MINT, 0.1, "", MintInfo(NUTS, version="Nutshell/1"), (KEYSET,))


@pytest.mark.parametrize(
    ("facts", "level", "said"),
    [
        (GOOD, OK, "Nutshell/1, fee 0.1 sat a coin"),
        (MintFacts(MINT, error="no answer"), FAIL, "no answer"),
        (replace(GOOD, info=MintInfo({**NUTS, "9": {}})), FAIL, "repeat a signature whose answer was lost (NUT-09)"),
        (replace(GOOD, keysets=()), FAIL, "no active keyset"),
        (replace(GOOD, keysets=(KeysetAnswer("00" * 8, "usd", True), KeysetAnswer("00" * 8, "sat", False))), FAIL, "no active"),
        (replace(GOOD, keysets=(KeysetAnswer("00" * 8, "sat", True, 0, NOW),)), FAIL, "no active"),
        (replace(GOOD, keysets=(KeysetAnswer("00" * 8, "sat", True, 0, 0),)), OK, "fee 0 sat"),
        (replace(GOOD, info=MintInfo({**NUTS, "4": {"disabled": True}})), WARN, "sells no ecash"),
    ],
)  # fmt: skip
def test_mints(facts: MintFacts, level: Level, said: str) -> None:
    finding = judge_mint(facts, NOW)
    assert finding.level is level
    assert said in finding.said


STEP = Migration("wallet", 1, "0001_initial.sql", "CREATE TABLE t (x BIGINT);")
EMPTY = Records(
    owned_sat={}, open_operations=(), open_invoices=0, refunds=(), returning=0, unsent=0, unsent_since=0, tokens={}
)  # fmt: skip


@pytest.mark.parametrize(
    ("form", "level", "said"),
    [
        (Form((), {("wallet", 1): STEP.sha256}), OK, "whole"),
        (Form((), {}), OK, "upgrades its schema"),
        (Form(("row 7 missing",), {}), FAIL, "row 7 missing"),
        (
            Form((), {("wallet", 1): STEP.sha256, ("wallet", 2): ""}),
            FAIL,
            "a later release wrote it: wallet 2",
        ),
        (Form((), {("wallet", 1): "another"}), FAIL, "of no release"),
    ],
)
def test_database_files(form: Form, level: Level, said: str, tmp_path: Path) -> None:
    path = tmp_path / "post.sqlite"
    path.touch()
    finding = judge_file(path, form, [STEP])
    assert finding.level is level
    assert said in finding.said


@pytest.mark.parametrize(
    ("records", "level", "said", "mend"),
    [
        (replace(EMPTY, owned_sat={MINT: 21}), OK, "21 sat at the mints", ""),
        (replace(EMPTY, owned_sat={"https://old.test": 5}), WARN, "5 sat are at https://old.test", "add https://old.test to mints"),
        (replace(EMPTY, open_operations=((MINT, 2, NOW - 9999),)), WARN, "2 unfinished exchanges with", "tradepost settle"),
        (replace(EMPTY, open_operations=((MINT, 2, NOW - 1),)), OK, "0 sat", ""),
        (replace(EMPTY, refunds=((21, NOW - 1), (5, NOW + 9))), WARN, "21 sat of failed orders can be taken", "tradepost settle"),
        (replace(EMPTY, refunds=((5, NOW + 9),)), OK, "5 sat of failed orders are locked", ""),
        (replace(EMPTY, returning=1), WARN, "1 payment on the way back", "tradepost up"),
        (replace(EMPTY, open_invoices=3), OK, "3 unpaid", ""),
    ],
)  # fmt: skip
def test_money(records: Records, level: Level, said: str, mend: str) -> None:
    findings = judge_money(records, [MINT], NOW)
    (finding,) = [one for one in findings if said in one.said]
    assert (finding.level, finding.mend) == (level, mend)


def test_tokens_and_events_that_wait() -> None:
    assert judge_tokens(MINT, {"a": 4, "b": 16}, []) == []
    assert "16 sat in tokens" in judge_tokens(MINT, {"a": 4, "b": 16}, ["b"])[0].said
    assert judge_outbox(replace(EMPTY, unsent=3, unsent_since=NOW - 9), NOW) == []
    assert judge_outbox(replace(EMPTY, unsent=3, unsent_since=NOW - 999), NOW)[0].level is WARN


@pytest.mark.parametrize(
    ("is_open", "kinds", "age", "level", "said"),
    [
        (True, (31990, 11998), 0, OK, "announced at 1 of 1 relays, last heartbeat 0 s ago"),
        (True, (), 0, FAIL, "nobody finds it"),
        (True, (31990, 11998), 2000, WARN, "without a heartbeat"),
        (True, (31990,), 0, WARN, "without a heartbeat"),
        (False, (31990,), 0, WARN, "in vain"),
        (False, (), 0, OK, "is closed"),
    ],
)
def test_agents(is_open: bool, kinds: tuple[int, ...], age: int, level: Level, said: str) -> None:
    key, agent = SecretKey.generate(), Agent("shop")
    events = [sign_event(make_template(k, tags=[("d", "shop")], created_at=NOW - age), key) for k in kinds]
    finding = judge_agent(agent, {RELAY: events}, NOW, is_open=is_open)
    assert finding.level is level
    assert said in finding.said


# -- a real set-up


def found(ran: "Ran", check: str) -> list[Finding]:
    """The findings of one check; of `--json`."""
    return [
        Finding(str(line["check"]), Level(str(line["level"])), str(line["said"]), str(line["mend"] or ""))
        for line in ran.lines
        if line["check"] == check
    ]


async def test_a_set_up_that_is_well(
    configured: str, relay_url: str, cli_beside: "AsyncCli", home: Path
) -> None:
    assert (await cli_beside("wallet", "fund", 100)).code == 0
    await cli_beside("key", "new")
    ran = await cli_beside("doctor", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert {line["level"] for line in ran.lines} == {"ok"}
    checks = {line["check"] for line in ran.lines}
    assert checks == {"settings", "python", "disk", "open files", "post", "seed", "keys", "process", "database", "money",
                      "relays", "mints", "clock", "rails"}  # fmt: skip
    assert "100 sat" in found(ran, "money")[0].said
    assert configured in found(ran, "mints")[0].said
    assert relay_url in found(ran, "relays")[0].said
    assert "agrees" in found(ran, "clock")[0].said  # the mint tells its time
    people = await cli_beside("doctor")
    assert people.code == 0
    assert "all is well" in people.err
    assert len(people.out.splitlines()) == len(ran.lines)  # one line each where nobody looks
    words = (home / "seed").read_text().split()
    assert " ".join(words[:3]) not in people.out


async def test_it_changes_nothing(
    home: Path, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch, relay_url: str
) -> None:
    monkeypatch.setenv("TRADEPOST_RELAYS", relay_url)
    ran = await cli_beside("doctor", "--json")
    assert ran.code == 0
    assert not home.exists()
    assert [line["said"] for line in ran.lines if line["level"] == "warn"] == [
        "none are named: only free work can be sold or bought"
    ]


async def test_what_is_wrong_is_said_with_what_mends_it(
    configured: str, cli_beside: "AsyncCli", home: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    await cli_beside("wallet", "fund", 100)
    await cli_beside("wallet", "send", 40)
    await cli_beside("key", "new")
    key, seed = home / "keys" / "customer.nsec", home / "seed"
    key.chmod(0o644)
    seed.chmod(0o640)
    home.chmod(0o755)
    ran = await cli_beside("doctor", "--json")
    assert ran.code == 1
    assert found(ran, "keys")[0].level is FAIL
    assert "chmod 600" in found(ran, "keys")[0].said + found(ran, "keys")[0].mend
    assert found(ran, "seed") == [
        Finding("seed", FAIL, f"{seed} is open to other users (mode 640)", f"chmod 600 {seed}")
    ]
    assert (found(ran, "post")[0].level, found(ran, "post")[0].mend) == (WARN, f"chmod 700 {home}")
    (token,) = [one for one in found(ran, "money") if "tokens" in one.said]
    assert (token.level, token.said[:6]) == (WARN, "40 sat")

    seed.chmod(0o600)
    words = seed.read_text()
    seed.write_text(words.replace(words.split()[0], "zzz", 1))
    monkeypatch.setenv("TRADEPOST_RELAYS", f"ws://127.0.0.1:{free_port}")
    monkeypatch.setenv("TRADEPOST_MINTS", f"http://127.0.0.1:{free_port}")
    ran = await cli_beside("doctor", "--json")
    assert found(ran, "seed")[0].level is FAIL
    assert "zzz" not in ran.out
    assert [one.level for one in found(ran, "relays")] == [WARN, FAIL]
    assert found(ran, "mints")[0].level is FAIL
    assert any("not among the mints" in one.said for one in found(ran, "money"))
    assert "of the above must be mended" in (await cli_beside("doctor")).err
    seed.unlink()
    assert (
        "is missing, and the database is there" in found(await cli_beside("doctor", "--json"), "seed")[0].said
    )


async def test_a_database_that_is_none_or_damaged_or_open_to_others(
    home: Path, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch, relay_url: str
) -> None:
    monkeypatch.setenv("TRADEPOST_RELAYS", relay_url)
    async with await open_database(Settings.load()):
        path = home / "post.sqlite"
    assert found(await cli_beside("doctor", "--json"), "database")[0].level is OK
    path.chmod(0o644)
    assert found(await cli_beside("doctor", "--json"), "database")[0].mend == f"chmod 600 {path}"
    path.chmod(0o600)
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO schema_migrations VALUES ('wallet', 99, '0099_later.sql', '')")
    db.close()
    assert "a later release" in found(await cli_beside("doctor", "--json"), "database")[0].said
    for left in home.glob("post.sqlite*"):
        left.unlink()
    path.write_bytes(b"no database at all" * 100)
    path.chmod(0o600)
    (finding,) = found(await cli_beside("doctor", "--json"), "database")
    assert (finding.level, "tradepost restore" in finding.mend) == (FAIL, True)


async def test_an_agent_that_runs_one_that_crashed_and_code_that_does_not_run(
    configured: str, relay_url: str, cli_beside: "AsyncCli", tmp_path: Path
) -> None:
    shop = tmp_path / "shop"
    await cli_beside("init", shop)
    assert (
        found(await cli_beside("doctor", shop, "--json"), "agents")[0].said
        == "shop has no key yet; `tradepost up` draws it"
    )
    settings = Settings.load(shop)
    key = own_key(settings, "shop")
    assert "is closed" in found(await cli_beside("doctor", shop, "--json"), "agents")[0].said
    async with open_post(settings) as post:
        assert found(await cli_beside("doctor", shop, "--json"), "agents")[0].level is FAIL
        for kind in (31990, 11998):
            event = sign_event(make_template(kind, tags=[("d", "shop")], created_at=int(time.time())), key)
            await post.pool.publish(event)
        ran = await cli_beside("doctor", shop, "--json")
        assert "announced at 1 of 1 relays, last heartbeat" in found(ran, "agents")[0].said
        assert "open in process" in found(ran, "process")[0].said
    assert "in vain" in found(await cli_beside("doctor", shop, "--json"), "agents")[0].said
    (shop / "agent.py").write_text("print('hello')\nboom")
    ran = await cli_beside("doctor", shop, "--json")
    assert "agent.py, line 2: NameError" in found(ran, "agents")[0].said
    assert "hello" in ran.err  # and not among the findings
    (shop / "agent.py").unlink()
    assert "sells none" in found(await cli_beside("doctor", shop, "--json"), "agents")[0].said


async def test_a_name_is_checked_before_it_is_announced(
    configured: str,
    cli_beside: "AsyncCli",
    tmp_path: Path,
    name_server: "NameServer",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = tmp_path / "shop"
    await cli_beside("init", shop)
    code = (shop / "agent.py").read_text()
    (shop / "agent.py").write_text(code.replace("about=", f"nip05='bob@{name_server.domain}', about="))
    key = own_key(Settings.load(shop), "shop").public_key

    async def doctor() -> Finding:
        return found(await cli_beside("doctor", shop, "--json"), "agents")[-1]

    finding = await doctor()
    assert (finding.level, "not on the public internet" in finding.said) == (WARN, True)
    monkeypatch.setenv("TRADEPOST_ALLOW_PRIVATE_URLS", "true")
    finding = await doctor()
    assert (finding.level, "does not know the name bob" in finding.said) == (FAIL, True)
    assert finding.mend.endswith(f'nostr.json?name=bob hold {{"names": {{"bob": "{key}"}}}}')
    name_server.names["bob"] = SecretKey.generate().public_key
    assert "leads to another key" in (await doctor()).said
    name_server.names["bob"] = key
    assert await doctor() == Finding("agents", OK, f"shop is bob@{name_server.domain}")


def test_settings_that_cannot_be_read_are_all_that_is_said(cli: "Cli") -> None:
    Path("tradepost.yaml").write_text("relayz: []\n")
    ran = cli("doctor", "--json")
    assert ran.code == 1
    assert [(line["check"], line["level"], line["mend"]) for line in ran.lines] == [
        ("settings", "fail", "did you mean `relays`?")
    ]


# -- relays with a page


@pytest.fixture
async def pages() -> AsyncIterator[dict[str, Any]]:
    """An HTTP server on which no relay is: its answer is what is put into `body`; `url` is its address as a relay's."""
    pages: dict[str, Any] = {"body": b"{}", "date": "Tue, 01 Jan 2030 00:00:00 GMT"}

    async def answer(request: web.Request) -> web.Response:
        assert request.headers.get("Accept") == "application/nostr+json" or "Upgrade" in request.headers
        return web.Response(body=pages["body"], headers={"Date": pages["date"]})

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    pages["url"] = f"ws://127.0.0.1:{runner.addresses[0][1]}"
    yield pages
    await runner.cleanup()


async def test_the_page_of_a_relay(pages: dict[str, Any]) -> None:
    pages["body"] = b'{"software": "x"}'
    facts = await probe_relay(pages["url"], SecretKey.generate(), SystemClock())
    assert facts.page == {"software": "x"}
    assert facts.connect_seconds is None
    assert facts.skew_seconds is not None
    assert facts.skew_seconds + time.time() == pytest.approx(1_893_456_000, abs=5)
    assert "refuse" in judge_relay(facts).said or "cannot be reached" in judge_relay(facts).said


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"x" * 300_000])
async def test_rubbish_for_a_page_is_none(pages: dict[str, Any], body: bytes) -> None:
    pages["body"], pages["date"] = body, "yesterday"
    facts = await probe_relay(pages["url"], SecretKey.generate(), SystemClock())
    assert (facts.page, facts.skew_seconds) == (None, None)
