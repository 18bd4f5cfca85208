"""A market in memory, and customers and agents to fill it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import pytest

from dvm import Agent, Customer, Job, JobFailed, Provider, ProviderLimits
from dvm.escrow.arbiter import Arbiter
from dvm.orders.order import Order
from identity import Event, LocalSigner, Rumor, SecretKey, make_template, sign_event
from identity.nip59 import unwrap, wrap
from tests.dvm.sale import FUNDED, LIMITS, PRICE, Sale
from tradepost.testing import ManualClock, Market
from wallet import PaymentPayload, Token, Wallet, encode_payload
from wallet.escrow import Role, Stage
from wallet.escrows import Escrows
from wallet.queries_escrows import EscrowRow
from wallet.terms import Method

SECONDS_MAX = 60.0  # this only catches what hangs


class Stranger:
    """A customer that is not ours: it signs events by hand and looks at what the relay has."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.key = SecretKey.generate()

    def request(
        self,
        *tags: tuple[str, ...],
        kind: int = 5001,
        text: str | None = "some text",
        age: int = 0,
        content: str = "",
    ) -> Event:
        inputs = [("i", text, "text")] if text is not None else []
        created_at = self.market.clock.now() - age
        event = sign_event(
            make_template(kind, content=content, tags=[*inputs, *tags], created_at=created_at), self.key
        )
        self.market.relay.insert(event)
        return event

    def answers(self, request: Event, kind: int | None = None) -> list[Event]:
        """Everything published about the request, oldest first."""
        found = [
            e
            for e in self.market.relay.events
            if e.tag("e") == request.id and e.kind in (7000, request.kind + 1000)
        ]
        return [e for e in reversed(found) if kind is None or e.kind == kind]

    async def answer(self, request: Event, status: str) -> Event:
        """Wait for the result (`status` "result") or for feedback of that status."""
        found: list[Event] = []

        def is_there() -> bool:
            found[:] = [
                e for e in self.answers(request)
                if (status == "result" and e.kind != 7000) or (e.kind == 7000 and e.tag("status") == status)
            ]  # fmt: skip
            return bool(found)

        await eventually(is_there, f"{status} for {request.id[:8]}; have {self.told(request)}")
        return found[0]

    async def pay(self, provider: str, job_id: str, token: Token, key: SecretKey | None = None) -> Event:
        """Send coins as NUT-18's Nostr transport does: a NIP-17 message in a gift wrap."""
        now = self.market.clock.now()
        payload = PaymentPayload(mint=token.mint, unit=token.unit, proofs=token.proofs, id=job_id)
        message = make_template(14, content=encode_payload(payload), tags=[("p", provider)], created_at=now)
        envelope = await wrap(LocalSigner(key or self.key), provider, message, now=now)
        self.market.relay.insert(envelope)
        return envelope

    async def letters(self) -> list[Rumor]:
        """What gift wraps to this customer hold."""
        wraps = [e for e in self.market.relay.events if e.kind == 1059 and e.tag("p") == self.key.public_key]
        return [await unwrap(LocalSigner(self.key), e) for e in wraps]

    async def letter(self, kind: str) -> Rumor:
        """Wait for a message with money in it: a "refund" or "change"."""
        found: list[Rumor] = []

        async def is_there() -> bool:
            found[:] = [rumor for rumor in await self.letters() if ("t", kind) in rumor.tags]
            return bool(found)

        await eventually(is_there, f"a letter with {kind}")
        return found[0]

    async def eventually(self, is_so: Callable[[], Awaitable[bool]]) -> None:
        await eventually(is_so)

    def told(self, request: Event) -> list[str]:
        return [f"{e.kind} {e.tags_named('status')}" for e in self.answers(request)]


