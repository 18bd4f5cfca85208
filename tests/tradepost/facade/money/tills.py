"""A till with a wallet, a database on disk and a mint in memory, and nobody else: no relays, no server.

It lives several times on the same files; with a `Fate` a life ends at any commit, or answer of the mint.
"""

import copy
import hashlib
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from dvm import Post
from store import Database, load_migrations
from tests.dvm.deaths import Fate
from tradepost.facade.callers.callers import Caller, Callers, ticket_caller
from tradepost.facade.money.queries_transfers import uncredited_sat
from tradepost.facade.money.till import Till
from tradepost.post import all_migrations
from tradepost.settings import Settings
from tradepost.testing import ManualClock, MemoryMint
from wallet import Seed, Wallet, encode_token

CAP = 5000
SEED = Seed.generate()


class NoWeb:
    """A fetcher that answers what it was given, by the beginning of the URL."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}

    async def answer(self, url: str, *, bytes_max: int, seconds_max: float) -> SimpleNamespace:
        found = next(told for begin, told in self.answers.items() if url.startswith(begin))
        return SimpleNamespace(text=found(url) if callable(found) else found)


class Box:
    """The files of a post, and what is outside of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.mint = MemoryMint(clock=self.clock)
        self.mints: tuple[str, ...] = (self.mint.url,)
        self.web = NoWeb()
        self.settings = Settings(
            relays=("ws://relay.test",), mints=(self.mint.url,), data=folder, custodial_sat_max=CAP,
            allow_private_urls=True,
        )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)

    def add_mint(self, url: str, *, first: bool = False) -> MemoryMint:
        """Another mint that the post trusts."""
        mint, transport = MemoryMint(url, clock=self.clock), self.mint.transport
        mint._numbers = count(1000)  # else their quotes are called the same
        self.mint.transport = lambda asked: (mint.transport if asked == url else transport)(asked)  # type: ignore[method-assign]
        self.mints = (url, *self.mints) if first else (*self.mints, url)
        return mint

    def twin(self, folder: Path) -> "Box":
        """The same as it is now, in another folder: nobody may be alive in it."""
        shutil.copytree(self.folder, folder)
        other = Box(folder)
        other.mint = copy.deepcopy(self.mint)
        other.clock = cast(ManualClock, other.mint.clock)
        return other

    @asynccontextmanager
    async def life(self, fate: Fate | None = None) -> AsyncIterator["Life"]:
        """One process, from its start to its end or its death. The till is not started: tests tell it to look."""
        transport = fate.transport(cast(Any, self)) if fate else self.mint.transport
        async with (
            await Database.open(self.folder / "post.sqlite", all_migrations()) as db,
            Wallet.open(
                db, SEED, clock=self.clock, mints=self.mints, transport=transport, caps=self.settings.caps,
                uncredited=uncredited_sat,
            ) as wallet,
        ):  # fmt: skip
            post = cast(
                Post,
                SimpleNamespace(db=db, clock=self.clock, wallet=wallet, seed=SEED, fetcher=self.web),
            )
            if fate:
                fate.haunt(post)
            yield Life(self, post)

    @asynccontextmanager
    async def payer(self, sat: int) -> AsyncIterator["Payer"]:
        """Somebody with ecash of their own."""
        async with (
            await Database.open(self.folder / "payer.sqlite", load_migrations("wallet")) as db,
            Wallet.open(
                db, Seed.generate(), clock=self.clock, mints=[self.mint.url], transport=self.mint.transport
            ) as wallet,
        ):
            quote = await wallet.mint_quote(self.mint.url, sat)
            self.mint.pay(quote.bolt11)
            await wallet.claim(quote.id)
            yield Payer(wallet, self.mint.url)


class Payer:
    """Makes tokens."""

    def __init__(self, wallet: Wallet, mint: str) -> None:
        self.wallet, self._mint = wallet, mint

    async def token(self, sat: int) -> str:
        return encode_token(await self.wallet.send(self._mint, sat))


def caller(name: str) -> Caller:
    """Somebody, always the same by that name."""
    return ticket_caller(f"tpt_{name}")


class Life:
    """One process of a post."""

    def __init__(self, box: Box, post: Post) -> None:
        self.box, self.post = box, post
        self.callers = Callers(post.db, box.clock, ())
        self.till = Till(post, box.settings, self.callers)

    async def wake(self) -> None:
        """What a process does at its start, and again and again."""
        await self.post.wallet.recover()
        await self.till.deposits.look()
        await self.till.payouts.look()
        await self.till.settle_all()

    async def sats(self, name: str) -> tuple[int, int]:
        balance = await self.till.balance(caller(name).id)
        return balance.balance_sat, balance.held_sat

    async def bring(self, name: str, token: str) -> int:
        return (await self.till.deposits.bring_token(caller(name), token)).credited_sat

    async def fund_post(self, sat: int, mint: MemoryMint | None = None) -> None:
        """Sats of the post's own."""
        mint = mint or self.box.mint
        quote = await self.post.wallet.mint_quote(mint.url, sat)
        mint.pay(quote.bolt11)
        assert await self.post.wallet.claim(quote.id)

    async def begin(self, name: str, job: str, sat: int, who: Caller | None = None) -> str:
        """A job begins: its guarantee and what is reserved for it, in one transaction. Returns its id."""
        job_id, who = hashlib.sha256(job.encode()).hexdigest(), who or caller(name)
        async with self.post.db.transaction() as tx:
            await tx.execute(
                "INSERT INTO guarantees (id, customer, state, task, private, max_sat, deadline_at, allowance, job_id,"
                " created_at, updated_at) VALUES (?, 'us', 'open', '{}', 0, ?, 0, ?, ?, 0, 0) ON CONFLICT DO NOTHING",
                job_id, sat, f"caller:{who.id}", who.key,
            )  # fmt: skip
            await self.till.reserve(tx, who, job_id, "wish", sat)
        return job_id

    async def order(
        self, job_id: str, number: int, state: str, *, price: int = 0, paid: int = 0, back: int = 0
    ) -> str:
        """An order of a job is now in that state."""
        order_id, now = f"{job_id[:60]}{number:04}", self.box.clock.now()
        async with self.post.db.transaction() as tx:
            await tx.execute(
                "INSERT INTO orders (id, customer, provider, kind, state, max_sat, lock_nonce, request, deadline_at,"
                " guarantee_id, created_at, updated_at) VALUES (?, 'us', 'them', 5001, ?, 0, '', '', 0, ?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                order_id, state, job_id, now, now,
            )  # fmt: skip
            await tx.execute(
                "UPDATE orders SET state = ?, price_sat = ?, paid_sat = ?, returned_sat = ?, updated_at = ? WHERE id = ?",
                state, price, paid, back, now, order_id,
            )  # fmt: skip
        return order_id

    async def end(self, job_id: str, state: str = "done") -> None:
        """The guarantee of a job has ended."""
        async with self.post.db.transaction() as tx:
            await tx.execute("UPDATE guarantees SET state = ? WHERE id = ?", state, job_id)

    async def check_books(self) -> dict[str, int]:
        """The books are right, and nobody is below zero; returns the accounts in sat."""
        report = await self.post.wallet.audit(ask_mints=True)
        assert report.ok, [str(problem) for problem in report.problems]
        assert not [
            a for a, msat in report.accounts.items() if a.startswith(("caller/", "held/")) and msat > 0
        ]
        return {account: msat // 1000 for account, msat in report.accounts.items()}
