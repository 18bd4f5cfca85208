"""A hundred hostile keys beside ten honest customers, strangers all of them, on one relay that lets everything through.

The relay is the bench's: it verifies nothing, so that all the flood reaches the agent; the embedded one would keep half
of it out. Quiet and hostile rounds take turns, because a machine that shares its cores drifts. To see it fail, switch
the limits off: with TRADEPOST_STRANGER_REQUESTS_PER_MINUTE_MAX and TRADEPOST_STRANGERS_REQUESTS_PER_MINUTE_MAX at
1000000000 in the environment the median was 131 times the quiet one, with the limits 0.8 to 1.5 times.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import pytest

from bench.children import Child, child
from identity import SecretKey, make_template, sign_event
from relay_bridge.transport import Socket, connect_websocket

pytestmark = [pytest.mark.process, pytest.mark.alone]

EVENTS = 50_000
ROUNDS = 3
QUIET_SECONDS, HOSTILE_SECONDS = 2.0, 5.5
PAUSE_SECONDS = 1.9  # a stranger may ask 30 times a minute
HONEST = 10
TIMES_AS_LONG_MAX = 2.0
KIND = 5050


class Honest:
    """A customer that asks for one job after the other."""

    def __init__(self, key: SecretKey, socket: Socket, agent: str) -> None:
        self._key = key
        self._socket = socket
        self._agent = agent

    async def listen(self) -> "Honest":
        asked = {"kinds": [KIND + 1000, 7000], "#p": [self._key.public_key]}
        await self._socket.send(json.dumps(["REQ", "answers", asked]))
        return self

    async def ask(self) -> float:
        """Seconds from request to result."""
        text = secrets.token_hex(8)
        tags = [("i", text, "text"), ("p", self._agent)]
        event = sign_event(make_template(KIND, tags=tags, created_at=int(time.time())), self._key)
        request = json.dumps(["EVENT", event.to_dict()])
        began = time.perf_counter()
        await self._socket.send(request)
        async with asyncio.timeout(30):
            while True:
                match json.loads(await self._socket.recv()):
                    case ["EVENT", _, {"kind": 7000, "tags": tags}]:
                        assert not any(tag[:2] == ["status", "error"] for tag in tags), tags
                    case ["EVENT", _, {"content": content}] if content == text:
                        return time.perf_counter() - began

    async def ask_for(self, seconds: float, *, after: float) -> list[float]:
        """What each took, with some time between them, for about so long; the first is asked a while `after` now."""
        until, took = time.monotonic() + seconds, list[float]()
        await asyncio.sleep(after)
        while time.monotonic() < until:
            took.append(await self.ask())
            await asyncio.sleep(PAUSE_SECONDS)
        return took


async def one_round(customers: Sequence[Honest], seconds: float) -> list[float]:
    """How long each job took."""
    pause = PAUSE_SECONDS / len(customers)
    took = await asyncio.gather(
        *(customer.ask_for(seconds, after=number * pause) for number, customer in enumerate(customers))
    )
    return [seconds for each in took for seconds in each]


async def flood(hostile: Child, events: int, seconds: float) -> int:
    line = json.dumps({"events": events, "seconds": seconds}).encode()
    return int(await asyncio.to_thread(hostile.ask, line))


async def test_honest_customers_hardly_feel_a_flood(tmp_path: Path) -> None:
    keys = [SecretKey.generate() for _ in range(HONEST)]
    names = [key.public_key for key in keys]
    with (
        child("bench.parts.relay") as relay,
        child("tests.processes.echo", relay.greeting, str(tmp_path / "post")) as agent,
        child("tests.processes.neighbours", relay.greeting, agent.greeting, str(EVENTS), *names) as hostile,
    ):
        sockets = [await connect_websocket(relay.greeting) for _ in keys]
        customers = [
            await Honest(key, socket, agent.greeting).listen()
            for key, socket in zip(keys, sockets, strict=True)
        ]
        quiet, loud, sent = list[float](), list[float](), 0
        for _ in range(ROUNDS):
            quiet += await one_round(customers, QUIET_SECONDS)
            flooding = asyncio.create_task(flood(hostile, EVENTS // ROUNDS + 1, HOSTILE_SECONDS))
            loud += await one_round(customers, HOSTILE_SECONDS)
            sent += await flooding
            await asyncio.to_thread(agent.cpu_seconds)  # which waits until it has nothing left to do
        for socket in sockets:
            await socket.close()
    assert sent == EVENTS
    assert median(loud) <= TIMES_AS_LONG_MAX * median(quiet)
