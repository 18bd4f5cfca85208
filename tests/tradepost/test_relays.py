"""The relays of a post that runs: other ones as soon as tradepost.yaml names others, and nothing is lost over it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import nostr_sdk
import pytest
import structlog

import tradepost.relays
from dvm import Agent
from dvm.kinds import ANNOUNCEMENT, HEARTBEAT
from identity import Event, EventTemplate, SecretKey, SignerUnavailable, make_template, sign_event
from relay_bridge import Filter, RelayChange, RelayPool
from store import SystemClock
from tradepost.errors import ConfigError
from tradepost.project import make_project
from tradepost.relays import RelayWatch, change_relays
from tradepost.settings import Settings, make_private
from tradepost.testing import ManualClock, Market, MemoryRelay
from tradepost.testing.market import RELAY

OTHER = "ws://other.test"
SECONDS_MAX = 20.0


class _TwoRelays(MemoryRelay):
    """One relay by its own name, and another."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.other = MemoryRelay(clock=clock)

    async def connect(self, url: str) -> Any:
        return await (self.other.connect(url) if url == OTHER else super().connect(url))


@pytest.fixture
async def market() -> AsyncIterator[Market]:
    clock = ManualClock()
    market = Market(clock=clock)
    market.relay = _TwoRelays(clock)
    async with market:
        yield market


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while not condition():
            await asyncio.sleep(0.005)


