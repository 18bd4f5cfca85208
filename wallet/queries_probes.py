"""The SQL of probes: which locks a mint was seen to enforce."""

from dataclasses import dataclass

from store import Database, Row, Transaction
from wallet.operations import Enforced


@dataclass(frozen=True)
class Run:
    """A probe of one mint, under way while `found.checked_at` is None. `id` names its operations and keys."""

    mint: str
    id: str
    locktime: int
    found: Enforced


async def find(db: Database, mint: str, version: str) -> Run | None:
    """The probe of this version of a mint, done or under way."""
    row = await db.one("SELECT * FROM wallet_probes WHERE mint = ? AND version = ?", mint, version)
    return None if row is None else _run(row)


async def under_way(db: Database, mint: str) -> list[Run]:
    """Every run at a mint that has no result yet, whatever the version."""
    rows = await db.all("SELECT * FROM wallet_probes WHERE mint = ? AND checked_at IS NULL", mint)
    return [_run(row) for row in rows]


async def insert(tx: Transaction, run: Run) -> None:
    """Begin a run. There is none of this mint and version."""
    await tx.execute(
        "INSERT INTO wallet_probes (mint, version, run, locktime) VALUES (?, ?, ?, ?)",
        run.mint, run.found.version, run.id, run.locktime,
    )  # fmt: skip


async def end(tx: Transaction, run_id: str, found: Enforced) -> None:
    """Write down what a run found."""
    await tx.execute(
        "UPDATE wallet_probes SET p2pk = ?, multisig = ?, refund = ?, htlc = ?, checked_at = ? WHERE run = ?",
        int(found.p2pk), int(found.multisig), int(found.refund), int(found.htlc), found.checked_at, run_id,
    )  # fmt: skip


async def drop(tx: Transaction, run_id: str) -> None:
    """Forget a run that can have no result."""
    await tx.execute("DELETE FROM wallet_probes WHERE run = ?", run_id)


def _run(row: Row) -> Run:
    found = Enforced(
        row["version"], bool(row["p2pk"]), bool(row["multisig"]), bool(row["refund"]), bool(row["htlc"]),
        row["checked_at"],
    )  # fmt: skip
    return Run(row["mint"], row["run"], row["locktime"], found)
