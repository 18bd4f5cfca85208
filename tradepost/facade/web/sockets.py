"""Listening for callers, and what one connection may take of us.

aiohttp bounds lines and header fields, and how long a connection may idle. Here is the rest: how many connections there
are, in all and of one address (behind a proxy: how many requests of one are under way), how long the head of a request
may take, and how long its body (slow loris). What never comes to a handler is told in the shape of `Problem` too.
"""

import asyncio
import logging
import resource
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from tradepost.facade.web.addresses import client_of, client_of_request
from tradepost.facade.web.problems import NotValid, TooManyRequests, UnsupportedMediaType, problem_response
from tradepost.settings import Settings

LINE_BYTES_MAX: Final = 8190
HEADERS_MAX: Final = 64  # of that length each
STOP_SECONDS_MAX: Final = 5.0
LINGER_SECONDS: Final = 0.5  # for what a client still sends when it has its answer
PROBES: Final = "/health/"  # they get through whatever else is asked


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a record is about us: what strangers send that is no HTTP is answered, and fills nobody's disk."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


server_log = logging.getLogger(__name__)
server_log.addFilter(_is_ours)


@dataclass(frozen=True)
class SocketLimits:
    """What connections may take.

    `each_max`: connections of one address. With `behind_proxy` all are the proxy's, and it is how many requests of one
    client may be under way, in the words of that proxy.
    """

    connections_max: int = 1000
    each_max: int = 100
    behind_proxy: bool = False
    head_seconds_max: float = 10.0  # from the first byte of a request, or from the begin of the connection
    body_seconds_max: float = 20.0
    idle_seconds_max: float = 75.0  # longer than what proxies keep, so that they end a connection and not we
    unread_seconds_max: float = 60.0  # that a peer may leave what we sent where it is


def socket_limits(settings: Settings) -> SocketLimits:
    """The limits of a configuration.

    Never so many connections that files of ours find no descriptor, and never more than half of them for one client.
    """
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections_max = min(settings.gateway_connections_max, descriptors // 2)
    return SocketLimits(
        connections_max=connections_max,
        each_max=min(settings.gateway_connections_each_max, max(1, connections_max // 2)),
        behind_proxy=settings.gateway_behind_proxy,
    )


def gone(request: web.Request) -> asyncio.Future[None]:
    """Done once the connection of a request has ended, which came by `listening`."""
    return cast(_Answering, request.protocol).gone


class Connections:
    """The connections of one listener."""

    def __init__(self, limits: SocketLimits, on_refused: Callable[[str], None]) -> None:
        """`on_refused` is told in a word why a connection was closed: too_many, too_many_of_one, slow_head,
        slow_body."""
        self.limits = limits
        self.on_refused = on_refused
        self._open: dict[asyncio.BaseProtocol, _Guard] = {}  # by the protocol that a request names
        self._clients: Counter[str] = Counter()
        self._under_way: Counter[str] = Counter()  # requests behind a proxy, by client

    @property
    def count(self) -> int:
        """How many there are now."""
        return len(self._open)

    def why_not(self, client: str) -> str:
        """Why there can be no other connection of that client; "" if there can."""
        if len(self._open) >= self.limits.connections_max:
            return "too_many"
        is_one_of_many = not self.limits.behind_proxy and self._clients[client] >= self.limits.each_max
        return "too_many_of_one" if is_one_of_many else ""

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

        Raises `HTTPRequestTimeout`, `HTTPRequestEntityTooLarge` for more than the application's `client_max_size`,
        `NotValid` for a body that is none, `UnsupportedMediaType` for one that is compressed, and `TooManyRequests`.
        """
        guard = self._open.get(request.protocol)
        if guard is None:  # it has ended meanwhile
            return await handler(request)
        guard.begin_work()
        client = self._admit(request) if self.limits.behind_proxy else None
        try:
            if request.can_read_body:
                await self._read(request)
            return await handler(request)
        finally:
            guard.end_work()
            if client is not None:
                self._under_way[client] -= 1
                if not self._under_way[client]:
                    del self._under_way[client]

    def _admit(self, request: web.Request) -> str | None:
        """Count a request that came through a proxy: returns for whom, None for a probe."""
        if request.path.startswith(PROBES):
            return None
        client = client_of_request(request, behind_proxy=True)
        if self._under_way[client] >= self.limits.each_max:
            self.on_refused("too_many_of_one")
            raise TooManyRequests(
                f"{self.limits.each_max} requests of yours are under way: wait for one of them, or close a stream",
                retry_after=1,
            )
        self._under_way[client] += 1
        return client

    async def _read(self, request: web.Request) -> None:
        """The request keeps what was read."""
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType(
                "send the body as it is, without Content-Encoding: nothing is unpacked here"
            )
        try:
            async with asyncio.timeout(self.limits.body_seconds_max):
                await request.read()
        except TimeoutError:
            self.on_refused("slow_body")
            raise web.HTTPRequestTimeout from None
        except web.RequestPayloadError:
            raise NotValid("the body is not in the pieces that it says (Transfer-Encoding)") from None


class _Answering(web.RequestHandler):
    """aiohttp's side of one connection, which tells as a `Problem` what no handler told."""

    def __init__(self, server: web.Server, **options: Any) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, **options)
        self.gone: asyncio.Future[None] = loop.create_future()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.gone.set_result(None)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002 - aiohttp's, as the last one is; the error says it
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """The answer to a head that cannot be read, without a word of it, and to what a handler raised."""
        if isinstance(exc, ConnectionError):  # who asked is gone
            raise exc
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, so no other can be given") from exc
        if isinstance(exc, HttpProcessingError):
            exc = NotValid(
                f"the head of this request is not HTTP, or too large: a line may have {LINE_BYTES_MAX} bytes, and "
                f"{HEADERS_MAX} headers may come; a token that is longer goes into the body of POST /v1/balance/tokens"
            )
        response = problem_response(exc if isinstance(exc, Exception) else TimeoutError())
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send it; what the router refuses is told like all else: unknown paths, wrong methods."""
        if isinstance(resp, web.HTTPException):
            resp = problem_response(resp)
        return await super().finish_response(request, resp, start_time)


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
    runner = web.AppRunner(app, handler_cancellation=False, shutdown_timeout=STOP_SECONDS_MAX)
    await runner.setup()
    try:
        server = runner.server
        assert server is not None

        def make() -> _Guard:
            inner = _Answering(
                server, logger=server_log, access_log=None, max_line_size=LINE_BYTES_MAX,
                max_field_size=LINE_BYTES_MAX, max_headers=HEADERS_MAX, keepalive_timeout=limits.idle_seconds_max,
                lingering_time=LINGER_SECONDS,
                auto_decompress=False,  # signatures are over what was sent
            )  # fmt: skip
            return _Guard(connections, inner)

        listener = await asyncio.get_running_loop().create_server(make, host, port, backlog=128)
        try:
            yield connections
        finally:
            listener.close()
    finally:
        await runner.cleanup()
