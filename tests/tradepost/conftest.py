"""The command line as a person has it: a home of its own, nothing configured, a terminal of 80 columns."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from dvm import Agent, Job
from tradepost.cli import run
from tradepost.testing import Market, MemoryMint
from wallet import HttpTransport

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, object]]:
        """Stdout as JSON lines."""
        return [orjson.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Ran]
AsyncCli = Callable[..., Awaitable[Ran]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home, with the person somewhere where no project is."""
    for name in [name for name in os.environ if name.startswith(("TRADEPOST_", "NOSTR_", "NSEC"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TRADEPOST_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for processes started from there
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    logs = structlog.get_config()
    yield tmp_path / "home"
    structlog.configure(**logs)  # those of the suite: the defaults draw tracebacks, slowly


@pytest.fixture
def cli(home: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process: `cli("jobs", "--json")`. It never lets a traceback out."""

    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert code in (0, 1, 130)
        return Ran(code, out, err)

    return call


@pytest.fixture
def cli_beside(cli: Cli) -> AsyncCli:
    """The same from a test that has a loop, while that loop goes on: the command gets a thread and a loop of its own."""

    async def call(*arguments: object) -> Ran:
        return await asyncio.to_thread(cli, *arguments)

    return call


@pytest.fixture
async def configured(home: Path, relay_url: str, mint_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A real relay and a real mint in the environment; yields the mint."""
    monkeypatch.setenv("TRADEPOST_RELAYS", relay_url)
    monkeypatch.setenv("TRADEPOST_MINTS", mint_url)
    return mint_url


@pytest.fixture
def memory_mint(home: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryMint:
    """A mint that the commands reach as if by HTTP, and that can be broken."""
    mint = MemoryMint(input_fee_ppk=100)

    async def request(
        _self: HttpTransport, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Any:
        return await mint.request(method, path, body)

    monkeypatch.setattr(HttpTransport, "request", request)
    monkeypatch.setenv("TRADEPOST_MINTS", mint.url)
    return mint


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    async with Market() as market:
        yield market


@pytest.fixture
def gate() -> asyncio.Event:
    """What the work of `agent` waits for, open at first."""
    gate = asyncio.Event()
    gate.set()
    return gate


@pytest.fixture
def agent(gate: asyncio.Event) -> Agent:
    """Shouts for 21 sats (5001) once `gate` is open, whispers for nothing (5002), fails for 21 (5050)."""
    agent = Agent("Upper")

    @agent.serves(kind=5001, price_sat=21)
    async def shout(job: Job) -> str:
        await gate.wait()
        return job.text.upper()

    @agent.serves(kind=5002)
    async def whisper(job: Job) -> str:
        return job.text.lower()

    return agent
