"""The audit: right books pass whatever happened, and each planted fault is found and named."""

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from store import Database, load_migrations
from tradepost.testing.clock import ManualClock
from tradepost.testing.mint import Melts, MemoryMint
from wallet.books import AuditReport, Finding
from wallet.crypto import proof_y
from wallet.errors import WalletError
from wallet.ledger import Cause, Posting, counter_account, post, settle, unsettle
from wallet.proofs import Proof, Token
from wallet.seed import Seed
from wallet.wallet import Wallet

STEPS = ("fund", "send", "receive", "reclaim", "pay", "pay_fails", "pay_hangs", "job", "settle", "refund", "steal",
         "lose_answer", "rotate", "restore", "abandon", "recover")  # fmt: skip


class Story:
    """One wallet at one mint, and whatever can happen to it."""

    def __init__(self, wallet: Wallet, mint: MemoryMint) -> None:
        self.wallet, self.mint = wallet, mint
        self.tokens: list[Token] = []
        self.jobs: list[tuple[str, int]] = []
        self.count = 0

    def name(self, what: str) -> str:
        self.count += 1
        return f"{what}{self.count}"

    async def step(self, what: str, sat: int) -> None:
        with suppress(WalletError):  # refused: the books must be right then too
            await getattr(self, what)(sat)

    async def fund(self, sat: int) -> None:
        quote = await self.wallet.mint_quote(self.mint.url, sat)
        self.mint.pay(quote.bolt11)
        await self.wallet.claim(quote.id)

    async def send(self, sat: int) -> None:
        self.tokens.append(await self.wallet.send(self.mint.url, sat))

    async def receive(self, _sat: int) -> None:
        if self.tokens:
            await self.wallet.receive(self.tokens.pop())

    async def reclaim(self, sat: int) -> None:
        sent = self.name("sent")
        await self.wallet.plan_send(self.mint.url, sat, op_id=sent, purpose="test", job_id=sent, record=True)
        await self.wallet.settle(sent)
        plan = await self.wallet.plan_reclaim(sent, op_id=f"back:{sent}", purpose="test")
        async with self.wallet._desk.db.transaction() as tx:
            await self.wallet.record(tx, plan)
        await self.wallet.settle(plan.op_id)

    async def pay(self, sat: int) -> None:
        self.mint.lightning_fee_sat = sat % 3
        await self.wallet.pay(self.mint.url, self.mint.invoice(sat))

    async def pay_fails(self, sat: int) -> None:
        self.mint.melts = Melts.FAILED
        try:
            await self.pay(sat)
        finally:
            self.mint.melts = Melts.PAID

    async def pay_hangs(self, sat: int) -> None:
        self.mint.melts = Melts.PENDING
        try:
            await self.pay(sat)
        finally:
            self.mint.melts = Melts.PAID

    async def job(self, _sat: int) -> None:
        if self.tokens:
            name = self.name("job")
            plan = await self.wallet.plan_redeem(
                self.tokens.pop(), op_id=f"redeem:{name}", purpose="job payment", job_id=name, record=True
            )
            outcome = await self.wallet.settle(plan.op_id)
            self.jobs.append((name, outcome.received_sat))

    async def settle(self, sat: int) -> None:
        for name, received_sat in self.jobs:
            async with self.wallet._desk.db.transaction() as tx:
                await settle(
                    tx, name, source_account=counter_account(name), agent="a", amount_msat=1000 * received_sat,
                    fee_bps=sat, op_id=f"redeem:{name}", job_id=name, now=1,
                )  # fmt: skip

    async def refund(self, _sat: int) -> None:
        if self.jobs:
            name, _ = self.jobs[-1]
            async with self.wallet._desk.db.transaction() as tx:
                await unsettle(tx, name, job_id=name, now=2)

    async def steal(self, _sat: int) -> None:
        row = await self.wallet._desk.db.one("SELECT * FROM wallet_proofs WHERE state = 'free' LIMIT 1")
        if row is not None:
            thief = Proof(row["amount"], row["keyset_id"], row["secret"], row["c"])
            self.mint.spent[proof_y(thief.secret)] = thief
            await self.wallet.restore(self.mint.url)

    async def lose_answer(self, sat: int) -> None:
        self.mint.lose_answer("/v1/swap")
        await self.send(sat)

    async def rotate(self, sat: int) -> None:
        self.mint.rotate_keyset(100 * (sat % 4))

    async def restore(self, _sat: int) -> None:
        await self.wallet.restore(self.mint.url)

    async def abandon(self, _sat: int) -> None:
        self.mint.down = True
        await self.wallet.abandon(self.mint.url)
        self.mint.down = False

    async def recover(self, _sat: int) -> None:
        self.mint.finish_melt(paid=bool(self.count % 2))
        await self.wallet.recover()


