"""The books: postings balance, and an audit sees what does not fit."""

from hypothesis import given
from hypothesis import strategies as st

from tradepost.testing.mint import MemoryMint
from wallet.ledger import counter_account, posting
from wallet.proofs import Token
from wallet.wallet import Wallet


@given(own=st.integers(-(10**15), 10**15), fee=st.integers(0, 10**6), job=st.none() | st.text(min_size=1))
def test_postings_sum_to_zero(own: int, fee: int, job: str | None) -> None:
    entries = posting("https://m.test", own_sat=own, fee_sat=fee, counter=counter_account(job))
    assert sum(entries.values()) == 0
    assert entries.get("mint/https://m.test", 0) == 1000 * own
    assert entries.get("fees/mint", 0) == 1000 * fee
    assert 0 not in entries.values()


async def test_every_closed_operation_has_one_balanced_posting(
    mint: MemoryMint, alice: Wallet, bob: Wallet
) -> None:
    await bob.receive(await alice.send(mint.url, 100))
    await alice.pay(mint.url, mint.invoice(50))
    for wallet in (alice, bob):
        for entry in await wallet.history():
            rows = await wallet._desk.db.all("SELECT amount_msat FROM ledger WHERE op_id = ?", entry.op_id)
            assert rows
            assert sum(row["amount_msat"] for row in rows) == 0


async def test_jobs_have_accounts_of_their_own(mint: MemoryMint, alice: Wallet) -> None:
    plan = await alice.plan_send(mint.url, 100, op_id="s", purpose="escrow", job_id="j1")
    async with alice._desk.db.transaction() as tx:
        await alice.record(tx, plan)
    await alice.settle("s")
    accounts = (await alice.audit()).accounts
    assert accounts["jobs/j1"] == 100_000
    assert accounts["outside"] == -1_000_000


async def test_audit_sees_a_coin_too_many_and_an_entry_too_few(mint: MemoryMint, alice: Wallet) -> None:
    async with alice._desk.db.transaction() as tx:
        await tx.execute("UPDATE wallet_proofs SET amount = amount + 1 WHERE amount = 8")
        await tx.execute("UPDATE ledger SET amount_msat = amount_msat - 5 WHERE account = 'outside'")
    problems = (await alice.audit()).problems
    assert len(problems) == 2
    assert "do not balance" in problems[0]
    assert "in hand" in problems[1]


async def test_audit_asks_the_mints(mint: MemoryMint, alice: Wallet, bob: Wallet) -> None:
    row = await alice._desk.db.one("SELECT * FROM wallet_proofs WHERE amount = 512")
    from wallet.proofs import Proof

    await bob.receive(Token(mint.url, (Proof(512, row["keyset_id"], row["secret"], row["c"]),)))
    assert (await alice.audit()).ok
    report = await alice.audit(ask_mints=True)
    assert not report.ok
    assert "1 of our free coins" in report.problems[0]
