"""What the keys of a log did besides it: signed for another log, or asked relays to forget this one. Pure.

Nothing counts of a key that was recovered from, which may be a thief's.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from dvm.kinds import DELETION
from identity import Event, InvalidReceipt
from identity.published import Finding, Kind, Shown, together
from identity.roots import APP_DATA, LEAVES_NAME, ROOT_NAME, ROOT_REPLACEABLE, parse_root
from identity.rotation import ROTATION_NAME, Chain, parse_rotation

_NAMES: Final = (LEAVES_NAME, ROTATION_NAME)


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
        is_named = event.pubkey == key or (event.content and ("p", key) in event.tags)  # else it did not sign
        if is_named and event.kind == APP_DATA and ("t", ROTATION_NAME) in event.tags:
            rotation = parse_rotation(event)
            if key in (rotation.old, rotation.new) and (rotation.by_both or event.pubkey == key):
                return rotation.log
    return None


def _is_root(event: Event) -> bool:
    return event.kind in (APP_DATA, ROOT_REPLACEABLE) and (
        ("t", ROOT_NAME) in event.tags or ("d", ROOT_NAME) in event.tags
    )


def _is_published(event: Event) -> bool:
    return _is_root(event) or (event.kind == APP_DATA and any(("t", name) in event.tags for name in _NAMES))


def _check_deletions(honest: set[str], chain: Chain, events: Sequence[Event]) -> Iterator[Finding]:
    """Deletions of what is here are proven; of the rest nobody knows what it was: other programs use kind 78 too."""
    ours = {(event.id, event.pubkey) for event in events if _is_published(event)}
    proven, doubtful = [], []
    for event in events:
        if event.kind != DELETION or event.pubkey not in chain:
            continue
        named = any((tag[1], event.pubkey) in ours for tag in event.tags if tag[0] == "e" and len(tag) > 1)
        named |= ("a", f"{ROOT_REPLACEABLE}:{event.pubkey}:{ROOT_NAME}") in event.tags
        if named and event.pubkey in honest:
            proven.append(event)
        elif named or ("k", str(APP_DATA)) in event.tags:
            doubtful.append(event)
    yield from together(Kind.DELETED, "its own key asked relays to delete roots, leaves or rotations", proven)
    told = "relays were asked to delete events of kind 78: roots or leaves may be among them"
    yield from together(Kind.MISSING, told, doubtful)
