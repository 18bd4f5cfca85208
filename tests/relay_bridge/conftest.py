"""What the tests of relay_bridge share: a fast real clock, signed events, waiting for a condition, a database."""

import asyncio
import inspect
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from identity.event import Event, make_template, sign_event
from identity.keys import SecretKey
from relay_bridge import Inbox, Outbox, RelayPool
from relay_bridge.bunker import BunkerSigner, connect_bunker
from relay_bridge.bunker_line import BunkerLine
from store import Database, SystemClock, load_migrations
from tests.relay_bridge.bunker import Bunker, line_to
from tradepost.testing.relay import MemoryRelay

URL = "ws://relay.test"
MakeEvent = Callable[..., Event]


@pytest.fixture
def clock() -> SystemClock:
    return SystemClock()


@pytest.fixture
def key() -> SecretKey:
    return SecretKey.generate()


@pytest.fixture
def make(key: SecretKey) -> MakeEvent:
    """`make(kind=…, content=…, tags=…, ago=seconds, by=key)` → a signed event; contents differ by default."""
    numbers = itertools.count()

    def make_event(
        kind: int = 5001,
        content: str | None = None,
        *,
        tags: list[list[str]] | None = None,
        ago: int = 0,
        at: int | None = None,
        by: SecretKey = key,
    ) -> Event:
        content = f"event {next(numbers)}" if content is None else content
        created_at = int(time.time()) - ago if at is None else at
        return sign_event(make_template(kind, content=content, tags=tags or [], created_at=created_at), by)

    return make_event


@pytest.fixture
def eventually() -> Callable[..., object]:
    """`await eventually(condition)`: returns once it holds, fails after a minute. Conditions may be coroutines."""

    async def wait(condition: Callable[[], object], seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while True:
                holds = condition()
                if inspect.isawaitable(holds):
                    holds = await holds
                if holds:
                    return
                await asyncio.sleep(0.002)

    return wait


@pytest.fixture
def relay() -> MemoryRelay:
    return MemoryRelay()


@pytest.fixture
async def pool(relay: MemoryRelay, clock: SystemClock) -> AsyncIterator[RelayPool]:
    async with RelayPool([URL], clock=clock, connect=relay.connect) as pool:
        yield pool


@pytest.fixture
def db_path(tmp_path: Path) -> Path:
    return tmp_path / "post.db"


@pytest.fixture
async def db(db_path: Path) -> AsyncIterator[Database]:
    async with await Database.open(db_path, load_migrations("relay_bridge")) as db:
        yield db


@pytest.fixture
async def inbox(db: Database, pool: RelayPool, clock: SystemClock) -> AsyncIterator[Inbox]:
    async with Inbox(db, pool, clock) as inbox:
        yield inbox


@pytest.fixture
async def outbox(db: Database, pool: RelayPool, clock: SystemClock) -> AsyncIterator[Outbox]:
    async with Outbox(db, pool, clock) as outbox:
        yield outbox


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """Every test ends with nothing running."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"


@pytest.fixture(autouse=True)
def no_logs_on_stdout() -> Iterator[None]:
    import structlog

    structlog.configure(processors=[structlog.testing.LogCapture()])
    yield
    structlog.reset_defaults()


@pytest.fixture
def bunker(relay: MemoryRelay) -> Bunker:
    return Bunker(relay)


@pytest.fixture
async def line(bunker: Bunker, pool: RelayPool, clock: SystemClock) -> AsyncIterator[BunkerLine]:
    async with line_to(bunker, pool, clock) as line:
        yield line


@pytest.fixture
async def signer(line: BunkerLine) -> BunkerSigner:
    return await connect_bunker(line, secret="s")