async def test_agents_orders_and_mail_move_with_the_post(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    customer = await market.customer()
    relay = market.relay
    assert isinstance(relay, _TwoRelays)
    alive = {ANNOUNCEMENT, HEARTBEAT}
    await until(lambda: alive <= {event.kind for event in relay.events})
    await market.clock.advance(2)
    for post in (provider._post, customer._post):
        change = await change_relays(post, [OTHER])
        assert (change.added, change.left) == ((OTHER,), (RELAY,))
        if post is provider._post:
            provider.follow_pool(change)
    await until(lambda: {*alive, 0, 10002} <= {event.kind for event in relay.other.events})
    await until(lambda: not alive & {event.kind for event in relay.events})  # there it is gone
    order = await customer.ask(provider.public_key, "Hush", kind=5002)
    assert await order.result() == "hush"
    assert any(event.kind == 6002 for event in relay.other.published)


async def test_a_request_finds_an_agent_that_reads_elsewhere(market: Market, agent: Agent) -> None:
    provider = await market.open(agent)
    await change_relays(provider._post, [OTHER])
    relay = market.relay
    assert isinstance(relay, _TwoRelays)
    listed = make_template(10002, tags=[("r", OTHER)], created_at=market.clock.now())
    relay.insert(await provider.signer.sign(listed))
    customer = await market.customer()
    assert customer._post.pool.urls == (RELAY,)
    order = await customer.ask(provider.public_key, "Hush", kind=5002)
    assert await order.result() == "hush"  # the answer came to where the request said that we listen


async def test_none_at_all_and_a_file_that_is_broken_change_nothing(market: Market, tmp_path: Path) -> None:
    post = await market.post("post")
    with pytest.raises(ConfigError, match="stays where it is"):
        await change_relays(post, [])
    file = tmp_path / "tradepost.yaml"
    file.write_text(f"relays: [{RELAY}]\n")
    settings, told = Settings.load(tmp_path), list[RelayChange]()
    make_private(settings.data)
    watch = RelayWatch(settings, post, [], told.append)

    async def look_at(text: str | None, times: int) -> None:
        file.unlink() if text is None else file.write_text(text)
        for _ in range(times):
            await watch._look(file)

    with structlog.testing.capture_logs() as logs:
        await look_at("relays: [nonsense]\n", 3)
    assert [log["event"] for log in logs] == ["relays_not_read"]
    await look_at("", 1)  # an editor begins to write, and public relays would be the default
    await look_at(None, 3)
    assert post.pool.urls == (RELAY,)
    await look_at(f"relays: [{RELAY}, {OTHER}]\nfee_bps: 7\n", 3)
    assert post.pool.urls == (RELAY, OTHER)
    assert [change.added for change in told] == [(OTHER,)]


async def test_a_change_that_fails_half_way_is_made_again(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent: Agent
) -> None:
    provider = await market.open(agent)
    post, relay = provider._post, market.relay
    assert isinstance(relay, _TwoRelays)
    file = tmp_path / "tradepost.yaml"
    file.write_text(f"relays: [{OTHER}]\n")
    settings, told = Settings.load(tmp_path), list[RelayChange]()
    make_private(settings.data)
    watch = RelayWatch(settings, post, [provider], told.append)
    failing = ["_cursors", "follow_pool", "keep_record"]

    def fail_once(owner: Any, name: str) -> None:
        step = getattr(owner, name)

        async def run(*args: Any) -> Any:
            if failing[:1] == [name]:
                del failing[0]
                raise OSError("the disk is full")
            return await step(*args)

        monkeypatch.setattr(owner, name, run)

    fail_once(post.inbox, "_cursors")
    fail_once(post.outbox, "follow_pool")
    fail_once(tradepost.relays, "keep_record")
    await watch._look(file)
    for _ in range(3):
        with pytest.raises(OSError, match="full"):
            await watch._look(file)
    assert told == failing == []
    for _ in range(2):
        await watch._look(file)
    assert told == [RelayChange((OTHER,), (RELAY,))]
    await until(lambda: {ANNOUNCEMENT, HEARTBEAT} <= {event.kind for event in relay.other.events})
    customer = await market.customer()
    await change_relays(customer._post, [OTHER])
    order = await customer.ask(provider.public_key, "Hush", kind=5002)
    assert await order.result() == "hush"


async def test_an_agent_whose_key_is_away_follows_later_and_holds_nobody(
    market: Market, tmp_path: Path, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = await market.open(agent)
    post, relay = provider._post, market.relay
    assert isinstance(relay, _TwoRelays)
    alive = {ANNOUNCEMENT, HEARTBEAT}
    await until(lambda: alive <= {event.kind for event in relay.events})
    file = tmp_path / "tradepost.yaml"
    file.write_text(f"relays: [{RELAY}]\n")
    settings, told = Settings.load(tmp_path), list[RelayChange]()
    make_private(settings.data)
    watch = RelayWatch(settings, post, [provider], told.append)
    sign, back = provider.signer.sign, asyncio.Event()

    async def when_back(template: EventTemplate) -> Event:
        if not back.is_set():
            raise SignerUnavailable("the bunker is away")
        return await sign(template)

    monkeypatch.setattr(provider.signer, "sign", when_back)
    for urls in ([RELAY, OTHER], [OTHER]):
        file.write_text(f"relays: {urls}\n")
        async with asyncio.timeout(SECONDS_MAX):
            for _ in range(2):
                await watch._look(file)
    assert told == [RelayChange((OTHER,), ()), RelayChange((), (RELAY,))]
    await market.clock.advance(60)
    assert not any(event.kind == HEARTBEAT for event in relay.other.events)
    back.set()
    async with asyncio.timeout(SECONDS_MAX):
        while not alive <= {event.kind for event in relay.other.events}:
            await market.clock.advance(1)
            await asyncio.sleep(0.005)
    await until(lambda: not alive & {event.kind for event in relay.events})
    beating = [task for task in asyncio.all_tasks() if task.get_name() == f"heartbeat {agent.slug}"]
    assert len(beating) == 1


@pytest.fixture
async def real_relays() -> AsyncIterator[list[str]]:
    """Two of nostr-sdk's."""
    relays = [nostr_sdk.LocalRelayBuilder().addr("127.0.0.1").build() for _ in range(2)]
    for relay in relays:
        await relay.run()
    yield [str(await relay.url()).rstrip("/") for relay in relays]
    for relay in relays:
        relay.shutdown()


@pytest.mark.process
async def test_up_goes_over_to_the_relays_that_its_file_names(
    home: Path, tmp_path: Path, process: Callable[..., Any], real_relays: list[str]
) -> None:
    old, new = real_relays
    make_project(tmp_path / "shop")
    file = tmp_path / "shop" / "tradepost.yaml"
    file.write_text(f"code: agent.py\nrelays: [{old}]\nmints: []\n")
    running = process("-m", "tradepost", "up", tmp_path / "shop", "--json")
    agent = json.loads(await running.start())
    assert agent["relays"] == [old]
    file.write_text(f"code: agent.py\nrelays: [{new}]\nmints: []\n")
    async with asyncio.timeout(SECONDS_MAX):
        assert json.loads(await running._process.stdout.readline()) == {
            "relays_added": [new],
            "relays_left": [old],
        }
    customer, clock = SecretKey.generate(), SystemClock()
    tags = [("i", "three words here", "text"), ("p", agent["pubkey"])]
    request = sign_event(make_template(5001, tags=tags, created_at=clock.now()), customer)
    found: list[str] = []
    async with RelayPool([new], clock=clock) as pool:
        results = Filter(kinds=(6001,), tags={"p": (customer.public_key,)})
        await pool.subscribe([results], lambda event, _relay: found.append(event.content))
        assert (await pool.publish(request))[new].accepted
        await until(lambda: found)
        mine = Filter(kinds=(0, 10002, HEARTBEAT, ANNOUNCEMENT), authors=(agent["pubkey"],))
        announced: dict[int, Event] = {}
        await pool.subscribe([mine], lambda event, _relay: announced.update({event.kind: event}))
        await until(lambda: len(announced) == 4)
    assert found == ["3 words"]
    assert [tag[1] for tag in announced[10002].tags_named("r")] == [new]
    running.terminate()
    assert await running.ended() == 0
