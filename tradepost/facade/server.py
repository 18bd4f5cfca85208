"""Opens the front desk of a post: its parts, its operations, and one server for them and the LNURL gateway."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from dvm import Customer, Post, Provider
from tradepost.facade.agents.catalogue import Catalogue
from tradepost.facade.agents.readings import Readings
from tradepost.facade.api import OPERATIONS
from tradepost.facade.callers.callers import Callers
from tradepost.facade.callers.limits import open_limits
from tradepost.facade.callers.logins import Waiters
from tradepost.facade.callers.pruning import Pruner
from tradepost.facade.callers.replays import Replays
from tradepost.facade.callers.sessions import Sessions
from tradepost.facade.desk import Desk
from tradepost.facade.jobs.hiring import Hiring
from tradepost.facade.jobs.watching import Watching, WatchLimits
from tradepost.facade.money.till import Till
from tradepost.facade.running.metrics import Metrics, serving_metrics
from tradepost.facade.web.app import add_operations, add_routes, make_app
from tradepost.facade.web.pages import add_pages
from tradepost.facade.web.sockets import listening, socket_limits
from tradepost.gateway import open_gateway
from tradepost.lightning_orders import open_lightning_orders
from tradepost.settings import Settings


@asynccontextmanager
async def open_facade(
    settings: Settings, post: Post, customer: Customer, providers: Sequence[Provider]
) -> AsyncIterator[Desk]:
    """Serve callers and Lightning wallets while the context lasts. Raises `OSError` if the port is taken.

    `customer` is started, `providers` are all agents of the post, started or not.
    """
    async with AsyncExitStack() as stack:
        desk = await _open_desk(stack, settings, post, customer, providers)
        own = [provider.public_key for provider in providers]
        orders = await stack.enter_async_context(open_lightning_orders(settings, post, customer, own=own))
        names = list(dict.fromkeys(provider.agent.slug for provider in providers))
        gateway = await stack.enter_async_context(
            open_gateway(settings, post, orders, desk.limits, names=names)
        )
        app = make_app()
        add_operations(app, desk, OPERATIONS)
        add_routes(app, desk, gateway.routes)
        add_pages(app)
        if settings.metrics_port:
            await stack.enter_async_context(
                serving_metrics(desk.metrics, settings.metrics_host, settings.metrics_port)
            )
        limits, refused = socket_limits(settings), desk.metrics.refused
        connections = await stack.enter_async_context(
            listening(app, settings.gateway_host, settings.gateway_port, limits, refused)
        )
        desk.metrics.ask(connections=lambda: connections.count, listeners=lambda: desk.watching.listeners)
        for close in (desk.watching.close, desk.waiters.close):  # those who wait would hold the server open
            stack.push_async_callback(close)
        yield desk


async def _open_desk(
    stack: AsyncExitStack, settings: Settings, post: Post, customer: Customer, providers: Sequence[Provider]
) -> Desk:
    url = settings.gateway_address
    callers = Callers(post.db, post.clock, settings.operators)
    till = Till(post, settings, callers)
    watched = WatchLimits(all_max=max(1, socket_limits(settings).connections_max // 2))
    catalogue = Catalogue(post, providers, settings, url)
    desk = Desk(
        settings=settings, url=url, post=post, customer=customer, providers=tuple(providers), callers=callers,
        sessions=Sessions(post.db, post.clock, callers), replays=await Replays.load(post.db, post.clock),
        limits=await stack.enter_async_context(open_limits(settings, post.db, post.clock)), till=till,
        catalogue=catalogue, readings=Readings(post, settings, catalogue), hiring=Hiring(post, customer, till),
        watching=Watching(customer, post.clock, watched), waiters=Waiters(), metrics=Metrics(post),
        began_at=post.clock.now(),
    )  # fmt: skip
    await till.start()
    pruner = Pruner(post.db, post.clock, callers)
    pruner.start()
    stack.push_async_callback(pruner.stop)
    for close in (till.stop, catalogue.close, desk.readings.close, desk.hiring.stop):
        stack.push_async_callback(close)
    return desk
