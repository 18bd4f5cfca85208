"""All SQL of relay_bridge. Functions that write take the caller's transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from identity.event import Event, parse_event
from relay_bridge.values import RelayHealth
from store import Database, Row, Transaction

_PPM: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Open:
    """An event to be handled or sent, the relay it came from or goes to, how often that failed, and when it came."""

    event: Event
    relay: str
    attempts: int
    since: int = 0


# inbox


async def is_kept(tx: Transaction, name: str, event: Event) -> bool:
    """Whether an event is written down for `name`, open or done."""
    found = await tx.one(
        "SELECT 1 FROM inbox WHERE name = ? AND created_at = ? AND event_id = ?", name, event.created_at, event.id
    )  # fmt: skip
    return found is not None


async def keep_event(
    tx: Transaction, name: str, relay: str, event: Event, now: int, *, done: bool = False
) -> bool:
    """Write down an event that came in; False if it is known for `name`: then it stays as it is."""
    return bool(
        await tx.execute(
            "INSERT INTO inbox (name, event_id, created_at, received_at, relay, raw, state, attempts, due_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0) ON CONFLICT DO NOTHING",
            name, event.id, event.created_at, now, relay,
            "" if done else event.to_json().decode(), "done" if done else "open",
        )
    )  # fmt: skip


async def due_deliveries(db: Database, name: str, rows_max: int, now: int) -> list[Open]:
    """Open rows to be handled: new ones before those that were put off, the oldest first."""
    rows = await db.all(
        "SELECT relay, raw, attempts, received_at FROM inbox WHERE name = ? AND state = 'open' AND due_at <= ?"
        " ORDER BY due_at, received_at, created_at, event_id LIMIT ?",
        name, now, rows_max,
    )  # fmt: skip
    return [Open(parse_event(row["raw"]), row["relay"], row["attempts"], row["received_at"]) for row in rows]


async def next_delivery(db: Database, name: str, now: int) -> int | None:
    """When the first of the open rows that are not due at `now` will be."""
    row = await db.one(
        "SELECT MIN(due_at) AS at FROM inbox WHERE name = ? AND state = 'open' AND due_at > ?", name, now
    )
    return None if row is None else row["at"]


async def mark_done(tx: Transaction, name: str, event: Event) -> None:
    """Close a row; harmless if it is closed."""
    await tx.execute(
        "UPDATE inbox SET state = 'done', raw = '' WHERE name = ? AND created_at = ? AND event_id = ?",
        name, event.created_at, event.id,
    )  # fmt: skip


async def put_off(tx: Transaction, name: str, event: Event, *, attempts: int, due_at: int) -> None:
    """Put off an open row until `due_at`."""
    await tx.execute(
        "UPDATE inbox SET attempts = ?, due_at = ?"
        " WHERE name = ? AND created_at = ? AND event_id = ? AND state = 'open'",
        attempts, due_at, name, event.created_at, event.id,
    )  # fmt: skip


async def revive_deliveries(tx: Transaction, name: str) -> None:
    """A new run: all open rows are due, with all their attempts."""
    await tx.execute("UPDATE inbox SET attempts = 0, due_at = 0 WHERE name = ? AND state = 'open'", name)


async def forget_done(tx: Transaction, created_before: int, rows_max: int) -> int:
    """Delete closed rows of events dated before then, so many at most; returns how many."""
    return await tx.execute(
        "DELETE FROM inbox WHERE (name, created_at, event_id) IN"
        " (SELECT name, created_at, event_id FROM inbox WHERE name IN (SELECT DISTINCT name FROM inbox_cursor)"
        " AND created_at < ? AND state = 'done' LIMIT ?)",
        created_before, rows_max,
    )  # fmt: skip


async def cursors(tx: Transaction, name: str) -> dict[str, int]:
    """For each relay until when `name` is known to be current there."""
    rows = await tx.all("SELECT relay, current_at FROM inbox_cursor WHERE name = ?", name)
    return {row["relay"]: row["current_at"] for row in rows}


async def set_cursor(tx: Transaction, name: str, relay: str, current_at: int) -> None:
    """Note until when `name` is current on a relay."""
    await tx.execute(
        "INSERT INTO inbox_cursor (name, relay, current_at) VALUES (?, ?, ?)"
        " ON CONFLICT (name, relay) DO UPDATE SET current_at = excluded.current_at",
        name, relay, current_at,
    )  # fmt: skip


# outbox


async def add_event(
    tx: Transaction,
    event: Event,
    relays: Sequence[str],
    *,
    own: bool,
    until: int | None,
    position: int,
    now: int,
) -> list[str]:
    """Write an event to be published; returns those of `relays` that it was not written for before.

    Each relay gets its events in the order of `position`.
    """
    await tx.execute(
        "INSERT INTO outbox (event_id, raw, own_relays, enough, until_at, state, added_at)"
        " VALUES (?, ?, ?, ?, ?, 'open', ?) ON CONFLICT DO NOTHING",
        event.id, event.to_json().decode(), int(own), len(relays), until, now,
    )  # fmt: skip
    added = [relay for relay in relays if await _add_relay(tx, event.id, relay, position)]
    if added:  # one that all others have refused is open again
        await tx.execute(
            "UPDATE outbox SET state = 'open', closed_at = NULL WHERE event_id = ? AND state <> 'open'",
            event.id,
        )
    return added


async def _add_relay(tx: Transaction, event_id: str, relay: str, position: int) -> bool:
    return bool(
        await tx.execute(
            "INSERT INTO outbox_relay (event_id, relay, position, state, attempts, due_at, answer)"
            " VALUES (?, ?, ?, 'open', 0, 0, '') ON CONFLICT DO NOTHING",
            event_id, relay, position,
        )
    )  # fmt: skip


async def last_position(tx: Transaction) -> int:
    """The position of the open row that was added last; 0 if there is none."""
    row = await tx.one("SELECT MAX(position) AS position FROM outbox_relay WHERE state = 'open'")
    return (row["position"] if row else None) or 0


async def extend_outbox(tx: Transaction, own_relays: Sequence[str], now: int) -> None:
    """What still goes to our own relays, or was refused by all of them, goes to those configured now."""
    rows = await tx.all(
        "SELECT o.event_id, MIN(r.position) AS position FROM outbox o JOIN outbox_relay r ON r.event_id = o.event_id"
        " WHERE o.state IN ('open', 'refused') AND o.own_relays = 1 AND (o.until_at IS NULL OR o.until_at > ?)"
        " GROUP BY o.event_id",
        now,
    )
    for row in rows:
        for relay in own_relays:
            if await _add_relay(tx, row["event_id"], relay, row["position"]):
                await _reopen(tx, row["event_id"])


async def reopen_refused(tx: Transaction, now: int) -> bool:
    """What goes to our own relays, and no relay took, is due again where it was refused; whether there is such.

    Not where it was found invalid, or wanting proof of work: it will not change.
    """
    rows = await tx.all(
        "UPDATE outbox_relay SET state = 'open', due_at = 0 WHERE state IN ('refused', 'dropped')"
        " AND answer NOT LIKE 'invalid:%' AND answer NOT LIKE 'pow:%' AND event_id IN"
        " (SELECT event_id FROM outbox o WHERE state IN ('open', 'refused') AND own_relays = 1"
        " AND (until_at IS NULL OR until_at > ?) AND NOT EXISTS"
        " (SELECT 1 FROM outbox_relay r WHERE r.event_id = o.event_id AND r.state = 'accepted'))"
        " RETURNING event_id",
        now,
    )
    for event_id in {row["event_id"] for row in rows}:
        await _reopen(tx, event_id)
    return bool(rows)


async def _reopen(tx: Transaction, event_id: str) -> None:
    # `closed_at` stays: it says since when no relay takes it.
    await tx.execute("UPDATE outbox SET state = 'open' WHERE event_id = ? AND state = 'refused'", event_id)


async def revive_outbox(tx: Transaction, own_relays: Sequence[str], now: int) -> None:
    """A new run: everything open is due, and what goes to our own relays goes to those configured now."""
    await extend_outbox(tx, own_relays, now)
    await tx.execute("UPDATE outbox_relay SET due_at = 0 WHERE state = 'open'")


async def has_sendings(db: Database, relay: str) -> bool:
    """Whether events are still to be sent to a relay."""
    row = await db.one("SELECT 1 FROM outbox_relay WHERE relay = ? AND state = 'open' LIMIT 1", relay)
    return row is not None


async def relays_to_serve(db: Database, rows_max: int) -> list[str]:
    """Relays that events are still to be sent to, so many at most, in any order."""
    rows = await db.all(
        "SELECT relay FROM (SELECT DISTINCT relay FROM outbox_relay WHERE state = 'open') AS r"
        " ORDER BY random() LIMIT ?",
        rows_max,
    )
    return [row["relay"] for row in rows]


async def due_sendings(db: Database, relay: str, rows_max: int, *, due_by: int, now: int) -> list[Open]:
    """What to send to one relay, in the order of adding: due by then, and not pointless now."""
    rows = await db.all(
        "SELECT r.attempts, o.raw FROM outbox_relay r JOIN outbox o ON o.event_id = r.event_id"
        " WHERE r.relay = ? AND r.state = 'open' AND r.due_at <= ? AND (o.until_at IS NULL OR o.until_at > ?)"
        " ORDER BY r.position LIMIT ?",
        relay, due_by, now, rows_max,
    )  # fmt: skip
    return [Open(parse_event(row["raw"]), relay, row["attempts"]) for row in rows]


async def next_sending(db: Database, relay: str, now: int) -> int | None:
    """When the first of the open rows of a relay that are not due at `now` will be."""
    row = await db.one(
        "SELECT MIN(due_at) AS at FROM outbox_relay WHERE relay = ? AND state = 'open' AND due_at > ?",
        relay,
        now,
    )
    return None if row is None else row["at"]


async def record_answer(
    tx: Transaction, event_id: str, relay: str, *, state: str, answer: str, due_at: int
) -> None:
    """Write down what came of one attempt."""
    await tx.execute(
        "UPDATE outbox_relay SET state = ?, attempts = attempts + 1, due_at = ?, answer = ?"
        " WHERE event_id = ? AND relay = ? AND state = 'open'",
        state, due_at, answer, event_id, relay,
    )  # fmt: skip


async def sending_state(tx: Transaction, event_id: str) -> Row | None:
    """How many relays accepted an event, and how many may yet."""
    return await tx.one(
        "SELECT SUM(CASE WHEN state = 'accepted' THEN 1 ELSE 0 END) AS accepted,"
        " SUM(CASE WHEN state = 'open' THEN 1 ELSE 0 END) AS open"
        " FROM outbox_relay WHERE event_id = ? GROUP BY event_id",
        event_id,
    )


async def forget_sending(tx: Transaction, event_id: str) -> None:
    """Delete an event that was sent, and its relays' rows with it."""
    await tx.execute("DELETE FROM outbox WHERE event_id = ?", event_id)


