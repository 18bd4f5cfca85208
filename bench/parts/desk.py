"""A front desk on a market in memory: `python -m bench.parts.desk FOLDER [unchecked]`.

It prints where it is and its agents as JSON, and runs until SIGTERM. Lines that it takes: `pay INVOICE`; `fill JOBS`
with copies of those that are done; `tell COUNT PAUSE_MS JOB…`, which has so many events happen in each of these jobs.
`unchecked`: the same desk without what is measured, which is who calls, and how often that may be.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

import tradepost.facade.web.app
from bench.parts.fill import fill_desk
from dvm import Agent, Job, Provider, Update
from identity import LocalSigner
from tradepost.api import open_customer
from tradepost.facade.callers.callers import Caller, Tier, account_of
from tradepost.facade.desk import Desk
from tradepost.facade.server import open_facade
from tradepost.logs import configure_logs
from tradepost.ports import choose_port
from tradepost.post import open_post, own_key
from tradepost.settings import RequestLimits, Settings
from tradepost.testing import MemoryMint, MemoryRelay

ECHO, PATIENT = 5050, 5100
RATE = 1_000_000_000
CONNECTIONS = 4000
NOBODY = Caller(account_of("nostr:" + "00" * 32), "nostr:" + "00" * 32, Tier.AUTHENTICATED)


def agents() -> list[Agent]:
    echo, patient = Agent("echo"), Agent("patient")

    @echo.serves(kind=ECHO, price_sat=1)
    async def repeat(job: Job) -> str:
        return job.text

    @patient.serves(kind=PATIENT)
    async def wait(_job: Job) -> str:
        await asyncio.Event().wait()
        return ""

    return [echo, patient]


@asynccontextmanager
async def open_desk(folder: Path, mint: MemoryMint) -> AsyncIterator[Desk]:
    relay = MemoryRelay()
    settings = Settings(
        relays=("ws://relay.test",), mints=(mint.url,), data=folder, gateway_port=choose_port(),
        custodial_sat_max=RATE, mint_sat_max=RATE,
        stranger_requests_per_minute_max=RATE, strangers_requests_per_minute_max=RATE, concurrent_jobs_max=10_000,
        http_requests_per_minute=RequestLimits(RATE, RATE, RATE, RATE),
        gateway_connections_max=CONNECTIONS, gateway_connections_each_max=CONNECTIONS,
    )  # fmt: skip
    async with AsyncExitStack() as stack:
        post = await stack.enter_async_context(
            open_post(settings, connect=relay.connect, transport=mint.transport)
        )
        customer = await stack.enter_async_context(open_customer(settings, post))
        providers = [Provider(one, LocalSigner(own_key(settings, one.slug)), post) for one in agents()]
        desk = await stack.enter_async_context(open_facade(settings, post, customer, providers))
        for provider in providers:
            await provider.start()
            stack.push_async_callback(provider.stop, 0)
        yield desk


def leave_unchecked(desk: Desk) -> None:
    """Everything else stays: reading the request, routing it, the operation, and the answer."""

    async def authenticate(_desk: Desk, _request: web.Request, _raw: bytes) -> Caller:
        return NOBODY

    def count(*_: Any, **__: Any) -> None:
        pass

    tradepost.facade.web.app.authenticate = authenticate
    desk.limits.count = count  # type: ignore[method-assign]  # the checks are what is left out


async def tell(desk: Desk, count: int, pause_ms: int, jobs: list[str]) -> None:
    """What an agent says, as it reaches the desk, with the machine's clock in it."""
    asked = [desk.customer.guarantee(job) for job in jobs]
    for _ in range(count):
        for guarantee in asked:
            assert guarantee is not None
            guarantee.push(Update("working", f"made at {time.monotonic()}"))
        await asyncio.sleep(pause_ms / 1000)


async def main(folder: Path, *, unchecked: bool) -> None:
    mint = MemoryMint()
    async with open_desk(folder, mint) as desk:
        if unchecked:
            leave_unchecked(desk)
        keys = {one.agent.slug: one.public_key for one in desk.providers}
        print(orjson.dumps({"url": desk.url, **keys}).decode(), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            match line.split():
                case ["pay", invoice]:
                    mint.pay(invoice)
                case ["fill", jobs_count]:
                    await asyncio.to_thread(fill_desk, desk.settings.database, int(jobs_count))
                case ["tell", count, pause_ms, *jobs]:
                    await tell(desk, int(count), int(pause_ms), jobs)
            print("done", flush=True)


if __name__ == "__main__":
    configure_logs("error")
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(main(Path(sys.argv[1]), unchecked="unchecked" in sys.argv[2:]))
