"""The public Python API: an `Agent` that can run itself, a `Customer` that can open itself, by the configuration."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import dvm
from dvm import Post, Provider
from dvm.escrow.arbiter import Arbiter, ArbiterLimits
from dvm.orders.allowances import Purse
from identity import LocalSigner, Signer
from relay_bridge.tasks import Tasks
from tradepost.ending import ending
from tradepost.errors import ConfigError, expected
from tradepost.facade.server import open_facade
from tradepost.logs import ensure_logs
from tradepost.post import limits_of, open_post, own_key
from tradepost.rails import SalesRail
from tradepost.relays import OnRelays, RelayWatch
from tradepost.restore import keep_record
from tradepost.rotating import check_current, current_key, retired_keys
from tradepost.secrets import CUSTOMER, Key, find_key, open_signer
from tradepost.settings import ARBITER, Settings

#: Set while `tradepost up` runs a project's code to find its agents.
agents_are_loading: ContextVar[bool] = ContextVar("agents_are_loading", default=False)

Ready = Callable[[Sequence[Provider], Post], Coroutine[Any, Any, None]]


class Agent(dvm.Agent):
    """A seller of work; see `dvm.Agent`."""

    def run(self, folder: Path | None = None) -> None:
        """Serve until SIGINT or SIGTERM, as `tradepost up` does, with the configuration of `folder` (default: here).

        Returns at once when it is `tradepost up` that runs this code. Ends the program, exit code 1, with a sentence on
        stderr if it cannot serve; see `serve`.
        """
        if agents_are_loading.get():
            return
        ensure_logs()
        try:
            settings = Settings.load(folder)
            asyncio.run(serve([self], settings, keys=agent_keys([self], settings)))
        except expected() as error:
            sys.exit(f"error: {error}")


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
        async with (
            open_signer(settings, find_key(settings, CUSTOMER)) as signer,
            open_post(settings) as post,
            open_customer(settings, post, signer) as customer,
        ):
            yield customer


@asynccontextmanager
async def open_customer(
    settings: Settings, post: Post, signer: Signer | None = None
) -> AsyncIterator[Customer]:
    """A started customer on an open post; without a `signer` it asks under the post's own key."""
    customer = Customer(signer or LocalSigner(own_key(settings, CUSTOMER)), post)
    await customer.start()
    await keep_record(settings, post)
    try:
        yield customer
    finally:
        await customer.stop()


def purse_of(
    settings: Settings, customer: dvm.Customer, agent: dvm.Agent, signer: Signer, post: Post
) -> Purse:
    """What an agent buys with: it spends the post's sats, within its allowance."""
    return Purse(
        customer, settings.allowances.get(agent.slug), name=agent.slug, public_key=signer.public_key,
        arbiters=settings.arbiters, clock=post.clock,
    )  # fmt: skip


def _arbiter(settings: Settings, post: Post) -> Arbiter:
    fee_sat, job_limits = settings.arbiter_fee_sat, limits_of(settings, ARBITER)
    signer = LocalSigner(own_key(settings, ARBITER))
    return Arbiter(post, signer, ArbiterLimits(fee_sat=fee_sat), job_limits=job_limits)


async def _say_nothing(_providers: Sequence[Provider], _post: Post) -> None:
    pass


def agent_keys(agents: Sequence[dvm.Agent], settings: Settings, sec: str = "") -> list[Key]:
    """The key of each agent, by `find_key`.

    Before that it is checked that they can run: raises `ConfigError` if one asks for money and no mint is trusted, and
    if several would share a key.
    """
    prices = [c.price_sat for agent in agents for c in agent.capabilities.values()]
    if (any(prices) or settings.stranger_sat_min) and not settings.mints:
        raise ConfigError(
            "the agent asks for money but knows no mint: name the mints you trust in tradepost.yaml "
            "(mints: […]) or in TRADEPOST_MINTS"
        )
    keys = [find_key(settings, agent.slug, sec) for agent in agents]
    shared = {key.source for key in keys}
    if len(keys) > 1 and len(shared) < len(keys):
        raise ConfigError(
            f"{' and '.join(sorted(shared))}: one key for {len(keys)} agents, and each needs its own: keep them with "
            "`tradepost key import NAME`"
        )
    return keys


async def _open_providers(
    stack: AsyncExitStack,
    settings: Settings,
    post: Post,
    found: Iterable[tuple[dvm.Agent, Key]],
    customer: Customer | None,
) -> tuple[list[Provider], list[Provider]]:
    """The agents under the keys that they have now, and under those that were handed on and are not done with."""

    async def provider_of(agent: dvm.Agent, key: Key, retires_at: int | None = None) -> Provider:
        signer = await stack.enter_async_context(open_signer(settings, key))
        if retires_at is None:
            await check_current(post.db, agent.slug, signer)
        limits, purse = limits_of(settings, agent.slug), None
        if (
            customer
        ):  # the post's own, who is no stranger to its agents: the desk bounds those whom it asks for
            limits = replace(limits, allowed=(*limits.allowed, customer.public_key))
            purse = purse_of(settings, customer, agent, signer, post)
        return Provider(agent, signer, post, limits, purse, retires_at=retires_at)

    agents = [(agent, await current_key(settings, post.db, key)) for agent, key in found]
    retired = await retired_keys(settings, post, [agent for agent, _ in agents])
    return (
        [await provider_of(agent, key) for agent, key in agents],
        [await provider_of(old.agent, old.key, old.until) for old in retired],
    )


async def serve(
    agents: Sequence[dvm.Agent],
    settings: Settings,
    *,
    keys: Sequence[Key] | None = None,
    on_ready: Ready = _say_nothing,
    on_relays: OnRelays = lambda _change: None,
) -> None:
    """Run agents on one post until SIGINT or SIGTERM, then take the announcements back and let running work end.

    `keys` are those of `agent_keys`, which asks for passwords and is better called before any loop runs. `on_ready`
    runs beside the agents once they are open. When the file of `settings` names other relays, those are used from then
    on, and `on_relays` is told. A second SIGINT interrupts at once (`KeyboardInterrupt`).
    Raises what `agent_keys` and `open_signer` raise, `PostBusy`, and `RunnerUnusable` for work that cannot be done.
    """
    needs_customer = bool(settings.gateway_url or settings.allowances)
    await asyncio.gather(*(agent.check() for agent in agents))
    async with AsyncExitStack() as stack:
        keys = keys or agent_keys(agents, settings)
        post = await stack.enter_async_context(open_post(settings))
        if "mint" in settings.rails:
            post.lightning.add(SalesRail(post.wallet, post.clock))
        customer = await stack.enter_async_context(open_customer(settings, post)) if needs_customer else None
        providers, retiring = await _open_providers(
            stack, settings, post, zip(agents, keys, strict=True), customer
        )
        everybody = [*providers, *retiring]
        if settings.gateway_url and customer:
            await stack.enter_async_context(open_facade(settings, post, customer, everybody))
        arbiter = _arbiter(settings, post) if settings.arbiter else None
        with ending() as told_to_end:
            if arbiter is not None:
                await arbiter.start()
                stack.push_async_callback(arbiter.stop)
            for provider in everybody:
                await provider.start()
            await keep_record(settings, post)
            told = asyncio.create_task(on_ready(providers, post))
            watching = Tasks()
            RelayWatch(settings, post, everybody, on_relays).start(watching)
            await told_to_end.wait()
        told.cancel()
        await watching.close()
        await asyncio.gather(*(provider.stop() for provider in everybody))
        with suppress(asyncio.CancelledError):
            await told
