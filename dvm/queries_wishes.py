"""The SQL of what became of our owner's wishes. Table: migrations/0005_wishes.sql."""

from typing import Final

from store import Database, Transaction

KEPT_SECONDS: Final = 86_400


async def answer(tx: Transaction, wrap_id: str, refused: str, *, now: int) -> None:
    """Note what became of the wish that came in that gift wrap; `refused` says why it was not done, "" that it was."""
    await tx.execute("DELETE FROM wishes WHERE answered_at < ?", now - KEPT_SECONDS)
    await tx.execute(
        "INSERT INTO wishes (id, refused, answered_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        wrap_id, refused, now,
    )  # fmt: skip


async def answer_of(db: Database, wrap_id: str) -> str | None:
    """Why that wish was refused, "" if it was done, None if nobody has looked at it yet."""
    row = await db.one("SELECT refused FROM wishes WHERE id = ?", wrap_id)
    return None if row is None else str(row["refused"])
