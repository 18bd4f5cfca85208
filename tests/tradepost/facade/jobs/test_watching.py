"""Who listens to a job hears every step of it once, and nobody waits for a slow one."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from dvm import Action, Guarantee, OrderFailed, Update
from tradepost.facade.callers.callers import Caller, Tier
from tradepost.facade.jobs import watching
from tradepost.facade.jobs.watching import Watching, WatchLimits
from tradepost.facade.web.problems import TooManyRequests, problem_response
from tradepost.facade.web.sockets import listening
from tradepost.testing import ManualClock

SECONDS_MAX = 60.0
JOB = "ab" * 32


@dataclass
class Room:
    """A server with one address, where a job can be listened to that a test drives by hand."""

    clock: ManualClock
    jobs: dict[str, Guarantee] = field(default_factory=dict)
    shown: int = 0
    over: set[str] = field(default_factory=set)  # who may hear no more
    url: str = ""
    watching: Watching = None  # type: ignore[assignment]  # set right after

    def guarantee(self, job_id: str) -> Guarantee | None:
        return self.jobs.get(job_id)

    async def show(self) -> bytes:
        self.shown += 1
        return b'{"shown":%d}' % self.shown

    async def listen(self, request: web.Request) -> web.StreamResponse:
        caller = Caller(request.query.get("caller", "somebody"), "nostr:x", Tier.PAYING)

        async def holds() -> bool:
            return caller.id not in self.over

        try:
            return await self.watching.follow(request, caller, JOB, self.show, holds)
        except TooManyRequests as error:
            return problem_response(error)


Listen = Callable[..., Awaitable["Listener"]]


class Listener:
    """One open stream, read event by event."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.last_id = ""

    async def next(self) -> tuple[str, Any]:
        """The next event: its name, and its data; a comment is named ":"; ("", None) when the stream has ended."""
        told: dict[str, str] = {}
        async with asyncio.timeout(SECONDS_MAX):
            while line := (await self.response.content.readline()).decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if line == "\n":
                    self.last_id = told.get("id", self.last_id)
                    return (told["event"], json.loads(told["data"])) if "event" in told else (":", None)
                told[name] = value
        return "", None

    async def rest(self) -> list[str]:
        """The names of all that comes until the end."""
        names = []
        while (event := (await self.next())[0]) != "":
            names.append(event)
        return names


@pytest.fixture
async def room(free_port: int) -> AsyncIterator[Room]:
    room = Room(ManualClock())
    room.watching = Watching(room, room.clock, WatchLimits(each_max=3, all_max=4))  # type: ignore[arg-type]  # all it uses
    app = web.Application()
    app.router.add_get("/", room.listen)
    room.url = f"http://127.0.0.1:{free_port}/"
    async with listening(app, "127.0.0.1", free_port):
        yield room
        await room.watching.close()


@pytest.fixture
async def listen(room: Room) -> AsyncIterator[Listen]:
    opened: list[aiohttp.ClientResponse] = []
    async with aiohttp.ClientSession() as http:

        async def begin(last_id: str = "", caller: str = "somebody") -> Listener:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            opened.append(await http.get(room.url, headers=headers, params={"caller": caller}))
            return Listener(opened[-1])

        yield begin
        for response in opened:
            response.close()


@pytest.fixture
def job(room: Room) -> Guarantee:
    """A job that is under way and was told of once."""
    room.jobs[JOB] = job = Guarantee(JOB)
    job.push(Update("asking", "npub1…", order_id="cd" * 32))
    return job


def end(room: Room, job: Guarantee, result: str = "done") -> None:
    job.finish(result)
    del room.jobs[JOB]


