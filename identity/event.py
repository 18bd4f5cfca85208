"""Nostr events: parse, hash, sign, verify (NIP-01).

`parse_event` checks the form, `Event.verify` the id and the signature. Who takes events from outside calls
both (the relay door, the gift wrap's `unwrap`); all behind them may rely on it. Measured: docs/decisions.md.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec
import orjson

from identity.errors import InvalidEvent
from identity.keys import SecretKey, verify_signature

Tag = tuple[str, ...]
Tags = tuple[Tag, ...]
_T = TypeVar("_T")

KIND_MAX: Final = 65535
CREATED_AT_MAX: Final = 2**53 - 1  # what JSON numbers carry exactly everywhere


class _Tagged(msgspec.Struct, frozen=True):
    """What templates, rumors and events share: a kind, tags and a content."""

    kind: int
    content: str
    tags: Tags

    def tag(self, name: str) -> str | None:
        """First value of the first tag called `name`, None if there is none or it has no value."""
        for tag in self.tags:
            if len(tag) > 1 and tag[0] == name:
                return tag[1]
        return None

    def tags_named(self, name: str) -> list[Tag]:
        """All tags called `name`, whole, in order."""
        return [tag for tag in self.tags if tag and tag[0] == name]

    def has_tag(self, name: str) -> bool:
        """Whether a tag called `name` is there, with or without a value."""
        return any(tag and tag[0] == name for tag in self.tags)


class _Unpublished(_Tagged, frozen=True):
    """May be a private message carrying money: neither content nor tags show in `repr` or rich's output."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(kind={self.kind}, …)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("kind", self.kind)]


class EventTemplate(_Unpublished, frozen=True, kw_only=True):
    """An event before it has an author: what a `Signer` takes."""

    created_at: int


class Rumor(_Unpublished, frozen=True, kw_only=True):
    """An event with an author and an id but no signature (NIP-59)."""

    id: str
    pubkey: str
    created_at: int

    def to_json(self) -> bytes:
        """Compact JSON in UTF-8, without a `sig`."""
        return msgspec.json.encode(self)


class Event(_Tagged, frozen=True, kw_only=True, gc=False):  # it holds texts and numbers only
    """A signed event. Immutable; equal when all fields are equal."""

    id: str
    pubkey: str
    created_at: int
    sig: str

    def verify(self) -> None:
        """Check id and signature (BIP-340); raises `InvalidEvent`. Threads run it in parallel."""
        digest = _digest(self.pubkey, self.created_at, self.kind, self.tags, self.content)
        if digest.hex() != self.id:
            raise InvalidEvent("the id is not the hash of the event")
        try:
            signature = bytes.fromhex(self.sig)
        except ValueError:
            signature = b""
        if not verify_signature(self.pubkey, digest, signature):
            raise InvalidEvent("the signature is not valid for this public key")

    def to_json(self) -> bytes:
        """Compact JSON in UTF-8, in NIP-01's order of fields."""
        return orjson.dumps(self.to_dict())

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "id": self.id,
            "pubkey": self.pubkey,
            "created_at": self.created_at,
            "kind": self.kind,
            "tags": self.tags,
            "content": self.content,
            "sig": self.sig,
        }


def claim_of(event: Event) -> bytes | None:
    """What is left to verify of an event of the right form whose id is right: its key, id and signature as one claim
    for `verify_claims`. None if the id is not the hash of the event.
    """
    try:
        digest = _digest(event.pubkey, event.created_at, event.kind, event.tags, event.content)
    except InvalidEvent:
        return None
    claim = bytes.fromhex(event.pubkey + event.id + event.sig)
    return claim if claim[32:64] == digest else None


def make_template(
    kind: int, *, content: str = "", tags: Iterable[Sequence[str]] = (), created_at: int
) -> EventTemplate:
    """An unsigned event; lists of tags become tuples."""
    frozen = tuple(tuple(tag) for tag in tags)
    return EventTemplate(kind=kind, content=content, tags=frozen, created_at=created_at)


