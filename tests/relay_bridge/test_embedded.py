"""The embedded relay and the WebSocket: real sockets, in this process and with a relay process that is killed."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from identity.event import Event
from relay_bridge import Delivery, EmbeddedRelay, Filter, Inbox, Outbox, RelayPool
from relay_bridge.errors import ConnectionLost
from relay_bridge.transport import connect_websocket
from store import Database, SystemClock, load_migrations

KIND = Filter(kinds=(5001,))
ROOT = Path(__file__).parent.parent.parent


async def test_publish_query_subscribe_and_count(clock, make, eventually):
    async with EmbeddedRelay() as relay, RelayPool([relay.url], clock=clock) as pool:
        event, new = make(ago=3), make()
        assert (await pool.publish(event))[relay.url].accepted
        assert await pool.query([KIND]) == [event]
        got: list[Event] = []
        subscription = await pool.subscribe([KIND], lambda event, url: got.append(event))
        await subscription.eose()
        await pool.publish(new)
        await eventually(lambda: got == [event, new])
        await subscription.close()


async def test_small_messages_on_a_long_connection_do_not_wait_for_nagle(clock, make):
    """LocalRelay leaves Nagle on: without a prompt acknowledgement every other answer takes some 43 ms."""
    async with EmbeddedRelay() as relay, RelayPool([relay.url], clock=clock) as pool:
        await pool.publish(make())
        times = []
        for _ in range(30):
            event = make()
            began = time.perf_counter()
            await pool.publish(event)
            await pool.query([Filter(ids=(event.id,))])
            times.append(time.perf_counter() - began)
        assert sorted(times)[15] < 0.03


async def test_a_backlog_above_the_relays_limit_of_500(clock, db, make, eventually):
    async with EmbeddedRelay() as relay, RelayPool([relay.url], clock=clock) as pool:
        events = [make(ago=1 + number // 3) for number in range(1200)]
        for start in range(0, len(events), 100):
            await asyncio.gather(*(pool.publish(event) for event in events[start : start + 100]))
        got: list[str] = []

        async def handle(delivery: Delivery) -> None:
            got.append(delivery.event.id)

        async with Inbox(db, pool, clock) as inbox:
            await inbox.follow("jobs", [KIND], handle, margin_seconds=60, backlog_seconds=3600)
            await eventually(lambda: len(got) >= len(events))
        assert sorted(got) == sorted(event.id for event in events)


async def test_nothing_falls_between_stored_and_live(clock, db, make, eventually):
    """Events published while the subscription is being opened come once each."""
    async with (
        EmbeddedRelay() as relay,
        RelayPool([relay.url], clock=clock) as pool,
        Inbox(db, pool, clock) as inbox,
    ):
        events = [make() for _ in range(300)]
        got: list[str] = []

        async def handle(delivery: Delivery) -> None:
            got.append(delivery.event.id)

        async def publish() -> None:
            for event in events:
                await pool.publish(event)

        publishing = asyncio.ensure_future(publish())
        await eventually(lambda: pool.health()[relay.url].connected)
        await inbox.follow("jobs", [KIND], handle, margin_seconds=60)
        await publishing
        await eventually(lambda: len(got) >= len(events))
        assert sorted(got) == sorted(event.id for event in events)


async def test_a_port_nobody_listens_on_is_an_answer(clock, make, free_port):
    url = f"ws://127.0.0.1:{free_port}"
    async with RelayPool([url], clock=clock) as pool:
        answer = (await pool.publish(make()))[url]
        assert answer.message.startswith("error: not connected: cannot connect")


async def test_something_that_is_no_relay_is_an_answer(clock, make):
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, RelayPool([url], clock=clock) as pool:
        assert not (await pool.publish(make()))[url].accepted


_RELAY = """
import asyncio, sys
from pathlib import Path
from relay_bridge import EmbeddedRelay

async def main():
    async with EmbeddedRelay(port=int(sys.argv[1]), path=Path(sys.argv[2])):
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


class RelayProcess:
    def __init__(self, port: int, path: Path) -> None:
        self.url = f"ws://127.0.0.1:{port}"
        self._arguments = (str(port), str(path))
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _RELAY, *self._arguments,
            stdout=asyncio.subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert self._process.stdout is not None
        assert await asyncio.wait_for(self._process.stdout.readline(), 10) == b"up\n"

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.communicate()


