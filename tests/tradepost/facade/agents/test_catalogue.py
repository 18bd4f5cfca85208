"""Agents that a desk knows: its own whatever relays do, and others as relays show them."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dvm import Agent, Provider
from dvm.kinds import ANNOUNCEMENT, HEARTBEAT
from identity import Event, LocalSigner, SecretKey, encode_npub, make_template, sign_event
from relay_bridge import Filter
from tradepost.facade.agents import catalogue as module
from tradepost.facade.agents.catalogue import Catalogue, Search
from tradepost.facade.web.problems import NotFound
from tradepost.post import own_key
from tradepost.settings import Settings
from tradepost.testing import ManualClock, Market

if TYPE_CHECKING:
    from tests.conftest import NameServer

URL = "https://post.example"


def announced(
    key: SecretKey,
    now: int,
    name: str,
    prices: dict[int, int],
    *,
    d: str = "x",
    tags: Sequence[tuple[str, ...]] = (),
    **content: Any,
) -> Event:
    told = [("d", d), *(("k", str(kind)) for kind in prices)]
    told += [("price", str(kind), str(1000 * sat)) for kind, sat in prices.items()]
    body = json.dumps({"name": name} | content)
    return sign_event(make_template(ANNOUNCEMENT, content=body, tags=[*told, *tags], created_at=now), key)


def beat(key: SecretKey, now: int) -> Event:
    return sign_event(make_template(HEARTBEAT, tags=[("d", "x"), ("status", "online")], created_at=now), key)


class Stall:
    """A desk's catalogue with a relay on which others announce themselves."""

    def __init__(self, market: Market, catalogue: Catalogue, pool: Any) -> None:
        self.market = market
        self.catalogue = catalogue
        self.pool = pool

    async def put(self, *events: Event) -> None:
        for event in events:
            answers = (await self.pool.publish(event)).values()
            assert all(answer.accepted for answer in answers)

    @property
    def now(self) -> int:
        return self.market.clock.now()


def own_agent() -> Agent:
    agent = Agent("Capitals", about="Says it loudly.", picture="https://post.example/c.png")

    @agent.serves(5001, price_sat=21)
    async def shout(job: Any) -> str:
        return str(job.text).upper()

    return agent


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def market(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Market]:
    async with Market(folder=tmp_path, clock=clock) as market:
        yield market


@pytest.fixture
def settings(market: Market) -> Settings:
    return market.settings("desk")


@pytest.fixture
async def stall(market: Market, settings: Settings) -> AsyncIterator[Stall]:
    async with AsyncExitStack() as stack:
        post = await market.post("desk")
        agent = own_agent()
        provider = Provider(agent, LocalSigner(own_key(settings, agent.slug)), post)
        catalogue = Catalogue(post, [provider], settings, URL)
        stack.push_async_callback(catalogue.close)
        other = await market.post("others")
        yield Stall(market, catalogue, other.pool)


async def test_own_agents_are_there_and_say_what_they_announce(stall: Stall) -> None:
    (known,) = stall.catalogue.own
    assert (known.listing.name, known.listing.alive, known.nip05) == (
        "Capitals",
        True,
        "capitals@post.example",
    )
    assert known.price_sat(5001) == 21
    assert known.price_sat(5002) is None
    for name in (
        "capitals",
        "Capitals",
        "capitals@post.example",
        known.public_key,
        encode_npub(known.public_key),
    ):
        assert await stall.catalogue.find(name) == known


