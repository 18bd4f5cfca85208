"""Real processes on loopback: a relay that can be killed, agents, customers; and a witness who sees what they publish."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from identity import Event, SecretKey, encode_npub, make_template, parse_event, sign_event
from relay_bridge.transport import connect_websocket
from store import SystemClock
from tradepost.api import Customer, open_customer
from tradepost.post import open_database, open_post, wallet_on
from tradepost.settings import Settings
from wallet import Wallet

HERE = Path(__file__).parent
SECONDS_MAX = 60.0
KINDS = (5, 1059, 7000, 11998, 31990, *range(6001, 6009))


class Relay:
    """A relay process. Its events survive `kill`; started again it listens on the same port."""

    def __init__(self, process: Any, url: str) -> None:
        self._process = process
        self.url = url

    async def start(self) -> None:
        """Return when it listens."""
        await self._process.start()

    async def kill(self) -> None:
        """SIGKILL."""
        await self._process.kill()


class Post:
    """A process that runs one post: `tradepost up` on the tests' project, or a customer."""

    def __init__(self, process: Any, settings: Settings) -> None:
        self._process = process
        self.settings = settings
        self.key = ""

    @property
    def npub(self) -> str:
        return encode_npub(self.key)

    async def start(self) -> None:
        """Return when it is open."""
        told = json.loads(await self._process.start())
        self.key = told.get("pubkey", "")

    async def kill(self) -> None:
        """SIGKILL."""
        await self._process.kill()

    async def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self._process.terminate()
        return await self.ended()

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self._process.terminate()

    async def ended(self) -> int:
        """Wait until it has ended by itself; returns the exit code."""
        code: int = await self._process.ended()
        assert code == 0, self._process.log.read_text()
        return code

    async def count(self, table: str) -> Counter[str]:
        """How many rows of `jobs`, `payments` or `orders` are in each state."""
        async with await open_database(self.settings) as db:
            rows = await db.all(f"SELECT state, COUNT(*) AS n FROM {table} GROUP BY state")
        return Counter({row["state"]: row["n"] for row in rows})

    async def until(self, is_so: Callable[[Counter[str]], bool]) -> None:
        """Wait for something to become true of `count("jobs")`."""
        try:
            async with asyncio.timeout(SECONDS_MAX):
                while not is_so(await self.count("jobs")):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"waited {SECONDS_MAX} s; the jobs are {await self.count('jobs')}") from None

    async def ids(self, table: str) -> list[str]:
        """The ids of all its `jobs` or `orders`."""
        async with await open_database(self.settings) as db:
            return [row["id"] for row in await db.all(f"SELECT id FROM {table}")]

    async def books(self) -> tuple[int, int]:
        """What the wallet holds and what its mint took in fees, in sat, after an audit; the process must have ended."""
        async with await open_database(self.settings) as db, wallet_on(self.settings, db) as wallet:
            return await books(wallet)


async def books(wallet: Wallet) -> tuple[int, int]:
    report = await wallet.audit(ask_mints=True)
    assert report.ok, report.problems
    return sum((await wallet.balance()).values()), report.accounts.get("fees/mint", 0) // 1000


