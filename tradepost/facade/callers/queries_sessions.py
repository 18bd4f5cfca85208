"""The SQL of sessions, and of the logins that begin them. Tokens, here and in the tables, are hashes."""

from dataclasses import dataclass, field
from enum import StrEnum

from store import Database, Row, Transaction

Source = Database | Transaction


class Ended(StrEnum):
    """Why a session is over before its time."""

    SIGNED_OUT = "signed_out"
    KEY_GONE = "key_gone"  # its key joined another account, or was removed
    CROWDED_OUT = "crowded_out"  # by newer sessions of its account
    REUSED = "reused"  # a refresh token was shown twice
    WORN_OUT = "worn_out"  # refreshed too often
    RESTORED = "restored"  # the post came from a backup: tokens that were replaced since would be good again


@dataclass(frozen=True)
class SessionRow:
    """A session."""

    id: str
    caller: str
    key: str
    access: str = field(repr=False)
    access_expires_at: int
    refresh: str = field(repr=False)
    refresh_expires_at: int
    created_at: int
    ended: Ended | None = None


@dataclass(frozen=True)
class LoginRow:
    """A challenge for a wallet. `client`: who asked; `key`: the wallet's, once it has signed."""

    k1: str = field(repr=False)
    poll: str = field(repr=False)
    client: str
    caller: str | None
    key: str | None
    expires_at: int


# --- sessions ---------------------------------------------------------------------------------------------------------


async def insert_session(tx: Transaction, row: SessionRow) -> None:
    """A session begins."""
    await tx.execute(
        "INSERT INTO sessions (id, caller, key, access, access_expires_at, refresh, refresh_expires_at, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        row.id, row.caller, row.key, row.access, row.access_expires_at, row.refresh, row.refresh_expires_at,
        row.created_at,
    )  # fmt: skip


async def session_of_access(source: Source, access: str) -> SessionRow | None:
    """The session of an access token, whether or not it is still good."""
    return _session(await source.one("SELECT * FROM sessions WHERE access = ?", access))


async def session_of_refresh(source: Source, refresh: str) -> SessionRow | None:
    """The session whose next refresh token this is, whether or not it is still good."""
    return _session(await source.one("SELECT * FROM sessions WHERE refresh = ?", refresh))


async def session_of_used(source: Source, refresh: str) -> SessionRow | None:
    """The session of which this refresh token was used."""
    return _session(
        await source.one(
            "SELECT sessions.* FROM sessions_used JOIN sessions ON sessions.id = sessions_used.session"
            " WHERE sessions_used.refresh = ?",
            refresh,
        )
    )


async def is_live(source: Source, session: str, now: int) -> bool:
    """Whether a session, by its id, can be used or refreshed."""
    return (
        await source.one(
            "SELECT 1 FROM sessions WHERE id = ? AND ended IS NULL AND refresh_expires_at > ?", session, now
        )
        is not None
    )


async def live_sessions(source: Source, caller: str, now: int) -> list[SessionRow]:
    """Those of an account that can be used or refreshed, the newest first."""
    rows = await source.all(
        "SELECT * FROM sessions WHERE caller = ? AND ended IS NULL AND refresh_expires_at > ?"
        " ORDER BY created_at DESC, id",
        caller, now,
    )  # fmt: skip
    return [row for found in rows if (row := _session(found))]


async def rotate(tx: Transaction, old: SessionRow, new: SessionRow) -> None:
    """A session goes on with new tokens; the old refresh token is one that was used."""
    await tx.execute(
        "UPDATE sessions SET access = ?, access_expires_at = ?, refresh = ?, refresh_expires_at = ? WHERE id = ?",
        new.access, new.access_expires_at, new.refresh, new.refresh_expires_at, old.id,
    )  # fmt: skip
    await tx.execute(
        "INSERT INTO sessions_used (refresh, session, expires_at) VALUES (?, ?, ?)",
        old.refresh, old.id, old.refresh_expires_at,
    )  # fmt: skip


async def used_count(tx: Transaction, session: str, now: int) -> int:
    """How many refresh tokens of a session were used that would be good still; older ones are forgotten."""
    await tx.execute("DELETE FROM sessions_used WHERE session = ? AND expires_at <= ?", session, now)
    row = await tx.one("SELECT COUNT(*) AS used FROM sessions_used WHERE session = ?", session)
    return int(row["used"]) if row else 0


