"""A relay that costs as little as Python allows, the same for both sides: `python -m bench.parts.relay [HOW MANY]`.

It prints its URL (those of several with commas) and runs until it is killed. It serves any NIP-01 client on loopback
with TCP_NODELAY (asyncio sets it), keeps the newest events in memory, and does less than a real relay on purpose: it
verifies nothing, replaces nothing and deletes nothing.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any

import msgspec

from bench.parts.websocket import CLOSE, PING, PONG, TEXT, Frames, accept_key, frame

STORED_MAX = 5000  # of one kind


class Head(msgspec.Struct):
    """What the relay reads of an event."""

    id: str
    pubkey: str
    kind: int
    created_at: int
    tags: list[list[str]]
    raw: bytes = b""


class Question:
    """One filter of NIP-01, ready to be asked of many events."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self.kinds: list[int] = asked.get("kinds", [])
        self.limit: int = asked.get("limit", STORED_MAX)
        self._ids = frozenset(asked.get("ids", ()))
        self._authors = frozenset(asked.get("authors", ()))
        self._since: int = asked.get("since", 0)
        self._until: int = asked.get("until", 2**63)
        self._tags = {name[1:]: frozenset(values) for name, values in asked.items() if name[0] == "#"}

    def matches(self, event: Head) -> bool:
        """Whether the event is asked for."""
        return (
            (not self.kinds or event.kind in self.kinds)
            and (not self._ids or event.id in self._ids)
            and (not self._authors or event.pubkey in self._authors)
            and self._since <= event.created_at <= self._until
            and all(self._tagged(event, name, wanted) for name, wanted in self._tags.items())
        )

    @staticmethod
    def _tagged(event: Head, name: str, wanted: frozenset[str]) -> bool:
        return any(len(tag) > 1 and tag[0] == name and tag[1] in wanted for tag in event.tags)


class Relay:
    """Events and who wants to hear of them."""

    def __init__(self) -> None:
        self._stored: dict[int, deque[Head]] = {}
        self._known: dict[str, None] = {}
        self._by_kind: dict[int | None, dict[tuple[Client, str], list[Question]]] = {}

    def take(self, sender: "Client", raw: msgspec.Raw) -> None:
        event = _head.decode(raw)
        if event.id in self._known:
            sender.say(b'["OK","%b",true,"duplicate: known"]' % event.id.encode())
            return
        self._known[event.id] = None
        if len(self._known) > 20 * STORED_MAX:
            del self._known[next(iter(self._known))]
        event.raw = bytes(raw)
        if not 20000 <= event.kind < 30000:
            self._stored.setdefault(event.kind, deque(maxlen=STORED_MAX)).append(event)
        sender.say(b'["OK","%b",true,""]' % event.id.encode())
        for key in (event.kind, None):
            for (client, name), questions in self._by_kind.get(key, {}).items():
                if any(question.matches(event) for question in questions):
                    client.say(b'["EVENT","%b",%b]' % (name.encode(), event.raw))

    def ask(self, client: "Client", name: str, questions: list[Question]) -> None:
        self.close(client, name)
        for question in questions:
            kinds = question.kinds or list(self._stored)
            found = (e for kind in kinds for e in reversed(self._stored.get(kind, ())) if question.matches(e))
            for event in islice(found, question.limit):
                client.say(b'["EVENT","%b",%b]' % (name.encode(), event.raw))
            kinds_or_any: list[int | None] = [*question.kinds] or [None]
            for kind in kinds_or_any:
                self._by_kind.setdefault(kind, {})[(client, name)] = questions
        client.say(b'["EOSE","%b"]' % name.encode())

    def close(self, client: "Client", name: str | None = None) -> None:
        """Forget one subscription, or (`name` None) all of a client."""
        for listeners in self._by_kind.values():
            for key in [key for key in listeners if key[0] is client and name in (None, key[1])]:
                del listeners[key]


_head = msgspec.json.Decoder(Head)
_message = msgspec.json.Decoder(list[msgspec.Raw])


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._frames: Frames | None = None
        self._greeting = b""
        self._saying: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _exc: Exception | None) -> None:
        self._relay.close(self)

    def data_received(self, data: bytes) -> None:
        if self._frames is None:
            data = self._greet(data)
            if self._frames is None:
                return
        for opcode, payload in self._frames.feed(data):
            if opcode == TEXT:
                self._hear(payload)
            elif opcode == PING:
                self._transport.write(frame(payload, PONG))
            elif opcode == CLOSE:
                self._transport.write(frame(payload, CLOSE))
                self._transport.close()

    def say(self, payload: bytes) -> None:
        """Send one text frame; what is said within one turn of the loop leaves with one write."""
        if not self._saying:
            asyncio.get_running_loop().call_soon(self._write)
        self._saying.append(frame(payload))

    def _write(self) -> None:
        self._transport.write(b"".join(self._saying))
        self._saying.clear()

    def _greet(self, data: bytes) -> bytes:
        self._greeting += data
        head, end, rest = self._greeting.partition(b"\r\n\r\n")
        if not end:
            return b""
        lines = (line.partition(b":") for line in head.split(b"\r\n"))
        key = next(value.strip() for name, _, value in lines if name.lower() == b"sec-websocket-key")
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_key(key)
        )
        self._frames = Frames()
        return rest

    def _hear(self, payload: bytes) -> None:
        label, *rest = _message.decode(payload)
        match bytes(label):
            case b'"EVENT"':
                self._relay.take(self, rest[0])
            case b'"REQ"':
                name, *filters = (msgspec.json.decode(part) for part in rest)
                self._relay.ask(self, name, [Question(one) for one in filters])
            case b'"CLOSE"':
                self._relay.close(self, msgspec.json.decode(rest[0]))


async def main() -> None:
    loop, count = asyncio.get_running_loop(), int(sys.argv[1]) if len(sys.argv) > 1 else 1
    relays = [Relay() for _ in range(count)]
    servers = [await loop.create_server(partial(Client, relay), "127.0.0.1", 0) for relay in relays]
    print(",".join(f"ws://127.0.0.1:{one.sockets[0].getsockname()[1]}" for one in servers), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(main())
