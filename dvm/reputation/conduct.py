"""What the keys of a log did besides it: signed for another log, or asked relays to forget this one. Pure.

Nothing counts of a key that was recovered from, which may be a thief's.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from identity import Event, InvalidReceipt
from identity.published import Finding, Kind, Shown, together
from identity.roots import APP_DATA, LEAVES_NAME, ROOT_NAME, ROOT_REPLACEABLE, parse_root
from identity.rotation import ROTATION_NAME, Chain, parse_rotation

DELETION: Final = 5  # NIP-09
_NAMES: Final = (ROOT_NAME, LEAVES_NAME, ROTATION_NAME)


def check_conduct(chain: Chain, shown: Shown, events: Iterable[Event]) -> Iterator[Finding]:
    """The findings about the keys of a log; `events` are all that came, their signatures verified."""
    events = sorted(events, key=lambda event: (event.created_at, event.id))
    honest = [tenure for tenure in chain.tenures if not tenure.lost]
    for tenure in honest:
        others = [event for event in events if log_signed_by(tenure.key, event) not in (None, chain.log)]
        own = tenure.rotation or next((root for root, _ in shown.roots if root.pubkey == tenure.key), None)
        if others and own is not None:
            yield from together(
                Kind.TWO_LOGS,
                f"the key {tenure.key} signed for this log, and for another one",
                [own, *others],
            )
    yield from _check_deletions({tenure.key for tenure in honest}, chain, events)


def log_signed_by(key: str, event: Event) -> str | None:
    """The log that the key says it is of, by this event: a root that it signed, or a rotation from it or to it."""
    with suppress(InvalidReceipt):
        if event.pubkey == key and _is_root(event):
            return parse_root(event).log
        if event.kind == APP_DATA and ("t", ROTATION_NAME) in event.tags and ("p", key) in event.tags:
            rotation = parse_rotation(event)
            if key in (rotation.old, rotation.new) and (rotation.by_both or event.pubkey == key):
                return rotation.log
    return None


def _is_root(event: Event) -> bool:
    return event.kind in (APP_DATA, ROOT_REPLACEABLE) and (
        ("t", ROOT_NAME) in event.tags or ("d", ROOT_NAME) in event.tags
    )


def _check_deletions(honest: set[str], chain: Chain, events: Iterable[Event]) -> Iterator[Finding]:
    """Deletions of what is here are proven. Of what is not, nobody knows what it was: other programs use kind 78 too."""
    events = list(events)
    ours = {(event.id, event.pubkey) for event in events if any(("t", name) in event.tags for name in _NAMES)}
    ours |= {(event.id, event.pubkey) for event in events if _is_root(event)}
    proven, doubtful = [], []
    for event in events:
        if event.kind != DELETION or event.pubkey not in chain:
            continue
        named = any((id_, event.pubkey) in ours for id_ in event.tag_values("e"))
        named |= f"{ROOT_REPLACEABLE}:{event.pubkey}:{ROOT_NAME}" in event.tag_values("a")
        if named and event.pubkey in honest:
            proven.append(event)
        elif named or str(APP_DATA) in event.tag_values("k"):
            doubtful.append(event)
    yield from together(Kind.DELETED, "its own key asked relays to delete roots, leaves or rotations", proven)
    told = "relays were asked to delete events of kind 78: roots or leaves may be among them"
    yield from together(Kind.MISSING, told, doubtful)
