"""The SQL of receipts: what is in our agents' logs and what of it is published. The rest of dvm's is in queries.py."""

from dataclasses import dataclass
from typing import Final

from identity import Event, parse_event
from identity.roots import Head
from store import Database, Row, Transaction

NEVER: Final = -1  # instead of a leaf's number: there is nothing to log

#: The very words of the index `jobs_unlogged`, which serves no others.
_UNLOGGED: Final = (
    "price_msat > 0 AND leaf IS NULL AND state IN ('done', 'returned', 'cancelled', 'failed', 'expired')"
)


@dataclass(frozen=True)
class ReviewRow:
    """A customer's review of a job of `agent`; `leaf` is its number in the agent's log, once it is there."""

    id: str
    agent: str
    request_id: str
    event: Event
    answer: str
    leaf: int | None
    created_at: int


# Leaves ----------------------------------------------------------------------------------------------------------


async def number_of(tx: Transaction, log: str, subject: str) -> int | None:
    """The number of the leaf about a subject; None if there is none."""
    row = await tx.one("SELECT number FROM logged WHERE log = ? AND subject = ?", log, subject)
    return row["number"] if row else None


async def note_leaf(tx: Transaction, log: str, subject: str, number: int) -> None:
    """Note that a leaf is about that subject; the first one stays."""
    await tx.execute(
        "INSERT INTO logged (log, subject, number) VALUES (?, ?, ?) ON CONFLICT (log, subject) DO NOTHING",
        log, subject, number,
    )  # fmt: skip


# Jobs ------------------------------------------------------------------------------------------------------------


async def unlogged_jobs(
    db: Database, agent: str, after: tuple[int, str], limit: int
) -> list[tuple[int, str]]:
    """When some jobs began, and their ids: those that have ended and are not in the log, after the one named."""
    rows = await db.all(
        f"SELECT created_at, id FROM jobs WHERE agent = ? AND {_UNLOGGED}"  # noqa: S608 - our own words
        " AND (created_at > ? OR (created_at = ? AND id > ?)) ORDER BY created_at, id LIMIT ?",
        agent, after[0], after[0], after[1], limit,
    )  # fmt: skip
    return [(row["created_at"], row["id"]) for row in rows]


async def log_job(tx: Transaction, agent: str, job_id: str, leaf: int) -> bool:
    """Note a job's number in the log; False if it has one."""
    return bool(
        await tx.execute(
            "UPDATE jobs SET leaf = ? WHERE agent = ? AND id = ? AND leaf IS NULL", leaf, agent, job_id
        )
    )


# Reviews ---------------------------------------------------------------------------------------------------------


async def insert_review(tx: Transaction, review: ReviewRow, *, most: int = 1) -> bool:
    """Keep a review; False if it is kept, or so many of that job are."""
    return bool(
        await tx.execute(
            "INSERT INTO reviews (id, agent, request_id, event, answer, leaf, created_at)"
            " SELECT ?, ?, ?, ?, ?, ?, ? WHERE"
            " (SELECT COUNT(*) FROM reviews WHERE agent = ? AND request_id = ?) < ? ON CONFLICT (id) DO NOTHING",
            review.id, review.agent, review.request_id, review.event.to_json().decode(), review.answer, review.leaf,
            review.created_at, review.agent, review.request_id, most,
        )
    )  # fmt: skip


async def review_of(source: Database | Transaction, agent: str, request_id: str) -> ReviewRow | None:
    """The review of one job, the first that came if there are several."""
    row = await source.one(
        "SELECT * FROM reviews WHERE agent = ? AND request_id = ? ORDER BY created_at, id LIMIT 1",
        agent, request_id,
    )  # fmt: skip
    return _review(row) if row else None


async def unlogged_reviews(db: Database, agent: str, limit: int) -> list[ReviewRow]:
    """Reviews of jobs that are in the log, and are not in it themselves, or not as they are answered now."""
    rows = await db.all(
        "SELECT r.* FROM reviews r JOIN jobs j ON j.agent = r.agent AND j.id = r.request_id"
        " WHERE r.agent = ? AND r.leaf IS NULL AND j.leaf >= 0 ORDER BY r.created_at, r.id LIMIT ?",
        agent, limit,
    )  # fmt: skip
    return [_review(row) for row in rows]


async def log_review(tx: Transaction, review: ReviewRow, leaf: int) -> bool:
    """Note a review's number in the log; False if it has one, or has been answered since."""
    return bool(
        await tx.execute(
            "UPDATE reviews SET leaf = ? WHERE id = ? AND leaf IS NULL AND answer = ?",
            leaf, review.id, review.answer,
        )
    )  # fmt: skip


async def answer_review(tx: Transaction, review: ReviewRow, answer: str) -> bool:
    """Answer a review, so that it comes into the log anew; False if it was answered."""
    return bool(
        await tx.execute(
            "UPDATE reviews SET answer = ?, leaf = NULL WHERE id = ? AND answer = ''", answer, review.id
        )
    )


def _review(row: Row) -> ReviewRow:
    return ReviewRow(
        id=row["id"], agent=row["agent"], request_id=row["request_id"], event=parse_event(row["event"]),
        answer=row["answer"], leaf=row["leaf"], created_at=row["created_at"],
    )  # fmt: skip


# Roots -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """The newest root of a log that went out, and the `created_at` of its events."""

    head: Head
    created_at: int


async def last_published(source: Database | Transaction, log: str) -> Published | None:
    """The newest root of a log that we published."""
    row = await source.one(
        "SELECT size, root, created_at FROM published_roots WHERE log = ? ORDER BY size DESC LIMIT 1", log
    )
    return Published(Head(row["size"], row["root"]), row["created_at"]) if row else None


async def note_published(tx: Transaction, log: str, head: Head, event: Event) -> None:
    """Note what goes out with this transaction: the root's regular event."""
    await tx.execute(
        "INSERT INTO published_roots (log, size, root, event_id, created_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (log, size) DO UPDATE SET event_id = excluded.event_id, created_at = excluded.created_at",
        log, head.size, head.root, event.id, event.created_at,
    )  # fmt: skip


async def given(source: Database | Transaction, log: str, key: str) -> dict[str, int]:
    """How many leaves of a log each relay was given under a key."""
    rows = await source.all("SELECT relay, size FROM given_leaves WHERE log = ? AND key = ?", log, key)
    return {row["relay"]: row["size"] for row in rows}


async def note_given(tx: Transaction, log: str, key: str, relay: str, size: int) -> None:
    """Note how many that is now."""
    await tx.execute(
        "INSERT INTO given_leaves (log, key, relay, size) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (log, key, relay) DO UPDATE SET size = excluded.size",
        log, key, relay, size,
    )  # fmt: skip


async def seen_root(db: Database, log: str) -> Event | None:
    """The newest root of a log that we have seen, as the event that it was in."""
    row = await db.one("SELECT event FROM seen_roots WHERE log = ?", log)
    return parse_event(row["event"]) if row else None


async def note_seen_root(tx: Transaction, log: str, size: int, event: Event, refuted: Event | None) -> None:
    """Note a root that we have seen, unless there is one of a log as long that is not `refuted`."""
    await tx.execute(
        "INSERT INTO seen_roots (log, size, event) VALUES (?, ?, ?)"
        " ON CONFLICT (log) DO UPDATE SET size = excluded.size, event = excluded.event"
        " WHERE excluded.size > seen_roots.size OR seen_roots.event = ?",
        log, size, event.to_json().decode(), refuted.to_json().decode() if refuted else "",
    )  # fmt: skip
