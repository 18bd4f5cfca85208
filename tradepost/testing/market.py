"""A whole market in memory: try an agent offline, with money that is not worth anything.

    async def test_my_agent() -> None:
        async with Market() as market:
            provider = await market.open(agent)
            customer = await market.customer(sat=100)
            order = await customer.ask(provider.public_key, "a long text", kind=5001, max_sat=50)
            assert await order.result() == "a short one"

Relay, mint and clock are the in-memory twins; everything else is what runs in production.
"""

import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from dvm import Agent, Allowance, Post, Provider, ProviderLimits
from dvm.escrow.arbiter import Arbiter, ArbiterLimits
from identity import LocalSigner
from store import Clock, SystemClock
from tradepost.api import Customer, open_customer, purse_of
from tradepost.post import open_post, own_key
from tradepost.settings import Settings
from tradepost.testing.mint import MemoryMint
from tradepost.testing.relay import MemoryRelay

RELAY = "ws://relay.test"


class Market:
    """One relay, one mint, and as many posts as are opened; leaving the context closes them all."""

    def __init__(self, *, clock: Clock | None = None, folder: Path | None = None) -> None:
        """`folder` keeps the posts' files; by default they are gone when the market closes."""
        self.clock: Clock = clock or SystemClock()
        self.relay = MemoryRelay(clock=self.clock)
        self.mint = MemoryMint(clock=self.clock)
        self._folder = folder
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        if self._folder is None:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="tradepost-")))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._stack.aclose()

    def settings(self, name: str) -> Settings:
        """The configuration of the post called `name`."""
        assert self._folder is not None, "use `async with Market() as market`"
        return Settings(relays=(RELAY,), mints=(self.mint.url,), data=self._folder / name)

    async def post(self, name: str, *, sat: int = 0) -> Post:
        """Open a post on files of its own and put `sat` into its wallet."""
        settings = self.settings(name)
        parts = open_post(
            settings, clock=self.clock, connect=self.relay.connect, transport=self.mint.transport
        )
        post = await self._stack.enter_async_context(parts)
        if sat:
            quote = await post.wallet.mint_quote(self.mint.url, sat)
            self.mint.pay(quote.bolt11)
            await post.wallet.claim(quote.id)
        return post

    async def open(
        self,
        agent: Agent,
        *,
        name: str = "agent",
        sat: int = 0,
        limits: ProviderLimits | None = None,
        allowance: Allowance | None = None,
    ) -> Provider:
        """Open `agent` on a post of its own; it serves until the market closes. With an `allowance` it may buy."""
        post = await self.post(name, sat=sat)
        settings = self.settings(name)
        signer = LocalSigner(own_key(settings, agent.slug))
        purse = None
        if allowance:
            customer = await self._stack.enter_async_context(open_customer(settings, post))
            settings = settings.model_copy(update={"allowances": {agent.slug: allowance}})
            purse = purse_of(settings, customer, agent, signer, post)
        provider = Provider(agent, signer, post, limits, purse)
        await provider.start()
        self._stack.push_async_callback(provider.stop, 0)
        return provider

    async def arbiter(self, *, name: str = "arbiter", fee_sat: int = 0) -> Arbiter:
        """An arbiter on a post of its own; providers name its key in their limits, customers in what they ask."""
        post = await self.post(name)
        signer = LocalSigner(own_key(self.settings(name), name))
        arbiter = Arbiter(post, signer, ArbiterLimits(fee_sat=fee_sat))
        await arbiter.start()
        self._stack.push_async_callback(arbiter.stop)
        return arbiter

    async def customer(self, *, name: str = "customer", sat: int = 0) -> Customer:
        """A customer on a post of its own with `sat` to spend."""
        post = await self.post(name, sat=sat)
        return await self._stack.enter_async_context(open_customer(self.settings(name), post))
