"""Everything that relays have stored for a question, page by page."""

import asyncio
from typing import Final

from identity import Event
from relay_bridge import Filter, RelayPool

REQUESTS: Final = tuple(range(5000, 6000))
RESULTS: Final = tuple(range(6000, 7000))
EVENTS_MAX: Final = 100_000  # of one relay
PAGE_SECONDS_MAX: Final = 10.0


async def stored_events(pool: RelayPool, what: Filter) -> list[Event]:
    """All events of the configured relays that match, each once, newest first. Relays that are down bring nothing."""
    pages = await asyncio.gather(*(_of_relay(pool, url, what) for url in pool.urls))
    found = {event.id: event for events in pages for event in events}
    return sorted(found.values(), key=lambda event: (-event.created_at, event.id))


async def _of_relay(pool: RelayPool, url: str, what: Filter) -> list[Event]:
    """A relay gives some hundreds of events for one question: ask on, back in time, until it has no more.

    The last second of a page is asked for again, as more may be of it; of one with more events than a page holds the
    rest is not to be had.
    """
    found: dict[str, Event] = {}
    until: int | None = None
    while len(found) < EVENTS_MAX:
        page = await pool.query([what.between(None, until)], relays=[url], seconds_max=PAGE_SECONDS_MAX)
        if not page:
            break
        oldest = min(event.created_at for event in page)
        is_news = any(event.id not in found for event in page)
        found |= {event.id: event for event in page}
        until = oldest if is_news else oldest - 1
    return list(found.values())
