"""Ingestion, in a process whose cores are chosen: `python -m bench.parts.ingest EVENTS`, then "one" or "two" on stdin.

Answers each line with a `Speeds`: what our relay pool did with all events, from wire bytes to the subscriber's call,
and what bare verification did with the same events right after. Ours is counted after a third of the events: what is
measured is a flood under way.
"""

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import coincurve
import msgspec
import orjson

from identity import Event, SecretKey, make_template, sign_event
from relay_bridge import Filter, RelayPool
from store import SystemClock
from tradepost.logs import configure_logs

KIND = 5050
AUTHORS = 50

Parsed = tuple[bytes, bytes, bytes]  # public key, signature, id


class Speeds(msgspec.Struct):
    """Events per second. `bare` is one thread on one core, `bare_all` as many threads as there are cores allowed,
    `bare_known` as `bare`, with all authors' points at hand.
    """

    ours: float
    bare: float
    bare_all: float
    bare_known: float


def signed(count: int) -> list[Event]:
    """Events of 1.2 KB, all different, by a few authors."""
    keys = [SecretKey.generate() for _ in range(min(AUTHORS, count))]
    tags = [
        ("i", "x" * 700, "text"),
        ("p", keys[0].public_key),
        ("relays", "wss://a.example", "wss://b.example"),
    ]
    return [
        sign_event(
            make_template(KIND, content=str(n), tags=tags, created_at=1_700_000_000), keys[n % len(keys)]
        )
        for n in range(count)
    ]


class ReadySocket:
    """A relay whose answer to the first subscription has all arrived: each `recv` gives the next frame at once."""

    def __init__(self, events: Sequence[bytes]) -> None:
        self._events = events
        self._frames: Iterator[bytes] = iter(())
        self._asked = asyncio.Event()

    async def send(self, text: str) -> None:
        message = orjson.loads(text)
        if message[0] == "REQ" and not self._asked.is_set():
            name = orjson.dumps(message[1])
            self._frames = iter([b'["EVENT",%b,%b]' % (name, event) for event in self._events])
            self._asked.set()

    async def recv(self) -> bytes:
        await self._asked.wait()
        for frame in self._frames:
            return frame
        await asyncio.Event().wait()  # there is no more
        raise AssertionError

    async def close(self) -> None:
        pass


async def ours(events: Sequence[bytes], relays: int = 1) -> float:
    """All through a relay pool to a subscriber; each of several relays tells all of them."""
    ended, left, started_at = asyncio.Event(), len(events), 0.0
    counted = left - left // 3

    def on_event(_event: Event, _relay: str) -> None:
        nonlocal left, started_at
        left -= 1
        if left == counted:
            started_at = time.perf_counter()
        elif not left:
            ended.set()

    async def connect(_url: str) -> ReadySocket:
        return ReadySocket(events)

    urls = [f"ws://bench{number}.test" for number in range(relays)]
    async with RelayPool(urls, clock=SystemClock(), connect=connect) as pool:
        subscription = await pool.subscribe([Filter(kinds=(KIND,))], on_event)
        await ended.wait()
        seconds = time.perf_counter() - started_at
        await subscription.close()
    return counted / seconds


def bare(events: Sequence[Parsed]) -> float:
    """coincurve's verification and nothing else: hex is read, ids are given."""
    started = time.perf_counter()
    for key, signature, digest in events:
        coincurve.PublicKeyXOnly(key).verify(signature, digest)
    return len(events) / (time.perf_counter() - started)


def bare_known(events: Sequence[Parsed]) -> float:
    """As `bare`, and the keys are made already."""
    known = [(coincurve.PublicKeyXOnly(key), signature, digest) for key, signature, digest in events]
    started = time.perf_counter()
    for key, signature, digest in known:
        key.verify(signature, digest)
    return len(events) / (time.perf_counter() - started)


def bare_in_threads(events: Sequence[Parsed], threads: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(bare, [events[n::threads] for n in range(threads)]))
    return len(events) / (time.perf_counter() - started)


def measure(raw: Sequence[bytes], parsed: Sequence[Parsed], cores: set[int]) -> Speeds:
    """Threads that are started inherit the cores of the one that starts them."""
    os.sched_setaffinity(0, cores)
    pool = asyncio.run(ours(raw))
    in_threads = bare_in_threads(parsed, len(cores))
    os.sched_setaffinity(0, set(sorted(cores)[:1]))
    return Speeds(pool, bare(parsed), in_threads, bare_known(parsed))


def main() -> None:
    configure_logs("error")
    events = signed(int(sys.argv[1]))
    raw = [event.to_json() for event in events]
    parsed = [(bytes.fromhex(e.pubkey), bytes.fromhex(e.sig), bytes.fromhex(e.id)) for e in events]
    cores = sorted(os.sched_getaffinity(0))
    allowed = {"one": set(cores[:1]), "two": set(cores[:2])}
    print(len(cores), flush=True)
    for line in sys.stdin:
        answer = measure(raw, parsed, allowed[line.strip()])
        print(msgspec.json.encode(answer).decode(), flush=True)


if __name__ == "__main__":
    main()
