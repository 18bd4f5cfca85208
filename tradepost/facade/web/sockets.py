"""Listening for callers, and what one connection may take of us.

aiohttp bounds lines and header fields, and how long a connection may idle. Here is the rest: how many connections there
are, in all and of one address, how long the head of a request may take, and how long its body (slow loris).
"""

import asyncio
import logging
import resource
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from tradepost.facade.web.addresses import client_of
from tradepost.settings import Settings

LINE_BYTES_MAX: Final = 8190
HEADERS_MAX: Final = 64  # of that length each
STOP_SECONDS_MAX: Final = 5.0
LINGER_SECONDS: Final = 0.5  # for what a client still sends when it has its answer


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a record is about us: what strangers send that is no HTTP is answered, and fills nobody's disk."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


server_log = logging.getLogger(__name__)
server_log.addFilter(_is_ours)


@dataclass(frozen=True)
class SocketLimits:
    """What connections may take. `each_max` None: they all come from a proxy, which has to tell clients apart."""

    connections_max: int = 1000
    each_max: int | None = 100
    head_seconds_max: float = 10.0  # from the first byte of a request, or from the begin of the connection
    body_seconds_max: float = 20.0
    idle_seconds_max: float = 75.0  # longer than what proxies keep, so that they end a connection and not we
    unread_seconds_max: float = 60.0  # that a peer may leave what we sent where it is


def socket_limits(settings: Settings) -> SocketLimits:
    """The limits of a configuration, and never so many connections that files of ours find no descriptor."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return SocketLimits(
        connections_max=min(settings.gateway_connections_max, descriptors // 2),
        each_max=None if settings.gateway_behind_proxy else settings.gateway_connections_each_max,
    )


class Connections:
    """The connections of one listener."""

    def __init__(self, limits: SocketLimits, on_refused: Callable[[str], None]) -> None:
        """`on_refused` is told in a word why a connection was closed: too_many, too_many_of_one, slow_head,
        slow_body."""
        self.limits = limits
        self.on_refused = on_refused
        self._open: dict[asyncio.BaseProtocol, _Guard] = {}  # by the protocol that a request names
        self._clients: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """How many there are now."""
        return len(self._open)

    def why_not(self, client: str) -> str:
        """Why there can be no other connection of that client; "" if there can."""
        if len(self._open) >= self.limits.connections_max:
            return "too_many"
        each_max = self.limits.each_max
        return "too_many_of_one" if each_max is not None and self._clients[client] >= each_max else ""

    def add(self, guard: "_Guard") -> None:
        """One has begun."""
        self._open[guard.inner] = guard
        self._clients[guard.client] += 1

    def remove(self, guard: "_Guard") -> None:
        """One has ended."""
        del self._open[guard.inner]
        self._clients[guard.client] -= 1
        if not self._clients[guard.client]:
            del self._clients[guard.client]

    @web.middleware
    async def whole(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """A middleware: the head has come; let the body come in time, before anybody works on it.

        Raises `HTTPRequestTimeout`, and `HTTPRequestEntityTooLarge` for more than the application's `client_max_size`.
        """
        guard = self._open.get(request.protocol)
        if guard is None:  # it has ended meanwhile
            return await handler(request)
        guard.begin_work()
        try:
            if request.can_read_body:
                await self._read(request)
            return await handler(request)
        finally:
            guard.end_work()

    async def _read(self, request: web.Request) -> None:
        """The request keeps what was read."""
        try:
            async with asyncio.timeout(self.limits.body_seconds_max):
                await request.read()
        except TimeoutError:
            self.on_refused("slow_body")
            raise web.HTTPRequestTimeout from None


class _Guard(asyncio.Protocol):
    """Stands between a connection and aiohttp's protocol for it, which it hands everything that is within limits."""

    def __init__(self, connections: Connections, inner: asyncio.Protocol) -> None:
        self.inner = inner
        self.client = ""
        self._connections = connections
        self._transport: asyncio.Transport | None = None  # None: refused, or ended
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_working = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        peer = transport.get_extra_info("peername")
        self.client = client_of(peer[0] if peer else "")
        if reason := self._connections.why_not(self.client):
            self._connections.on_refused(reason)
            transport.abort()
            return
        unread_ms = int(self._connections.limits.unread_seconds_max * 1000)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_ms)
        self._transport = transport
        self._connections.add(self)
        self._await_head()
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        if not self._is_working and self._head_timer is None:
            self._await_head()
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._transport is None else self.inner.eof_received()

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None:
            return
        self._transport = None
        self._stop_waiting()
        self._connections.remove(self)
        self.inner.connection_lost(exc)

    def begin_work(self) -> None:
        """The head of a request is there."""
        self._is_working = True
        self._stop_waiting()

    def end_work(self) -> None:
        """It is answered, or about to be."""
        self._is_working = False

    def _await_head(self) -> None:
        seconds = self._connections.limits.head_seconds_max
        self._head_timer = asyncio.get_running_loop().call_later(seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        if self._transport is not None:
            self._connections.on_refused("slow_head")
            self._transport.abort()


@asynccontextmanager
async def listening(
    app: web.Application,
    host: str,
    port: int,
    limits: SocketLimits = SocketLimits(),
    on_refused: Callable[[str], None] = lambda _reason: None,
) -> AsyncIterator[Connections]:
    """Serve `app`, which has not begun, while the context lasts. Raises `OSError` if the port is taken."""
    connections = Connections(limits, on_refused)
    app.middlewares.append(connections.whole)
    runner = web.AppRunner(
        app, logger=server_log, access_log=None, handler_cancellation=False, shutdown_timeout=STOP_SECONDS_MAX,
        max_line_size=LINE_BYTES_MAX, max_field_size=LINE_BYTES_MAX, max_headers=HEADERS_MAX,
        keepalive_timeout=limits.idle_seconds_max, lingering_time=LINGER_SECONDS,
        auto_decompress=False,  # signatures are over what was sent, and nobody needs to send little that is much
    )  # fmt: skip
    await runner.setup()
    try:
        make = runner.server
        assert make is not None
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Guard(connections, make()), host, port, backlog=128)
        try:
            yield connections
        finally:
            server.close()
    finally:
        await runner.cleanup()
