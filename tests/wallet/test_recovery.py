"""Dying at every line that matters: after each commit, before each request and after each answer of every operation.

The points are found by running. After each death the wallet starts again on the same file; then every sat that the mint
owes must be in a wallet or in a token that somebody can find, and the books must balance.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from identity import SecretKey
from store import Database, Transaction, load_migrations
from tradepost.testing.clock import ManualClock
from tradepost.testing.mint import Melts, MemoryMint
from wallet.proofs import Lock, Proof, Token
from wallet.seed import Seed
from wallet.wallet import Wallet

pytestmark = pytest.mark.no_cover  # the same lines again and again


class Death(BaseException):
    """What SIGKILL looks like from inside: nothing handles it, and nothing can be done after it."""


@dataclass
class Fate:
    """Dies at point number `at` (never if None) and stays dead; counts the points otherwise."""

    at: int | None = None
    points: list[str] = field(default_factory=list)
    dead: bool = False

    def point(self, name: str) -> None:
        self.check()
        self.points.append(name)
        if self.at is not None and len(self.points) > self.at:
            self.dead = True
            raise Death

    def check(self) -> None:
        if self.dead:
            raise Death


class MortalDatabase:
    def __init__(self, db: Database, fate: Fate) -> None:
        self._db = db
        self._fate = fate
        self.one, self.all, self.snapshot = db.one, db.all, db.snapshot

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        self._fate.check()
        async with self._db.transaction() as tx:
            yield tx
        self._fate.point("committed")


class MortalTransport:
    def __init__(self, mint: MemoryMint, fate: Fate) -> None:
        self._mint = mint
        self._fate = fate

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        self._fate.point(f"before {path}")
        answer = await self._mint.request(method, path, body)
        self._fate.point(f"after {path}")
        return answer

    async def close(self) -> None:
        pass


@dataclass
class World:
    """One mint, a wallet that dies, a friend that does not, and the tokens lying about."""

    folder: Path
    clock: ManualClock
    mint: MemoryMint
    friend: Wallet
    seed: Seed
    tokens: list[Token] = field(default_factory=list)

    @asynccontextmanager
    async def wallet(self, fate: Fate) -> AsyncIterator[Wallet]:
        async with await Database.open(self.folder / "mortal.db", load_migrations("wallet")) as db:
            yield Wallet.open(
                MortalDatabase(db, fate),  # type: ignore[arg-type]
                self.seed,
                clock=self.clock,
                mints=[self.mint.url],
                transport=lambda _url: MortalTransport(self.mint, fate),
            )

    async def reachable(self, wallet: Wallet) -> int:
        """Unspent sats in both wallets and in every token, each coin once."""
        coins: dict[str, Proof] = {}
        for one in (wallet, self.friend):
            for row in await one._desk.db.all("SELECT * FROM wallet_proofs WHERE state = 'free'"):
                coins[row["secret"]] = Proof(row["amount"], row["keyset_id"], row["secret"], row["c"])
            for entry in await one.history():
                outcome = await one.outcome(entry.op_id)
                assert outcome is not None, "an operation is still open"
                if outcome.token is not None:
                    self.tokens.append(outcome.token)
        for token in self.tokens:
            coins |= {proof.secret: proof for proof in token.proofs}
        return sum(proof.amount for proof in coins.values() if not self.mint.is_spent(proof))


Scenario = Callable[[World, Wallet], Awaitable[None]]


async def record(wallet: Wallet, plan) -> None:
    async with wallet._desk.db.transaction() as tx:
        await wallet.record(tx, plan)


async def fund(world: World, wallet: Wallet) -> None:
    quote = await wallet.mint_quote(world.mint.url, 500)
    world.mint.pay(quote.bolt11)
    await wallet.claim(quote.id)


async def send(world: World, wallet: Wallet) -> None:
    await record(wallet, await wallet.plan_send(world.mint.url, 77, op_id="s", purpose="test"))
    await wallet.settle("s")


async def send_locked_and_refund(world: World, wallet: Wallet) -> None:
    key = world.seed.job_key("refund")
    provider = SecretKey.from_hex("77" * 32).compressed_public_key
    lock = Lock(provider, world.clock.now() - 10, (key.compressed_public_key,))
    await record(wallet, await wallet.plan_send(world.mint.url, 77, lock=lock, op_id="s", purpose="test"))
    await wallet.settle("s")
    await record(wallet, await wallet.plan_reclaim("s", op_id="r", purpose="test", key=key))
    await wallet.settle("r")


async def redeem(world: World, wallet: Wallet) -> None:
    await record(wallet, await wallet.plan_redeem(world.tokens[0], op_id="r", purpose="test"))
    await wallet.settle("r")


async def send_back(world: World, wallet: Wallet) -> None:
    plan = await wallet.plan_return(world.tokens[0], lock=None, op_id="r", purpose="test", keep_sat=9)
    await record(wallet, plan)
    await wallet.settle("r")


async def at_once(world: World, wallet: Wallet) -> None:
    """Planned and recorded by the same transaction, the coins not asked after."""
    await wallet.receive(world.tokens[0])
    await wallet.send(world.mint.url, 77)


async def reclaim(world: World, wallet: Wallet) -> None:
    await send(world, wallet)
    await record(wallet, await wallet.plan_reclaim("s", op_id="r", purpose="test"))
    await wallet.settle("r")


async def pay(world: World, wallet: Wallet) -> None:
    world.mint.lightning_fee_sat = 1
    await wallet.pay(world.mint.url, world.mint.invoice(120))


async def pay_in_vain(world: World, wallet: Wallet) -> None:
    world.mint.melts = Melts.FAILED
    await pay(world, wallet)


async def pay_slowly(world: World, wallet: Wallet) -> None:
    from wallet.errors import MintUnavailable

    world.mint.melts = Melts.PENDING
    with pytest.raises(MintUnavailable):
        await pay(world, wallet)
    world.mint.finish_melt(paid=True)
    assert await wallet.recover() == []


async def send_through_a_rotation(world: World, wallet: Wallet) -> None:
    await record(wallet, await wallet.plan_send(world.mint.url, 77, op_id="s", purpose="test"))
    world.mint.rotate_keyset()
    await wallet.settle("s")


SCENARIOS = [
    fund, send, send_locked_and_refund, redeem, send_back, at_once, reclaim, pay, pay_in_vain, pay_slowly,
    send_through_a_rotation,
]  # fmt: skip


async def make_world(folder: Path, number: int) -> World:
    clock = ManualClock()
    mint = MemoryMint(clock=clock)
    folder = folder / str(number)
    folder.mkdir()
    db = await Database.open(folder / "friend.db", load_migrations("wallet"))
    friend = Wallet.open(db, Seed.generate(), clock=clock, mints=[mint.url], transport=mint.transport)
    world = World(folder, clock, mint, friend, Seed.generate())
    quote = await friend.mint_quote(mint.url, 300)
    mint.pay(quote.bolt11)
    await friend.claim(quote.id)
    world.tokens.append(await friend.send(mint.url, 100))
    async with world.wallet(Fate()) as wallet:
        await fund(world, wallet)
    return world


async def live_and_die(world: World, scenario: Scenario, fate: Fate) -> None:
    async with world.wallet(fate) as wallet:
        with suppress(Death):
            await scenario(world, wallet)


async def assert_all_is_found(world: World) -> None:
    world.mint.finish_melt(paid=True)
    async with world.wallet(Fate()) as wallet:
        left = await wallet.audit()  # wherever it died: the books balance and agree with the coins
        assert left.ok, left.problems
        assert await wallet.recover() == []
        assert await wallet._desk.db.all("SELECT * FROM wallet_proofs WHERE held_by IS NOT NULL") == []
        assert await wallet._desk.db.all("SELECT * FROM wallet_operations WHERE state = 'lost'") == []
        report = await wallet.audit(ask_mints=True)
        assert report.ok, report.problems
        assert await world.reachable(wallet) == world.mint.outstanding_sat
        # And the wallet works: everything in it can be spent.
        balance = sum((await wallet.balance()).values())
        assert (await wallet.send(world.mint.url, balance - 5)).amount == balance - 5
    await world.friend._desk.db.close()


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_death_at_every_point(tmp_path: Path, scenario: Scenario) -> None:
    whole = Fate()
    world = await make_world(tmp_path, 0)
    await live_and_die(world, scenario, whole)
    await assert_all_is_found(world)
    assert not whole.dead
    assert "committed" in whole.points
    assert len(whole.points) >= 6
    for at in range(len(whole.points)):
        world = await make_world(tmp_path, at + 1)
        fate = Fate(at)
        await live_and_die(world, scenario, fate)
        assert fate.dead, "the run took another way; the points are not those that were found"
        await assert_all_is_found(world)


@pytest.mark.parametrize("scenario", [send, reclaim, pay_in_vain, send_through_a_rotation])
async def test_death_again_and_again_while_recovering(tmp_path: Path, scenario: Scenario) -> None:
    """Every start lives one point longer than the last, until one gets through."""
    whole = Fate()
    world = await make_world(tmp_path, 0)
    await live_and_die(world, scenario, whole)
    await world.friend._desk.db.close()
    for at in range(len(whole.points)):
        world = await make_world(tmp_path, at + 1)
        await live_and_die(world, scenario, Fate(at))
        for patience in range(100):
            fate = Fate(patience)
            async with world.wallet(fate) as wallet:
                try:
                    await wallet.recover()
                except Death:
                    continue
            break
        await assert_all_is_found(world)
