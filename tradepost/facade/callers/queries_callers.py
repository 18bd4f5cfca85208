"""The SQL of accounts: callers, their keys, the codes by which keys join, and how often each came."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from store import Database, Row, Transaction
from wallet.queries_escrows import OPEN

Source = Database | Transaction


@dataclass(frozen=True)
class KeyRow:
    """A key of an account, and what it may spend: for one job, and in a day; None for all that is there."""

    key: str
    caller: str
    name: str
    job_sat: int | None
    day_sat: int | None
    created_at: int

    @property
    def has_budget(self) -> bool:
        """Whether it may not spend all."""
        return self.job_sat is not None or self.day_sat is not None


@dataclass(frozen=True)
class Holdings:
    """What an account has here. `under_way`: jobs, escrows, deposits and withdrawals that may still change it."""

    balance_msat: int
    jobs: bool
    under_way: bool


# --- accounts ---------------------------------------------------------------------------------------------------------


async def insert_caller(tx: Transaction, caller: str, ticket: str | None, now: int) -> None:
    """Make an account, unless it is there. `ticket`: the hash, of one without keys."""
    await tx.execute(
        "INSERT INTO callers (id, ticket, created_at) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING",
        caller, ticket, now,
    )  # fmt: skip


async def page_of_callers(source: Source, after: str, limit: int) -> list[str]:
    """The ids of accounts that come after that one, in their order."""
    rows = await source.all("SELECT id FROM callers WHERE id > ? ORDER BY id LIMIT ?", after, limit)
    return [str(row["id"]) for row in rows]


async def idle_callers(source: Source, page: Sequence[str], *, before: int, now: int) -> list[str]:
    """Those accounts of a page (first to last) that are older, and without anything but keys and ended sessions."""
    if not page:
        return []
    rows = await source.all(
        "SELECT id FROM callers c WHERE id BETWEEN ? AND ? AND created_at < ?"
        " AND NOT EXISTS (SELECT 1 FROM accounts WHERE account = 'caller/' || c.id)"
        " AND NOT EXISTS (SELECT 1 FROM caller_jobs WHERE caller = c.id)"
        " AND NOT EXISTS (SELECT 1 FROM guarantees WHERE allowance = 'caller:' || c.id)"
        " AND NOT EXISTS (SELECT 1 FROM caller_deposits WHERE caller = c.id)"
        " AND NOT EXISTS (SELECT 1 FROM caller_withdrawals WHERE caller = c.id)"
        " AND NOT EXISTS (SELECT 1 FROM sessions WHERE caller = c.id AND ended IS NULL AND refresh_expires_at > ?)"
        " AND id NOT IN (SELECT caller FROM caller_links)"
        " AND id NOT IN (SELECT caller FROM logins WHERE caller IS NOT NULL)",
        page[0], page[-1], before, now,
    )  # fmt: skip
    return [str(row["id"]) for row in rows]


async def delete_caller(tx: Transaction, caller: str) -> None:
    """An account that is idle, with its keys."""
    await tx.execute("DELETE FROM caller_keys WHERE caller = ?", caller)
    await tx.execute("DELETE FROM callers WHERE id = ?", caller)


async def is_ticket(source: Source, ticket: str) -> bool:
    """Whether there is an account of that ticket, given as its hash."""
    return await source.one("SELECT 1 FROM callers WHERE ticket = ?", ticket) is not None


async def has_paid(source: Source, caller: str) -> bool:
    """Whether sats were ever credited to an account."""
    return await source.one("SELECT 1 FROM accounts WHERE account = ?", f"caller/{caller}") is not None


async def holdings(source: Source, caller: str) -> Holdings:
    """What an account has here, its jobs by the job store's own word too."""
    row = await source.one(
        "SELECT COALESCE((SELECT -balance_msat FROM accounts WHERE account = ?), 0) AS balance_msat,"  # noqa: S608 - ours
        " EXISTS (SELECT 1 FROM caller_jobs WHERE caller = ?)"
        " OR EXISTS (SELECT 1 FROM guarantees WHERE allowance = ?) AS jobs,"
        " EXISTS (SELECT 1 FROM caller_jobs WHERE caller = ? AND cost_sat IS NULL)"
        " OR EXISTS (SELECT 1 FROM caller_deposits WHERE caller = ? AND state = 'open')"
        " OR EXISTS (SELECT 1 FROM caller_withdrawals WHERE caller = ? AND state = 'open')"
        " OR EXISTS (SELECT 1 FROM guarantees g JOIN orders o ON o.guarantee_id = g.id"
        f" JOIN escrows e ON e.request_id = o.id WHERE g.allowance = ? AND e.role = 'customer' AND e.{OPEN})"
        " AS under_way",
        f"caller/{caller}", caller, f"caller:{caller}", caller, caller, caller, f"caller:{caller}",
    )  # fmt: skip
    assert row is not None
    return Holdings(int(row["balance_msat"]), bool(row["jobs"]), bool(row["under_way"]))