@pytest.fixture
async def relay_process(free_port: int, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    process = RelayProcess(free_port, tmp_path / "relay")
    await process.start()
    yield process
    await process.kill()


@pytest.mark.process
async def test_a_relay_that_is_killed_and_returns_works_again_within_five_seconds(
    relay_process, clock, db, make, eventually
):
    got: list[str] = []

    async def handle(delivery: Delivery) -> None:
        got.append(delivery.event.id)

    url = relay_process.url
    async with (
        RelayPool([url], clock=clock) as pool,
        Inbox(db, pool, clock) as inbox,
        Outbox(db, pool, clock) as outbox,
    ):

        async def send(event: Event) -> None:
            async with db.transaction() as tx:
                await outbox.add(tx, event)

        events = [make() for _ in range(30)]
        following = await inbox.follow("jobs", [KIND], handle, margin_seconds=60)
        await following.caught_up()
        for event in events[:10]:
            await send(event)
        await eventually(lambda: len(got) == 10)
        await relay_process.kill()
        await eventually(lambda: not pool.health()[url].connected)
        for event in events[10:20]:
            await send(event)
        await eventually(
            lambda: pool.health()[url].failures >= 7
        )  # long enough for the back-off to have grown
        await relay_process.start()
        returned = time.monotonic()
        await eventually(lambda: len(got) == 20)
        assert time.monotonic() - returned < 5
        for event in events[20:]:
            await send(event)
        await eventually(lambda: len(got) == 30)
        assert sorted(got) == sorted(event.id for event in events)


_POST = """
import asyncio, os, signal, sys
from relay_bridge import Filter, Inbox, InboxLimits, RelayPool
from store import Database, SystemClock, load_migrations

async def main():
    path, url, kill_after = sys.argv[1], sys.argv[2], int(sys.argv[3])
    clock = SystemClock()
    handled = 0
    async with (
        await Database.open(path, load_migrations("relay_bridge")) as db,
        RelayPool([url], clock=clock) as pool,
        Inbox(db, pool, clock, InboxLimits(handlers_max=1)) as inbox,
    ):
        async with db.transaction() as tx:
            await tx.execute("CREATE TABLE IF NOT EXISTS effects (event_id TEXT NOT NULL)")

        async def handle(delivery):
            nonlocal handled
            async with db.transaction() as tx:
                await tx.execute("INSERT INTO effects VALUES (?)", delivery.event.id)
                await delivery.done(tx)
                handled += 1
                if handled == kill_after and kill_after % 2:
                    os.kill(os.getpid(), signal.SIGKILL)  # done, and not yet durable
            if handled == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)  # durable, and the inbox does not know

        following = await inbox.follow("jobs", [Filter(kinds=(5001,))], handle, margin_seconds=60, backlog_seconds=600)
        await following.caught_up()
        while await db.one("SELECT 1 FROM inbox WHERE state = 'open'"):
            await asyncio.sleep(0.01)

asyncio.run(main())
"""


@pytest.mark.process
async def test_a_post_killed_again_and_again_handles_each_event_once(relay_process, clock, tmp_path, make):
    url, path = relay_process.url, tmp_path / "post.db"
    events = [make() for _ in range(60)]
    async with RelayPool([url], clock=clock) as pool:
        for event in events[:40]:
            await pool.publish(event)
        for run, kill_after in enumerate((1, 8, 15, 0)):
            for event in events[40 + run * 5 : 45 + run * 5]:
                await pool.publish(event)
            post = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _POST,
                str(path),
                url,
                str(kill_after),
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
            assert await asyncio.wait_for(post.wait(), 20) == (-signal.SIGKILL if kill_after else 0)
    async with await Database.open(path, load_migrations("relay_bridge")) as db:
        done = sorted(row["event_id"] for row in await db.all("SELECT event_id FROM effects"))
    assert done == sorted(event.id for event in events)


async def test_the_socket_is_closed_without_a_trace(free_port):
    async with EmbeddedRelay(port=free_port) as relay:
        socket = await connect_websocket(relay.url)
        await socket.close()
        await socket.close()
        assert isinstance(SystemClock().now(), int)


async def test_an_embedded_relay_with_a_path_remembers(tmp_path, clock, make):
    event = make()
    for _ in range(2):
        async with (
            EmbeddedRelay(path=tmp_path / "relay") as relay,
            RelayPool([relay.url], clock=clock) as pool,
        ):
            assert (await pool.publish(event))[relay.url].accepted
            assert await pool.query([KIND]) == [event]


async def test_a_taken_port_is_an_error_that_names_it(free_port):
    async with EmbeddedRelay(port=free_port):
        with pytest.raises(ConnectionLost, match=str(free_port)):
            async with EmbeddedRelay(port=free_port):
                pass
