"""Databases as every release wrote them, opened by today's code: nothing is lost, and what was open goes on to its end.

Each folder here is a release: `post.sql` is its database as SIGKILL left it, `mint.json` what the mint knows, `post.json`
the words, the keys and the time; `make.py` wrote them, on the release.
"""

import asyncio
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from dvm import Agent, Job, JobFailed, Post, Provider
from identity import LocalSigner, SecretKey, write_key_file
from relay_bridge import Delivery, Filter
from store import MigrationError
from tradepost.api import open_customer
from tradepost.errors import ConfigError
from tradepost.post import open_database, open_post, own_key, read_database, wallet_on
from tradepost.settings import Settings
from tradepost.testing import ManualClock, MemoryMint, MemoryRelay
from tradepost.testing.mint import _Quote
from wallet.keysets import Keyset
from wallet.proofs import Dleq, Proof

HERE = Path(__file__).parent
RELEASES = sorted(path.name for path in HERE.iterdir() if (path / "post.sql").exists())


class Left:
    """What a release left behind, laid out in a folder again."""

    def __init__(self, release: str, folder: Path) -> None:
        self.files = HERE / release
        post = json.loads((self.files / "post.json").read_text())
        self.clock = ManualClock(post["now"])
        self.mint = prime(json.loads((self.files / "mint.json").read_text()), self.clock)
        self.relay = MemoryRelay(clock=self.clock)
        self.settings = Settings(
            relays=("ws://relay.test", "ws://down.test"), mints=(self.mint.url,), data=folder
        )
        (folder / "keys").mkdir(mode=0o700)
        self.settings.seed_file.write_text(post["words"])
        self.settings.seed_file.chmod(0o600)
        for name, key in post["keys"].items():
            write_key_file(self.settings.key_file(name), SecretKey.from_hex(key))
        with closing(sqlite3.connect(self.settings.database)) as db:
            db.executescript((self.files / "post.sql").read_text())
        self.settings.database.chmod(0o600)


def prime(known: dict, clock: ManualClock) -> MemoryMint:
    """The mint as the release left it."""
    mint = MemoryMint(known["url"], clock=clock)
    mint.keysets = {
        raw["id"]: Keyset(**(raw | {"keys": {int(a): k for a, k in raw["keys"].items()}})) for raw in known["keysets"]
    }  # fmt: skip
    mint._secrets = {
        keyset: {int(a): bytes.fromhex(s) for a, s in secrets.items()} for keyset, secrets in known["secrets"].items()
    }  # fmt: skip
    mint.signed, mint.fees_sat = known["signed"], known["fees_sat"]
    mint.spent = {y: proof(raw) for y, raw in known["spent"].items()}
    mint._pending = set(known["pending"])
    mint._mint_quotes = {raw["id"]: quote(raw) for raw in known["mint_quotes"]}
    mint._melt_quotes = {raw["id"]: quote(raw) for raw in known["melt_quotes"]}
    mint._numbers = count(100_000)
    return mint


def quote(raw: dict) -> _Quote:
    return _Quote(**(raw | {"inputs": [proof(one) for one in raw["inputs"]]}))


def proof(raw: dict) -> Proof:
    return Proof(**(raw | {"dleq": Dleq(**raw["dleq"]) if raw["dleq"] else None}))


def make_agent() -> Agent:
    """Does what the agent of the story did."""
    agent = Agent("Busy")

    @agent.serves(kind=5001, price_sat=21)
    async def shout(job: Job) -> str:
        return job.text.upper()

    @agent.serves(kind=5002)
    async def whisper(job: Job) -> str:
        return job.text.lower()

    @agent.serves(kind=5050, price_sat=21)
    async def fail(job: Job) -> str:
        raise JobFailed("cannot do it")

    return agent


def rows(database: Path | str, table: str) -> list[dict]:
    with closing(sqlite3.connect(database)) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute(f"SELECT * FROM {table}")]


