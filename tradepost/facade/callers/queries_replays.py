"""The SQL of the mark behind which signatures were taken."""

from store import Database, Transaction


async def taken_until(db: Database) -> int:
    """No signature made after this time (unix seconds) was ever taken; 0 if none was at all."""
    row = await db.one("SELECT until FROM signatures_taken")
    return 0 if row is None else int(row["until"])


async def set_taken_until(tx: Transaction, until: int) -> None:
    """Move the mark."""
    await tx.execute(
        "INSERT INTO signatures_taken (one, until) VALUES (1, ?)"
        " ON CONFLICT (one) DO UPDATE SET until = excluded.until",
        until,
    )
