"""Inputs that are fetched: URLs and events, when the work begins, and what becomes of the job if they cannot be had."""

import gzip
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from dvm import Agent, Input, Job, ProviderLimits
from dvm.errors import BadRequest
from dvm.jobs.inputs import check
from dvm.jobs.lifecycle import JobState
from dvm.queries import get_job
from identity import Event, SecretKey, make_template, nip19, sign_event
from relay_bridge import Fetcher, Socket
from relay_bridge.transport import connect_websocket
from tradepost.testing import Market
from wallet import Wallet

if TYPE_CHECKING:
    from conftest import Stranger

AUTHOR = SecretKey.generate()


class Pages:
    """A web site on loopback: what it answers, and how often it was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        return web.Response(**self.pages.get(request.path, {"status": 404}))


@pytest.fixture
async def pages() -> AsyncIterator[Pages]:
    pages = Pages()
    runner = web.ServerRunner(web.Server(pages.answer), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    pages.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield pages
    await runner.cleanup()


@pytest.fixture
def reader() -> Agent:
    """Tells what it was given: 5001 for 21 sat, 5002 free."""
    agent = Agent("Reader")

    @agent.serves(kind=5001, price_sat=21)
    async def read(job: Job) -> str:
        return job.text

    @agent.serves(kind=5002)
    async def tell(job: Job) -> list[str]:
        kinds = [
            f"{part.type}:{part.media_type}:{part.event.kind if part.event else ''}" for part in job.inputs
        ]
        return [*kinds, *(part.text for part in job.inputs)]

    return agent


@pytest.fixture
async def open_market(market: Market) -> Market:
    """A market whose agents may fetch from loopback."""
    settings = market.settings
    market.settings = lambda name: settings(name).model_copy(update={"allow_private_urls": True})  # type: ignore[method-assign]
    return market


async def told(stranger: "Stranger", request: Event) -> str:
    return (await stranger.answer(request, "error")).tags_named("status")[0][2]


async def test_a_url_and_a_text_in_their_order(
    open_market: Market, reader: Agent, stranger: "Stranger", pages: Pages
) -> None:
    pages.pages["/a"] = {"text": "<p>page</p>", "content_type": "text/html"}
    await open_market.open(reader)
    request = stranger.request(("i", f"{pages.url}/a", "url"), ("i", "", "text"), kind=5002, text="before")
    result = await stranger.answer(request, "result")
    assert (
        result.content == '["text:text/plain:","url:text/html:","text:text/plain:","before","<p>page</p>",""]'
    )


async def test_what_is_fetched_is_fetched_after_it_is_paid_for(
    open_market: Market, reader: Agent, stranger: "Stranger", pages: Pages, purse: Wallet
) -> None:
    pages.pages["/a"] = {"text": "page"}
    provider = await open_market.open(reader)
    request = stranger.request(("i", f"{pages.url}/a", "url"), text=None)
    await stranger.answer(request, "payment-required")
    assert pages.asked == []
    await stranger.pay(provider.public_key, request.id, await purse.send(open_market.mint.url, 22))
    assert (await stranger.answer(request, "result")).content == "page"


@pytest.mark.parametrize(
    ("path", "said"),
    [("/none", "answered 404"), ("/large", "more than 1000 bytes"), ("/bomb", "more than 1000 bytes")],
)
async def test_a_paid_job_whose_input_cannot_be_had_is_paid_back(
    open_market: Market,
    reader: Agent,
    stranger: "Stranger",
    pages: Pages,
    purse: Wallet,
    path: str,
    said: str,
) -> None:
    pages.pages["/large"] = {"text": "a" * 1001}
    bomb = gzip.compress(b"a" * 100_000)
    pages.pages["/bomb"] = {"body": bomb, "headers": {"Content-Encoding": "gzip"}}
    provider = await open_market.open(reader, limits=ProviderLimits(input_bytes_max=1000))
    request = stranger.request(("i", f"{pages.url}{path}", "url"), text=None)
    await stranger.answer(request, "payment-required")
    await stranger.pay(provider.public_key, request.id, await purse.send(open_market.mint.url, 22))
    assert said in await told(stranger, request)
    await stranger.letter("refund")
    job = await get_job(provider._post.db, provider.public_key, request.id)
    assert job is not None
    assert job.state is JobState.RETURNED


async def test_several_inputs_share_one_limit(
    open_market: Market, reader: Agent, stranger: "Stranger", pages: Pages
) -> None:
    pages.pages["/a"] = {"text": "a" * 600}
    await open_market.open(reader, limits=ProviderLimits(input_bytes_max=1000))
    twice = [("i", f"{pages.url}/a", "url")] * 2
    assert "1200 bytes" in await told(stranger, stranger.request(*twice, kind=5002, text=None))


async def test_our_own_network_is_not_fetched_from(
    market: Market, reader: Agent, stranger: "Stranger", pages: Pages
) -> None:
    await market.open(reader)
    request = stranger.request(("i", f"{pages.url}/a", "url"), kind=5002, text=None)
    assert "not on the public internet" in await told(stranger, request)
    assert pages.asked == []


async def test_a_fetcher_may_be_given_names_of_its_own(
    reader: Agent, market: Market, stranger: "Stranger"
) -> None:
    async def inside(host: str, port: int) -> list[str]:
        return ["10.1.2.3"]

    provider = await market.open(reader)
    object.__setattr__(provider._post, "fetcher", Fetcher(resolve=inside))
    request = stranger.request(("i", "https://innocent.example/", "url"), kind=5002, text=None)
    assert "not on the public internet" in await told(stranger, request)


def note(market: Market, content: str = "a note", **tags: str) -> Event:
    template = make_template(1, content=content, tags=list(tags.items()), created_at=market.clock.now())
    event = sign_event(template, AUTHOR)
    market.relay.insert(event)
    return event


@pytest.mark.parametrize("form", ["hex", "HEX", "note", "nevent", "nostr:"])
async def test_an_event_is_found_by_every_form_of_its_id(
    market: Market, reader: Agent, stranger: "Stranger", form: str
) -> None:
    event = note(market)
    data = {
        "hex": event.id, "HEX": event.id.upper(), "note": nip19.encode_note(event.id),
        "nevent": nip19.encode_nevent(event.id, relays=["wss://elsewhere.invalid"], author=event.pubkey),
        "nostr:": "nostr:" + nip19.encode_note(event.id),
    }[form]  # fmt: skip
    await market.open(reader)
    result = await stranger.answer(stranger.request(("i", data, "event"), kind=5002, text=None), "result")
    assert result.content == '["event:text/plain:1","a note"]'


async def test_an_event_that_is_not_there_or_has_expired(
    market: Market, reader: Agent, stranger: "Stranger"
) -> None:
    await market.open(reader)
    past = str(market.clock.now() - 1)
    for event_id in ("ab" * 32, note(market, expiration=past).id):
        request = stranger.request(("i", event_id, "event"), kind=5002, text=None)
        assert "was not found on 1 relays" in await told(stranger, request)


async def test_a_relay_that_lies_about_an_event_is_not_believed(
    market: Market, reader: Agent, stranger: "Stranger"
) -> None:
    await market.open(reader)
    event = note(market)
    forged = Event(**{**event.to_dict(), "content": "forged"})  # type: ignore[arg-type]
    market.relay._stored[event.id] = forged
    request = stranger.request(("i", event.id, "event"), kind=5002, text=None)
    assert "was not found" in await told(stranger, request)


async def test_an_event_comes_from_the_relay_it_is_said_to_be_on(
    relay_url: str, reader: Agent, stranger: "Stranger", market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = sign_event(make_template(1, content="elsewhere", created_at=market.clock.now()), AUTHOR)
    elsewhere = await connect_websocket(relay_url)
    await elsewhere.send(f'["EVENT", {event.to_json().decode()}]')
    assert f'["OK","{event.id}",true' in str(await elsewhere.recv())
    await elsewhere.close()
    at_home = market.relay.connect

    async def connect(url: str) -> Socket:
        return await (connect_websocket(url) if url == relay_url.rstrip("/") else at_home(url))

    monkeypatch.setattr(market.relay, "connect", connect)
    await market.open(reader)
    request = stranger.request(("i", event.id, "event", relay_url), kind=5002, text=None)
    assert (await stranger.answer(request, "result")).content == '["event:text/plain:1","elsewhere"]'


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Input("npub1xyz", "job"), "type job is the id"), (Input("aa" * 31, "event"), "id of an event"),
        (Input("npub1xyz", "event"), "id of an event"), (Input("", "url"), "not a URL"),
        (Input("http://a:b@c/", "url"), "user name"), (Input("x" * 300_000), "at most"),
    ],
)  # fmt: skip
def test_what_can_be_told_at_once_is_told_at_once(part: Input, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        check((part,), ProviderLimits())