class Witness:
    """A plain NIP-01 client: publishes, and keeps what the relay tells."""

    def __init__(self, url: str, kinds: Sequence[int] = KINDS) -> None:
        self._url = url
        self._kinds = kinds
        self._changed = asyncio.Event()
        self._answers: dict[str, bool] = {}
        self._stored = False
        self.key = SecretKey.generate()
        self.events: list[Event] = []

    async def __aenter__(self) -> "Witness":
        self._socket = await connect_websocket(self._url)
        self._reading = asyncio.create_task(self._read())
        await self._send("REQ", "all", {"kinds": self._kinds})
        await self.until(lambda: self._stored, "EOSE")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])
        await self._socket.close()

    async def _send(self, *message: object) -> None:
        await self._socket.send(json.dumps(message))

    async def _read(self) -> None:
        while True:
            match json.loads(await self._socket.recv()):
                case ["EVENT", _, raw]:
                    self.events.append(parse_event(json.dumps(raw)))
                case ["OK", event_id, accepted, _]:
                    self._answers[event_id] = accepted
                case ["EOSE", _]:
                    self._stored = True
            self._changed.set()
            self._changed = asyncio.Event()

    async def until(self, is_so: Callable[[], bool], what: str, seconds: float = SECONDS_MAX) -> None:
        """Wait for something to become true of what was told."""
        try:
            async with asyncio.timeout(seconds):
                while not is_so():
                    await self._changed.wait()
        except TimeoutError:
            told = Counter((event.kind, event.tag("status")) for event in self.events)
            raise AssertionError(f"waited {seconds} s for {what}; seen: {dict(told)}") from None

    async def publish(self, *events: Event) -> None:
        """Return when the relay has said OK to all."""
        for event in events:
            await self._send("EVENT", json.loads(event.to_json()))
        await self.until(lambda: all(event.id in self._answers for event in events), "OK")
        assert all(self._answers[event.id] for event in events)

    def request(self, kind: int, text: object, *tags: tuple[str, ...]) -> Event:
        """A request for whoever serves the kind."""
        tags = (("i", str(text), "text"), *tags)
        return sign_event(make_template(kind, tags=tags, created_at=SystemClock().now()), self.key)

    def told(self, kind: int, status: str | None = None) -> list[Event]:
        """Events of a kind (and of a feedback status), in the order in which they came."""
        return [e for e in self.events if e.kind == kind and (status is None or e.tag("status") == status)]

    def results(self, *requests: Event) -> list[Event]:
        """Results of these requests."""
        ids = {request.id: request.kind + 1000 for request in requests}
        return [event for event in self.events if ids.get(event.tag("e") or "") == event.kind]

    async def answered(self, *requests: Event, seconds: float = SECONDS_MAX) -> None:
        """Wait until each of the requests has a result."""
        await self.until(lambda: len(self.results(*requests)) >= len(requests), "results", seconds)


@pytest.fixture
async def relay(process: Any, free_port: int, tmp_path: Path) -> Relay:
    """A running relay process."""
    relay = Relay(
        process(HERE / "relay.py", str(free_port), tmp_path / "relay"), f"ws://127.0.0.1:{free_port}"
    )
    await relay.start()
    return relay


@pytest.fixture
async def witness(relay: Relay) -> AsyncIterator[Witness]:
    """Sees everything since the test began."""
    async with Witness(relay.url) as witness:
        yield witness


@pytest.fixture
def witness_of() -> type[Witness]:
    """For relays that are killed: `async with witness_of(relay.url) as witness`."""
    return Witness


class Gate:
    """How many guarded jobs may end; see project/agent.py."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "passed").mkdir(parents=True)
        self.open(0)

    def open(self, jobs: int) -> None:
        """Let so many pass in all."""
        draft = self.folder / "new"
        draft.write_text(str(jobs))
        draft.rename(self.folder / "open")


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


MakePost = Callable[..., Post]


@pytest.fixture
def make_post(process: Any, relay: Relay, mint_url: str, tmp_path: Path) -> MakePost:
    """`make_post("command.py", "argument", name="customer", VARIABLE="…")`: a process on a post of its own."""

    def make(*command: str | Path, name: str, **environment: str) -> Post:
        settings = Settings(relays=(relay.url,), mints=(mint_url,), data=tmp_path / name)
        environment |= {
            "TRADEPOST_DATA": str(settings.data), "TRADEPOST_RELAYS": relay.url, "TRADEPOST_MINTS": mint_url,
        }  # fmt: skip
        return Post(process(*command, **environment), settings)

    return make


@pytest.fixture
def agent(make_post: MakePost, gate: Gate) -> Post:
    """`tradepost up` on the tests' project, not started."""
    command = ("-m", "tradepost", "up", HERE / "project", "--json")
    return make_post(*command, name="agent", GATE=str(gate.folder), TRADEPOST_CONCURRENT_JOBS_MAX="32")


@pytest.fixture
def make_buyer(make_post: MakePost, agent: Post) -> Callable[[int], Post]:
    """`make_buyer(100)`: a customer process that buys so many jobs of the (running) agent; not started."""
    return lambda count: make_post(HERE / "buyer.py", agent.npub, str(count), name="customer")


@pytest.fixture
async def customer(
    relay: Relay, mint_url: str, fund: Callable[[Path], Awaitable[None]], tmp_path: Path
) -> AsyncIterator[Customer]:
    """A funded customer of ours in this process."""
    await fund(tmp_path / "customer")
    settings = Settings(relays=(relay.url,), mints=(mint_url,), data=tmp_path / "customer")
    async with open_post(settings) as post, open_customer(settings, post) as customer:
        yield customer
