"""A hundred hostile keys in a process of their own: `python -m tests.processes.neighbours RELAY AGENT EVENTS HONEST…`.

It signs and forges EVENTS first, then reads `{"events": 1000, "seconds": 2.0}` a line, sends so many over about that
time, faster if it is late, and prints how many it sent. Half of them are requests as good as anybody's, the others are
invalid in several ways, some of them under the keys of the HONEST.
"""

import itertools
import json
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from bench.parts.websocket import frame
from identity import Event, SecretKey, make_template, sign_event

KEYS = 100
KIND = 5050
PAUSE_SECONDS = 0.005


def connected(url: str) -> socket.socket:
    """A WebSocket whose answers nobody looks at."""
    parts = urlsplit(url)
    line = socket.create_connection((parts.hostname, parts.port))
    line.sendall(
        f"GET / HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert line.recv(65536).startswith(b"HTTP/1.1 101")
    threading.Thread(target=_drain, args=(line,), daemon=True).start()
    return line


def _drain(line: socket.socket) -> None:
    while line.recv(1 << 20):
        pass


def messages(agent: str, honest: Sequence[str], count: int) -> Iterator[bytes]:
    """`count` messages for the relay, half of them good."""
    keys = itertools.cycle([SecretKey.generate() for _ in range(KEYS)])
    for number, key in zip(range(count // 2), keys, strict=False):
        tags = [("i", f"hostile {number}", "text"), ("p", agent)]
        event = sign_event(make_template(KIND, tags=tags, created_at=int(time.time())), key)
        for one in (event.to_dict(), spoiled(event, number, honest)):
            yield frame(json.dumps(["EVENT", one]).encode(), masked=True)


def spoiled(event: Event, number: int, honest: Sequence[str]) -> dict[str, object]:
    """The event made invalid, in one of five ways."""
    ways: tuple[dict[str, object], ...] = (
        {"sig": secrets.token_hex(64)},
        {"sig": "short"},
        {"content": "not what was signed"},
        {"tags": []},
        {"pubkey": honest[number % len(honest)], "sig": secrets.token_hex(64)},
    )
    return event.to_dict() | {"id": secrets.token_hex(32)} | ways[number % len(ways)]


def send(line: socket.socket, waiting: Sequence[bytes], seconds: float) -> None:
    """All of them, evenly over the time."""
    started, sent = time.monotonic(), 0
    while sent < len(waiting):
        share = min(1.0, (time.monotonic() - started) / seconds)
        due = max(sent + 1, int(share * len(waiting)))
        line.sendall(b"".join(waiting[sent:due]))
        sent = due
        time.sleep(PAUSE_SECONDS)


def main(url: str, agent: str, count: int, honest: Sequence[str]) -> None:
    line, prepared = connected(url), list(messages(agent, honest, count))
    print("ready", flush=True)
    for command in sys.stdin:
        asked = json.loads(command)
        taken, prepared = prepared[: asked["events"]], prepared[asked["events"] :]
        send(line, taken, asked["seconds"])
        print(len(taken), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
