"""`tradepost dev`: a market that a second terminal finds, and an agent that follows its code."""

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from identity import encode_npub
from tradepost.agent_process import agent_process
from tradepost.dev.agents import snapshot
from tradepost.post import own_key
from tradepost.settings import Settings

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli

SECONDS_MAX = 40


class Dev:
    """`tradepost dev --json` in a process of its own, and what it says."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.said: list[dict[str, Any]] = []

    async def start(self) -> dict[str, Any]:
        self.said = [json.loads(await self._process.start())]
        return self.said[0]

    async def until(self, **wanted: Any) -> dict[str, Any]:
        """Read on until it says that."""
        async with asyncio.timeout(SECONDS_MAX):
            while True:
                line = await self._process._process.stdout.readline()
                assert line, self._process.log.read_text()
                self.said.append(json.loads(line))
                if wanted.items() <= self.said[-1].items():
                    return self.said[-1]

    async def interrupt(self) -> str:
        """Ctrl-C; returns what it said on stderr."""
        self._process._process.send_signal(signal.SIGINT)
        assert await self._process.ended() == 0
        return str(self._process.log.read_text())


@pytest.fixture
def dev(home: Path, process: Callable[..., Any], mint_python: Path) -> Callable[..., Dev]:
    return lambda *arguments: Dev(
        process(
            "-m", "tradepost", "dev", *map(str, arguments), "--json", TRADEPOST_MINT_PYTHON=str(mint_python)
        )
    )


async def refuse_a_result(folder: Path, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch) -> None:
    """A job in escrow that is disputed, and ruled by whoever types in the arbiter's folder."""
    asked = await cli_beside(
        "ask",
        "summarisation",
        "Read it. Keep it.",
        "--kind",
        5001,
        "--max-sat",
        21,
        "--settle",
        "escrow",
        "--review",
    )
    assert asked.code == 0, asked.err
    job = asked.err.split()[1]
    disputed = await cli_beside("escrow", "dispute", job, "--reason", "too short")
    assert disputed.code == 0, disputed.err
    with monkeypatch.context() as patch:
        patch.chdir(folder / "agent")
        assert await stage_of(job, "disputed", cli_beside)
        answered = await cli_beside("escrow", "answer", job, "--text", "it is a summary")
        assert answered.code == 0, answered.err
    with monkeypatch.context() as patch:
        patch.chdir(folder / "arbiter")
        assert await stage_of(job, "disputed", cli_beside)
        ruled = await cli_beside("escrow", "rule", job, "--provider", 0)
        assert ruled.code == 0, ruled.err
        assert await stage_of(job, "ruled", cli_beside)
    assert (await cli_beside("settle")).code == 0
    assert await stage_of(job, "refunded", cli_beside)


async def stage_of(job: str, wanted: str, cli_beside: "AsyncCli") -> bool:
    """Look until the escrow is there, as a person would."""
    async with asyncio.timeout(SECONDS_MAX):
        while [line["stage"] for line in (await cli_beside("escrow", "show", job, "--json")).lines] != [
            wanted
        ]:
            await asyncio.sleep(0.2)
    return True


