"""The SQL of the books: postings, accounts, what an audit asks. The rest of the wallet's is in queries.py."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import orjson

from store import Database, Row, Transaction
from store.snapshot import Snapshot
from wallet import queries_escrows

if TYPE_CHECKING:
    from wallet.ledger import Posting

NAMED_MAX: Final = 50  # of each kind of fault an audit names so many, and counts the rest
Source = Database | Transaction | Snapshot


# --- posting ----------------------------------------------------------------------------------------------------------


async def insert_posting(tx: Transaction, posting: "Posting") -> bool:
    """Write a posting's head; False if its id is taken."""
    written = await tx.execute(
        "INSERT INTO postings (id, cause, op_id, job_id, posted_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        posting.id, posting.cause, posting.op_id, posting.job_id, posting.posted_at,
    )  # fmt: skip
    return written == 1


async def insert_entries(tx: Transaction, posting_id: str, entries: Mapping[str, int]) -> None:
    """Write a posting's entries, account → msat, and add them to the accounts."""
    await tx.execute_many(
        "INSERT INTO ledger (posting_id, account, amount_msat) VALUES (?, ?, ?)",
        [(posting_id, account, msat) for account, msat in entries.items()],
    )
    await tx.execute_many(
        "INSERT INTO accounts (account, balance_msat) VALUES (?, ?) ON CONFLICT (account)"
        " DO UPDATE SET balance_msat = accounts.balance_msat + excluded.balance_msat",
        entries.items(),
    )


async def entries(source: Source, posting_id: str) -> dict[str, int]:
    """The entries of one posting, account → msat; empty if there is none."""
    rows = await source.all("SELECT account, amount_msat FROM ledger WHERE posting_id = ?", posting_id)
    return {row["account"]: int(row["amount_msat"]) for row in rows}


async def balance_msat(source: Source, account: str) -> int:
    """What an account came to; 0 if nothing was ever posted there."""
    row = await source.one("SELECT balance_msat FROM accounts WHERE account = ?", account)
    return 0 if row is None else int(row["balance_msat"])


async def owed_to_callers_msat(source: Source) -> int:
    """What callers have here, and what is kept of theirs: not ours."""
    row = await source.one(
        "SELECT COALESCE(-SUM(balance_msat), 0) AS msat FROM accounts"
        " WHERE (account >= 'caller/' AND account < 'caller0') OR (account >= 'held/' AND account < 'held0')"
    )
    assert row is not None
    return int(row["msat"])


# --- mints that were given up -----------------------------------------------------------------------------------------


async def abandoned(source: Source) -> dict[str, int]:
    """Mint → msat that a posting took out of the books."""
    rows = await source.all("SELECT mint, amount_msat FROM wallet_abandoned")
    return {row["mint"]: int(row["amount_msat"]) for row in rows}


async def abandonment(tx: Transaction, mint: str) -> Row | None:
    """How a mint was given up; None if it was not."""
    return await tx.one("SELECT * FROM wallet_abandoned WHERE mint = ?", mint)


async def insert_abandoned(tx: Transaction, mint: str, posting_id: str, msat: int, now: int) -> None:
    """A mint is given up."""
    await tx.execute(
        "INSERT INTO wallet_abandoned (mint, posting_id, amount_msat, abandoned_at) VALUES (?, ?, ?, ?)",
        mint, posting_id, msat, now,
    )  # fmt: skip


async def delete_abandoned(tx: Transaction, mint: str) -> None:
    """A mint is one of ours again."""
    await tx.execute("DELETE FROM wallet_abandoned WHERE mint = ?", mint)


# --- exposure ---------------------------------------------------------------------------------------------------------


async def coming_sat(source: Source, mint: str) -> int:
    """Sat that operations under way will make ours at a mint, beside the coins of ours that they hold."""
    row = await source.one(
        "SELECT COALESCE(SUM(keep_sat), 0) AS sat FROM wallet_operations"
        " WHERE state IN ('planned', 'open') AND kind NOT IN ('send', 'melt') AND mint = ?",
        mint,
    )
    assert row is not None
    return int(row["sat"])


async def is_melting(source: Source, mint: str) -> bool:
    """Whether a Lightning payment is under way from a mint."""
    row = await source.one(
        "SELECT 1 FROM wallet_operations WHERE state IN ('planned', 'open') AND kind = 'melt' AND mint = ?",
        mint,
    )
    return row is not None


