"""`audit` of the books of many settled jobs, bound to one core, against the seconds it may take."""

import asyncio
import os
import time
from pathlib import Path

from bench.measure import ROUNDS, Bar, Figure, Line, folder
from bench.parts.books import fill_books
from store import Database, load_migrations
from tradepost.testing import MemoryMint
from wallet import Seed, Wallet
from wallet.ledger import counter_account, settle

JOBS = 100_000
TEMPLATES = 10  # jobs really done, whose rows are copied
SECONDS_MAX = 10.0
ROUNDS_MAX = 3
PRICE_SAT = 21


def measure(rounds: int = ROUNDS, jobs: int = JOBS) -> Figure:
    """How long one audit takes, the mints not asked: they are not what is measured."""
    cores = os.sched_getaffinity(0)
    with folder() as data:
        path = data / "books.sqlite"
        asyncio.run(_settle_jobs(path))
        fill_books(path, jobs)
        megabytes = path.stat().st_size / 1_000_000
        os.sched_setaffinity(0, {min(cores)})
        try:
            seconds = [asyncio.run(_audit(path, jobs)) for _ in range(min(rounds, ROUNDS_MAX) + 1)][1:]
        finally:
            os.sched_setaffinity(0, cores)
    bar = Bar(1.0, at_least=False)
    return Figure(
        "audit",
        "The audit of long books",
        (Line(f"audit of {jobs:,} jobs", "s", tuple(seconds), (SECONDS_MAX,) * len(seconds), bar),),
        notes=(f"{jobs:,} settled jobs: a database of {megabytes:,.0f} MB, read by one process bound to one core.",),
    )  # fmt: skip


async def _settle_jobs(path: Path) -> None:
    """Real jobs: coins come in, are swapped, and what they brought is settled."""
    mint = MemoryMint()
    async with (
        await Database.open(path.with_name("payer.sqlite"), load_migrations("wallet")) as payers,
        await Database.open(path, load_migrations("wallet")) as ours,
        _wallet(payers, mint) as payer,
        _wallet(ours, mint) as wallet,
    ):
        quote = await payer.mint_quote(mint.url, 2 * TEMPLATES * PRICE_SAT)
        mint.pay(quote.bolt11)
        await payer.claim(quote.id)
        for number in range(TEMPLATES):
            name, job_id = f"redeem:{number}", f"job {number}"
            token = await payer.send(mint.url, PRICE_SAT, include_fees=True)
            await wallet.plan_redeem(token, op_id=name, purpose="job payment", job_id=job_id, record=True)
            received_sat = (await wallet.settle(name)).received_sat
            async with ours.transaction() as tx:
                await settle(
                    tx, f"{number}", source_account=counter_account(job_id), agent="ab" * 32,
                    amount_msat=1000 * received_sat, fee_bps=500, op_id=name, job_id=job_id, now=1,
                )  # fmt: skip


def _wallet(db: Database, mint: MemoryMint) -> Wallet:
    return Wallet.open(db, Seed.generate(), clock=mint.clock, mints=[mint.url], transport=mint.transport)


async def _audit(path: Path, jobs: int) -> float:
    mint = MemoryMint()
    async with await Database.open(path, load_migrations("wallet")) as db, _wallet(db, mint) as wallet:
        started = time.perf_counter()
        report = await wallet.audit()
        seconds = time.perf_counter() - started
    assert report.ok, report.problems[:3]
    assert sum(account.startswith("jobs/") for account in report.accounts) == jobs
    return seconds
