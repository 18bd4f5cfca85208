"""The customer of the measurements, who asks for jobs and reads the clock: `python -m bench.parts.load URL[,URL…]`.

One command a line on stdin, as JSON; one answer a line on stdout. All requests of a command are signed before its
clock starts, and answers are read, not verified, so that it costs little and the same for everybody it asks. At several
relays it asks at all of them, and reads the answers at the first.
"""

import base64
import secrets
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import msgspec
import orjson

from bench.parts.websocket import PING, PONG, TEXT, Frames, frame
from identity import Event, SecretKey, make_template, sign_event

KIND = 5050
TEXT_BYTES = 100
SECONDS_MAX = 60.0


class Job(msgspec.Struct):
    """`{"jobs": 100, "window": 1, "agent": PUBLIC_KEY}`; without `agent`: so many bare round trips to the relay.

    Several agents, with commas between them, are asked by turns.
    """

    jobs: int
    window: int = 1
    agent: str = ""


class Done(msgspec.Struct):
    """Seconds from the first request to the last answer, each job's own, and the feedback events there were."""

    seconds: float
    latencies: list[float]
    feedbacks: int


class Load:
    """One connection to the relay, and a key that asks; with `more` relays, it asks at those too."""

    def __init__(self, url: str, *more: str) -> None:
        self._key = SecretKey.generate()
        self._frames = Frames()
        self._ready: deque[bytes] = deque()
        self._socket = _connect(url)
        self._sockets = [self._socket, *map(_connect, more)]
        for other in self._sockets[1:]:
            threading.Thread(target=_read_on, args=[other], daemon=True).start()
        public = self._key.public_key
        self._say("REQ", "answers", {"kinds": [KIND + 1000, 7000], "#p": [public], "since": int(time.time())})
        self._say("REQ", "echo", {"kinds": [1], "authors": [public]})
        waiting = {"answers", "echo"}
        while waiting:
            match orjson.loads(self._receive()):
                case ["EOSE", name]:
                    waiting.discard(name)

    def run(self, job: Job) -> Done:
        """Ask for all, with at most `window` unanswered at a time."""
        requests = [(event.id, _frame(event)) for event in self._events(job)]
        asked: dict[str, float] = {}
        latencies: list[float] = []
        feedbacks = 0
        waiting = iter(requests)
        started = time.perf_counter()
        self._ask(waiting, asked, job.window)
        while asked:
            match self._next_event():
                case {"kind": 7000, "tags": tags}:
                    feedbacks += 1
                    refused = next((tag for tag in tags if tag[:2] == ["status", "error"]), None)
                    assert not refused, f"the agent refused a job: {tags}"
                case event:
                    sent_at = asked.pop(_named(event), None)
                    if sent_at is not None:
                        latencies.append(time.perf_counter() - sent_at)
                        self._ask(waiting, asked, 1)
        return Done(time.perf_counter() - started, latencies, feedbacks)

    def _events(self, job: Job) -> Iterator[Event]:
        agents = job.agent.split(",")
        for number in range(job.jobs):
            text = f"{secrets.token_hex(8)} {number} ".ljust(TEXT_BYTES, "x")
            if job.agent:
                template = make_template(
                    KIND,
                    tags=[("i", text, "text"), ("p", agents[number % len(agents)])],
                    created_at=int(time.time()),
                )
            else:
                template = make_template(1, content=text, created_at=int(time.time()))
            yield sign_event(template, self._key)

    def _ask(self, waiting: Iterator[tuple[str, bytes]], asked: dict[str, float], count: int) -> None:
        for request, data in islice(waiting, count):
            asked[request] = time.perf_counter()
            for one in self._sockets:
                one.sendall(data)

    def _next_event(self) -> dict[str, Any]:
        while True:
            payload = self._receive()
            if payload.startswith(b'["EVENT"'):
                event: dict[str, Any] = orjson.loads(payload)[2]
                return event
            if payload.startswith(b'["OK"'):
                assert b",true," in payload, payload

    def _receive(self) -> bytes:
        while not self._ready:
            data = self._socket.recv(1 << 18)
            assert data, "the relay is gone"
            for opcode, payload in self._frames.feed(data):
                if opcode == TEXT:
                    self._ready.append(payload)
                elif opcode == PING:
                    self._socket.sendall(frame(payload, PONG, masked=True))
        return self._ready.popleft()

    def _say(self, *message: object) -> None:
        self._socket.sendall(frame(orjson.dumps(message), masked=True))


def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=SECONDS_MAX)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    nonce = base64.b64encode(secrets.token_bytes(16)).decode()
    connection.sendall(
        f"GET / HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = connection.recv(65536)
    assert head.startswith(b"HTTP/1.1 101"), head
    return connection


def _read_on(connection: socket.socket) -> None:
    connection.settimeout(None)
    while connection.recv(1 << 18):
        pass


def _frame(event: Event) -> bytes:
    return frame(b'["EVENT",' + event.to_json() + b"]", masked=True)


def _named(event: dict[str, Any]) -> str:
    """The job an answer is for; of a bare round trip the event itself."""
    name: str = event["id"] if event["kind"] == 1 else next(tag[1] for tag in event["tags"] if tag[0] == "e")
    return name


if __name__ == "__main__":
    load = Load(*sys.argv[1].split(","))
    print("ready", flush=True)
    for line in sys.stdin:
        sys.stdout.buffer.write(msgspec.json.encode(load.run(msgspec.json.decode(line, type=Job))) + b"\n")
        sys.stdout.buffer.flush()