async def escrowed_sat(source: Source, mint: str) -> int:
    """Sat locked at a mint for jobs that have not ended, by us or for us: what the jobs cost."""
    # Asked for every job, while finished ones pile up: so that the index of the open ones serves it.
    rows = await source.all(
        "SELECT terms FROM escrows WHERE role <> 'arbiter' AND stage NOT IN ('proposed', 'agreed', 'locking')"  # noqa: S608 - our own words
        f" AND {queries_escrows.OPEN}"
    )
    terms = [orjson.loads(row["terms"]) for row in rows]
    return sum(one["price_sat"] for one in terms if one["mint"] == mint)


async def paid_into_escrow_sat(source: Source) -> int:
    """Sat of ours that are locked in escrow for jobs that have not ended: what the jobs cost."""
    rows = await source.all(
        f"SELECT terms FROM escrows WHERE role = 'customer' AND {queries_escrows.OPEN}"  # noqa: S608 - our own words
    )
    return sum(orjson.loads(row["terms"])["price_sat"] for row in rows)


# --- audit: each statement answers a few rows, however long the books are ---------------------------------------------


async def accounts(source: Source) -> dict[str, int]:
    """Every account's balance in msat as posting kept it."""
    rows = await source.all("SELECT account, balance_msat FROM accounts ORDER BY account")
    return {row["account"]: int(row["balance_msat"]) for row in rows}


async def unbalanced(source: Source) -> list[Row]:
    """Postings whose entries do not sum to zero: id, msat, job_id."""
    return await source.all(
        "SELECT posting_id AS id, msat, job_id FROM (SELECT posting_id, SUM(amount_msat) AS msat FROM ledger"
        " GROUP BY posting_id HAVING SUM(amount_msat) <> 0 LIMIT ?) AS wrong"
        " LEFT JOIN postings ON postings.id = posting_id",
        NAMED_MAX + 1,
    )


async def headless(source: Source) -> list[Row]:
    """Entries without a posting, and postings without entries: id."""
    return await source.all(
        "SELECT DISTINCT posting_id AS id FROM ledger WHERE NOT EXISTS"
        " (SELECT 1 FROM postings WHERE postings.id = ledger.posting_id)"
        " UNION ALL SELECT id FROM postings WHERE NOT EXISTS"
        " (SELECT 1 FROM ledger WHERE ledger.posting_id = postings.id) LIMIT ?",
        NAMED_MAX + 1,
    )


async def drifted(source: Source) -> list[Row]:
    """Accounts whose balance is not the sum of their entries: account, kept and summed msat."""
    return await source.all(
        "SELECT name AS account, COALESCE(balance_msat, 0) AS kept, msat AS summed FROM"
        " (SELECT account AS name, SUM(amount_msat) AS msat FROM ledger GROUP BY account) AS sums"
        " LEFT JOIN accounts ON accounts.account = name WHERE COALESCE(balance_msat, 0) <> msat"
        " UNION ALL SELECT account, balance_msat, 0 FROM accounts WHERE balance_msat <> 0"
        " AND NOT EXISTS (SELECT 1 FROM ledger WHERE ledger.account = accounts.account) LIMIT ?",
        NAMED_MAX + 1,
    )


# What an operation that ended should have posted to its mint's account. A lost one tells no amounts.
_MOVED_SAT: Final = (
    "(received_sat - CASE WHEN kind IN ('send', 'melt') THEN sent_sat + paid_fee_sat ELSE 0 END)"
)


async def misposted(source: Source) -> list[Row]:
    """Operations that ended and are not posted as they ended: op_id, job_id, mint, and sat that moved, msat posted."""
    return await source.all(
        f"SELECT o.op_id, o.job_id, o.mint, {_MOVED_SAT} AS moved_sat, COALESCE(l.amount_msat, 0) AS msat"  # noqa: S608 - a constant
        " FROM wallet_operations o"
        " LEFT JOIN ledger l ON l.posting_id = o.op_id AND l.account = 'mint/' || o.mint"
        f" WHERE o.state IN ('done', 'failed') AND COALESCE(l.amount_msat, 0) <> 1000 * {_MOVED_SAT} LIMIT ?",
        NAMED_MAX + 1,
    )


async def orphans(source: Source) -> list[Row]:
    """Postings that tell of an operation which did not end, or is not there: id, op_id, job_id."""
    return await source.all(
        "SELECT p.id, p.op_id, p.job_id FROM postings p LEFT JOIN wallet_operations o ON o.op_id = p.op_id"
        " WHERE p.op_id IS NOT NULL AND (o.op_id IS NULL OR o.state IN ('planned', 'open')) LIMIT ?",
        NAMED_MAX + 1,
    )


