"""The parties of the escrow figure, each a process of its own: `python -m bench.parts.escrow ROLE FOLDER RELAY MINT …`.

Prints its public key once it is open (the relay its URL), then answers one line of stdin with one line of stdout: the
requests it has sent to the mint so far, by kind, once what it was told is done.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench.parts.ecash import all_of
from bench.parts.escrow_swaps import COIN_SAT, PRICE_SAT
from dvm import Agent, Job, Post, Provider
from dvm.escrow.arbiter import Arbiter
from identity import LocalSigner
from relay_bridge import EmbeddedRelay
from store import SystemClock
from tradepost.api import open_customer
from tradepost.logs import configure_logs
from tradepost.post import limits_of, open_post, own_key
from tradepost.settings import ARBITER, Settings
from wallet import HttpTransport
from wallet.terms import Method

KIND, WINDOW = 5050, 16
POLL_SECONDS = 0.02
QUOTES_AT_ONCE = 4
JOB_SECONDS_MAX = 3600

agent = Agent("echo")
asked: Counter[str] = Counter()

Answer = Callable[[int], Awaitable[object]]


@agent.serves(kind=KIND, price_sat=PRICE_SAT)
async def echo(job: Job) -> str:
    return job.text


class CountingTransport(HttpTransport):
    """Counts what the mint is asked; swaps by their inputs and outputs."""

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        kind = path.split("/")[2]
        if kind == "swap" and body is not None:
            kind = f"swap {len(body['inputs'])} → {len(body['outputs'])}"
        asked[kind] += 1
        return await super().request(method, path, body)


@asynccontextmanager
async def arbiter(settings: Settings) -> AsyncIterator[tuple[str, Answer]]:
    """Signs terms, and sees results pass by."""
    async with open_post(settings, transport=CountingTransport) as post:
        party = Arbiter(post, LocalSigner(own_key(settings, ARBITER)))
        await party.start()
        yield party.public_key, lambda _: asyncio.sleep(0)
        await party.stop()


@asynccontextmanager
async def provider(settings: Settings) -> AsyncIterator[tuple[str, Answer]]:
    """Told a number, it waits until so many jobs in all are paid."""
    async with open_post(settings, transport=CountingTransport) as post:
        party = Provider(
            agent, LocalSigner(own_key(settings, agent.slug)), post, limits_of(settings, agent.slug)
        )
        await party.start()
        yield party.public_key, partial(_paid, post)
        await party.stop()


@asynccontextmanager
async def customer(settings: Settings, seller: str) -> AsyncIterator[tuple[str, Answer]]:
    """Told a number, it has so many jobs done, `WINDOW` at once; a negative one: it makes so many coins for them."""
    async with (
        open_post(settings, transport=CountingTransport) as post,
        open_customer(settings, post) as party,
    ):

        async def buy() -> None:
            order = await party.ask(
                seller, "an escrow", kind=KIND, max_sat=PRICE_SAT, seconds_max=JOB_SECONDS_MAX,
                settle=(Method.ESCROW,), arbiters=settings.arbiters,
            )  # fmt: skip
            await order.result()

        async def act(number: int) -> None:
            if number < 0:
                await all_of([partial(_fund, post)] * -number, QUOTES_AT_ONCE)
            else:
                await all_of([buy] * number, WINDOW)

        yield party.public_key, act


@asynccontextmanager
async def relay() -> AsyncIterator[tuple[str, Answer]]:
    """The embedded one, its events in memory."""
    async with EmbeddedRelay() as server:
        yield server.url, lambda _: asyncio.sleep(0)


async def _fund(post: Post) -> None:
    quote = await post.wallet.mint_quote(post.wallet.mints[0], COIN_SAT)
    while await post.wallet.claim(quote.id) is None:
        await SystemClock().sleep(POLL_SECONDS)


async def _paid(post: Post, jobs: int) -> None:
    while True:
        row = await post.db.one("SELECT COUNT(*) AS paid FROM escrows WHERE stage = 'paid'")
        if row is not None and row["paid"] >= jobs:
            return
        await SystemClock().sleep(POLL_SECONDS)


async def main(role: str, folder: str = "", url: str = "", mint: str = "", keys: Sequence[str] = ()) -> None:
    settings = Settings(
        relays=(url,) if url else (),
        mints=(mint,) if mint else (),
        data=Path(folder),
        arbiters=tuple(keys[:1]),
    )
    party = {
        "relay": relay, "arbiter": partial(arbiter, settings), "provider": partial(provider, settings),
        "customer": partial(customer, settings, *keys[1:]),
    }[role]  # fmt: skip
    async with party() as (name, answer):
        print(name, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            await answer(int(line))
            print(msgspec.json.encode(asked).decode(), flush=True)


if __name__ == "__main__":
    configure_logs("error")
    asyncio.run(main(*sys.argv[1:5], sys.argv[5:]))
