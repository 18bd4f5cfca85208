"""What callers have here is not the post's to send away, and the operator sees it."""

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store import Database, SystemClock
from tests.tradepost.facade.money.tills import SEED, Box, Life, Payer, caller
from tradepost.facade.callers.callers import Caller, Callers, Tier, account_of
from tradepost.facade.money.purses import move
from tradepost.facade.money.queries_till import all_callers
from tradepost.facade.money.solvency import solvency
from tradepost.facade.money.till import Till
from tradepost.facade.money.withdrawals import ECASH, Wish
from tradepost.post import all_migrations, open_post, wallet_on
from tradepost.settings import Settings
from tradepost.testing import Market, MemoryMint
from wallet import Wallet
from wallet.exposure import Caps
from wallet.ledger import Cause
from wallet.sweep import payable_sat, sweep

if TYPE_CHECKING:
    from conftest import AsyncCli

ANN = "ann"
KEYED = Caller(account_of("nostr:" + "aa" * 32), "nostr:" + "aa" * 32, Tier.AUTHENTICATED)


async def test_a_sweep_leaves_what_callers_have_and_what_is_kept_for_them(box: Box, payer: Payer) -> None:
    box.settings = box.settings.model_copy(update={"sweep_sat_above": 0})
    async with box.life() as life:
        await life.fund_post(700)
        await life.bring(ANN, await payer.token(1024))
        await life.begin(ANN, "job", 400)
        assert await life.post.wallet.sweepable() == {box.mint.url: payable_sat(700)}

        async def get_invoice(sat: int) -> str:
            return box.mint.invoice(sat)

        (swept,) = await sweep(life.post.wallet, get_invoice)
        assert swept.sent_sat == payable_sat(700)
        left = await solvency(life.post.db)
        assert (left.owed_sat, left.short_sat, left.finding) == (1023, 0, None)
        assert await life.post.wallet.sweepable() == {}
        row = await life.till.payouts.begin(caller(ANN), Wish(ECASH))
        assert row.amount_sat + row.fee_sat == 1023 - 400


async def test_a_sweep_leaves_what_came_and_is_not_credited_yet(box: Box, payer: Payer) -> None:
    box.settings = box.settings.model_copy(update={"sweep_sat_above": 0})
    async with box.life() as life:
        await life.fund_post(700)
        shown = await life.till.deposits.ask(caller(ANN), 2000, client="here")
        box.mint.pay(shown.bolt11)
        await life.post.wallet.recover()  # as before every sweep: it claims what is paid
        assert await life.sats(ANN) == (0, 0)
        assert await life.post.wallet.sweepable() == {box.mint.url: payable_sat(700)}
        await life.till.deposits.look()
        assert await life.sats(ANN) == (2000, 0)
        assert await life.post.wallet.sweepable() == {box.mint.url: payable_sat(700)}


async def test_a_post_keeps_back_what_came_and_is_not_credited_yet(
    market: Market, settings: Settings
) -> None:
    settings = settings.model_copy(update={"sweep_sat_above": 0})
    memory: Any = {"connect": market.relay.connect, "transport": market.mint.transport}
    async with open_post(settings, clock=market.clock, **memory) as post:
        till = Till(post, settings, Callers(post.db, market.clock, ()))
        shown = await till.deposits.ask(caller(ANN), 2000, client="here")
        market.mint.pay(shown.bolt11)
        assert await post.wallet.claim(shown.row.quote_id or "")
        assert await post.wallet.sweepable() == {}
        async with wallet_on(settings, post.db) as alone:  # that of `tradepost wallet sweep`
            assert await alone.sweepable() == {}


async def test_what_is_owed_is_kept_back_once_of_all_mints(tmp_path: Path) -> None:
    mints = {url: MemoryMint(url) for url in ("https://one.test", "https://two.test")}
    async with (
        await Database.open(tmp_path / "post.sqlite", all_migrations()) as db,
        Wallet.open(
            db, SEED, clock=SystemClock(), mints=list(mints), transport=lambda url: mints[url].transport(url),
            caps=Caps(sweep_above_sat=0),
        ) as wallet,
    ):  # fmt: skip
        numbers = iter((count(100), count(200)))  # else their quotes are called the same
        for mint in mints.values():
            mint._numbers = next(numbers)
            quote = await wallet.mint_quote(mint.url, 500)
            mint.pay(quote.bolt11)
            await wallet.claim(quote.id)
        assert sum((await wallet.sweepable()).values()) == 1000
        async with db.transaction() as tx:
            await move(tx, caller(ANN).id, "deposit:x", Cause.DEPOSIT, now=0, free_sat=600)
        assert sum((await wallet.sweepable()).values()) == payable_sat(400)


