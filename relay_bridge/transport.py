"""The seam between us and a relay: text frames over one open connection. Twin: `tradepost.testing.MemoryRelay`."""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import websockets
from websockets.asyncio.client import ClientConnection
from websockets.frames import CloseCode

from relay_bridge.errors import ConnectionLost, RelayMisbehaved
from relay_bridge.urls import resolve_public

MESSAGE_BYTES_MAX: Final = 1024 * 1024
_OPEN_SECONDS_MAX: Final = 5.0
_CLOSE_SECONDS_MAX: Final = 1.0
_PING_SECONDS: Final = 20.0
_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None) if sys.platform == "linux" else None


class Socket(Protocol):
    """One open connection to a relay. `send` and `recv` raise `ConnectionLost` once it is broken or closed."""

    async def send(self, text: str) -> None:
        """Send one text frame; waits while the other side is not reading."""
        ...

    async def recv(self) -> str | bytes:
        """The next frame. Frames above the size limit break the connection."""
        ...

    async def close(self) -> None:
        """Close; never raises, and closing twice is harmless."""
        ...


#: Opens a connection to a normalised URL. Raises `ConnectionLost`, or `InvalidRelayUrl` if it never may.
Connect = Callable[[str], Awaitable[Socket]]


class _WebSocket:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._raw: Any = connection.transport.get_extra_info("socket")
        self._raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def send(self, text: str) -> None:
        try:
            await self._connection.send(text)
        except websockets.ConnectionClosed as error:
            raise ConnectionLost(f"the relay is gone: {error}") from None

    async def recv(self) -> str | bytes:
        try:
            frame = await self._connection.recv()
        except websockets.ConnectionClosed as error:
            if error.sent is not None and error.sent.code == CloseCode.MESSAGE_TOO_BIG:
                raise RelayMisbehaved(f"the relay sent a message above {MESSAGE_BYTES_MAX} bytes") from None
            raise ConnectionLost(f"the relay is gone: {error}") from None
        self._acknowledge()
        return frame

    async def close(self) -> None:
        await self._connection.close()

    def _acknowledge(self) -> None:
        # A relay that leaves Nagle on holds its next small message until this one is acknowledged, and Linux delays
        # that by 40 ms. The kernel forgets the option again, hence once for each read.
        if _QUICKACK is not None and self._raw.fileno() >= 0:
            self._raw.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


async def connect_websocket(url: str) -> Socket:
    """Connect to a relay that the owner of this post configured; any address will do."""
    return await _open(url)


async def connect_public_websocket(url: str) -> Socket:
    """Connect to a relay that somebody else named: to public addresses only, and to the one that was checked."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "wss" else 80)
    address = await resolve_public(parts.hostname or "", port)
    # With the address given, websockets follows no redirect to another origin, and no proxy resolves it again.
    return await _open(url, host=address, port=port, proxy=None)


async def _open(url: str, **options: Any) -> Socket:
    try:
        connection = await websockets.connect(
            url,
            open_timeout=_OPEN_SECONDS_MAX,
            close_timeout=_CLOSE_SECONDS_MAX,
            ping_interval=_PING_SECONDS,
            ping_timeout=_PING_SECONDS,
            max_size=MESSAGE_BYTES_MAX,
            compression=None,  # costs more than it saves on messages of this size, and cannot be a bomb
            **options,
        )
    except (OSError, websockets.WebSocketException, ValueError, asyncio.IncompleteReadError) as error:
        raise ConnectionLost(f"cannot connect: {error or type(error).__name__}") from None
    return _WebSocket(connection)
