"""As much of RFC 6455 as the relay and the load client need, in little CPU: whole text frames over TCP."""

import base64
import hashlib
from collections.abc import Iterator

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_NO_MASK = bytes(4)


def frame(payload: bytes, opcode: int = TEXT, *, masked: bool = False) -> bytes:
    """One frame. A client's must be `masked`; its mask is zero, which leaves the payload as it is."""
    size, bit = len(payload), 0x80 if masked else 0
    if size < 126:
        head = bytes((0x80 | opcode, bit | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, bit | 127)) + size.to_bytes(8, "big")
    return head + _NO_MASK + payload if masked else head + payload


class Frames:
    """Takes bytes as they come off the socket, gives whole messages."""

    def __init__(self) -> None:
        self._buffer = b""
        self._parts = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(opcode, payload) of all that is complete now."""
        buffer = self._buffer + data if self._buffer else data
        at = 0
        while (found := _one(buffer, at)) is not None:
            first, payload, at = found
            if first & 0x80 and not self._parts:
                yield first & 0x0F, payload
            else:
                self._parts += payload
                if first & 0x80:
                    payload, self._parts = self._parts, b""
                    yield TEXT, payload
        self._buffer = buffer[at:]


def _one(buffer: bytes, at: int) -> tuple[int, bytes, int] | None:
    """First byte, payload and end of the frame that begins at `at`; None if it is not all there."""
    if len(buffer) < at + 2:
        return None
    first, size = buffer[at], buffer[at + 1] & 0x7F
    is_masked = buffer[at + 1] & 0x80
    at += 2
    if size >= 126:
        width = 2 if size == 126 else 8
        if len(buffer) < at + width:
            return None
        size = int.from_bytes(buffer[at : at + width], "big")
        at += width
    end = at + size + (4 if is_masked else 0)
    if len(buffer) < end:
        return None
    if not is_masked:
        return first, buffer[at:end], end
    return first, _unmask(buffer[at : at + 4], buffer[at + 4 : end]), end


def _unmask(mask: bytes, payload: bytes) -> bytes:
    if mask == _NO_MASK:
        return payload
    size = len(payload)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


def accept_key(key: bytes) -> bytes:
    """The server's answer to `Sec-WebSocket-Key`."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