async def test_without_callers_a_sweep_takes_all_as_before(box: Box) -> None:
    box.settings = box.settings.model_copy(update={"sweep_sat_above": 0})
    async with box.life() as life:
        await life.fund_post(700)
        assert await life.post.wallet.sweepable() == {box.mint.url: 700}


async def test_what_is_out_for_a_job_counts_and_what_is_spent_does_not(box: Box, payer: Payer) -> None:
    async with box.life() as life:
        await life.bring(ANN, await payer.token(512))
        job = await life.begin(ANN, "job", 100)
        await life.post.wallet.send(box.mint.url, 60)
        await life.order(job, 1, "paid", price=60, paid=61)
        out = await solvency(life.post.db)
        assert (out.owed_sat, out.locked_sat, out.short_sat) == (511, 61, 0)
        await life.post.wallet.send(box.mint.url, 100)  # the operator pays with what is not theirs
        short = await solvency(life.post.db)
        assert 100 <= short.short_sat <= 102
        assert f"wallet fund {short.short_sat}" in str(short.finding)


async def test_more_credited_than_an_operation_brought_is_found(box: Box, payer: Payer) -> None:
    async with box.life() as life:
        await life.bring(ANN, await payer.token(512))
        async with life.post.db.transaction() as tx:
            for table, column in (("ledger", "amount_msat"), ("accounts", "balance_msat")):
                what = f"caller/{caller(ANN).id}"
                await tx.execute(f"UPDATE {table} SET {column} = {column} - 1000 WHERE account = ?", what)
            await tx.execute(
                "UPDATE ledger SET amount_msat = amount_msat + 1000 WHERE account = 'outside' AND posting_id LIKE 'deposit:%'"
            )
            await tx.execute(
                "UPDATE accounts SET balance_msat = balance_msat + 1000 WHERE account = 'outside'"
            )
        (problem,) = (await life.post.wallet.audit()).problems
        assert "credited" in str(problem)


async def fill(life: Life, payer: Payer) -> None:
    await life.bring(ANN, await payer.token(512))
    await life.till.deposits.bring_token(KEYED, await payer.token(256))
    await life.begin(ANN, "job", 100)


async def test_every_caller_is_listed(box: Box, payer: Payer) -> None:
    async with box.life() as life:
        await fill(life, payer)
        found = {one.id: one for one in await all_callers(life.post.db)}
    ann, keyed = found[caller(ANN).id], found[KEYED.id]
    assert (ann.keys, ann.is_ticket, ann.balance_sat, ann.held_sat, ann.jobs) == ((), True, 411, 100, 1)
    assert (keyed.keys, keyed.is_ticket, keyed.balance_sat, keyed.jobs) == ((KEYED.key,), False, 255, 0)


async def test_the_operator_sees_them(home: Path, cli_beside: "AsyncCli") -> None:
    box = Box(home)
    async with box.payer(2000) as payer, box.life() as life:
        await fill(life, payer)
    ran = await cli_beside("callers")
    assert ran.code == 0
    head, *rows = (line.split() for line in ran.out.splitlines())
    assert head == ["caller", "known", "by", "balance", "held", "jobs", "since"]
    assert sorted(row[0] for row in rows) == sorted((caller(ANN).id[:12], KEYED.id[:12]))
    assert "766 sat are theirs, 766 sat are in the wallet" in ran.err
    told = {line["id"]: line for line in (await cli_beside("callers", "--json")).lines}
    assert (told[KEYED.id]["balance_sat"], told[KEYED.id]["keys"]) == (255, [KEYED.key])
    audit = await cli_beside("audit", "--offline")
    assert audit.code == 0
    assert "callers, theirs" in audit.out
    assert caller(ANN).id not in audit.out
    assert "callers have 766 sat here: 766 sat are in coins" in audit.err


async def test_an_audit_fails_if_callers_sats_are_not_there(home: Path, cli_beside: "AsyncCli") -> None:
    box = Box(home)
    async with box.payer(2000) as payer, box.life() as life:
        await fill(life, payer)
        await life.post.wallet.send(box.mint.url, 500)
    ran = await cli_beside("audit", "--offline", "--json")
    assert ran.code == 1
    callers = next(line["callers"] for line in ran.lines if "callers" in line)
    assert isinstance(callers, dict)
    assert callers["owed_sat"] == 766
    assert any("callers have 766 sat here" in str(line.get("problem")) for line in ran.lines)
    assert "wallet fund" in (await cli_beside("callers")).err
