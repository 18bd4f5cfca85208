"""The public Python API: an `Agent` that can run itself, a `Customer` that can open itself, by the configuration."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import dvm
from dvm import Post, Provider
from identity import LocalSigner
from tradepost.errors import ConfigError
from tradepost.logs import ensure_logs
from tradepost.post import limits_of, open_post, own_key
from tradepost.settings import Settings

#: Set while `tradepost up` runs a project's code to find its agents.
agents_are_loading: ContextVar[bool] = ContextVar("agents_are_loading", default=False)

Ready = Callable[[Sequence[Provider], Post], Coroutine[Any, Any, None]]


class Agent(dvm.Agent):
    """A seller of work; see `dvm.Agent`."""

    def run(self, folder: Path | None = None) -> None:
        """Serve until SIGINT or SIGTERM, as `tradepost up` does, with the configuration of `folder` (default: here).

        Returns at once when it is `tradepost up` that runs this code. Raises `PostBusy`, `ConfigError`.
        """
        if not agents_are_loading.get():
            ensure_logs()
            asyncio.run(serve([self], Settings.load(folder)))


class Customer(dvm.Customer):
    """A buyer of work; see `dvm.Customer`."""

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path | None = None) -> "AsyncIterator[Customer]":
        """Open the post of `folder` (default: here, else the user's own) and go on with open orders.

        Raises `PostBusy`, `ConfigError`.
        """
        ensure_logs()
        settings = Settings.load(folder)
        async with open_post(settings) as post, open_customer(settings, post) as customer:
            yield customer


@asynccontextmanager
async def open_customer(settings: Settings, post: Post) -> AsyncIterator[Customer]:
    """A started customer on an open post."""
    customer = Customer(LocalSigner(own_key(settings, "customer")), post)
    await customer.start()
    try:
        yield customer
    finally:
        await customer.stop()


async def _say_nothing(_providers: Sequence[Provider], _post: Post) -> None:
    pass


async def serve(agents: Sequence[dvm.Agent], settings: Settings, *, on_ready: Ready = _say_nothing) -> None:
    """Run agents on one post until SIGINT or SIGTERM, then take the announcements back and let running work end.

    `on_ready` runs beside the agents once they are open. A second SIGINT interrupts at once (`KeyboardInterrupt`).
    Raises `ConfigError` if an agent asks for money and no mint is trusted, `PostBusy`.
    """
    prices = [c.price_sat for agent in agents for c in agent.capabilities.values()]
    if any(prices) and not settings.mints:
        raise ConfigError(
            "the agent asks for money but knows no mint: name the mints you trust in tradepost.yaml "
            "(mints: […]) or in TRADEPOST_MINTS"
        )
    async with open_post(settings) as post:
        providers = [
            Provider(agent, LocalSigner(own_key(settings, agent.slug)), post, limits_of(settings))
            for agent in agents
        ]
        with _ending() as ending:
            for provider in providers:
                await provider.start()
            told = asyncio.create_task(on_ready(providers, post))
            await ending.wait()
        told.cancel()
        await asyncio.gather(*(provider.stop() for provider in providers))
        with suppress(asyncio.CancelledError):
            await told


@contextmanager
def _ending() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set while the context lasts."""
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ending.set)
    try:
        yield ending
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