async def told(path: Path, steps: list[tuple[str, int]]) -> None:
    """Take the steps on a new wallet; after each the books must be right."""
    clock = ManualClock()
    mint = MemoryMint(clock=clock)
    async with (
        await Database.open(path, load_migrations("wallet")) as db,
        Wallet.open(db, Seed.generate(), clock=clock, mints=[mint.url], transport=mint.transport) as wallet,
    ):
        story = Story(wallet, mint)
        await story.fund(1000)
        for what, sat in steps:
            await story.step(what, sat)
            report = await wallet.audit()
            assert report.ok, (what, [str(problem) for problem in report.problems])
            assert sum(report.accounts.values()) == 0
        mint.finish_melt(paid=True)
        await wallet.recover()
        await wallet.restore(mint.url)  # what was stolen while the mint was given up
        report = await wallet.audit(ask_mints=True)
        assert report.ok, [str(problem) for problem in report.problems]


@settings(max_examples=12, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 200)), max_size=12))
def test_whatever_happens_the_books_balance(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(told(Path(folder) / "story.db", steps))


async def test_each_step_at_least_once(tmp_path: Path) -> None:
    """What hypothesis may not draw in a few examples."""
    steps = [("send", 50), ("job", 1), ("settle", 333), ("refund", 1)] + [(what, 21) for what in STEPS]
    await told(tmp_path / "all.db", [*steps, ("receive", 1), ("recover", 1)])


# --- planted faults ---------------------------------------------------------------------------------------------------


async def busy(wallet: Wallet, mint: MemoryMint) -> str:
    """A job's coins come and are settled; returns the operation that brought them."""
    token = await wallet.send(mint.url, 100)
    plan = await wallet.plan_redeem(token, op_id="redeem:p", purpose="job payment", job_id="j", record=True)
    received_sat = (await wallet.settle(plan.op_id)).received_sat
    async with wallet._desk.db.transaction() as tx:
        await settle(
            tx, "p", source_account="jobs/j", agent="a", amount_msat=1000 * received_sat, fee_bps=500,
            op_id="redeem:p", job_id="j", now=1,
        )  # fmt: skip
    return plan.op_id


async def write(wallet: Wallet, sql: str, *values: str | int) -> None:
    async with wallet._desk.db.transaction() as tx:
        assert await tx.execute(sql, *values)


def found(report: AuditReport, text: str) -> Finding:
    assert not report.ok
    named = [problem for problem in report.problems if text in problem.text]
    assert len(named) == 1, [str(problem) for problem in report.problems]
    return named[0]


async def test_right_books_have_no_problems(alice: Wallet, mint: MemoryMint) -> None:
    await busy(alice, mint)
    report = await alice.audit(ask_mints=True)
    assert report.problems == ()
    (one,) = report.mints
    held = (await alice.balance())[mint.url]
    assert (one.mint, one.in_hand_sat, one.busy_sat, one.booked_msat) == (mint.url, held, 0, 1000 * held)
    assert (one.abandoned_msat, one.answer) == (0, "agrees")


async def test_a_missing_entry(alice: Wallet, mint: MemoryMint) -> None:
    await busy(alice, mint)
    await write(alice, "DELETE FROM ledger WHERE posting_id = 'settle:p' AND account = 'fees/post'")
    report = await alice.audit()
    problem = found(report, "do not balance")
    assert (problem.posting, problem.job) == ("settle:p", "j")
    assert "they leave " in problem.text
    assert "account fees/post says" in found(report, "account fees/post").text


async def test_a_missing_posting(alice: Wallet, mint: MemoryMint) -> None:
    op_id = await busy(alice, mint)
    for table, column in (("ledger", "posting_id"), ("postings", "id")):
        await write(alice, f"DELETE FROM {table} WHERE {column} = ?", op_id)
    report = await alice.audit()
    problem = found(report, f"operation {op_id} moved")
    assert (problem.posting, problem.job, problem.mint) == (op_id, "j", mint.url)
    assert problem.text.endswith("posted are 0 msat")


async def test_a_changed_amount(alice: Wallet, mint: MemoryMint) -> None:
    op_id = await busy(alice, mint)
    account = f"mint/{mint.url}"
    sql = "UPDATE ledger SET amount_msat = amount_msat + 5 WHERE posting_id = ? AND account = ?"
    await write(alice, sql, op_id, account)
    report = await alice.audit()
    assert found(report, "they leave 5 msat").posting == op_id
    assert found(report, "posted are").posting == op_id
    assert found(report, f"account {account} says")
    # Both sides changed: it balances, and is still not what the operation did.
    await write(alice, sql.replace("+ 5", "- 5"), op_id, "jobs/j")
    report = await alice.audit()
    assert not any("they leave" in problem.text for problem in report.problems)
    assert found(report, "posted are").posting == op_id


async def test_a_changed_balance(alice: Wallet, mint: MemoryMint) -> None:
    await busy(alice, mint)
    await write(alice, "UPDATE accounts SET balance_msat = balance_msat + 7 WHERE account = 'outside'")
    await write(alice, "INSERT INTO accounts VALUES ('nobody', 3)")
    report = await alice.audit()
    assert "its entries add up to -900000" in found(report, "account outside says -899993 msat").text
    assert "its entries add up to 0" in found(report, "account nobody says 3 msat").text
    assert found(report, "all accounts together leave 10 msat")


async def test_entries_without_a_posting_and_a_posting_without_entries(
    alice: Wallet, mint: MemoryMint
) -> None:
    await busy(alice, mint)
    await write(alice, "DELETE FROM postings WHERE id = 'settle:p'")
    await write(alice, "INSERT INTO postings VALUES ('empty', 'escrow', NULL, NULL, 1)")
    problems = (await alice.audit()).problems
    assert [problem.posting for problem in problems] == ["settle:p", "empty"]


async def test_a_posting_without_its_operation(alice: Wallet, mint: MemoryMint) -> None:
    async with alice._desk.db.transaction() as tx:
        await post(tx, Posting("ghost", Cause.OPERATION, {"outside": 5, "lost": -5}, 1, "nowhere", "j"))
    problem = found(await alice.audit(), "posting ghost tells of operation nowhere")
    assert (problem.posting, problem.job) == ("ghost", "j")


async def test_more_settled_than_came(alice: Wallet, mint: MemoryMint) -> None:
    op_id = await busy(alice, mint)
    async with alice._desk.db.transaction() as tx:
        await settle(
            tx,
            "again",
            source_account="jobs/j",
            agent="a",
            amount_msat=1,
            fee_bps=500,
            op_id=op_id,
            job_id="j",
            now=1,
        )
    assert found(await alice.audit(), "msat were settled or credited, and it brought").job == "j"


async def test_a_coin_that_is_gone(alice: Wallet, mint: MemoryMint) -> None:
    op_id = await busy(alice, mint)
    row = await alice._desk.db.one("SELECT * FROM wallet_proofs WHERE made_by = ? LIMIT 1", op_id)
    await write(alice, "DELETE FROM wallet_proofs WHERE y = ?", row["y"])
    report = await alice.audit()
    assert found(report, f"sat in hand at {mint.url}").mint == mint.url
    problem = found(report, "is gone")
    assert (problem.mint, problem.posting, problem.job) == (mint.url, op_id, "j")
    assert problem.coins == (row["y"][:12],)
    assert f"a coin of {row['amount']} sat" in problem.text


async def test_a_coin_of_another_amount(alice: Wallet, mint: MemoryMint) -> None:
    row = await alice._desk.db.one("SELECT * FROM wallet_proofs WHERE amount = 8")
    await write(alice, "UPDATE wallet_proofs SET amount = 9 WHERE amount = 8")
    report = await alice.audit()
    assert [problem.coins for problem in report.problems] == [(), (row["y"][:12],)]
    assert "is here with 9 sat" in report.problems[1].text


async def test_a_coin_from_nowhere(alice: Wallet, mint: MemoryMint) -> None:
    await write(
        alice,
        "INSERT INTO wallet_proofs (mint, y, state, keyset_id, amount, secret, c) VALUES (?, ?, 'free', 'k', 4, 's', 'c')",
        mint.url, "02" + "f" * 64,
    )  # fmt: skip
    assert found(await alice.audit(), "was made by no operation").coins == ("02ffffffffff",)


async def test_a_coin_held_by_nobody(alice: Wallet, mint: MemoryMint) -> None:
    row = await alice._desk.db.one("SELECT * FROM wallet_operations LIMIT 1")
    await write(
        alice, "UPDATE wallet_proofs SET state = 'reserved', held_by = ? WHERE amount = 8", row["op_id"]
    )
    report = await alice.audit()
    assert len(report.problems) == 1
    assert found(report, f"8 sat at {mint.url} are held by operation {row['op_id']}").coins


async def test_a_coin_spent_behind_our_back(alice: Wallet, bob: Wallet, mint: MemoryMint) -> None:
    row = await alice._desk.db.one("SELECT * FROM wallet_proofs WHERE amount = 512")
    await bob.receive(Token(mint.url, (Proof(512, row["keyset_id"], row["secret"], row["c"]),)))
    assert (await alice.audit()).ok
    report = await alice.audit(ask_mints=True)
    (problem,) = report.problems
    assert problem.text == f"{mint.url} says that a free coin of 512 sat is spent"
    assert (problem.mint, problem.posting, problem.coins) == (mint.url, row["made_by"], (row["y"][:12],))
    assert "tradepost restore" in problem.step
    assert str(problem) == f"{problem.text}; {problem.step}"
    assert report.mints[0].answer == "differs"
    await alice.restore(mint.url)
    report = await alice.audit(ask_mints=True)
    assert report.ok
    assert report.accounts["lost"] == 512_000


async def test_a_mint_that_does_not_answer(alice: Wallet, mint: MemoryMint) -> None:
    mint.down = True
    report = await alice.audit(ask_mints=True)
    (problem,) = report.problems
    assert problem.text.startswith(
        f"{mint.url} does not say whether the 1000 sat there are unspent: they are at risk"
    )
    assert f"tradepost wallet abandon {mint.url}" in problem.step
    assert report.mints[0].answer == "silent"
    assert (await alice.audit()).ok


async def test_coins_spent_by_ourselves_meanwhile_are_no_fault(alice: Wallet, mint: MemoryMint) -> None:
    """An agent goes on while its books are audited from another process."""
    ask = mint.request

    async def spend_first(method: str, path: str, body: dict | None) -> object:
        if path == "/v1/checkstate" and mint.request is not ask:
            mint.request = ask
            await alice.send(mint.url, 700)
        return await ask(method, path, body)

    mint.request = spend_first
    assert (await alice.audit(ask_mints=True)).ok


async def test_many_faults_are_counted_and_not_all_named(alice: Wallet) -> None:
    async with alice._desk.db.transaction() as tx:
        await tx.execute_many(
            "INSERT INTO postings VALUES (?, 'escrow', NULL, NULL, 1)", [(f"empty {n}",) for n in range(60)]
        )
    problems = (await alice.audit()).problems
    assert len(problems) == 51
    assert problems[-1].text == "there are more postings that are not whole than these 50"