@pytest.mark.process
async def test_a_day_with_the_sample_agent(
    dev: Callable[..., Dev], cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOSTR_SECRET_KEY", "ab" * 32)  # a person's real key plays no part in it
    running = dev()
    started = await running.start()
    folder = Path(started["folder"])
    assert (folder.name, started["customer_sat"]) == (".tradepost-dev", 1000)
    assert (folder / ".gitignore").read_text() == "*\n"
    opened = await running.until(event="open", agent="summariser")
    assert opened["pubkey"] != "4646ae5047316b4230d0086c8acec687f00b1cd9d1dc634f6cb358ac0a9a8fff"

    async with aiohttp.ClientSession(started["desk"]) as http, http.get("/v1/agents/summariser") as found:
        assert (await found.json())["capabilities"][0]["price_sat"] == 21  # it can be hired at the desk

    monkeypatch.delenv("NOSTR_SECRET_KEY")
    monkeypatch.chdir(folder)  # the second terminal, as it is told
    with monkeypatch.context() as patch:
        patch.setenv("TRADEPOST_ARBITERS", "")  # prepaid then, and an invoice would be welcome
        asked = await cli_beside(
            "ask", "summarisation", f"@{next(folder.glob('*.txt')).name}", "--kind", 5001, "--max-sat", 21
        )
    assert asked.code == 0, asked.err
    for step in ("asked", "offer", "processing", "result"):
        assert (await running.until(event="job", step=step))["job"] == asked.err.split()[1]
    (balance,) = (await cli_beside("wallet", "balance", "--json")).lines
    assert balance["total_sat"] in range(970, 980)
    assert [one["name"] for one in (await cli_beside("find", "summarisation", "--json")).lines] == [
        "summariser"
    ]

    private = await cli_beside(
        "ask", "summarisation", "Read it. Keep it.", "--kind", 5001, "--max-sat", 21, "--private"
    )
    assert private.code == 0, private.err
    told = await running.until(event="job", step="result", job=private.err.split()[1])
    assert told["message"].startswith("(encrypted), ")
    await refuse_a_result(folder, cli_beside, monkeypatch)
    ruled = await running.until(event="job", step="ruled")
    assert ruled["message"] == "0 sat to the agent, 21 sat to the customer"
    balance["total_sat"] = (await cli_beside("wallet", "balance", "--json")).lines[0]["total_sat"]

    code = folder / "summariser" / "agent.py"
    text = code.read_text()
    code.write_text(text + "\nprint('hello')\nx = (")
    await running.until(event="changed", file="agent.py")
    assert "said" not in {line["event"] for line in running.said}  # no warning: nothing was paid twice
    assert "never closed" in (await running.until(event="said"))["line"]
    await running.until(event="ended", code=1)
    code.write_text(text.replace("price_sat=21", "price_sat=5"))
    again = await running.until(event="open")
    assert (again["npub"], again["serves"]) == (opened["npub"], [{"kind": 5001, "price_sat": 5}])
    assert await running.interrupt() == ""

    monkeypatch.chdir(folder.parent)
    assert (await running.start())["mint"] == started["mint"]  # the same sats are good the next day
    assert running.said[0]["customer_sat"] == balance["total_sat"]
    assert await running.interrupt() == ""


@pytest.mark.process
async def test_a_projects_real_key_is_left_alone_and_its_agent_ends_with_us(
    home: Path, relay_url: str, tmp_path: Path, cli_beside: "AsyncCli"
) -> None:
    await cli_beside("init", tmp_path / "shop")
    with (tmp_path / "shop" / "tradepost.yaml").open("a") as manifest:
        manifest.write(f"key: bunker://{'ab' * 32}?relay=wss%3A%2F%2Frelay.test\n")
    settings = Settings(relays=(relay_url,), data=tmp_path / "data")
    async with asyncio.timeout(SECONDS_MAX), agent_process(tmp_path / "shop", settings) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        npub = json.loads(await process.stdout.readline())["npub"]
        assert (tmp_path / "data" / "keys" / "shop.nsec").exists()
        assert npub == encode_npub(own_key(settings, "shop").public_key)
        process.stdin.close()  # as the system does when we are killed
        assert await process.wait() == 0


def test_a_folder_that_is_no_project(cli: "Cli", tmp_path: Path) -> None:
    ran = cli("dev", tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert "has no tradepost.yaml" in ran.err.replace("\n", " ")


def test_what_counts_as_a_change(tmp_path: Path) -> None:
    for name in (
        "agent.py",
        "lib/more.py",
        "tradepost.yaml",
        "lib/tradepost.yaml",
        ".venv/x.py",
        "__pycache__/y.py",
        "a.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    before = snapshot(tmp_path)
    assert before.keys() == {"agent.py", "lib/more.py", "tradepost.yaml"}
    (tmp_path / "agent.py").write_text("x")
    assert snapshot(tmp_path) != before
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    assert "gone.py" not in snapshot(tmp_path)
