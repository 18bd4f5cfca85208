"""A front desk as callers find it: a real server on a real socket, with a market in memory behind it.

`desk` has one agent of its own (kind 5001, 21 sat: what came, in capitals); `caller` and `other` are known by NIP-98,
`stranger` is not known at all. `fund(caller, sat)` brings sats by a token. For another life of the same post leave
`open_desk` and enter it again.
"""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from dvm import Agent, Job, Provider, ProviderLimits
from identity import LocalSigner, SecretKey, nip98, sign_event
from store import Database
from tradepost.api import open_customer
from tradepost.facade.desk import Desk
from tradepost.facade.server import open_facade
from tradepost.post import all_migrations, open_post, own_key
from tradepost.settings import Settings
from tradepost.testing import ManualClock, Market
from wallet import encode_token

PRICE = 21
KIND = 5001


@dataclass(frozen=True)
class Answer:
    """What came back; `json` is None where the body is none."""

    status: int
    headers: Any
    text: str
    json: Any


@dataclass
class Caller:
    """Calls a desk: signs by NIP-98 with `key`, or shows a bearer `token`, or is nobody."""

    url: str
    http: aiohttp.ClientSession
    clock: Any
    key: SecretKey | None = None
    token: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """How the desk names this key."""
        assert self.key is not None
        return f"nostr:{self.key.public_key}"

    async def __call__(self, method: str, path: str, json: Any = None, **headers: str) -> Answer:
        """`headers` are named as Python allows: `Idempotency_Key="x"`."""
        body = b"" if json is None else msgspec.json.encode(json)
        told = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        told |= self._credentials(self.url + path, method, body)
        async with self.http.request(method, self.url + path, data=body, headers=told) as response:
            text = await response.text()
            is_json = response.content_type == "application/json" and text
            return Answer(
                response.status, response.headers, text, msgspec.json.decode(text) if is_json else None
            )

    def _credentials(self, url: str, method: str, body: bytes) -> dict[str, str]:
        if self.key is not None:
            made = nip98.make(
                url=url, method=method, body=body, created_at=self.clock.now(), nonce=secrets.token_hex(8)
            )
            return {"Authorization": nip98.header(sign_event(made, self.key))}
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def capitals(price_sat: int = PRICE, name: str = "capitals") -> Agent:
    """An agent whose work is easily checked."""
    agent = Agent(name, about="Says it in capitals.")

    @agent.serves(kind=KIND, price_sat=price_sat)
    async def shout(job: Job) -> str:
        return job.text.upper()

    return agent


@asynccontextmanager
async def open_desk(market: Market, settings: Settings, agents: Sequence[Agent] = ()) -> AsyncIterator[Desk]:
    """One life of the post of `settings`, with its agents and its desk."""
    async with AsyncExitStack() as stack:
        memory = {"connect": market.relay.connect, "transport": market.mint.transport}
        post = await stack.enter_async_context(open_post(settings, clock=market.clock, **memory))
        customer = await stack.enter_async_context(open_customer(settings, post))
        providers = [Provider(one, LocalSigner(own_key(settings, one.slug)), post) for one in agents]
        desk = await stack.enter_async_context(open_facade(settings, post, customer, providers))
        for provider in providers:
            await provider.start()
            stack.push_async_callback(provider.stop, 0)
        yield desk


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[Market]:
    async with Market(folder=tmp_path) as market:
        yield market


@pytest.fixture
def settings(market: Market, free_port: int) -> Settings:
    return market.settings("desk").model_copy(
        update={"gateway_url": f"http://127.0.0.1:{free_port}", "gateway_port": free_port}
    )


@pytest.fixture
async def desk(market: Market, settings: Settings) -> AsyncIterator[Desk]:
    async with open_desk(market, settings, [capitals()]) as desk:
        yield desk


@pytest.fixture
async def hiring_desk(
    market: Market, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Desk]:
    """A desk like that of `tradepost dev`: without agents of its own, it hires one elsewhere, which works in escrow, too
    (kind 5001, 21 sat: the first three sentences). The mint pays what is to be paid to it.
    """
    new_quote = market.mint._new_quote

    def paid(quotes: Any, bolt11: str, amount: int) -> Any:
        quote = new_quote(quotes, bolt11, amount)
        quote.state = "PAID" if quotes is market.mint._mint_quotes else quote.state
        return quote

    monkeypatch.setattr(market.mint, "_new_quote", paid)
    arbiter = await market.arbiter()
    agent = Agent("first-lines")

    @agent.serves(kind=KIND, price_sat=PRICE)
    async def shorten(job: Job) -> str:
        await job.progress(f"reading {len(job.text)} characters")
        return ". ".join(job.text.split(". ")[:3])

    limits = ProviderLimits(arbiters=(arbiter.public_key,))
    provider = await market.open(agent, name="elsewhere", limits=limits)
    await provider._post.outbox.flush(5)
    async with open_desk(market, settings.model_copy(update={"arbiters": (arbiter.public_key,)})) as desk:
        yield desk


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as http:
        yield http


@pytest.fixture
def stranger(settings: Settings, market: Market, http: aiohttp.ClientSession) -> Caller:
    return Caller(settings.gateway_address, http, market.clock)


@pytest.fixture
def caller(settings: Settings, market: Market, http: aiohttp.ClientSession) -> Caller:
    return Caller(settings.gateway_address, http, market.clock, SecretKey.generate())


@pytest.fixture
def other(settings: Settings, market: Market, http: aiohttp.ClientSession) -> Caller:
    return Caller(settings.gateway_address, http, market.clock, SecretKey.generate())


@pytest.fixture
async def token_of(market: Market) -> Callable[[int], Awaitable[str]]:
    """Makes ecash of somebody else's wallet."""
    payer = await market.post("payer", sat=100_000)

    async def make(sat: int) -> str:
        op_id = f"token:{secrets.token_hex(8)}"
        await payer.wallet.plan_send(market.mint.url, sat, op_id=op_id, purpose="a test", record=True)
        made = (await payer.wallet.settle(op_id)).token
        assert made is not None
        return encode_token(made)

    return make


@pytest.fixture
def fund(token_of: Callable[[int], Awaitable[str]]) -> Callable[[Caller, int], Awaitable[None]]:
    """Puts sats into a caller's balance; the mint's fee of taking them comes off."""

    async def bring(who: Caller, sat: int) -> None:
        answer = await who("POST", "/v1/balance/tokens", {"token": await token_of(sat)})
        assert answer.status in (200, 201), answer.text

    return bring


@pytest.fixture
def clock() -> ManualClock:
    """Time for parts that are tested alone; a market has a clock of its own."""
    return ManualClock()


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    """The database of a post, for parts that are tested alone."""
    async with await Database.open(tmp_path / "alone.sqlite", all_migrations()) as db:
        yield db