class Trade(NamedTuple):
    """A customer, an agent and an arbiter that both trust."""

    market: Market
    customer: Customer
    provider: Provider
    arbiter: Arbiter

    async def ask(self, text: str = "hello", *, kind: int = 5001, review: bool = True) -> Order:
        return await self.customer.ask(
            self.provider.public_key, text, kind=kind, max_sat=100, settle=(Method.ESCROW,),
            arbiters=[self.arbiter.public_key], review=review,
        )  # fmt: skip

    async def view(self, role: Role, order: Order) -> EscrowRow | None:
        party = {
            Role.CUSTOMER: self.customer,
            Role.PROVIDER: self.provider,
            Role.ARBITER: self.arbiter,
        }[role]
        post = party._post
        return await Escrows(post.db, post.wallet, post.clock).get(role, party.public_key, order.id)

    async def reach(self, role: Role, order: Order, stage: Stage, *, every: int = 0) -> EscrowRow:
        """Wait until a party's view is in a stage; with `every`, time passes meanwhile, so many seconds at a time."""
        async with asyncio.timeout(SECONDS_MAX):
            while (row := await self.view(role, order)) is None or row.stage is not stage:
                await asyncio.sleep(0.005)
                await self.pass_time(every)
        return row

    async def pass_time(self, seconds: int) -> None:
        assert isinstance(self.market.clock, ManualClock)
        await self.market.clock.advance(seconds)

    async def sats(self) -> tuple[int, int]:
        """What the provider has, and what the customer has paid: the mint's fees are left out. All of it is there."""
        wallets = [party._post.wallet for party in (self.customer, self.provider)]
        customer, provider = [sum((await wallet.balance()).values()) for wallet in wallets]
        fees = [(await wallet.audit()).accounts.get("fees/mint", 0) // 1000 for wallet in wallets]
        assert customer + provider + sum(fees) == 1000
        return 1000 - customer - sum(fees), provider


@pytest.fixture
def agent() -> Agent:
    """Shouts for 21 sats (5001), whispers for nothing (5002), fails (5050), breaks (5100), talks too much (5250)."""
    agent = Agent("Upper", about="Says it louder")

    @agent.serves(kind=5001, price_sat=21)
    async def shout(job: Job) -> str:
        await job.progress("reading")
        return job.text.upper()

    @agent.serves(kind=5002)
    def whisper(job: Job) -> str:
        return job.text.lower()

    @agent.serves(kind=5050, price_sat=21)
    async def fail(job: Job) -> str:
        raise JobFailed(f"cannot do {job.text}")

    @agent.serves(kind=5100)
    async def break_down(job: Job) -> str:
        raise RuntimeError("my password is hunter2")

    @agent.serves(kind=5250)
    async def talk(job: Job) -> str:
        return "x" * 100_000

    return agent


@pytest.fixture
async def purse(market: Market) -> Wallet:
    """A wallet with 1000 sat that belongs to nobody in particular."""
    return (await market.post("purse", sat=1000)).wallet


@pytest.fixture
def stranger(market: Market) -> Stranger:
    return Stranger(market)


@pytest.fixture
async def trade(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> Trade:
    clock = ManualClock()

    @agent.serves(kind=5300, price_sat=PRICE)
    async def think(_job: Job) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    async with Market(clock=clock, folder=tmp_path_factory.mktemp("market")) as market:
        arbiter = await market.arbiter()
        limits = ProviderLimits(arbiters=(arbiter.public_key,), dispute_seconds=1200)
        provider = await market.open(agent, limits=limits)
        customer = await market.customer(sat=1000)
        yield Trade(market, customer, provider, arbiter)


async def eventually(is_so: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str = "it") -> None:
    """Wait until something is so; fail with `what` after some seconds."""
    try:
        async with asyncio.timeout(SECONDS_MAX):
            while True:
                answer = is_so()
                if answer if isinstance(answer, bool) else await answer:
                    return
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"waited {SECONDS_MAX} s for {what}") from None


@pytest.fixture
async def sale(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sale]:
    """A customer that has paid as much before as two jobs cost, so it has credit for two."""

    @agent.serves(kind=5300, price_sat=PRICE)
    async def talk_at_length(_job: Job) -> str:
        return "x" * 40_000

    @agent.serves(kind=5301, price_sat=2 * PRICE)
    def nod(_job: Job) -> str:
        return "yes"

    async with Market(clock=ManualClock(), folder=tmp_path_factory.mktemp("market")) as market:
        provider = await market.open(agent, limits=LIMITS)
        customer = await market.customer(sat=FUNDED)
        await (await customer.ask(provider.public_key, "well?", kind=5301, max_sat=100)).result()
        yield Sale(market, customer, provider)
