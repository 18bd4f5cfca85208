"""At a real mint (nutshell): the same books, locks that it enforces, 50 sends at once, and death by SIGKILL."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from identity import SecretKey
from store import Database, SystemClock, load_migrations
from tradepost.testing.mint import MemoryMint
from wallet.errors import AlreadySpent, MintUnavailable, WrongLock
from wallet.mint import HttpTransport, MintClient
from wallet.operations import State
from wallet.proofs import Lock
from wallet.seed import Seed
from wallet.wallet import Wallet

pytestmark = pytest.mark.process
ROOT = Path(__file__).parent.parent.parent


async def sat(wallet: Wallet) -> int:
    return sum((await wallet.balance()).values())


async def record(wallet: Wallet, plan) -> None:
    async with wallet._desk.db.transaction() as tx:
        await wallet.record(tx, plan)


def foreign_invoice(amount_sat: int) -> str:
    """An invoice that no mint made and none has seen; FakeWallet pays any."""
    return MemoryMint(f"https://{secrets.token_hex(8)}.test").invoice(amount_sat)


async def test_send_receive_pay(mint_url: str, real_wallet: Wallet, tmp_path: Path) -> None:
    async with (
        await Database.open(tmp_path / "b.db", load_migrations("wallet")) as db,
        Wallet.open(db, Seed.generate(), clock=SystemClock(), mints=[mint_url]) as bob,
    ):
        outcome = await bob.receive(await real_wallet.send(mint_url, 300, include_fees=True))
        assert (outcome.received_sat, outcome.fee_sat) == (300, 1)
        paid = await bob.pay(mint_url, foreign_invoice(50))
        assert (paid.state, paid.sent_sat) == (State.DONE, 50)
        assert await sat(bob) == 250 - paid.fee_sat
        for wallet in (bob, real_wallet):
            report = await wallet.audit(ask_mints=True)
            assert report.ok, report.problems


async def test_fifty_concurrent_sends(mint_url: str, real_wallet: Wallet) -> None:
    tokens = await asyncio.gather(*(real_wallet.send(mint_url, 7) for _ in range(50)))
    assert [token.amount for token in tokens] == [7] * 50
    report = await real_wallet.audit(ask_mints=True)
    assert report.ok, report.problems
    assert await sat(real_wallet) == 1000 - 350 - report.accounts["fees/mint"] // 1000


async def test_locked_token_is_refunded_after_the_locktime(mint_url: str, real_wallet: Wallet) -> None:
    """The mint itself refuses the refund key before the locktime and takes it after."""
    clock = SystemClock()
    refund = SecretKey.generate()
    lock = Lock(SecretKey.generate().compressed_public_key, clock.now() + 2, (refund.compressed_public_key,))
    await record(real_wallet, await real_wallet.plan_send(mint_url, 100, lock=lock, op_id="s", purpose="t"))
    token = (await real_wallet.settle("s")).token
    worth = await real_wallet.examine(token, mint=mint_url, lock=lock, now=clock.now())
    assert (worth.amount_sat, worth.net_sat) == (100, 99)
    with pytest.raises(WrongLock):
        await real_wallet.plan_reclaim("s", op_id="early", purpose="t", key=refund)

    async def refund_when_open() -> None:
        while True:
            try:
                plan = await real_wallet.plan_reclaim("s", op_id="late", purpose="t", key=refund)
            except WrongLock:
                await clock.sleep(0.1)
            else:
                return await record(real_wallet, plan)

    await asyncio.wait_for(refund_when_open(), 15)
    outcome = await real_wallet.settle("late")
    assert (outcome.state, outcome.received_sat) == (State.DONE, 99)
    with pytest.raises(AlreadySpent):
        await real_wallet.receive(token, [refund])


async def test_a_locked_token_is_taken_with_its_key(mint_url: str, real_wallet: Wallet) -> None:
    key = SecretKey.generate()
    token = await real_wallet.send(mint_url, 64, lock=Lock(key.compressed_public_key))
    assert (await real_wallet.receive(token, [key])).received_sat == 63


async def test_a_lost_answer_is_restored(
    mint_url: str, real_wallet: Wallet, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = HttpTransport.request
    lost: list[str] = []

    async def lose(self, method, path, body=None):
        answer = await genuine(self, method, path, body)
        if path == "/v1/swap" and not lost:
            lost.append(path)
            raise MintUnavailable("lost")
        return answer

    monkeypatch.setattr(HttpTransport, "request", lose)
    token = await real_wallet.send(mint_url, 100)
    assert lost
    assert token.amount == 100
    assert (await real_wallet.audit(ask_mints=True)).ok


async def test_the_client_speaks_all_endpoints(mint_url: str) -> None:
    client = MintClient(mint_url, HttpTransport(mint_url))
    info = await client.info()
    assert all(info.supports(nut) for nut in (7, 8, 9, 10, 11, 12, 20))
    assert info.time is not None
    assert [k.unit for k in await client.keysets() if k.active] == ["sat"]
    await client.close()


_CHILD = """
import asyncio, os, signal, sys
from store import Database, SystemClock, load_migrations
from wallet.mint import HttpTransport
from wallet.seed import Seed
from wallet.wallet import Wallet

