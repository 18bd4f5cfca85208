"""Gift wraps (NIP-59): what a stranger may put into each layer of one."""

from contextlib import suppress
from typing import Final

from fuzz.kit import ALICE, BOB, NOW, as_json, finished, signed, text_of, vectors
from identity import LocalSigner, nip44, nip59
from identity.errors import DecryptionError, IdentityError, InvalidEvent
from identity.event import Event, event_id, make_template, parse_rumor, sign_event
from identity.keys import SecretKey

_ONCE: Final = SecretKey(bytes([3]) * 32)
_BOB: Final = LocalSigner(BOB)


def _open(wrap: Event) -> None:
    try:
        rumor = finished(nip59.unwrap(_BOB, wrap))
    except DecryptionError:
        return
    assert rumor.pubkey == ALICE.public_key
    assert rumor.id == event_id(rumor.pubkey, rumor)
    assert parse_rumor(rumor.to_json()) == rumor


def _wrapped(content: str) -> Event:
    template = make_template(1059, content=content, tags=[["p", BOB.public_key]], created_at=NOW)
    return sign_event(template, _ONCE)


def _encrypted(text: str, key: SecretKey) -> str | None:
    try:
        return nip44.encrypt(text, nip44.derive_conversation_key(key, BOB.public_key))
    except IdentityError:
        return None  # empty, or not UTF-8


def _content(data: bytes) -> None:
    with suppress(InvalidEvent):  # no event holds lone surrogates
        _open(_wrapped(text_of(data)))


def _seal(data: bytes) -> None:
    if content := _encrypted(text_of(data), _ONCE):
        _open(_wrapped(content))


def _rumor(data: bytes) -> None:
    """Inside of a seal that Alice did sign."""
    if content := _encrypted(text_of(data), ALICE):
        seal = sign_event(make_template(nip59.KIND_SEAL, content=content, created_at=NOW), ALICE)
        if wrap := _encrypted(seal.to_json().decode(), _ONCE):
            _open(_wrapped(wrap))


CHECKS = {"content": _content, "seal": _seal, "rumor": _rumor}
_RUMOR = signed(14, "hello", [["p", BOB.public_key]])
_SEAL = signed(13, _encrypted(_RUMOR.to_json().decode(), ALICE) or "")
SEEDS = [
    ("content", _encrypted(_SEAL.to_json().decode(), _ONCE).encode()),  # type: ignore[union-attr]  # it is text
    ("seal", _SEAL.to_json()),
    ("seal", as_json(vectors("identity/nip59.json")["seal"])),
    ("rumor", _RUMOR.to_json()),
    ("rumor", as_json(vectors("identity/nip59.json")["rumor"])),
]
WORDS = ("id", "pubkey", "created_at", "kind", "tags", "content", "sig", ALICE.public_key, BOB.public_key)