async def oversettled(source: Source) -> list[Row]:
    """Operations of which more was settled, or credited to callers, than they brought: op_id, job_id, msat,
    received_sat.
    """
    return await source.all(
        "SELECT p.op_id, MAX(p.job_id) AS job_id, SUM(l.amount_msat) AS msat, o.received_sat"
        " FROM postings p JOIN ledger l ON l.posting_id = p.id JOIN wallet_operations o ON o.op_id = p.op_id"
        " WHERE p.cause IN ('settlement', 'deposit') AND l.amount_msat > 0"
        " GROUP BY p.op_id, o.received_sat HAVING SUM(l.amount_msat) > 1000 * o.received_sat LIMIT ?",
        NAMED_MAX + 1,
    )


async def free_sat(source: Source) -> dict[str, int]:
    """Sat in our free coins, by mint."""
    rows = await source.all(
        "SELECT mint, SUM(amount) AS sat FROM wallet_proofs WHERE state = 'free' GROUP BY mint"
    )
    return {row["mint"]: int(row["sat"]) for row in rows}


async def busy_sat(source: Source) -> Counter[str]:
    """Sat in our coins inside operations under way, by mint. They are few, and grouping them in SQL would read all."""
    rows = await source.all(
        "SELECT mint, amount FROM wallet_proofs WHERE held_by IS NOT NULL AND state = 'reserved'"
    )
    sums: Counter[str] = Counter()
    for row in rows:
        sums[row["mint"]] += int(row["amount"])
    return sums


async def loose_coins(source: Source) -> list[Row]:
    """Coins of ours that no live operation holds: y, mint, amount, held_by."""
    return await source.all(
        "SELECT y, wallet_proofs.mint, amount, held_by FROM wallet_proofs"
        " LEFT JOIN wallet_operations o ON o.op_id = held_by WHERE held_by IS NOT NULL"
        " AND (o.op_id IS NULL OR o.state NOT IN ('planned', 'open')) LIMIT ?",
        NAMED_MAX + 1,
    )


async def missing_coins(source: Source, mint: str) -> list[Row]:
    """What a mint signed for us and is not here as it was signed: secret, wanted sat, op_id, job_id, found sat.

    Of each operation that ended and made coins, those of the attempt that was answered. Reads all of a mint's history.
    """
    return await source.all(
        "SELECT w.secret, w.amount AS wanted_sat, w.op_id, o.job_id, p.amount AS found_sat"
        " FROM wallet_outputs w JOIN wallet_operations o ON o.op_id = w.op_id"
        " LEFT JOIN wallet_proofs p ON p.made_by = w.op_id AND p.secret = w.secret"
        " WHERE o.mint = ? AND o.state IN ('done', 'failed') AND w.role = 'keep'"
        " AND (p.amount <> w.amount OR p.y IS NULL AND o.received_sat + o.sent_sat + o.paid_fee_sat > 0"
        " AND w.attempt = (SELECT MAX(v.attempt) FROM wallet_outputs v JOIN wallet_proofs q"
        " ON q.made_by = v.op_id AND q.secret = v.secret WHERE v.op_id = w.op_id)) LIMIT ?",
        mint, NAMED_MAX + 1,
    )  # fmt: skip


async def strange_coins(source: Source, mint: str) -> list[Row]:
    """Free coins that no operation which ended made: y, amount."""
    return await source.all(
        "SELECT p.y, p.amount FROM wallet_proofs p LEFT JOIN wallet_operations o ON o.op_id = p.made_by"
        " WHERE p.mint = ? AND p.state = 'free' AND (o.op_id IS NULL OR o.state = 'open') LIMIT ?",
        mint, NAMED_MAX + 1,
    )  # fmt: skip


async def free_coins(source: Source, mint: str) -> dict[str, tuple[int, str | None, str | None]]:
    """Our free coins at a mint by Y: amount, the operation that made it, its job."""
    rows = await source.all(
        "SELECT p.y, p.amount, p.made_by, o.job_id FROM wallet_proofs p"
        " LEFT JOIN wallet_operations o ON o.op_id = p.made_by WHERE p.mint = ? AND p.state = 'free'",
        mint,
    )
    return {row["y"]: (int(row["amount"]), row["made_by"], row["job_id"]) for row in rows}


async def is_free(source: Source, mint: str, y: str) -> bool:
    """Whether a coin is ours and free at this moment."""
    row = await source.one("SELECT 1 FROM wallet_proofs WHERE mint = ? AND y = ? AND state = 'free'", mint, y)
    return row is not None