# --- keys -------------------------------------------------------------------------------------------------------------


async def account_of(source: Source, key: str) -> str | None:
    """The account a key is of; None if it is in no row."""
    row = await source.one("SELECT caller FROM caller_keys WHERE key = ?", key)
    return None if row is None else str(row["caller"])


async def key_row(source: Source, key: str) -> KeyRow | None:
    """A key and its budgets; None if it has left nothing here."""
    row = await source.one("SELECT * FROM caller_keys WHERE key = ?", key)
    return None if row is None else _key(row)


async def keys_of(source: Source, caller: str) -> list[KeyRow]:
    """The keys of an account, the oldest first."""
    rows = await source.all("SELECT * FROM caller_keys WHERE caller = ? ORDER BY created_at, key", caller)
    return [_key(row) for row in rows]


async def insert_key(tx: Transaction, key: str, caller: str, now: int) -> None:
    """A key of an account, without name or budgets."""
    await tx.execute("INSERT INTO caller_keys (key, caller, created_at) VALUES (?, ?, ?)", key, caller, now)


async def put_key(tx: Transaction, row: KeyRow) -> None:
    """A key as it is from now on, of whatever account it was."""
    await tx.execute(
        "INSERT INTO caller_keys (key, caller, name, job_sat, day_sat, created_at) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (key) DO UPDATE SET caller = excluded.caller, name = excluded.name,"
        " job_sat = excluded.job_sat, day_sat = excluded.day_sat, created_at = excluded.created_at",
        row.key, row.caller, row.name, row.job_sat, row.day_sat, row.created_at,
    )  # fmt: skip


def _key(row: Row) -> KeyRow:
    return KeyRow(**{name: row[name] for name in KeyRow.__dataclass_fields__})


async def hand_on_invoices(tx: Transaction, left: str, account: str) -> None:
    """Invoices that expired in an account that nobody has any more bring sats to another one, if they are paid yet."""
    await tx.execute(
        "UPDATE caller_deposits SET caller = ? WHERE caller = ? AND state = 'expired'", account, left
    )


# --- codes ------------------------------------------------------------------------------------------------------------


async def insert_link(tx: Transaction, code: str, caller: str, expires_at: int) -> None:
    """A code, given as its hash, by which a key joins an account."""
    await tx.execute(
        "INSERT INTO caller_links (code, caller, expires_at) VALUES (?, ?, ?)", code, caller, expires_at
    )


async def delete_links(tx: Transaction, caller: str, now: int) -> None:
    """No code of that account is good any more, nor any that has expired."""
    await tx.execute("DELETE FROM caller_links WHERE caller = ? OR expires_at <= ?", caller, now)


async def delete_old_links(tx: Transaction, now: int) -> None:
    """Forget the codes that have expired."""
    await tx.execute("DELETE FROM caller_links WHERE expires_at <= ?", now)


async def take_link(tx: Transaction, code: str, now: int) -> str | None:
    """The account that a code, given as its hash, opens; used up by this. None if there is no such code."""
    row = await tx.one(
        "DELETE FROM caller_links WHERE code = ? AND expires_at > ? RETURNING caller", code, now
    )
    return None if row is None else str(row["caller"])


# --- counts of requests -----------------------------------------------------------------------------------------------


async def add_counts(tx: Transaction, machine: str, counts: Mapping[tuple[int, str], int]) -> None:
    """Add what a machine counted, by minute and by who came."""
    await tx.execute_many(
        "INSERT INTO request_counts (period, who, machine, count) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (period, who, machine) DO UPDATE SET count = request_counts.count + excluded.count",
        [(period, who, machine, count) for (period, who), count in counts.items()],
    )


async def other_counts(source: Source, machine: str, *, since: int) -> dict[tuple[int, str], int]:
    """What all others counted from that minute on."""
    rows = await source.all(
        "SELECT period, who, SUM(count) AS count FROM request_counts WHERE period >= ? AND machine <> ?"
        " GROUP BY period, who",
        since, machine,
    )  # fmt: skip
    return {(int(row["period"]), row["who"]): int(row["count"]) for row in rows}


async def delete_counts(tx: Transaction, *, before: int) -> None:
    """Forget who came before that minute."""
    await tx.execute("DELETE FROM request_counts WHERE period < ?", before)
