"""Events and rumors (NIP-01, NIP-59), and what is read from their tags (NIP-13, NIP-40)."""

from contextlib import suppress

import nostr_sdk

from fuzz.kit import ALICE, NOW, as_json, signed, vectors
from identity.errors import InvalidEvent
from identity.event import Event, EventTemplate, event_id, parse_event, parse_rumor, sign_event
from identity.nip13 import committed_difficulty
from identity.nip40 import expiration, is_expired


def _event(data: bytes) -> None:
    try:
        event = parse_event(data)
    except InvalidEvent:
        return
    _check_written(event)
    with suppress(InvalidEvent):
        event.verify()
        assert event_id(event.pubkey, event) == event.id


def _rumor(data: bytes) -> None:
    try:
        rumor = parse_rumor(data)
    except InvalidEvent:
        return
    assert parse_rumor(rumor.to_json()) == rumor
    assert event_id(rumor.pubkey, rumor) == rumor.id
    template = EventTemplate(
        kind=rumor.kind, content=rumor.content, tags=rumor.tags, created_at=rumor.created_at
    )
    event = sign_event(template, ALICE)
    event.verify()
    _check_written(event)
    _ask_nostr_sdk(event)


def _check_written(event: Event) -> None:
    written = event.to_json()
    assert parse_event(written) == event
    assert parse_event(written).to_json() == written
    assert 0 <= committed_difficulty(event) <= 256
    expires_at = expiration(event)
    assert is_expired(event, NOW) == (expires_at is not None and expires_at <= NOW)


def _ask_nostr_sdk(event: Event) -> None:
    """It takes what we sign, with the same id, but for tags without a name: those it refuses."""
    if all(event.tags):
        theirs = nostr_sdk.Event.from_json(event.to_json().decode())
        assert theirs.verify()
        assert theirs.id().to_hex() == event.id


CHECKS = {"event": _event, "rumor": _rumor}
_SIGNED = [
    signed(1, "hi \n\t\"\\\b\f\r\x00\x7f\u2028 é 👍"),
    signed(5001, tags=[["i", "some text", "text"], ["param", "n", "1", "2"], ["bid", "1000"], ["expiration", "1700000000"]]),
    signed(1, tags=[["nonce", "776797", "20"], ["e"], ["", ""]]),
    signed(65535, tags=[["p", ALICE.public_key]] * 20),
]  # fmt: skip
SEEDS = (
    [("event", event.to_json()) for event in _SIGNED]
    + [("rumor", event.to_json()) for event in _SIGNED]
    + [("event", as_json(vectors("identity/nip13.json")))]
    + [("event", as_json(event)) for event in vectors("identity/nip17.json").values() if isinstance(event, dict)]
    + [("rumor", as_json(vectors("identity/nip59.json")["rumor"]))]
)  # fmt: skip
WORDS = (
    "id",
    "pubkey",
    "created_at",
    "kind",
    "tags",
    "content",
    "sig",
    "nonce",
    "expiration",
    "\\u0000",
    "\\ud800",
)
