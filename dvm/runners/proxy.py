"""The only way from a sandbox to the network: a proxy of ours that connects to the hosts that its owner listed.

The sandbox's network has nothing but a loopback of its own. A helper (`HELPER`) opens a listening socket in it before
the sandbox begins, and hands it out to us: what connects to it inside is accepted outside. The proxy takes `CONNECT`
alone, so clients reach https, and whatever else they tunnel. It knows names and ports, not what is said.
"""

import asyncio
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from dvm.errors import RunnerUnusable

log = structlog.get_logger(__name__)

PORT: Final = 3128  # inside
CONNECTIONS_MAX: Final = 32
HOSTS_MAX: Final = 100
_HEAD_BYTES_MAX: Final = 8192
_CONNECT_SECONDS_MAX: Final = 20
_PIECE: Final = 65536
_HOST: Final = re.compile(r"([a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)(?::([0-9]{1,5}))?", re.IGNORECASE)
_CONNECT: Final = re.compile(rb"CONNECT ([A-Za-z0-9.-]{1,253}):([0-9]{1,5}) HTTP/1\.[01]\r\n")

# Its arguments: a socket to hand the other one out by, then the command that it becomes.
HELPER: Final = f"""
import os, socket, sys
listening = socket.socket()
listening.bind(("127.0.0.1", {PORT}))
listening.listen({CONNECTIONS_MAX})
with socket.socket(fileno=int(sys.argv[1])) as out:
    socket.send_fds(out, [b"."], [listening.fileno()])
os.execv(sys.argv[2], sys.argv[2:])
"""

Hosts = frozenset[tuple[str, int]]


def read_hosts(listed: Sequence[str]) -> Hosts:
    """`host` (port 443) or `host:port`. Raises `RunnerUnusable`."""
    if len(listed) > HOSTS_MAX:
        raise RunnerUnusable(f"a command may reach at most {HOSTS_MAX} hosts")
    hosts = set()
    for text in listed:
        found = _HOST.fullmatch(text)
        port = int(found[2] or 443) if found else 0
        if not (found and 0 < port < 65536):
            raise RunnerUnusable(
                f"the network of a command is hosts, like api.example.com or a.example:8443: {text!r}"
            )
        hosts.add((found[1].lower(), port))
    return frozenset(hosts)


async def serve(control: socket.socket, hosts: Hosts) -> None:
    """Take the sandbox's socket from `control` and serve it until cancelled; at the end every connection is closed."""
    listening = await _receive(control)
    if listening is None:
        return  # the sandbox could not be had, and says so itself
    under_way: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        under_way.add(task)
        try:
            if len(under_way) <= CONNECTIONS_MAX:
                await _connect(reader, writer, hosts)
        except (OSError, ValueError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # the program in the sandbox sees its connection closed
        except asyncio.CancelledError:
            pass  # the run is over; nobody awaits this task
        finally:
            under_way.discard(task)
            writer.close()

    server = await asyncio.start_server(accept, sock=listening, limit=_HEAD_BYTES_MAX)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()
        for task in under_way:
            task.cancel()


async def _receive(control: socket.socket) -> socket.socket | None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    control.setblocking(False)
    loop.add_reader(control, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(control)
    _, files, _, _ = socket.recv_fds(control, 1, 1)
    return socket.socket(fileno=files[0]) if files else None


async def _connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hosts: Hosts) -> None:
    async with asyncio.timeout(_CONNECT_SECONDS_MAX):
        head = await reader.readuntil(b"\r\n\r\n")
        asked = _CONNECT.match(head)
        host, port = (asked[1].decode().lower(), int(asked[2])) if asked else ("", 0)
        if (host, port) not in hosts:
            log.warning("sandbox_refused_host", host=host, port=port)
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        far_reader, far_writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        ways = [
            asyncio.create_task(_copy(reader, far_writer)),
            asyncio.create_task(_copy(far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
    finally:
        far_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