async def drop_sendings(tx: Transaction, relay: str, added_before: int, rows_max: int) -> list[str]:
    """Give up open rows of a relay whose event was added before then, so many at most; returns the events' ids."""
    rows = await tx.all(
        "UPDATE outbox_relay SET state = 'dropped' WHERE relay = ? AND event_id IN"
        " (SELECT event_id FROM outbox WHERE added_at < ? AND event_id IN"
        " (SELECT event_id FROM outbox_relay WHERE relay = ? AND state = 'open' ORDER BY position LIMIT ?))"
        " RETURNING event_id",
        relay, added_before, relay, rows_max,
    )  # fmt: skip
    return [row["event_id"] for row in rows]


async def close_sending(tx: Transaction, event_id: str, now: int) -> None:
    """Close an event that no relay took."""
    await tx.execute(
        "UPDATE outbox SET state = 'refused', closed_at = COALESCE(closed_at, ?) WHERE event_id = ?",
        now,
        event_id,
    )


async def expire_sendings(tx: Transaction, now: int) -> list[str]:
    """Delete what has become pointless; returns the ids of events that no relay took."""
    rows = await tx.all(
        "SELECT event_id, EXISTS (SELECT 1 FROM outbox_relay r WHERE r.event_id = o.event_id"
        " AND r.state = 'accepted') AS accepted FROM outbox o WHERE until_at <= ?",
        now,
    )
    if rows:
        await tx.execute("DELETE FROM outbox WHERE until_at <= ?", now)
    return [row["event_id"] for row in rows if not row["accepted"]]


