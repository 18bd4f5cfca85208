"""The SQL of keys that a log of ours was handed on to or from. Table: migrations/0008_reputation.sql."""

from dataclasses import dataclass

from store import Database, Row, Transaction


@dataclass(frozen=True)
class KeyRow:
    """Key number `number` of a log, counted from 0; `agent` is its short name here.

    It counts from `since` (seconds since 1970; 0 for the first) to `until`, which is None for the current one.
    """

    key: str
    log: str
    number: int
    agent: str
    since: int = 0
    until: int | None = None


async def get(source: Database | Transaction, key: str) -> KeyRow | None:
    """One key; None for a log with a single key, too."""
    row = await source.one("SELECT * FROM agent_keys WHERE key = ?", key)
    return _key(row) if row else None


async def of_log(source: Database | Transaction, log: str) -> list[KeyRow]:
    """All keys of a log, the first one first; none of one with a single key."""
    rows = await source.all("SELECT * FROM agent_keys WHERE log = ? ORDER BY number", log)
    return [_key(row) for row in rows]


async def of_agent(source: Database | Transaction, agent: str) -> list[KeyRow]:
    """All keys that were handed on or to, of all logs of the agent with that short name."""
    rows = await source.all("SELECT * FROM agent_keys WHERE agent = ? ORDER BY log, number", agent)
    return [_key(row) for row in rows]


async def of_post(source: Database | Transaction) -> list[KeyRow]:
    """All keys that the agents of this post were handed on from or to."""
    rows = await source.all("SELECT * FROM agent_keys ORDER BY agent, log, number")
    return [_key(row) for row in rows]


async def put(tx: Transaction, row: KeyRow) -> None:
    """Store a key, or until when it counts."""
    await tx.execute(
        "INSERT INTO agent_keys (key, log, number, agent, since, until) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (key) DO UPDATE SET until = excluded.until",
        row.key, row.log, row.number, row.agent, row.since, row.until,
    )  # fmt: skip


def _key(row: Row) -> KeyRow:
    return KeyRow(**{name: row[name] for name in KeyRow.__dataclass_fields__})
