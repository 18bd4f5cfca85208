"""Proof of work on events (NIP-13)."""

import re
from typing import Final

from identity.errors import MiningError
from identity.event import Event, EventTemplate, event_id, make_template

_TARGET = re.compile(r"[0-9]{1,3}")

#: About a minute of one core; enough to find 20 bits with certainty for all practical purposes.
TRIES_MAX: Final = 1 << 25


def difficulty(event_id: str) -> int:
    """Leading zero bits of an event id in hex, 0 … 256."""
    return 256 - int(event_id, 16).bit_length()


def committed_difficulty(event: Event) -> int:
    """The bits of work that count: what the `nonce` tag commits to, if the id reaches it, else 0.

    More zero bits than were aimed at are luck, fewer are not what was promised. The event must be verified.
    """
    nonces = event.tags_named("nonce")
    target = nonces[0][2] if nonces and len(nonces[0]) > 2 else ""
    if _TARGET.fullmatch(target) and int(target) <= difficulty(event.id):
        return int(target)
    return 0


def mine(
    template: EventTemplate, public_key: str, target: int, *, tries_max: int = TRIES_MAX
) -> EventTemplate:
    """The template with a `nonce` tag under which `public_key`'s event has `target` leading zero bits.

    Takes 2^target tries on average, some microseconds each and more for a long event, and keeps a core busy:
    run it in a thread, or better a process. Raises `MiningError` after `tries_max`.
    """
    tags = tuple(tag for tag in template.tags if tag[:1] != ("nonce",))
    for nonce in range(tries_max):
        mined = make_template(
            template.kind,
            content=template.content,
            tags=(*tags, ("nonce", str(nonce), str(target))),
            created_at=template.created_at,
        )
        if difficulty(event_id(public_key, mined)) >= target:
            return mined
    raise MiningError(
        f"no proof of work of {target} bits in {tries_max} tries: ask for less, or allow more tries"
    )
