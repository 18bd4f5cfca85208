"""The dead-mint drill: a mint disappears for good in the middle of everything, and perhaps comes back."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest

from store import Database, load_migrations
from tradepost.testing.clock import ManualClock
from tradepost.testing.mint import Melts, MemoryMint
from wallet.errors import MintUnavailable, UnknownMint, WalletError
from wallet.mint import MintTransport
from wallet.proofs import Proof
from wallet.seed import Seed
from wallet.wallet import Wallet

DEAD, LIVE = "https://dead.test", "https://live.test"


class Drill:
    """A wallet at two mints, whose process can be started again."""

    def __init__(self, path: Path, clock: ManualClock) -> None:
        self.path, self.clock, self.seed = path, clock, Seed.generate()
        self.mints = {url: MemoryMint(url, clock=clock) for url in (DEAD, LIVE)}
        self.mints[LIVE]._numbers = count(1000)  # no quote of one is called like one of the other

    def transport(self, url: str) -> MintTransport:
        return self.mints[url].transport(self.mints[url].url)

    async def open(self) -> tuple[Database, Wallet]:
        db = await Database.open(self.path, load_migrations("wallet"))
        return db, Wallet.open(db, self.seed, clock=self.clock, mints=[DEAD, LIVE], transport=self.transport)

    async def fund(self, wallet: Wallet, url: str, sat: int) -> None:
        quote = await wallet.mint_quote(url, sat)
        self.mints[url].pay(quote.bolt11)
        assert await wallet.claim(quote.id)


@pytest.fixture
async def drill(tmp_path: Path, clock: ManualClock) -> AsyncIterator[tuple[Drill, Wallet]]:
    """Free coins, a send, a redemption, a payment and a paid invoice under way at the mint that then dies."""
    drill = Drill(tmp_path / "drill.db", clock)
    db, wallet = await drill.open()
    async with db, wallet:
        dead = drill.mints[DEAD]
        for url in (DEAD, LIVE):
            await drill.fund(wallet, url, 1000)
        token = await wallet.send(DEAD, 64)
        quote = await wallet.mint_quote(DEAD, 200)
        dead.pay(quote.bolt11)
        dead.melts = Melts.PENDING
        with pytest.raises(MintUnavailable):
            await wallet.pay(DEAD, dead.invoice(50))
        dead.lose_answer("/v1/swap")
        plan = await wallet.plan_redeem(token, op_id="in", purpose="test", job_id="j", record=True)
        send = await wallet.plan_send(DEAD, 100, op_id="out", purpose="test", job_id="k", record=True)
        dead.down = True
        for op_id in (plan.op_id, send.op_id):
            with pytest.raises(MintUnavailable):
                await wallet.settle(op_id)
        yield drill, wallet


async def at_risk(wallet: Wallet) -> int:
    return next(one.in_hand_sat for one in (await wallet.audit()).mints if one.mint == DEAD)


async def test_nothing_hangs_and_other_mints_go_on(drill: tuple[Drill, Wallet]) -> None:
    _, wallet = drill
    async with asyncio.timeout(5):
        assert sorted(op_id.split(":")[0] for op_id in await wallet.recover()) == ["in", "out", "pay"]
        await wallet.receive(await wallet.send(LIVE, 100))
        report = await wallet.audit(ask_mints=True)
    (problem,) = report.problems
    assert problem.mint == DEAD
    assert f"the {await at_risk(wallet)} sat there" in problem.text
    assert "at risk" in problem.text
    assert [one.answer for one in report.mints] == ["silent", "agrees"]


async def test_it_is_written_off_once_and_used_no_more(drill: tuple[Drill, Wallet]) -> None:
    story, wallet = drill
    lost_sat = await at_risk(wallet)
    assert lost_sat > 800
    assert [await wallet.abandon(DEAD), await wallet.abandon(DEAD + "/")] == [lost_sat, lost_sat]
    report = await wallet.audit(ask_mints=True)
    assert report.ok, report.problems
    assert (report.accounts["lost"], report.accounts[f"mint/{DEAD}"]) == (1000 * lost_sat, 0)
    gone = report.mints[0]
    assert (gone.mint, gone.in_hand_sat, gone.abandoned_msat, gone.answer) == (
        DEAD,
        lost_sat,
        1000 * lost_sat,
        "",
    )
    assert wallet.mints == (LIVE,)
    assert list(await wallet.balance()) == [LIVE]
    for use in (
        wallet.send(DEAD, 1),
        wallet.mint_quote(DEAD, 1),
        wallet.pay(DEAD, story.mints[DEAD].invoice(1)),
    ):
        with pytest.raises(UnknownMint, match="was given up"):
            await use
    asked = story.mints[DEAD].asked.total()
    assert await wallet.recover() == []
    assert story.mints[DEAD].asked.total() == asked + 1  # whether it is back, and nothing else
    await wallet.receive(await wallet.send(LIVE, 100))


async def test_a_restart_remembers_it(drill: tuple[Drill, Wallet]) -> None:
    story, wallet = drill
    lost_sat = await wallet.abandon(DEAD)
    db, again = await story.open()
    async with db, again:
        assert list(await again.balance()) == [LIVE]
        await again.recover()
        assert again.mints == (LIVE,)
        assert await again.abandon(DEAD) == lost_sat
        assert (await again.audit(ask_mints=True)).ok


async def test_when_it_comes_back_everything_is_ours_again(drill: tuple[Drill, Wallet]) -> None:
    story, wallet = drill
    dead = story.mints[DEAD]
    lost_sat = await wallet.abandon(DEAD)
    dead.down = False
    dead.finish_melt(paid=False)
    assert await wallet.recover() == []
    assert wallet.mints == (DEAD, LIVE)
    report = await wallet.audit(ask_mints=True)
    assert report.ok, [str(problem) for problem in report.problems]
    assert report.accounts["lost"] == 0
    # What had been under way has ended: the payment failed, the invoice was minted, the token came, another left.
    assert (await wallet.balance())[DEAD] == dead.outstanding_sat - 100 > lost_sat
    assert await wallet.recover() == []
    assert (await wallet.audit()).accounts == report.accounts
    await wallet.send(DEAD, 100)


async def test_it_can_die_again(drill: tuple[Drill, Wallet]) -> None:
    story, wallet = drill
    dead = story.mints[DEAD]
    for _ in range(2):
        dead.down = True
        first = await wallet.abandon(DEAD)
        assert (await wallet.audit()).accounts["lost"] == 1000 * first
        dead.down = False
        await wallet.recover()
        assert (await wallet.audit()).accounts["lost"] == 0


async def test_a_coin_that_it_lost_meanwhile_is_found_missing(drill: tuple[Drill, Wallet]) -> None:
    story, wallet = drill
    await wallet.abandon(DEAD)
    row = await wallet._desk.db.one("SELECT * FROM wallet_proofs WHERE mint = ? AND state = 'free'", DEAD)
    story.mints[DEAD].spent[row["y"]] = Proof(row["amount"], row["keyset_id"], row["secret"], row["c"])
    story.mints[DEAD].down = False
    await wallet.recover()
    report = await wallet.audit(ask_mints=True)
    assert row["y"][:12] in {y for problem in report.problems for y in problem.coins}


async def test_a_mint_that_answers_is_not_given_up(drill: tuple[Drill, Wallet]) -> None:
    _, wallet = drill
    with pytest.raises(WalletError, match="answers, so nothing was written off"):
        await wallet.abandon(LIVE)
    assert (await wallet.balance())[LIVE] == 1000


async def test_a_mint_that_is_not_ours_cannot_be_given_up(drill: tuple[Drill, Wallet]) -> None:
    story, wallet = drill
    story.mints["https://other.test"] = story.mints[DEAD]
    with pytest.raises(UnknownMint, match=r"https://other\.test is not one of our mints"):
        await wallet.abandon("https://other.test")
    with pytest.raises(WalletError):
        await wallet.abandon("no url")


async def test_an_empty_mint_is_given_up_without_a_posting(tmp_path: Path, clock: ManualClock) -> None:
    drill = Drill(tmp_path / "empty.db", clock)
    db, wallet = await drill.open()
    async with db, wallet:
        drill.mints[DEAD].down = True
        assert await wallet.abandon(DEAD) == 0
        assert wallet.mints == (LIVE,)
        drill.mints[DEAD].down = False
        await wallet.recover()
        assert wallet.mints == (DEAD, LIVE)
        assert (await wallet.audit()).accounts == {}