async def test_a_listener_hears_the_job_then_each_step_then_the_end(
    room: Room, job: Guarantee, listen: Listen
) -> None:
    listener = await listen()
    assert listener.response.content_type == "text/event-stream"
    assert listener.response.headers["Access-Control-Allow-Origin"] == "*"
    assert listener.response.headers["Cache-Control"] == "no-store"
    assert await listener.next() == ("job", {"shown": 1})
    job.push(Update("offer", price_sat=21, order_id="cd" * 32))
    told = {"step": "offer", "message": "", "content": "", "price_sat": 21, "request": "cd" * 32}
    assert await listener.next() == ("update", told)
    end(room, job)
    assert (await listener.next())[1]["content"] == "done"
    assert await listener.next() == ("job", {"shown": 2})
    assert await listener.next() == ("end", {"id": JOB})
    assert await listener.next() == ("", None)
    assert room.watching.listeners == 0


async def test_whoever_comes_back_hears_what_was_missed_and_nothing_twice(
    room: Room, job: Guarantee, listen: Listen
) -> None:
    stays, goes = await listen(), await listen()
    assert (await goes.next())[0] == "job"
    job.push(Update("offer"))
    assert (await goes.next())[0] == "update"
    goes.response.close()
    job.push(Update("paid"))
    job.push(Update("working", "half"))
    back = await listen(goes.last_id)
    assert [(await back.next())[1]["step"] for _ in range(2)] == ["paid", "working"]
    end(room, job)
    assert await back.rest() == ["update", "job", "end"]
    assert await stays.rest() == ["job", *["update"] * 4, "job", "end"]


async def test_the_numbers_hold_while_nobody_listens(room: Room, job: Guarantee, listen: Listen) -> None:
    first = await listen()
    await first.next()
    first.response.close()
    while room.watching.listeners:
        await asyncio.sleep(0.005)
        await room.clock.advance(watching.HEARTBEAT_SECONDS)  # only who is written to is known to be gone
    job.push(Update("offer"))
    back = await listen(first.last_id)
    assert (await back.next())[1]["step"] == "offer"


@pytest.mark.parametrize("last_id", ["00000000.1", "nonsense", ".", "{start}.999", "{start}.-1", "{start}.x"])
async def test_what_is_not_known_any_more_is_answered_by_the_job(
    room: Room, job: Guarantee, listen: Listen, last_id: str
) -> None:
    back = await listen(last_id.format(start=room.watching._start))
    assert (await back.next())[0] == "job"
    job.push(Update("offer"))
    assert (await back.next())[0] == "update"


async def test_what_the_log_has_dropped_is_answered_by_the_job(
    room: Room, job: Guarantee, listen: Listen
) -> None:
    first = await listen()
    await first.next()
    first.response.close()
    for number in range(watching.LOG_EVENTS_MAX + 10):
        job.push(Update("working", str(number)))
    back = await listen(first.last_id)
    assert (await back.next())[0] == "job"
    job.push(Update("offer"))
    assert (await back.next())[1]["step"] == "offer"


async def test_a_job_that_has_ended_is_told_at_once_and_then_no_more(room: Room, listen: Listen) -> None:
    listener = await listen()
    assert await listener.next() == ("job", {"shown": 1})
    assert (await listener.next())[0] == "end"
    assert await listener.next() == ("", None)
    assert (await listen(listener.last_id)).response.status == 204
    assert await (await listen(f"{room.watching._start}.1")).rest() == ["job", "end"]


async def test_a_heartbeat_is_sent_while_nothing_happens(room: Room, job: Guarantee, listen: Listen) -> None:
    listener = await listen()
    await listener.next()
    reading = asyncio.create_task(listener.next())
    while not reading.done():
        await room.clock.advance(watching.HEARTBEAT_SECONDS)
        await asyncio.sleep(0.005)
    assert reading.result() == (":", None)
    job.push(Update("offer"))
    events = await listener.next()
    while events[0] == ":":
        events = await listener.next()
    assert events[1]["step"] == "offer"


