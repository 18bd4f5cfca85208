"""Everything that relays have stored for a question, page by page."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from identity import Event
from relay_bridge import Filter, RelayPool
from relay_bridge.fetching import Fetched

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
    return [event async for page in stored_pages(pool, url, what) for event in page.events]


async def stored_pages(
    pool: RelayPool, url: str, what: Filter, *, events_max: int = EVENTS_MAX
) -> AsyncIterator[Fetched]:
    """All events of one relay that match, page by page, the newest first; not beyond the page with the last of
    `events_max`. An event may be in two pages.

    A relay gives some hundreds of events for one question: ask on, back in time, until it has no more. The last second
    of a page is asked for again, as more may be of it; of one with more events than a page holds the rest is not to be
    had. Raises `InvalidRelayUrl`, `TooManyRelays`.
    """
    relay = pool.relay(url)
    found: set[str] = set()
    until: int | None = None
    while len(found) < events_max:
        page = await relay.fetch([what.between(None, until)], PAGE_SECONDS_MAX)
        yield page
        if not page.events:
            break
        oldest = min(event.created_at for event in page.events)
        ids = {event.id for event in page.events}
        until = oldest - 1 if ids <= found else oldest
        found |= ids