async def test_own_agents_are_there_without_relays(
    stall: Stall, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay that hangs costs the first caller some seconds, and nobody who asks for an agent of the post."""
    never = asyncio.Event()

    async def hang(*_args: Any, **_options: Any) -> list[Event]:
        await never.wait()
        return []

    monkeypatch.setattr(type(stall.pool), "query", hang)
    assert (await stall.catalogue.find("capitals")).price_sat(5001) == 21
    first = asyncio.create_task(stall.catalogue.known())
    while not first.done():
        await clock.advance(1)
    assert [one.listing.name for one in first.result()] == ["Capitals"]


async def test_relays_that_are_away_are_waited_for_once_a_minute(
    stall: Stall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(stall.pool), "health", lambda _self: {})
    await stall.catalogue.known()
    never = asyncio.Event()

    async def hang(*_args: Any, **_options: Any) -> list[Event]:
        await never.wait()
        return []

    monkeypatch.setattr(type(stall.pool), "query", hang)
    assert len(await stall.catalogue.known()) == 1  # the clock stands still: it would wait for ever


async def test_the_first_question_waits_for_relays_and_the_next_ones_do_not(
    stall: Stall, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = SecretKey.generate()
    await stall.put(announced(key, stall.now, "Bob", {5002: 5}), beat(key, stall.now))
    assert [one.listing.name for one in await stall.catalogue.known()] == ["Capitals", "Bob"]
    asked = 0
    real = type(stall.pool).query

    async def query(*args: Any, **options: Any) -> list[Event]:
        nonlocal asked
        asked += 1
        return await real(*args, **options)

    monkeypatch.setattr(type(stall.pool), "query", query)
    for _ in range(5):
        await stall.catalogue.known()
    assert asked == 0
    later = SecretKey.generate()
    await stall.put(announced(later, stall.now, "Late", {5002: 5}), beat(later, stall.now))
    await clock.advance(module.FRESH_SECONDS)
    assert len(await stall.catalogue.known()) == 2  # what was known is told at once
    async with asyncio.timeout(20):
        while len(await stall.catalogue.known()) < 3:
            await asyncio.sleep(0.01)
    assert asked > 0


async def test_a_key_that_is_not_known_is_looked_for_once_more(stall: Stall, clock: ManualClock) -> None:
    await stall.catalogue.known()
    key = SecretKey.generate()
    npub = encode_npub(key.public_key)
    await stall.put(announced(key, stall.now, "Newcomer", {5002: 5}), beat(key, stall.now))
    with pytest.raises(NotFound, match=f"knows no agent '{npub}'"):
        await stall.catalogue.find(npub)
    await clock.advance(module.AGAIN_SECONDS)
    with pytest.raises(NotFound):  # words may be anything
        await stall.catalogue.find("newcomer")
    assert (await stall.catalogue.find(npub)).public_key == key.public_key


async def test_two_of_one_name_are_told_apart_by_key(stall: Stall) -> None:
    keys = [SecretKey.generate() for _ in range(2)]
    for key in keys:
        await stall.put(announced(key, stall.now, "Twin", {5002: 5}), beat(key, stall.now))
    with pytest.raises(NotFound, match="2 agents are called 'twin'"):
        await stall.catalogue.find("twin")
    assert (await stall.catalogue.find(encode_npub(keys[1].public_key))).public_key == keys[1].public_key


async def test_nobody_takes_the_name_of_an_own_agent(stall: Stall) -> None:
    thief = SecretKey.generate()
    await stall.put(announced(thief, stall.now, "Capitals", {5001: 1}, d="capitals"), beat(thief, stall.now))
    own = stall.catalogue.own[0]
    assert len(await stall.catalogue.known()) == 2
    assert await stall.catalogue.find("capitals") == own


async def test_search(stall: Stall) -> None:
    live, silent, dear = (SecretKey.generate() for _ in range(3))
    await stall.put(
        announced(live, stall.now, "Bob", {5002: 5, 5001: 90}, about="Reads old German letters."),
        beat(live, stall.now),
        announced(silent, stall.now, "Silent", {5002: 1}),
        announced(dear, stall.now, "Dear", {5002: 500}, tags=[("t", "poetry")]),
        beat(dear, stall.now),
    )

    async def found(**what: Any) -> list[str]:
        return [one.listing.name for one in await stall.catalogue.search(Search(**what))]

    assert await found() == ["Capitals", "Bob", "Dear", "Silent"]
    assert await found(kind=5002) == ["Bob", "Dear", "Silent"]
    assert await found(capability="translat") == ["Bob", "Dear", "Silent"]
    assert await found(capability="poetry") == ["Dear"]
    assert await found(q="old german") == ["Bob"]
    assert await found(kind=5002, max_sat=10) == ["Bob", "Silent"]
    assert await found(kind=5001, max_sat=30) == ["Capitals"]
    assert await found(live=True, kind=5002) == ["Bob", "Dear"]
    assert await found(live=False) == ["Silent"]
    assert await found(capability="nothing of the kind") == []


async def test_a_price_has_the_deposit_of_a_stranger_in_it(stall: Stall) -> None:
    key = SecretKey.generate()
    deposit = [("strangers", "amount", "9000")]
    await stall.put(announced(key, stall.now, "Bob", {5002: 5, 5050: 20}, tags=deposit))
    _, known = await stall.catalogue.known()
    assert [known.price_sat(kind) for kind in (5002, 5050, 5001)] == [9, 20, None]


async def test_several_announcements_of_one_key_are_one_agent(stall: Stall) -> None:
    key = SecretKey.generate()
    await stall.put(
        announced(key, stall.now - 5, "Old", {5002: 5}, d="one"),
        announced(key, stall.now, "New", {5050: 7}, d="two"),
        beat(key, stall.now),
    )
    _, known = await stall.catalogue.known()
    assert (known.listing.name, set(known.listing.kinds)) == ("New", {5002, 5050})
    assert (known.price_sat(5002), known.price_sat(5050)) == (5, 7)


async def test_who_was_alive_grows_old_when_relays_are_away(
    stall: Stall, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = SecretKey.generate()
    await stall.put(announced(key, stall.now, "Bob", {5002: 5}), beat(key, stall.now))
    assert (await stall.catalogue.known())[1].listing.alive
    monkeypatch.setattr(type(stall.pool), "health", lambda _self: {})
    await clock.advance(1000)
    known = await stall.catalogue.known()
    assert [(one.listing.name, one.listing.alive) for one in known] == [("Capitals", True), ("Bob", False)]


async def test_only_names_that_lead_to_their_agent_are_shown(
    market: Market, settings: Settings, name_server: "NameServer"
) -> None:
    honest, liar = SecretKey.generate(), SecretKey.generate()
    name_server.names["bob"] = honest.public_key
    settings = settings.model_copy(update={"allow_private_urls": True})
    post = await market.post("names")
    object.__setattr__(post, "fetcher", type(post.fetcher)(allow_private=True))
    catalogue = Catalogue(post, [], settings, URL)
    profile = json.dumps({"nip05": f"bob@{name_server.domain}"})
    for key in (honest, liar):
        for event in (
            announced(key, market.clock.now(), "Bob", {5002: 5}), beat(key, market.clock.now()),
            sign_event(make_template(0, content=profile, created_at=market.clock.now()), key),
        ):  # fmt: skip
            await post.pool.publish(event)
    async with asyncio.timeout(20):
        while not any(one.nip05 for one in await catalogue.known()):
            await asyncio.sleep(0.01)
    assert {one.public_key: one.nip05 for one in await catalogue.known()} == {
        honest.public_key: f"bob@{name_server.domain}", liar.public_key: "",
    }  # fmt: skip
    assert (await catalogue.find(f"bob@{name_server.domain}")).public_key == honest.public_key
    await catalogue.close()


async def test_a_flood_of_announcements_is_cut(stall: Stall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGENTS_MAX", 3)
    for number in range(6):
        await stall.put(announced(SecretKey.generate(), stall.now + number, f"Agent {number}", {5002: 5}))
    assert len(await stall.catalogue.known()) == 1 + 3
    stored = await stall.pool.query([Filter(kinds=(ANNOUNCEMENT,))])
    assert len(stored) == 6