def make_rumor(template: EventTemplate, public_key: str) -> Rumor:
    """Give a template an author and an id, but no signature (NIP-59).

    Raises `InvalidEvent` if the text cannot be UTF-8 (a lone surrogate).
    """
    t = template
    return Rumor(
        id=event_id(public_key, t), pubkey=public_key, created_at=t.created_at,
        kind=t.kind, tags=t.tags, content=t.content,
    )  # fmt: skip


def sign_event(template: EventTemplate, key: SecretKey) -> Event:
    """Sign with a key at hand. Raises `InvalidEvent` if the text cannot be UTF-8 (a lone surrogate)."""
    t = template
    digest = _digest(key.public_key, t.created_at, t.kind, t.tags, t.content)
    return Event(
        id=digest.hex(), pubkey=key.public_key, created_at=t.created_at, kind=t.kind,
        tags=t.tags, content=t.content, sig=key.sign(digest).hex(),
    )  # fmt: skip


def event_id(public_key: str, event: EventTemplate | Rumor | Event) -> str:
    """The id the event has under this author, 64 hex digits."""
    return _digest(public_key, event.created_at, event.kind, event.tags, event.content).hex()


def parse_event(raw: bytes | str) -> Event:
    """Read one event from JSON and check its form, not yet its id and signature. Raises `InvalidEvent`.

    Unknown fields are ignored; of a field given twice the last counts, and the id then decides. The caller
    limits how long `raw` may be, and judges how far off `created_at` may be.
    """
    return check_form(_decode(raw, _EVENT_DECODER))


def parse_rumor(raw: bytes | str) -> Rumor:
    """Read one unsigned event from JSON (NIP-59) and check its form. Raises `InvalidEvent`.

    The id is computed, whatever the JSON claims it to be; a signature in it is dropped unread.
    """
    unsigned = _decode(raw, _UNSIGNED_DECODER)
    _check_hex("pubkey", unsigned.pubkey, 64)
    _check_numbers(unsigned)
    return make_rumor(unsigned, unsigned.pubkey)


def check_form(event: Event) -> Event:
    """Return the event if its fields have NIP-01's form; raise `InvalidEvent` otherwise."""
    everything = (
        event.id + event.pubkey + event.sig
    )  # read at once: this is done to all that comes from a relay
    try:
        is_hex = bytes.fromhex(everything).hex() == everything
    except ValueError:
        is_hex = False
    if not (is_hex and len(event.id) == 64 and len(event.pubkey) == 64 and len(event.sig) == 128):
        _check_hex("id", event.id, 64)
        _check_hex("pubkey", event.pubkey, 64)
        _check_hex("sig", event.sig, 128)
    _check_numbers(event)
    return event


class _Unsigned(EventTemplate, frozen=True, kw_only=True):
    """What counts of a rumor on the wire."""

    pubkey: str


_EVENT_DECODER = msgspec.json.Decoder(Event)
_UNSIGNED_DECODER = msgspec.json.Decoder(_Unsigned)


def _decode(raw: bytes | str, decoder: msgspec.json.Decoder[_T]) -> _T:
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidEvent(f"not an event: {error}") from None


def _check_hex(name: str, text: str, size: int) -> None:
    try:
        if len(text) == size and bytes.fromhex(text).hex() == text:
            return
    except ValueError:
        pass
    raise InvalidEvent(f"{name} must be {size} lowercase hex digits")


def _check_numbers(event: EventTemplate | Event) -> None:
    if not 0 <= event.kind <= KIND_MAX:
        raise InvalidEvent(f"kind must be 0 … {KIND_MAX}")
    if not 0 <= event.created_at <= CREATED_AT_MAX:
        raise InvalidEvent("created_at must be seconds since 1970")


def _digest(public_key: str, created_at: int, kind: int, tags: Tags, content: str) -> bytes:
    try:
        serialised = orjson.dumps([0, public_key, created_at, kind, tags, content])
    except TypeError as error:
        raise InvalidEvent(f"the event cannot be serialised: {error}") from None
    return hashlib.sha256(serialised).digest()