def tables(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as db:
        return [
            name
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
            if not name.startswith("sqlite_")
        ]


def schema(database: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(database)) as db:
        found = db.execute(
            "SELECT type, name, tbl_name, COALESCE(sql, '') FROM sqlite_master ORDER BY type, name"
        )
        return [tuple(re.sub(r'[\s"]+', " ", value).strip() for value in row) for row in found]


async def states(post: Post, table: str, column: str = "state") -> Counter[str]:
    return Counter(row["word"] for row in await post.db.all(f"SELECT {column} AS word FROM {table}"))


async def until(is_so: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(20):
            while not await is_so():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited for {what}") from None


def test_every_state_is_in_it() -> None:
    """The data are worth nothing if they show only what is easy."""
    for release in RELEASES:
        with closing(sqlite3.connect(":memory:")) as db:
            db.executescript((HERE / release / "post.sql").read_text())
            for table, expected in (
                ("jobs", {"offered", "paying", "queued", "running", "returning", "done", "failed", "expired", "returned"}),
                ("payments", {"received", "redeeming", "redeemed", "returning", "returned", "refused"}),
                ("orders", {"requested", "paying", "paid", "awaiting_refund", "done", "failed", "expired", "refunded", "lost"}),
                ("wallet_operations", {"planned", "open", "done"}),
                ("wallet_proofs", {"free", "reserved", "sent", "foreign", "spent"}),
                ("inbox", {"open", "done"}),
                ("outbox", {"open", "sent"}),
            ):  # fmt: skip
                assert {state for (state,) in db.execute(f"SELECT state FROM {table}")} >= expected, table
            kinds = db.execute("SELECT kind FROM wallet_operations WHERE state = 'open'")
            assert {kind for (kind,) in kinds} >= {"send", "redeem", "reclaim", "mint", "melt"}


@pytest.mark.parametrize("release", RELEASES)
async def test_nothing_is_lost_by_the_migration(release: str, tmp_path: Path) -> None:
    left = Left(release, tmp_path)
    before = {table: rows(left.settings.database, table) for table in tables(left.settings.database)}
    async with await open_database(left.settings):
        pass
    for table, old in before.items():
        new = rows(left.settings.database, table)
        gone = {row["event_id"] for row in before["outbox"] if row["state"] == "sent"}  # since 0.2 not kept
        for row in old if not table.startswith("outbox") else [r for r in old if r["event_id"] not in gone]:
            if table == "ledger":  # its column was renamed, the rows are the same
                row["posting_id"] = row.pop("op_id")
            assert any(row.items() <= other.items() for other in new), (table, row)


@pytest.mark.parametrize("release", RELEASES)
async def test_old_books_stay_true(release: str, tmp_path: Path) -> None:
    """Every operation that was posted is a posting now, of its job and the time at which it ended."""
    left = Left(release, tmp_path)
    posted = {row["op_id"] for row in rows(left.settings.database, "ledger")}
    ended = {row["op_id"]: row for row in rows(left.settings.database, "wallet_operations")}
    async with await open_database(left.settings) as db:
        found = await db.all("SELECT * FROM postings")
        assert {row["id"] for row in found} == {row["op_id"] for row in found} == posted
        for row in found:
            op = ended[row["id"]]
            assert (row["cause"], row["job_id"], row["posted_at"]) == (
                "operation",
                op["job_id"],
                op["closed_at"],
            )
        sums = await db.all(
            "SELECT account, SUM(amount_msat) AS msat FROM ledger GROUP BY account ORDER BY account"
        )
        assert [(row["account"], row["msat"]) for row in sums] == [
            (row["account"], row["balance_msat"])
            for row in await db.all("SELECT * FROM accounts ORDER BY account")
        ]
        report = await wallet_on(left.settings, db).audit()
        assert report.ok, report.problems


@pytest.mark.parametrize("release", RELEASES)
async def test_a_migrated_schema_is_that_of_a_new_file(release: str, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    left = Left(release, tmp_path / "old")
    fresh = Settings(data=tmp_path / "new")
    for settings in (left.settings, fresh):
        async with await open_database(settings):
            pass
    assert schema(left.settings.database) == schema(fresh.database)


@pytest.mark.parametrize("release", RELEASES)
async def test_commands_that_only_look_leave_it_alone(release: str, tmp_path: Path) -> None:
    """A process of that release may be at work on it."""
    left = Left(release, tmp_path)
    before = left.settings.database.read_bytes()
    with pytest.raises(ConfigError, match=r"earlier release.* `tradepost up`"):
        async with read_database(left.settings):
            pass
    assert left.settings.database.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "post.sqlite", "seed"]
    async with await open_database(left.settings), read_database(left.settings):
        pass


@pytest.mark.parametrize("release", RELEASES)
async def test_what_was_open_goes_on_to_its_end(release: str, tmp_path: Path) -> None:
    left = Left(release, tmp_path)
    clock, mint = left.clock, left.mint
    notes: list[str] = []

    async def read(delivery: Delivery) -> None:
        notes.append(delivery.event.content)

    parts = {"clock": clock, "connect": left.relay.connect, "transport": mint.transport}
    mint.finish_melt(paid=True)
    async with open_post(left.settings, **parts) as post:
        before = {table: await states(post, table) for table in ("jobs", "orders")}
        provider = Provider(make_agent(), LocalSigner(own_key(left.settings, "busy")), post)
        await provider.start()
        await post.inbox.follow("notes", [Filter(kinds=(1,))], read, margin_seconds=60)
        async with open_customer(left.settings, post):

            async def done_soon() -> bool:
                await clock.advance(1)
                jobs, payments = await states(post, "jobs"), await states(post, "payments")
                under_way = {"paying", "queued", "running", "returning", "received", "redeeming"}
                return not under_way & (jobs + payments).keys()

            await until(done_soon, "the jobs that were paid or free")
            jobs = await states(post, "jobs")
            # The one that was paying, the one whose payment was to be judged, the one running and the one queued.
            assert jobs["done"] == before["jobs"]["done"] + 4
            assert jobs["returned"] == before["jobs"]["returned"] + 1

            async def all_ended() -> bool:
                await clock.advance(900)
                for _ in range(20):
                    await asyncio.sleep(0)
                ended = {"done", "failed", "expired", "returned", "refunded", "lost"}
                return not ((await states(post, "orders")) + (await states(post, "jobs"))).keys() - ended

            await until(all_ended, "every order and every offer")
            orders = await states(post, "orders")
            open_before = [before["orders"][state] for state in ("paying", "paid", "awaiting_refund")]
            assert orders["refunded"] == before["orders"]["refunded"] + sum(open_before)
            assert orders["expired"] == before["orders"]["expired"] + before["orders"]["requested"]
        await post.wallet.recover()
        assert (await states(post, "wallet_operations")).keys() <= {"done", "failed", "lost"}
        assert "open" not in await states(post, "outbox")
        assert notes == ["read me"]
        report = await post.wallet.audit(ask_mints=True)
        assert report.ok, report.problems
        await provider.stop(0)


@pytest.mark.parametrize("release", RELEASES)
async def test_a_later_database_is_refused_and_left_alone(release: str, tmp_path: Path) -> None:
    left = Left(release, tmp_path)
    with closing(sqlite3.connect(left.settings.database)) as db:
        db.execute("INSERT INTO schema_migrations VALUES ('wallet', 9999, '9999_later.sql', 'x')")
        db.commit()
        before = list(db.iterdump())
    with pytest.raises(MigrationError, match="Upgrade tradepost"):
        await open_database(left.settings)
    with closing(sqlite3.connect(left.settings.database)) as db:
        assert list(db.iterdump()) == before
