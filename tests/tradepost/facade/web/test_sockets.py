"""What a connection may take of us, seen from raw sockets."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from tradepost.facade.web.sockets import Connections, SocketLimits, gone, listening, socket_limits
from tradepost.settings import Settings

SECONDS_MAX = 30.0  # this only catches what hangs
LONG = 600.0  # a limit that no test reaches


@dataclass
class Served:
    port: int
    connections: Connections
    refused: list[str] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def say(self, text: bytes) -> bytes:
        """What the server answers on a connection of its own, until it closes that."""
        reader, writer = await self.connect()
        writer.write(text)
        async with asyncio.timeout(SECONDS_MAX):
            said = await until_closed(reader)
        writer.close()
        return said


Serve = Callable[..., object]


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    said = b""
    try:
        while piece := await reader.read(65_536):
            said += piece
    except ConnectionResetError:
        pass
    return said


async def one_answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(SECONDS_MAX):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: ")
        )
        return head + await reader.readexactly(length)


@asynccontextmanager
async def serving(
    port: int, handler: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None, **limits: float
) -> AsyncIterator[Served]:
    async def echo(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"got " + await request.read())

    app = web.Application(client_max_size=1000)
    app.router.add_route("*", "/{path:.*}", handler or echo)
    values = {"head_seconds_max": LONG, "body_seconds_max": LONG, "idle_seconds_max": LONG} | limits
    refused: list[str] = []
    async with listening(app, "127.0.0.1", port, SocketLimits(**values), refused.append) as connections:  # type: ignore[arg-type] # by name
        yield Served(port, connections, refused)


async def test_requests_one_after_the_other_on_one_connection(free_port: int) -> None:
    async with serving(free_port) as served:
        reader, writer = await served.connect()
        for text in (b"one", b"two"):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n" + text)
            assert (await one_answer(reader)).endswith(b"got " + text)
        assert served.connections.count == 1
        writer.close()
        async with asyncio.timeout(SECONDS_MAX):
            while served.connections.count:
                await asyncio.sleep(0.005)
        assert served.refused == []


async def test_a_head_that_never_ends_is_cut_off(free_port: int) -> None:
    async with serving(free_port, head_seconds_max=0.2) as served:
        reader, writer = await served.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")

        async def trickle() -> None:
            while True:
                writer.write(b"X-A: b\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(trickle())
        async with asyncio.timeout(SECONDS_MAX):
            assert await until_closed(reader) == b""
        dripping.cancel()
        writer.close()
        assert served.refused == ["slow_head"]


async def test_silence_is_cut_off_too(free_port: int) -> None:
    async with serving(free_port, head_seconds_max=0.1) as served:
        assert await served.say(b"") == b""
        assert served.refused == ["slow_head"]


async def test_the_second_head_of_a_connection_has_its_own_time(free_port: int) -> None:
    async with serving(free_port) as served:
        reader, writer = await served.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await one_answer(reader)
        served.connections.limits = replace(served.connections.limits, head_seconds_max=0.1)
        writer.write(b"GET / HTT")
        async with asyncio.timeout(SECONDS_MAX):
            assert await until_closed(reader) == b""
        writer.close()
        assert served.refused == ["slow_head"]


async def test_an_answer_may_take_longer_than_a_head(free_port: int) -> None:
    going_on, asked = asyncio.Event(), asyncio.Event()

    async def handler(_request: web.Request) -> web.Response:
        asked.set()
        await going_on.wait()
        return web.Response(text="late")

    async with serving(free_port, handler, head_seconds_max=0.1) as served:
        reader, writer = await served.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(
            0.2, done.set_result, None
        )  # scheduled behind the head's own timer
        await done
        going_on.set()
        assert (await one_answer(reader)).endswith(b"late")
        writer.close()
        assert served.refused == []


async def test_a_body_that_never_comes_is_not_waited_for(free_port: int) -> None:
    async with serving(free_port, body_seconds_max=0.1) as served:
        said = await served.say(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this")
        assert said.startswith(b"HTTP/1.1 408 ")
        assert served.refused == ["slow_body"]


async def test_a_body_that_is_too_large_is_refused(free_port: int) -> None:
    async with serving(free_port) as served:
        reader, writer = await served.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000)
        assert (await one_answer(reader)).startswith(b"HTTP/1.1 413 ")
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 70 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"nonsense\r\n\r\n",
    ],
)
async def test_heads_that_are_too_large_or_say_two_things(
    free_port: int, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(free_port) as served:
        said = await served.say(head)
        assert said.split(b" ", 2)[1] == b"400"
        assert b"Server: tradepost\r\n" in said
        told = json.loads(said.partition(b"\r\n\r\n")[2])
        assert (told["code"], "/v1/balance/tokens" in told["message"]) == ("not_valid", True)
        assert b"aaaa" not in said  # what cannot be read may be a token
        assert (await served.say(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).endswith(b"got ")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"Expect: foo\r\nContent-Length: 0\r\n\r\n", "expectation_failed"),
        (b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00", "unsupported_media_type"),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n", "not_valid"),
    ],
)
async def test_what_is_refused_before_any_handler_is_a_problem(
    free_port: int, head: bytes, code: str
) -> None:
    async with serving(free_port) as served:
        said = await served.say(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + head)
        assert json.loads(said.partition(b"\r\n\r\n")[2])["code"] == code


async def test_what_fails_in_us_is_logged(free_port: int) -> None:
    async def handler(_request: web.Request) -> web.Response:
        raise RuntimeError

    async with serving(free_port, handler) as served:
        with capture_logs() as logs:
            said = await served.say(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 500 ")
    assert [entry["event"] for entry in logs] == ["request_failed"]


async def test_one_address_cannot_have_all_connections(free_port: int) -> None:
    async with serving(free_port, each_max=2, connections_max=10) as served:
        held = [await served.connect() for _ in range(2)]
        async with asyncio.timeout(SECONDS_MAX):
            while served.connections.count < 2:
                await asyncio.sleep(0.005)
        assert await served.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        assert served.refused == ["too_many_of_one"]
        held[0][1].close()
        async with asyncio.timeout(SECONDS_MAX):
            while served.connections.count == 2:
                await asyncio.sleep(0.005)
        assert (await served.say(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).endswith(b"got ")
        held[1][1].close()


async def test_nor_can_all_together_behind_a_proxy(free_port: int) -> None:
    async with serving(free_port, each_max=1, behind_proxy=True, connections_max=3) as served:
        held = [await served.connect() for _ in range(3)]
        async with asyncio.timeout(SECONDS_MAX):
            while served.connections.count < 3:
                await asyncio.sleep(0.005)
        assert await served.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        assert served.refused == ["too_many"]
        for _, writer in held:
            writer.close()


async def test_behind_a_proxy_one_client_has_so_many_requests_under_way(free_port: int) -> None:
    going_on = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/wait":
            await going_on.wait()
        return web.Response(text="done")

    def asking(path: bytes, client: bytes) -> bytes:
        head = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Forwarded-For: 6.6.6.6, "
        return b"GET " + path + head + client + b"\r\n\r\n"

    async with serving(free_port, handler, each_max=2, behind_proxy=True) as served:
        held = [asyncio.create_task(served.say(asking(b"/wait", b"9.9.9.9"))) for _ in range(2)]
        async with asyncio.timeout(SECONDS_MAX):
            while served.connections._under_way["9.9.9.9"] < 2:
                await asyncio.sleep(0.005)
        said = await served.say(asking(b"/", b"9.9.9.9"))
        assert said.startswith(b"HTTP/1.1 429 ")
        assert json.loads(said.partition(b"\r\n\r\n")[2])["code"] == "too_many_requests"
        assert served.refused == ["too_many_of_one"]
        for path, client in ((b"/health/live", b"9.9.9.9"), (b"/", b"8.8.8.8")):
            assert (await served.say(asking(path, client))).endswith(b"done")
        going_on.set()
        assert all(said.endswith(b"done") for said in await asyncio.gather(*held))
        assert not served.connections._under_way


async def test_who_hangs_up_is_known_to_be_gone(free_port: int) -> None:
    seen: list[asyncio.Future[None]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(gone(request))
        await seen[0]
        return web.Response()

    async with serving(free_port, handler) as served:
        _, writer = await served.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(SECONDS_MAX):
            while not seen:
                await asyncio.sleep(0.005)
            assert not seen[0].done()
            writer.transport.abort()
            await seen[0]


async def test_a_peer_that_reads_nothing_is_dropped_by_the_system(free_port: int) -> None:
    seen: list[int] = []

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        taken = request.transport.get_extra_info("socket")
        seen.append(taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
        return web.Response()

    async with serving(free_port, handler, unread_seconds_max=7.0) as served:
        await served.say(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert seen == [7000]


async def test_idle_connections_end(free_port: int) -> None:
    async with serving(free_port, idle_seconds_max=0.1) as served:
        assert (await served.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).endswith(b"got ")


async def test_it_ends_while_a_connection_is_open(free_port: int) -> None:
    async with serving(free_port) as served:
        reader, writer = await served.connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await one_answer(reader)
    async with asyncio.timeout(SECONDS_MAX):
        assert await until_closed(reader) == b""
    writer.close()
    with pytest.raises(OSError, match=r"refused|Connect"):
        await served.connect()


def test_no_client_may_have_more_than_half() -> None:
    assert socket_limits(Settings(gateway_connections_each_max=7)).each_max == 7
    assert socket_limits(Settings(gateway_connections_max=60)).each_max == 30
    assert socket_limits(Settings(gateway_behind_proxy=True)).behind_proxy
    assert socket_limits(Settings(gateway_connections_max=10_000_000)).connections_max < 10_000_000