async def test_who_does_not_read_is_dropped_and_the_others_do_not_wait(
    room: Room, job: Guarantee, listen: Listen
) -> None:
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect(("127.0.0.1", urlsplit(room.url).port))
    slow.sendall(b"GET /?caller=slow HTTP/1.1\r\nHost: x\r\n\r\n")
    listener = await listen()
    await listener.next()
    async with asyncio.timeout(SECONDS_MAX):
        while room.watching.listeners < 2:
            await asyncio.sleep(0.005)
        for number in range(150):  # more than all buffers on the way hold
            job.push(Update("partial", str(number), "x" * 60_000))
            assert (await listener.next())[1]["message"] == str(number)
        while room.watching.listeners > 1:
            await room.clock.advance(watching.SLOW_SECONDS_MAX)
            await asyncio.sleep(0.005)
    slow.close()
    end(room, job)
    assert [event for event in await listener.rest() if event != ":"] == ["update", "job", "end"]


async def test_so_many_may_listen_and_no_more(room: Room, job: Guarantee, listen: Listen) -> None:
    mine = [await listen() for _ in range(3)]
    refused = (await listen()).response
    assert refused.status == 429
    assert (await refused.json())["code"] == "too_many_requests"
    assert (await listen(caller="another")).response.status == 200
    assert (await listen(caller="a third")).response.status == 429
    end(room, job)
    for one in mine:
        assert (await one.rest())[-1] == "end"
    room.jobs[JOB] = Guarantee(JOB)
    assert (await listen()).response.status == 200


async def test_nobody_listens_in_vain_when_the_job_cannot_be_read(
    room: Room, job: Guarantee, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = room.show

    async def once() -> bytes:
        if room.shown:
            raise OSError("the disk is full")
        return await real()

    monkeypatch.setattr(room, "show", once)
    listener = await listen()
    assert (await listener.next())[0] == "job"
    job.end(OrderFailed("no", state="failed", money="`tradepost settle` …", action=Action.GIVE_UP))
    told = await listener.next()
    assert (told[1]["step"], told[1]["message"]) == ("error", "")
    assert await listener.next() == ("", None)


async def test_a_server_that_stops_lets_all_go(room: Room, job: Guarantee, listen: Listen) -> None:
    listeners = [await listen() for _ in range(3)]
    for one in listeners:
        assert (await one.next())[0] == "job"
    await room.watching.close()
    for one in listeners:
        assert await one.next() == ("", None)
    assert room.watching.listeners == 0


async def test_each_event_is_written_once_for_all(
    room: Room, job: Guarantee, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    listeners = [await listen() for _ in range(3)]
    for one in listeners:
        await one.next()
    encoded: list[Update] = []
    real = watching._encoded
    monkeypatch.setattr(watching, "_encoded", lambda update: encoded.append(update) or real(update))
    job.push(Update("offer"))
    for one in listeners:
        assert (await one.next())[1]["step"] == "offer"
    assert len(encoded) == 1


async def test_who_may_hear_no_more_hears_nothing_more_and_the_others_do(
    room: Room, job: Guarantee, listen: Listen
) -> None:
    goes, stays = await listen(caller="goes"), await listen(caller="stays")
    for one in (goes, stays):
        assert (await one.next())[0] == "job"
    room.over.add("goes")
    end(room, job)
    assert await goes.rest() == []
    assert await stays.rest() == ["update", "job", "end"]


async def test_nor_does_it_stay_until_something_happens(room: Room, job: Guarantee, listen: Listen) -> None:
    listener = await listen()
    await listener.next()
    room.over.add("somebody")
    async with asyncio.timeout(SECONDS_MAX):
        while room.watching.listeners:
            await room.clock.advance(watching.HEARTBEAT_SECONDS)
            await asyncio.sleep(0.005)
    assert await listener.rest() == []


async def test_who_hangs_up_is_not_counted_any_more(room: Room, listen: Listen) -> None:
    room.jobs[JOB] = Guarantee(JOB)
    listener = await listen()
    await listener.next()
    assert room.watching.listeners == 1
    listener.response.close()
    async with asyncio.timeout(SECONDS_MAX):  # the clock stands still: no heartbeat tells
        while room.watching.listeners:
            await asyncio.sleep(0.005)
