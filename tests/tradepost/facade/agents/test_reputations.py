"""What an agent's receipts say of it, over HTTP: the same as on the command line, and no address but our own is asked."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from identity import Event, SecretKey, encode_npub
from identity.nip19 import encode_nprofile
from tests.dvm.reputation.booth import Booth, Sold, honest
from tests.tradepost.facade.conftest import open_desk
from tradepost.cli.reputation_shown import root_fields
from tradepost.facade.agents import readings
from tradepost.facade.agents.readings import Busy
from tradepost.facade.desk import Desk
from tradepost.facade.web.problems import Refusal
from tradepost.reputation import Reputation
from tradepost.settings import Settings
from tradepost.testing import Market, MemoryMint
from wallet import HttpTransport

if TYPE_CHECKING:
    from conftest import Caller

DAY = 86_400


@dataclass
class Trap:
    """A port that somebody may be made to visit."""

    port: int
    visits: int = 0


@pytest.fixture
async def trap() -> AsyncIterator[Trap]:
    trap = Trap(0)

    async def count(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        trap.visits += 1
        writer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    trap.port = server.sockets[0].getsockname()[1]
    async with server:
        yield trap


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Private addresses may be visited, so that only who asks decides whether one is."""
    return settings.model_copy(update={"allow_private_urls": True, "allow_private_relays": True})


