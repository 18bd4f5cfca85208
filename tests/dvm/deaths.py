"""A process that dies at any point it is told to, as kill -9 would: no line of ours runs afterwards that could write or
send anything. What tests of it share.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from dvm import Post
from dvm.queries import recent_orders
from relay_bridge import Socket
from store import Transaction
from tradepost.post import open_post
from tradepost.testing import Market
from wallet import MintTransport

FUNDED_SAT = 200
SECONDS_MAX = 90.0  # eight lives at once, each commit an fsync: on a busy disk half a minute is not enough


class Dead(Exception):  # noqa: N818
    """What everything answers that a dead process would still ask."""


class Fate:
    """Counts the points at which a process could die, and kills it at one of them."""

    def __init__(self, dies_at: int | None) -> None:
        self.points: list[str] = []
        self.died = asyncio.Event()
        self._dies_at = dies_at

    def check(self) -> None:
        if self.died.is_set():
            raise Dead

    def pass_point(self, name: str) -> None:
        self.check()
        self.points.append(name)
        if len(self.points) - 1 == self._dies_at:
            self.died.set()
            raise Dead

    def haunt(self, post: Post) -> None:
        transaction = post.db.transaction

        @asynccontextmanager
        async def mortal() -> AsyncIterator[Transaction]:
            self.check()
            async with transaction() as tx:
                yield tx
                self.check()
            self.pass_point("commit")

        post.db.transaction = mortal  # type: ignore[method-assign]

    def connect(self, market: Market) -> Callable[[str], Any]:
        async def connect(url: str) -> Socket:
            self.check()
            socket = await market.relay.connect(url)
            send = socket.send

            async def mortal(text: str) -> None:
                self.check()
                await send(text)

            socket.send = mortal  # type: ignore[method-assign]
            return socket

        return connect

    def transport(self, market: Market) -> Callable[[str], MintTransport]:
        def make(url: str) -> MintTransport:
            transport = market.mint.transport(url)
            request = transport.request

            async def mortal(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
                self.check()
                answer = await request(method, path, body)
                self.pass_point(path)
                return answer

            transport.request = mortal  # type: ignore[method-assign]
            return transport

        return make


@asynccontextmanager
async def life(market: Market, name: str, fate: Fate | None = None) -> AsyncIterator[Post]:
    """One process of a post, from its start to its end or its death."""
    parts: dict[str, Any] = {"connect": market.relay.connect, "transport": market.mint.transport}
    if fate:
        parts = {"connect": fate.connect(market), "transport": fate.transport(market)}
    opened = open_post(market.settings(name), clock=market.clock, **parts)
    post = await opened.__aenter__()
    if fate:
        fate.haunt(post)
    try:
        yield post
    finally:
        with suppress(*([Dead] if fate else [])):
            await opened.__aexit__(None, None, None)


async def fund(market: Market, post: Post) -> None:
    quote = await post.wallet.mint_quote(market.mint.url, FUNDED_SAT)
    market.mint.pay(quote.bolt11)
    await post.wallet.claim(quote.id)


async def sats(post: Post) -> int:
    return sum((await post.wallet.balance()).values())


async def all_ended(post: Post) -> None:
    async with asyncio.timeout(SECONDS_MAX):
        while not all(row.state.is_final for row in await recent_orders(post.db, 10)):
            await asyncio.sleep(0.005)


async def quiet(post: Post) -> None:
    """Wait until the wallet has nothing under way: change and refunds are in."""
    async with asyncio.timeout(SECONDS_MAX):
        while any(entry.closed_at is None for entry in await post.wallet.history()):
            await asyncio.sleep(0.005)
