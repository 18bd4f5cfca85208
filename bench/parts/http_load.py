"""Callers of a desk from a process of their own: `python -m bench.parts.http_load`. JSON lines in, JSON lines out.

It speaks as little HTTP as it needs, so that it is never what is measured; the same for both sides.
"""

import asyncio
import re
import secrets
import sys
import time
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import msgspec

from identity import SecretKey, nip98, sign_event

_LENGTH: Final = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Gets(msgspec.Struct, tag="gets"):
    """So many GETs of one URL, each with a signature of its own (NIP-98), made before the time is taken.

    With a `job` (the JSON of one) that is begun first, and what is asked for is that job, below the URL.
    """

    url: str
    count: int
    connections: int
    job: str = ""


class Asks(msgspec.Struct, tag="asks"):
    """Requests one after the other on one connection: (method, URL, JSON), with a bearer token.

    `jobs`: each begins a job, whose end is waited for before the next; that time does not count.
    """

    token: str
    requests: list[tuple[str, str, str]]
    jobs: bool = False


class Listens(msgspec.Struct, tag="listens"):
    """Listen to streams: (URL, token) of each. The first answer says that all are open, the second what was heard."""

    streams: list[tuple[str, str]]
    events: int


class Done(msgspec.Struct):
    """How long it all took, and each: of requests from asking to the whole answer, of events since they were made."""

    seconds: float = 0.0
    each: list[float] = []
    answers: list[msgspec.Raw] = []  # of `Asks`


class Caller(asyncio.Protocol):
    """One connection, kept alive: asks the next of `requests` as soon as the one before is answered."""

    def __init__(self, requests: Iterator[bytes], done: "asyncio.Future[None]") -> None:
        self._requests = requests
        self._done = done
        self._read = bytearray()
        self.each: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._read += data
        head = self._read.find(b"\r\n\r\n")
        if head < 0:
            return
        told = _LENGTH.search(self._read, 0, head)
        assert told, bytes(self._read[:head])
        end = head + 4 + int(told[1])
        if len(self._read) < end:
            return
        self.each.append(time.perf_counter() - self._asked_at)
        assert self._read.startswith(b"HTTP/1.1 20"), bytes(self._read[:400])
        del self._read[:end]
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(error or ConnectionError("the desk hung up"))

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._done.set_result(None)
            self._transport.close()
            return
        self._asked_at = time.perf_counter()
        self._transport.write(request)


async def _ask(host: str, port: int, requests: Iterator[bytes]) -> Caller:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    _, caller = await loop.create_connection(lambda: Caller(requests, done), host, port)
    await done
    return caller


async def gets(wish: Gets) -> Done:
    """Answers are let go: they are all alike. It never sleeps, so that no side pays for waking it up."""
    key, (host, port), url = SecretKey.generate(), _where(wish.url), wish.url
    if wish.job:
        reader, writer = await asyncio.open_connection(host, port)
        begun = await _one(reader, writer, _signed("POST", url, key, wish.job))
        url += f"/{msgspec.json.decode(begun)['id']}"
        writer.close()
    made = [_signed("GET", url, key) for _ in range(wish.count)]
    requests = iter(made)
    loop, awake = asyncio.get_running_loop(), True

    def turn() -> None:
        if awake:
            loop.call_soon(turn)

    turn()
    started = time.perf_counter()
    callers = await asyncio.gather(*(_ask(host, port, requests) for _ in range(wish.connections)))
    awake = False
    return Done(time.perf_counter() - started, [each for caller in callers for each in caller.each])


async def asks(wish: Asks) -> Done:
    done, started = Done(), time.perf_counter()
    reader, writer = await asyncio.open_connection(*_where(wish.requests[0][1]))
    for method, url, body in wish.requests:
        asked_at = time.perf_counter()
        answer = await _one(reader, writer, _request(method, url, f"Bearer {wish.token}", body))
        done.each.append(time.perf_counter() - asked_at)
        done.answers.append(msgspec.Raw(answer.rstrip()))  # what we say is one line
        if wish.jobs:
            job = msgspec.json.decode(answer)["links"]["self"]
            parts = urlsplit(url)
            end = f"{parts.scheme}://{parts.netloc}{job}?wait=60"
            answer = await _one(reader, writer, _request("GET", end, f"Bearer {wish.token}", ""))
            assert msgspec.json.decode(answer)["state"] == "done", answer
    writer.close()
    done.seconds = time.perf_counter() - started
    return done


async def _one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    told = _LENGTH.search(head)
    assert told
    body = await reader.readexactly(int(told[1]))
    assert head.startswith((b"HTTP/1.1 20", b"HTTP/1.1 402")), body
    return body


async def listens(wish: Listens) -> Done:
    open_ones = await asyncio.gather(*(_open(url, token) for url, token in wish.streams))
    _say(Done())
    started = time.perf_counter()
    heard = await asyncio.gather(*(_hear(reader, wish.events) for reader, _ in open_ones))
    for _, writer in open_ones:
        writer.close()
    return Done(time.perf_counter() - started, [each for one in heard for each in one])


async def _open(url: str, token: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(*_where(url))
    writer.write(_request("GET", url, f"Bearer {token}", ""))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    return reader, writer


async def _hear(reader: asyncio.StreamReader, events: int) -> list[float]:
    """Of each event that says when it was made, how long ago that was, by the machine's clock, which all share."""
    late: list[float] = []
    while len(late) < events:
        line = await reader.readline()
        now = time.monotonic()
        assert line, "the desk hung up"
        if line.startswith(b"data: ") and (said := re.search(rb"made at (\d+\.\d+)", line)):
            late.append(now - float(said[1]))
    return late


def _signed(method: str, url: str, key: SecretKey, body: str = "") -> bytes:
    now, nonce = int(time.time()), secrets.token_hex(8)
    template = nip98.make(url=url, method=method, body=body.encode(), created_at=now, nonce=nonce)
    return _request(method, url, nip98.header(sign_event(template, key)), body)


def _request(method: str, url: str, credentials: str, body: str) -> bytes:
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    known = f"Authorization: {credentials}\r\n" if credentials != "Bearer " else ""
    told = f"Content-Type: application/json\r\nContent-Length: {len(body.encode())}\r\n" if body else ""
    return f"{method} {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n{known}{told}\r\n{body}".encode()


def _where(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def _say(done: Done) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(done) + b"\n")
    sys.stdout.buffer.flush()


async def main() -> None:
    wishes = msgspec.json.Decoder(Gets | Asks | Listens)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        match wishes.decode(line):
            case Gets() as wish:
                _say(await gets(wish))
            case Asks() as wish:
                _say(await asks(wish))
            case Listens() as wish:
                _say(await listens(wish))


if __name__ == "__main__":
    asyncio.run(main())
