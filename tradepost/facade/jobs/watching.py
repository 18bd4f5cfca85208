"""What happens to a job, told as it happens: Server-Sent Events.

Inbox: the updates of jobs that are under way. Duty: whoever listens hears each of them soon, or is dropped; nobody is
waited for. Every watched job has one task, which writes each event once, for all. Events are not kept on disk: who
comes back too late, or after a restart, gets the job as it stands instead.
"""

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from aiohttp import web

from dvm import Customer, Guarantee, Update
from relay_bridge.tasks import Tasks
from relay_bridge.timing import within
from store import Clock
from tradepost.facade.callers.callers import Caller
from tradepost.facade.web.headers import OPEN_HEADERS
from tradepost.facade.web.operations import EVENT_STREAM
from tradepost.facade.web.problems import TooManyRequests
from tradepost.facade.web.sockets import gone

HEARTBEAT_SECONDS: Final = 15.0
SLOW_SECONDS_MAX: Final = 5.0  # whose socket takes nothing for so long is dropped
LOG_EVENTS_MAX: Final = 256  # of one job, that are told again to whoever comes back
LOG_BYTES_MAX: Final = 1_000_000
_HEARTBEAT: Final = b": still here\n\n"
_END: Final = "end"  # instead of the number of the last event
_HEADERS: Final = {**OPEN_HEADERS, "Content-Type": EVENT_STREAM, "X-Accel-Buffering": "no"}

Show = Callable[[], Awaitable[bytes]]
Holds = Callable[[], Awaitable[bool]]


class JobUpdate(msgspec.Struct, frozen=True):
    """One step of a job. `step`: asking (an agent, or the next one), offer, paid, working, partial, exposed, failed,
    refunded, result, error (`job` says which). `request` is the event id of the request that it is about.
    """

    step: str
    message: str
    content: str
    price_sat: int
    request: str


class JobEnd(msgspec.Struct, frozen=True):
    """The last event: the job has ended, and `job` before it says how."""

    id: str


@dataclass(frozen=True)
class WatchLimits:
    """How many may listen: for one caller, and in all, which is to leave connections to the others."""

    each_max: int = 100
    all_max: int = 500


class _Live:
    """The events of one watched job: the newest of them, and who waits for the next."""

    def __init__(self, start: str, count: int) -> None:
        """`count` is how many events there were that are not kept."""
        self.count = count
        self.ended = False
        self.listeners = 0
        self.waiting: set[asyncio.Event] = set()  # of listeners who have heard everything
        self.feeding: asyncio.Task[None] | None = None
        self._start = start
        self._log = deque[bytes]()
        self._bytes = 0

    def add(self, event: str, data: bytes, number: str = "") -> None:
        """Tell everybody, and keep it for a while."""
        self.count += 1
        frame = _frame(event, f"{self._start}.{number or self.count}", data)
        self._log.append(frame)
        self._bytes += len(frame)
        while len(self._log) > LOG_EVENTS_MAX or (self._bytes > LOG_BYTES_MAX and len(self._log) > 1):
            self._bytes -= len(self._log.popleft())
        self.wake()

    def wake(self) -> None:
        """Let all listeners look again."""
        for woken in self.waiting:
            woken.set()

    def after(self, number: int) -> Sequence[bytes] | None:
        """The events that came after that many; None if some of them are not kept any more."""
        missed = self.count - number
        if not 0 <= missed <= len(self._log):
            return None
        return [self._log[index] for index in range(len(self._log) - missed, len(self._log))]


