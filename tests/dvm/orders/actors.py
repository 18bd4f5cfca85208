"""Agents that do what a test tells them, and the market in which they are hired."""

import asyncio

from dvm import (
    Agent,
    Job,
    OrderState,
    Provider,
    ProviderLimits,
)
from dvm.discovery.announce import heartbeat
from dvm.nip90 import Offer, Status, make_feedback, make_result
from dvm.orders.customer import Customer
from dvm.orders.order import Guarantee
from dvm.queries import OrderRow
from dvm.queries_guarantees import orders_of
from identity import Event, LocalSigner, SecretKey, make_template, sign_event
from identity.nip59 import unwrap, wrap
from tradepost.testing import ManualClock, Market
from wallet import Token, encode_token, parse_payload

PRICE = 21


class Actor:
    """An announced agent that does what a test tells it, with the wire formats of ours."""

    def __init__(self, market: Market, *, price_sat: int = PRICE, kind: int = 5001) -> None:
        self.market = market
        self.price_sat = price_sat
        self.key = SecretKey.generate()
        self.lock = SecretKey.generate()
        agent = Agent("Actor")
        now = market.clock.now()
        self._publish(
            make_template(
                31990, content="{}", created_at=now,
                tags=[("d", "actor"), ("k", str(kind)), ("t", "shouting"), ("price", str(kind), str(1000 * price_sat))],
            )
        )  # fmt: skip
        self._publish(heartbeat(agent, now))

    def _publish(self, template) -> None:  # type: ignore[no-untyped-def]
        self.market.relay.insert(sign_event(template, self.key))

    async def request(self) -> Event:
        """What we are asked, once it is at the relay."""
        async with asyncio.timeout(60):
            while True:
                for event in self.market.relay.published:
                    if 5000 <= event.kind < 6000 and event.tag("p") == self.key.public_key:
                        return event
                await asyncio.sleep(0.005)

    async def say(self, status: Status, message: str = "", offer: Offer | None = None) -> None:
        tags = offer.to_tags() if offer else ()
        now = self.market.clock.now()
        self._publish(make_feedback(await self.request(), status, now=now, message=message, tags=tags))

    async def offer(self, price_sat: int | None = None, seconds: int = 3600) -> None:
        """Ask for a price; without one for what was announced, a sat less than the shop wants."""
        price_sat = self.price_sat if price_sat is None else price_sat
        locktime = self.market.clock.now() + seconds
        offer = Offer(
            price_msat=price_sat * 1000, mints=(self.market.mint.url,), lock=self.lock.compressed_public_key,
            locktime=locktime, settle=("prepaid",),
        )  # fmt: skip
        await self.say(Status.PAYMENT_REQUIRED, offer=offer)

    async def deliver(self, content: str) -> None:
        now = self.market.clock.now()
        self._publish(make_result(await self.request(), content, price_msat=0, now=now))

    async def token(self) -> Token:
        """The coins that we were sent."""
        async with asyncio.timeout(60):
            while True:
                for event in self.market.relay.published:
                    if event.kind == 1059 and event.tag("p") == self.key.public_key:
                        payload = parse_payload((await unwrap(LocalSigner(self.key), event)).content)
                        return Token(payload.mint, payload.proofs, payload.unit)
                await asyncio.sleep(0.005)

    async def send_back(self, token: Token) -> None:
        request, now = await self.request(), self.market.clock.now()
        tags = [("p", request.pubkey), ("e", request.id), ("t", "refund")]
        message = make_template(14, content=encode_token(token), tags=tags, created_at=now)
        self.market.relay.insert(await wrap(LocalSigner(self.key), request.pubkey, message, now=now))

    async def was_asked(self) -> bool:
        return any(
            e.tag("p") == self.key.public_key and 5000 <= e.kind < 6000 for e in self.market.relay.published
        )

    def taken_back(self) -> bool:
        return any(e.kind == 5 and ("p", self.key.public_key) in e.tags for e in self.market.relay.published)


class Scene:
    """A market with a clock of its own, a customer, and an honest agent that shouts for 22 sat."""

    def __init__(self, market: Market, customer: Customer) -> None:
        assert isinstance(market.clock, ManualClock)
        self.market, self.customer, self.clock = market, customer, market.clock

    async def hire(self, *, max_sat: int = 50, seconds: int = 120, **options: object) -> Guarantee:
        return await self.customer.hire(
            "5001", "hello", kind=5001, max_sat=max_sat, seconds_max=seconds, **options,  # type: ignore[arg-type]  # as `hire` says
        )  # fmt: skip

    async def orders(self, guarantee: Guarantee) -> list[OrderRow]:
        return await orders_of(self.customer._post.db, guarantee.id)

    async def order(self, guarantee: Guarantee, actor: Actor) -> OrderRow | None:
        rows = await self.orders(guarantee)
        return next((row for row in rows if row.provider == actor.key.public_key), None)

    async def reached(self, guarantee: Guarantee, actor: Actor, state: OrderState, *, every: int = 0) -> None:
        """Wait until the order of an agent is in a state; time passes meanwhile, so many seconds at a time."""
        async with asyncio.timeout(60):
            while (row := await self.order(guarantee, actor)) is None or row.state is not state:
                await asyncio.sleep(0.005)
                if every:
                    await self.clock.advance(every)

    async def result(self, guarantee: Guarantee, *, orders: int = 2) -> str:
        """Let time pass until so many were asked, or it has ended; the last one has all the time it needs."""
        async with asyncio.timeout(60):
            while not guarantee.ended and len(await self.orders(guarantee)) < orders:
                await asyncio.sleep(0.005)
                await self.clock.advance(1)
            return await guarantee.result()

    async def sats(self) -> int:
        return sum((await self.customer._post.wallet.balance()).values())


async def open_shop(
    market: Market, price_sat: int = PRICE + 1, name: str = "shop", *, limits: ProviderLimits | None = None
) -> Provider:
    agent = Agent(name)

    @agent.serves(kind=5001, price_sat=price_sat)
    async def shout(job: Job) -> str:
        return job.text.upper()

    provider = await market.open(agent, name=name, limits=limits)
    await provider._post.outbox.flush(5)
    async with asyncio.timeout(60):  # the heartbeat does not go by the outbox
        while not any(e.kind == 11998 and e.pubkey == provider.public_key for e in market.relay.events):
            await asyncio.sleep(0.005)
    return provider
