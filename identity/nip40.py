"""When an event stops counting (NIP-40)."""

import re

from identity.event import Event, EventTemplate, Rumor

_SECONDS = re.compile(r"[0-9]{1,16}")


def expiration(event: Event | EventTemplate | Rumor) -> int | None:
    """Unix seconds of its first `expiration` tag; None without one, or if its value is no such number."""
    value = event.tag("expiration")
    return int(value) if value is not None and _SECONDS.fullmatch(value) else None


def is_expired(event: Event | EventTemplate | Rumor, now: int) -> bool:
    """Whether the event's time has come at `now` (Unix seconds)."""
    expires_at = expiration(event)
    return expires_at is not None and expires_at <= now