class Watching:
    """Who listens to which job."""

    def __init__(self, customer: Customer, clock: Clock, limits: WatchLimits | None = None) -> None:
        self._customer = customer
        self._clock = clock
        self._limits = limits or WatchLimits()
        self._start = secrets.token_hex(4)
        self._live: dict[str, _Live] = {}
        self._listeners = Counter[str]()
        self._tasks = Tasks()
        self._closed = False

    async def close(self) -> None:
        """Let all listeners go; they come back to the next process. To be called before the server waits for them."""
        self._closed = True
        await self._tasks.close()
        for live in self._live.values():
            live.wake()

    @property
    def listeners(self) -> int:
        """How many listen."""
        return self._listeners.total()

    async def follow(
        self, request: web.Request, caller: Caller, job_id: str, show: Show, holds: Holds
    ) -> web.StreamResponse:
        """Tell a listener of a job until that ends, or the listener goes, or `holds` says that it may hear no more.

        `show` is the job as it stands, as JSON. Raises `TooManyRequests` if too many listen.
        """
        guarantee = self._customer.guarantee(job_id)
        if guarantee is None and _last_id(request).endswith(f".{_END}"):
            return web.Response(status=204)  # all was told: browsers come back after any other answer
        self._admit(caller)
        live = self._join(job_id, guarantee, show) if guarantee else None
        try:
            return await self._tell(request, job_id, live, show, holds)
        finally:
            self._listeners[caller.id] -= 1
            if not self._listeners[caller.id]:
                del self._listeners[caller.id]
            if live is not None:
                self._leave(job_id, live)

    def _admit(self, caller: Caller) -> None:
        if self._listeners[caller.id] >= self._limits.each_max or self.listeners >= self._limits.all_max:
            raise TooManyRequests(
                "too many listen to jobs already: close one of your streams, or ask GET /v1/jobs/{id}?wait=50",
                retry_after=int(HEARTBEAT_SECONDS),
            )
        self._listeners[caller.id] += 1

    # One job ----------------------------------------------------------------------------------------------------------

    def _join(self, job_id: str, guarantee: Guarantee, show: Show) -> _Live:
        live = self._live.get(job_id)
        if live is None:
            told = len(guarantee.told)
            live = self._live[job_id] = _Live(self._start, max(0, told - LOG_EVENTS_MAX))
            for update in guarantee.told[live.count :]:
                live.add("update", _encoded(update))
            feeding = self._feed(job_id, guarantee, live, told, show)
            live.feeding = self._tasks.start(feeding, f"watch:{job_id}")
        live.listeners += 1
        return live

    def _leave(self, job_id: str, live: _Live) -> None:
        live.listeners -= 1
        if not live.listeners:
            del self._live[job_id]
            if live.feeding is not None:
                live.feeding.cancel()

    async def _feed(self, job_id: str, guarantee: Guarantee, live: _Live, told: int, show: Show) -> None:
        """Write each event once. The numbers are those of the updates, so they hold as long as this process lives."""
        try:
            async for update in guarantee.updates(told):
                live.add("update", _encoded(update))
            live.add("job", await show())
            live.add("end", _ended(job_id), _END)
        finally:  # whatever went wrong, nobody listens on in vain
            live.ended = True
            live.wake()

    # One listener -----------------------------------------------------------------------------------------------------

    async def _tell(
        self, request: web.Request, job_id: str, live: _Live | None, show: Show, holds: Holds
    ) -> web.StreamResponse:
        heard = self._heard(live, _last_id(request))
        position = live.count if heard is None and live else heard or 0
        first = [] if heard is not None else [_frame("job", f"{self._start}.{position}", await show())]
        if live is None:
            first.append(_frame("end", f"{self._start}.{_END}", _ended(job_id)))
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request)
        try:
            await self._write(response, first)
            if live is not None:
                await self._pass_on(response, live, position, gone(request), holds)
        except TimeoutError:  # what is in its buffers would be waited for even now
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # it has gone
        return response

    def _heard(self, live: _Live | None, last_id: str) -> int | None:
        """How many events a listener has heard who comes back; None if it needs the job as it stands."""
        start, _, number = last_id.partition(".")
        if live is None or start != self._start or not (number.isascii() and number.isdigit()):
            return None
        heard = int(number[:9])
        return heard if live.after(heard) is not None else None

    async def _pass_on(
        self,
        response: web.StreamResponse,
        live: _Live,
        position: int,
        hung_up: asyncio.Future[None],
        holds: Holds,
    ) -> None:
        """Until all is told, the listener hangs up or may hear no more, or is so far behind that it would miss some."""
        woken = asyncio.Event()
        hung_up.add_done_callback(lambda _: woken.set())
        live.waiting.add(woken)
        try:
            while not (self._closed or hung_up.done()):
                woken.clear()
                frames = live.after(position)
                position = live.count
                if frames is None or (live.ended and not frames):
                    return
                if not frames:
                    try:
                        await within(self._clock, HEARTBEAT_SECONDS, woken.wait())
                        continue
                    except TimeoutError:
                        frames = [_HEARTBEAT]
                if not await holds():
                    return
                await self._write(response, frames)
        finally:
            live.waiting.discard(woken)

    async def _write(self, response: web.StreamResponse, frames: Sequence[bytes]) -> None:
        """Raises `TimeoutError` if the listener does not read, `ConnectionError` if it has gone."""
        if frames:
            await within(self._clock, SLOW_SECONDS_MAX, response.write(b"".join(frames)))


def _last_id(request: web.Request) -> str:
    """Of the last event that a listener heard who comes back."""
    return request.headers.get("Last-Event-ID", "")


def _encoded(update: Update) -> bytes:
    message = update.message
    if update.step == "error":  # in the words of the command line, and `job` follows
        message = ""
    elif update.step == "asking":  # without why the one before was left: its attempt in `job` says so
        message = message.rpartition("; ")[2]
    return msgspec.json.encode(
        JobUpdate(update.step, message, update.content, update.price_sat, update.order_id)
    )


def _ended(job_id: str) -> bytes:
    return msgspec.json.encode(JobEnd(job_id))


def _frame(event: str, event_id: str, data: bytes) -> bytes:
    """One event; JSON has no line breaks of its own."""
    return b"event: %b\nid: %b\ndata: %b\n\n" % (event.encode(), event_id.encode(), data)