@pytest.fixture
async def desk(market: Market, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """With the mint of the configuration reached as if by HTTP; all other addresses are real."""
    real = HttpTransport.request

    async def request(self: HttpTransport, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        if self._url == market.mint.url:
            return await market.mint.request(method, path, body)
        return await real(self, method, path, body)

    monkeypatch.setattr(HttpTransport, "request", request)
    async with open_desk(market, settings) as desk:
        yield desk


async def put(desk: Desk, events: Iterable[Event]) -> None:
    for event in events:
        await desk.post.pool.publish(event)


@pytest.fixture
async def booth(desk: Desk, market: Market) -> Booth:
    """An honest agent with four customers."""
    booth, events = honest(market.clock.now() - 10 * DAY, market.mint)
    await put(desk, events)
    return booth


async def test_the_score_is_that_of_the_command_line(
    desk: Desk, market: Market, booth: Booth, stranger: "Caller"
) -> None:
    post = desk.post
    reputation = Reputation(post.pool, post.clock, post.fetcher, mints=desk.settings.mints, db=None)
    reading = await reputation.read(booth.log)
    answer = await stranger("GET", f"/v1/agents/{encode_npub(booth.log)}/reputation")
    assert answer.status == 200, answer.text
    told = answer.json
    beside = {name: told.pop(name) for name in ("read_at", "unread")}
    shown = reputation.score_of(reading).to_dict()
    expected = {"npub": encode_npub(booth.log), **shown, "findings": len(reading.audit.findings)}
    factors, theirs = told.pop("factors"), expected.pop("factors")
    assert told == expected | {"score": pytest.approx(expected["score"], abs=2e-4)}  # seconds have passed
    assert {name: (one["weight"], set(one["numbers"])) for name, one in factors.items()} == {
        name: (one["weight"], set(one["numbers"]))
        for name, one in theirs.items()  # type: ignore[attr-defined]
    }
    assert told["backed"] == 1
    assert beside["unread"] == []
    assert abs(beside["read_at"] - market.clock.now()) < 60


async def test_the_root_is_that_of_the_command_line(desk: Desk, booth: Booth, stranger: "Caller") -> None:
    post = desk.post
    reputation = Reputation(post.pool, post.clock, post.fetcher, mints=(), db=None)
    expected = json.loads(json.dumps(root_fields(await reputation.root(booth.log))))
    answer = await stranger("GET", f"/v1/agents/{booth.log}/root")
    assert answer.status == 200, answer.text
    assert {name: value for name, value in answer.json.items() if name != "read_at"} == expected
    assert answer.json["root"] == booth.published.root


async def test_an_agent_without_receipts(desk: Desk, stranger: "Caller") -> None:
    npub = encode_npub(SecretKey.generate().public_key)
    told = (await stranger("GET", f"/v1/agents/{npub}/reputation")).json
    assert (told["jobs"], told["backed"]) == (0, 0)
    answer = await stranger("GET", f"/v1/agents/{npub}/root")
    assert (answer.status, answer.json["code"]) == (404, "not_found")


async def test_a_receipt_is_fetched_and_verified(
    desk: Desk, market: Market, booth: Booth, stranger: "Caller"
) -> None:
    reading = (await desk.readings.read(booth.log, "9.9.9.9")).reading
    job = reading.audit.receipts[0].request
    answer = await stranger("GET", f"/v1/agents/{booth.log}/receipts/{job[:12]}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.text.encode() == reading.prove(job).to_json()
    asked = market.mint.asked.total()
    for query in ("", f"agent={booth.log}"):
        offline = await stranger("POST", f"/v1/verify?offline=true&{query}", answer.json)
        assert offline.status == 200, offline.text
        assert offline.json["holds"] is True
        assert {one["asked"] for one in offline.json["checks"]} == {"nobody"}
    assert market.mint.asked.total() == asked
    online = (await stranger("POST", f"/v1/verify?agent={encode_npub(booth.log)}", answer.json)).json
    assert online["holds"] is True
    assert {one["asked"] for one in online["checks"]} == {"nobody", "relays", "mint"}
    other = SecretKey.generate().public_key
    for query in ("offline=true&", ""):
        told = (await stranger("POST", f"/v1/verify?{query}agent={other}", answer.json)).json
        assert told["holds"] is False
    changed = json.loads(answer.text.replace('"content": "quick"', '"content": "great"'))
    assert (await stranger("POST", "/v1/verify?offline=true", changed)).json["holds"] is False


async def test_what_is_refused(booth: Booth, stranger: "Caller") -> None:
    for method, path, status, code in (
        ("GET", f"/v1/agents/{booth.log}/receipts/0000", 400, "not_valid"),
        ("GET", f"/v1/agents/{booth.log}/receipts/00000000", 404, "not_found"),
        ("GET", "/v1/agents/nobody/reputation", 404, "not_found"),
        ("GET", "/v1/agents/npub1rubbish/reputation", 400, "bad_request"),
        ("POST", "/v1/verify", 400, "not_valid"),
    ):
        answer = await stranger(method, path)
        assert (path, answer.status, answer.json["code"]) == (path, status, code)


async def test_no_address_that_a_stranger_wrote_is_visited(
    desk: Desk, market: Market, trap: Trap, stranger: "Caller"
) -> None:
    """The mint in a review, in a file; the domain in a name; the relays in an nprofile."""
    evil = MemoryMint(f"http://127.0.0.1:{trap.port}")
    agent = Booth(market.clock.now() - 10 * DAY)
    sold = Sold(agent)
    review = sold.review(sold.paid_at(evil))
    agent.append(sold.leaf(), sold.answer(review))
    await put(desk, [*agent.publish(), review])
    told = (await stranger("GET", f"/v1/agents/{agent.log}/reputation")).json
    assert (told["jobs"], told["backed"]) == (1, 0)
    assert told["unread"] == [{"who": evil.url, "why": "not one of your mints"}]
    file = (await stranger("GET", f"/v1/agents/{agent.log}/receipts/{sold.request}")).json
    checked = (await stranger("POST", "/v1/verify", file)).json
    assert [one for one in checked["checks"] if "not one of your mints" in one["what"]]
    place = f"bob@127.0.0.1:{trap.port}"
    nprofile = encode_nprofile(agent.log, [f"ws://127.0.0.1:{trap.port}"])
    assert (await stranger("GET", f"/v1/agents/{place}/reputation")).status == 404
    assert (await stranger("POST", f"/v1/verify?agent={place}", file)).status == 404
    assert (await stranger("GET", f"/v1/agents/{nprofile}/reputation")).status == 200
    assert f"ws://127.0.0.1:{trap.port}" not in desk.post.pool.health()
    assert trap.visits == 0
    reader, writer = await asyncio.open_connection("127.0.0.1", trap.port)
    await reader.read()
    writer.close()
    assert trap.visits == 1  # it counts


async def test_an_agent_is_read_once_for_all_who_ask_and_then_kept(
    desk: Desk, booth: Booth, stranger: "Caller", monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, begun = asyncio.Event(), 0
    real = Reputation.read

    async def read(self: Reputation, agent: str, **options: Any) -> Any:
        nonlocal begun
        begun += 1
        await gate.wait()
        return await real(self, agent, **options)

    monkeypatch.setattr(Reputation, "read", read)
    paths = [f"/v1/agents/{booth.log}/{what}" for what in ("reputation", "root", "reputation")]
    asking = [asyncio.create_task(stranger("GET", path)) for path in paths]
    async with asyncio.timeout(30):
        while not begun:
            await asyncio.sleep(0.01)
    gate.set()
    assert [answer.status for answer in await asyncio.gather(*asking)] == [200] * 3
    assert (await stranger("GET", paths[0])).status == 200
    assert begun == 1


async def test_so_many_at_once_and_who_waits_too_long_is_told(
    desk: Desk, stranger: "Caller", monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, running, most = asyncio.Event(), 0, 0

    async def read(_self: Reputation, _agent: str, **_options: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await gate.wait()
        finally:
            running -= 1
        raise Refusal("enough")

    monkeypatch.setattr(Reputation, "read", read)
    monkeypatch.setattr(readings, "WAIT_SECONDS_MAX", 0.05)
    keys = [SecretKey.generate().public_key for _ in range(readings.WAITING_MAX + 1)]
    told = await asyncio.gather(
        *(
            desk.readings.read(key, f"9.9.9.{number // readings.WAITING_EACH_MAX}")
            for number, key in enumerate(keys)
        ),
        return_exceptions=True,
    )
    assert all(isinstance(one, Busy) for one in told)
    assert [one for one in told if "too many" in str(one)] == [told[-1]]
    assert most == readings.READ_AT_ONCE
    answer = await stranger("GET", f"/v1/agents/{keys[0]}/reputation")
    assert (answer.status, answer.json["code"], answer.headers["Retry-After"]) == (503, "busy", "10")
    gate.set()
    async with asyncio.timeout(30):
        while desk.readings._reads._coming:
            await asyncio.sleep(0.01)
    assert not desk.readings._reads._clients


async def test_one_client_cannot_have_so_many_read_that_others_wait(
    desk: Desk, market: Market, settings: Settings, booth: Booth, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, begun = asyncio.Event(), list[str]()

    async def read(self: Reputation, agent: str, **options: Any) -> Any:
        begun.append(agent)
        await gate.wait()
        raise Refusal("enough")

    monkeypatch.setattr(Reputation, "read", read)
    monkeypatch.setattr(readings, "WAIT_SECONDS_MAX", 0.05)
    keys = [SecretKey.generate().public_key for _ in range(readings.WAITING_EACH_MAX + 1)]
    told = await asyncio.gather(*(desk.readings.read(key, "6.6.6.6") for key in keys), return_exceptions=True)
    assert [one for one in told if "for you" in str(one)] == [told[-1]]
    monkeypatch.setattr(desk.catalogue, "_own", (SimpleNamespace(public_key=booth.log),))
    with pytest.raises(Busy, match="goes on"):
        await desk.readings.read(booth.log, "6.6.6.6")
    assert begun[-1] == booth.log  # though all places are taken
    gate.set()


async def test_who_goes_away_does_not_end_the_reading_of_others(
    desk: Desk, booth: Booth, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()
    real = Reputation.read

    async def read(self: Reputation, agent: str, **options: Any) -> Any:
        begun.set()
        await gate.wait()
        return await real(self, agent, **options)

    monkeypatch.setattr(Reputation, "read", read)
    first, second = (asyncio.create_task(desk.readings.read(booth.log, "9.9.9.9")) for _ in range(2))
    await begun.wait()
    first.cancel()
    gate.set()
    assert (await second).score.jobs > 0