async def end_session(tx: Transaction, session: str, why: Ended) -> None:
    """Neither of its tokens is good any more. Why it ended first stays."""
    await tx.execute("UPDATE sessions SET ended = ? WHERE id = ? AND ended IS NULL", why, session)


async def end_sessions_of_key(tx: Transaction, caller: str, key: str) -> None:
    """All sessions that a key began with that account are over."""
    await tx.execute(
        "UPDATE sessions SET ended = ? WHERE caller = ? AND key = ? AND ended IS NULL",
        Ended.KEY_GONE, caller, key,
    )  # fmt: skip


async def end_all_sessions(tx: Transaction, why: Ended) -> None:
    """No token of anybody is good any more."""
    await tx.execute("UPDATE sessions SET ended = ? WHERE ended IS NULL", why)


async def delete_old_sessions(tx: Transaction, now: int, limit: int) -> None:
    """Forget sessions that nobody can refresh any more; some at a time."""
    rows = await tx.all("SELECT id FROM sessions WHERE refresh_expires_at <= ? LIMIT ?", now, limit)
    old = [(row["id"],) for row in rows]
    await tx.execute_many("DELETE FROM sessions_used WHERE session = ?", old)
    await tx.execute_many("DELETE FROM sessions WHERE id = ?", old)


async def delete_sessions_of(tx: Transaction, caller: str) -> None:
    """Forget all sessions of an account, which are over."""
    await tx.execute(
        "DELETE FROM sessions_used WHERE session IN (SELECT id FROM sessions WHERE caller = ?)", caller
    )
    await tx.execute("DELETE FROM sessions WHERE caller = ?", caller)


def _session(row: Row | None) -> SessionRow | None:
    if row is None:
        return None
    values = {name: row[name] for name in SessionRow.__dataclass_fields__}
    return SessionRow(**values | {"ended": row["ended"] and Ended(row["ended"])})


# --- logins -----------------------------------------------------------------------------------------------------------


async def insert_login(tx: Transaction, row: LoginRow) -> None:
    """A challenge is about to be shown."""
    await tx.execute(
        "INSERT INTO logins (k1, poll, client, caller, expires_at) VALUES (?, ?, ?, ?, ?)",
        row.k1, row.poll, row.client, row.caller, row.expires_at,
    )  # fmt: skip


async def delete_old_logins(tx: Transaction, now: int) -> None:
    """Forget challenges whose time is over."""
    await tx.execute("DELETE FROM logins WHERE expires_at <= ?", now)


async def count_logins(tx: Transaction, client: str) -> tuple[int, int]:
    """How many challenges are open: of one address, and in all."""
    row = await tx.one(
        "SELECT (SELECT COUNT(*) FROM logins WHERE client = ?) AS own, (SELECT COUNT(*) FROM logins) AS total",
        client,
    )
    assert row is not None
    return int(row["own"]), int(row["total"])


async def delete_links_by_login(tx: Transaction, caller: str) -> None:
    """No wallet's key joins that account any more by a challenge that is open."""
    await tx.execute("DELETE FROM logins WHERE caller = ? AND key IS NULL", caller)


async def login_of_poll(source: Source, poll: str) -> LoginRow | None:
    """A challenge, by the secret of the browser that asked for it."""
    return _login(await source.one("SELECT * FROM logins WHERE poll = ?", poll))


async def sign_login(tx: Transaction, k1: str, key: str, now: int) -> LoginRow | None:
    """A wallet has signed this challenge; None if there is none such, if one had already, or if time is over."""
    return _login(
        await tx.one(
            "UPDATE logins SET key = ? WHERE k1 = ? AND key IS NULL AND expires_at > ? RETURNING *",
            key,
            k1,
            now,
        )
    )


async def take_login(tx: Transaction, poll: str, now: int) -> LoginRow | None:
    """The challenge of that browser if a wallet has signed it; there is no such challenge any more."""
    return _login(
        await tx.one(
            "DELETE FROM logins WHERE poll = ? AND key IS NOT NULL AND expires_at > ? RETURNING *", poll, now
        )
    )


def _login(row: Row | None) -> LoginRow | None:
    return None if row is None else LoginRow(**{name: row[name] for name in LoginRow.__dataclass_fields__})
