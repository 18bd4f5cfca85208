"""The figures. Each is one coroutine that returns a `Ratio`."""

import asyncio
import json
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import coincurve
import nostr_sdk

from bench.measure import Ratio, per_second, side_by_side
from dvm import Agent, Job, Provider
from identity import Event, LocalSigner, SecretKey, make_template, nip44, parse_event, sign_event
from relay_bridge import EmbeddedRelay, Filter, RelayPool
from store import Database, Migration
from tradepost.api import open_customer
from tradepost.post import open_post, own_key
from tradepost.settings import Settings

EVENTS = 2000
ROWS = 400
JOBS = 40


def _events(count: int) -> list[bytes]:
    key = SecretKey.generate()
    tags = [("i", "x" * 700, "text"), ("p", key.public_key), ("relays", "wss://a.example", "wss://b.example")]
    return [
        sign_event(
            make_template(5050, content=str(n), tags=tags, created_at=1_700_000_000 + n), key
        ).to_json()
        for n in range(count)
    ]


async def events() -> Ratio:
    """Parse, hash and verify an event of 1.2 KB, against libsecp256k1's verification alone."""
    raw = _events(EVENTS)
    parsed = [parse_event(r) for r in raw]
    bare = [
        (coincurve.PublicKeyXOnly(bytes.fromhex(e.pubkey)), bytes.fromhex(e.sig), bytes.fromhex(e.id))
        for e in parsed
    ]

    async def ours() -> float:
        source = iter(raw)
        return per_second(lambda: parse_event(next(source)).verify(), EVENTS)

    async def other() -> float:
        source = iter(bare)

        def verify() -> None:
            key, signature, digest = next(source)
            key.verify(signature, digest)

        return per_second(verify, EVENTS)

    return await side_by_side(
        "events", "parse, id and verify, against bare coincurve verification", ours, other, "/s"
    )


async def encryption() -> Ratio:
    """NIP-44 of 300 bytes with a known conversation, against nostr-sdk."""
    ours_key, peer = SecretKey.generate(), SecretKey.generate()
    text = "x" * 300
    conversation = nip44.conversation_key(ours_key, peer.public_key)
    secret, public = nostr_sdk.SecretKey.parse(ours_key.hex()), nostr_sdk.PublicKey.parse(peer.public_key)

    async def ours() -> float:
        return per_second(lambda: nip44.decrypt(nip44.encrypt(text, conversation), conversation), 4000)

    async def other() -> float:
        def both() -> None:
            payload = nostr_sdk.nip44_encrypt(secret, public, text, nostr_sdk.Nip44Version.V2)
            nostr_sdk.nip44_decrypt(secret, public, payload)

        return per_second(both, 1000)

    return await side_by_side("encryption", "NIP-44 both ways, against nostr-sdk", ours, other, "/s")


async def commits() -> Ratio:
    """Durable one-row writes by many callers at once, against the same writes each with a commit of its own."""
    table = Migration(
        "bench", 1, "0001_initial.sql", "CREATE TABLE notes (id BIGINT PRIMARY KEY, text TEXT);\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        async with await Database.open(Path(folder) / "ours.sqlite", [table]) as db:
            alone = sqlite3.connect(Path(folder) / "alone.sqlite", isolation_level=None)
            alone.execute("PRAGMA journal_mode=WAL")
            alone.execute("PRAGMA synchronous=FULL")
            alone.execute("CREATE TABLE notes (id BIGINT PRIMARY KEY, text TEXT)")
            numbers = iter(range(10**9))

            async def write() -> None:
                async with db.transaction() as tx:
                    await tx.execute("INSERT INTO notes VALUES (?, ?)", next(numbers), "text")

            async def ours() -> float:
                started = time.perf_counter()
                await asyncio.gather(*(write() for _ in range(ROWS)))
                return ROWS / (time.perf_counter() - started)

            async def other() -> float:
                return per_second(
                    lambda: alone.execute("INSERT INTO notes VALUES (?, ?)", (next(numbers), "text")), ROWS
                )

            ratio = await side_by_side(
                "commits", "400 callers at once, against one commit each", ours, other, "/s"
            )
            alone.close()
            return ratio


async def jobs() -> Ratio:
    """A free job from the signed request to the result in the customer's hand, against four bare relay round trips.

    Four is what the job needs: request there, request to the agent, result there, result to the customer. The job has
    the durable inbox and outbox of both sides in it (`synchronous=FULL`).
    """
    agent = Agent("bench")

    @agent.serves(kind=5050)
    async def work(job: Job) -> str:
        return job.text

    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedRelay() as relay:
            settings = [
                Settings(relays=(relay.url,), data=Path(folder) / name) for name in ("agent", "customer")
            ]
            async with (
                open_post(settings[0]) as seller,
                open_post(settings[1]) as buyer,
                open_customer(settings[1], buyer) as customer,
            ):
                provider = Provider(agent, LocalSigner(own_key(settings[0], agent.slug)), seller)
                await provider.start()

                async def ours() -> float:
                    started = time.perf_counter()
                    for _ in range(JOBS):
                        await (await customer.ask(provider.public_key, "hello", kind=5050)).result()
                    return (time.perf_counter() - started) / JOBS * 1e6

                async def other() -> float:
                    return await _round_trips(buyer.pool, 4 * JOBS) / JOBS * 1e6

                ratio = await side_by_side(
                    "jobs", "a free job, against four bare relay round trips", ours, other, "µs"
                )
                await provider.stop(0)
                return ratio


async def _round_trips(pool: RelayPool, count: int) -> float:
    """Seconds for `count` events published and received back, one after the other."""
    key, arrived = SecretKey.generate(), asyncio.Queue[str]()

    def on_event(event: Event, _relay: str) -> None:
        arrived.put_nowait(event.id)

    subscription = await pool.subscribe([Filter(kinds=(1,), authors=(key.public_key,))], on_event)
    await subscription.eose()
    started = time.perf_counter()
    for number in range(count):
        event = sign_event(make_template(1, content=json.dumps(number), created_at=int(time.time())), key)
        await pool.publish(event)
        await arrived.get()
    seconds = time.perf_counter() - started
    await subscription.close()
    return seconds


FIGURES: dict[str, Callable[[], Awaitable[Ratio]]] = {
    "events": events,
    "encryption": encryption,
    "commits": commits,
    "jobs": jobs,
}
