"""Our end of a process that verifies signatures (`identity.verifier`), for as long as there is a flood."""

import asyncio
import os
import socket
import subprocess
import sys
from collections import deque
from typing import Final

import structlog

from identity.keys import verify_claims
from relay_bridge.tasks import Tasks
from store import Clock

log = structlog.get_logger(__name__)

_IDLE_SECONDS: Final = 30


class Verifier:
    """Starts its process when it is made, and ends it after half a minute without work.

    A process, not a thread: what is Python in each event holds the GIL, so a thread that verifies would wait for the
    event loop more than it works. Should it die, what it had to verify is verified here.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked: deque[tuple[list[bytes], asyncio.Future[list[bool]]]] = deque()
        self._filled = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._tasks = Tasks()
        self._task = self._tasks.start(self._run(), "verifier")
        #: Whether the process takes claims.
        self.ready = False
        #: Claims that are with it.
        self.waiting = 0

    @property
    def ended(self) -> bool:
        """Whether it is of no more use."""
        return self._task.done()

    def verify(self, claims: list[bytes]) -> asyncio.Future[list[bool]]:
        """Only while `ready`. The future is never failed or cancelled by us."""
        assert self._writer is not None
        future: asyncio.Future[list[bool]] = asyncio.get_running_loop().create_future()
        self._asked.append((claims, future))
        self.waiting += len(claims)
        self._writer.write(len(claims).to_bytes(4) + b"".join(claims))
        self._filled.set()
        return future

    async def close(self) -> None:
        """End the process. What it had to verify is verified here."""
        await self._tasks.close()

    async def _run(self) -> None:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                process = _start(theirs)
            try:
                await self._ask(ours)
            except (asyncio.IncompleteReadError, ConnectionError):
                log.warning("verifier_died", code=process.poll())
            finally:
                process.kill()
                process.wait()
                for claims, future in self._asked:
                    if not future.done():
                        future.set_result(verify_claims(claims))

    async def _ask(self, channel: socket.socket) -> None:
        reader, self._writer = await asyncio.open_connection(sock=channel)
        try:
            await reader.readexactly(1)  # it is there
            self.ready = True
            while await self._has_work():
                claims, future = self._asked[0]
                answer = await reader.readexactly(len(claims))
                self._asked.popleft()
                self.waiting -= len(claims)
                if not future.done():
                    future.set_result([verdict == 1 for verdict in answer])
        finally:
            self.ready = False
            self._writer.close()

    async def _has_work(self) -> bool:
        """Wait for it; False if none comes."""
        self._filled.clear()
        if not self._asked:
            try:
                async with self._clock.timeout(_IDLE_SECONDS):
                    await self._filled.wait()
            except TimeoutError:
                return False
        return True


def _start(channel: socket.socket) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "identity.verifier"],
        stdin=channel.fileno(),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,  # Ctrl-C is for us; this one ends with its socket
    )