async def forget_closed(tx: Transaction, closed_before: int, rows_max: int) -> int:
    """Delete events without an end that no relay took since then, so many at most; returns how many."""
    return await tx.execute(
        "DELETE FROM outbox WHERE event_id IN"
        " (SELECT event_id FROM outbox WHERE closed_at < ? AND state <> 'open' AND until_at IS NULL LIMIT ?)",
        closed_before, rows_max,
    )  # fmt: skip


# relays


async def relay_records(db: Database) -> list[RelayHealth]:
    """How relays did so far; what was refused of their messages is in `refused` under `earlier`."""
    rows = await db.all("SELECT * FROM relay_health ORDER BY url")
    return [
        RelayHealth(
            row["url"], kept=row["kept"], broken=row["broken"], failures=row["failures"],
            refused={"earlier": row["refused"]} if row["refused"] else {}, reliability=row["reliability_ppm"] / _PPM,
            answer_seconds=None if row["answer_us"] is None else row["answer_us"] / _PPM,
            last_error=row["last_error"],
        )
        for row in rows
    ]  # fmt: skip


async def save_relay_record(tx: Transaction, health: RelayHealth, now: int) -> None:
    """Write down how a relay did so far."""
    seconds = health.answer_seconds
    await tx.execute(
        "INSERT INTO relay_health"
        " (url, kept, broken, failures, refused, reliability_ppm, answer_us, last_error, noted_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (url) DO UPDATE SET kept = excluded.kept,"
        " broken = excluded.broken, failures = excluded.failures, refused = excluded.refused,"
        " reliability_ppm = excluded.reliability_ppm, answer_us = excluded.answer_us,"
        " last_error = excluded.last_error, noted_at = excluded.noted_at",
        health.url, health.kept, health.broken, health.failures, sum(health.refused.values()),
        round(health.reliability * _PPM), None if seconds is None else round(seconds * _PPM), health.last_error, now,
    )  # fmt: skip


async def forget_relay_records(tx: Transaction, noted_before: int) -> None:
    """Delete what was noted of relays before then, and not since."""
    await tx.execute("DELETE FROM relay_health WHERE noted_at < ?", noted_before)
