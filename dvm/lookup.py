"""Events that somebody names by their id."""

import asyncio
from collections.abc import Sequence

from dvm.post import Post
from identity import Event, is_expired
from relay_bridge import Filter, RelayBridgeError


async def find_event(post: Post, event_id: str, relays: Sequence[str], *, seconds_max: float) -> Event | None:
    """The event, verified by the pool, from the first of these relays that has it; None if none has it just now."""
    asked = [asyncio.create_task(_ask(post, event_id, relay, seconds_max)) for relay in relays]
    try:
        for answer in asyncio.as_completed(asked):
            event = await answer
            if event is not None and event.id == event_id and not is_expired(event, post.clock.now()):
                return event
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    return None


async def _ask(post: Post, event_id: str, relay: str, seconds_max: float) -> Event | None:
    try:
        found = await post.pool.query([Filter(ids=(event_id,))], relays=[relay], seconds_max=seconds_max)
    except RelayBridgeError:  # too many relays just now, or one that may not be connected to
        return None
    return found[0] if found else None