folder, url, words, path, when, what, tokens = sys.argv[1:]

class Deadly(HttpTransport):
    async def request(self, method, at, body=None):
        if at == path and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = await super().request(method, at, body)
        if at == path:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

async def main():
    db = await Database.open(folder + "/wallet.db", load_migrations("wallet"))
    wallet = Wallet.open(db, Seed.from_words(words), clock=SystemClock(), mints=[url], transport=Deadly)
    if what == "fund":
        quote = await wallet.mint_quote(url, 64)
        await wallet.claim(quote.id)
    elif what == "send":
        plan = await wallet.plan_send(url, 100, op_id="op", purpose="test")
        async with db.transaction() as tx:
            await wallet.record(tx, plan)
        await wallet.settle("op")
    else:
        await wallet.pay(url, tokens)

try:
    asyncio.run(main())
finally:
    os._exit(1)  # whatever happened, it was not the death that was wanted
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("what", "path"),
    [("send", "/v1/swap"), ("fund", "/v1/mint/bolt11"), ("pay", "/v1/melt/bolt11")],
)
async def test_sigkill_between_asked_and_answered(
    mint_url: str, tmp_path: Path, what: str, path: str, when: str
) -> None:
    """A process is killed before it sends, or with the mint's answer in hand and nothing stored. The next one heals."""
    seed = Seed.generate()

    async def open_wallet() -> tuple[Database, Wallet]:
        db = await Database.open(tmp_path / "wallet.db", load_migrations("wallet"))
        return db, Wallet.open(db, seed, clock=SystemClock(), mints=[mint_url])

    db, wallet = await open_wallet()
    quote = await wallet.mint_quote(mint_url, 500)
    await wallet.claim(quote.id)
    invoice = foreign_invoice(90)
    await wallet.close()
    await db.close()

    command = [sys.executable, "-c", _CHILD, str(tmp_path), mint_url, seed.words, path, when, what, invoice]
    child = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL

    db, wallet = await open_wallet()
    assert await wallet.recover() == []
    report = await wallet.audit(ask_mints=True)
    assert report.ok, report.problems
    fees = sum(report.accounts.get(f"fees/{whose}", 0) for whose in ("mint", "lightning")) // 1000
    if what == "send":
        outcome = await wallet.settle("op")
        assert (outcome.state, outcome.sent_sat) == (State.DONE, 100)
        assert await sat(wallet) == 500 - 100 - fees
        assert (await wallet.receive(outcome.token)).received_sat == 99
    elif what == "fund":
        assert await sat(wallet) == 500 + 64
    else:
        entry = next(entry for entry in await wallet.history() if entry.kind == "melt")
        assert entry.state is (State.FAILED if when == "before" else State.DONE)
        assert await sat(wallet) == 500 - entry.sent_sat - fees
    await wallet.close()
    await db.close()
