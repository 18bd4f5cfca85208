"""Keys and addresses as people see and paste them: npub1…, nsec1…, nprofile1… (NIP-19).

Everything that cannot be read raises `InvalidKey`; no error repeats the text, which may be a mistyped secret.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from identity import bech32
from identity.errors import InvalidKey
from identity.event import KIND_MAX
from identity.keys import SecretKey, check_public_key

TEXT_CHARS_MAX: Final = 5000
RELAY_BYTES_MAX: Final = 255

_SPECIAL, _RELAY, _AUTHOR, _KIND = range(4)  # types of the fields in nprofile, nevent and naddr
_HEX_64 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Npub:
    """A public key, x-only hex."""

    public_key: str


@dataclass(frozen=True)
class Nsec:
    """A secret key."""

    key: SecretKey


@dataclass(frozen=True)
class Note:
    """The id of an event, 64 hex digits."""

    event_id: str


@dataclass(frozen=True)
class Nprofile:
    """A public key and relays where its owner may be found; the relays are a stranger's claim, unchecked."""

    public_key: str
    relays: tuple[str, ...] = ()


@dataclass(frozen=True)
class Nevent:
    """The id of an event and where it may be found; all but the id is a stranger's claim, unchecked."""

    event_id: str
    relays: tuple[str, ...] = ()
    author: str | None = None
    kind: int | None = None


@dataclass(frozen=True)
class Naddr:
    """The address of a replaceable event: kind, author and `d` tag; the relays are unchecked."""

    kind: int
    public_key: str
    identifier: str
    relays: tuple[str, ...] = ()


Entity = Npub | Nsec | Note | Nprofile | Nevent | Naddr


def encode_npub(public_key: str) -> str:
    """`npub1…` of an x-only key in hex."""
    return _encode("npub", bytes.fromhex(check_public_key(public_key)))


def encode_nsec(key: SecretKey) -> str:
    """`nsec1…`: the secret itself. Never log it."""
    return _encode("nsec", key.to_bytes())


def encode_note(event_id: str) -> str:
    """`note1…` of an event id in hex."""
    return _encode("note", _id_bytes(event_id))


def encode_nprofile(public_key: str, relays: Iterable[str] = ()) -> str:
    """`nprofile1…` of a key and relay URLs, each at most 255 bytes."""
    special = bytes.fromhex(check_public_key(public_key))
    return _encode("nprofile", _field(_SPECIAL, special) + _relay_fields(relays))


def encode_nevent(
    event_id: str, *, relays: Iterable[str] = (), author: str | None = None, kind: int | None = None
) -> str:
    """`nevent1…` of an event id and what helps to find it."""
    data = _field(_SPECIAL, _id_bytes(event_id)) + _relay_fields(relays)
    if author is not None:
        data += _field(_AUTHOR, bytes.fromhex(check_public_key(author)))
    if kind is not None:
        data += _field(_KIND, _kind_bytes(kind))
    return _encode("nevent", data)


def encode_naddr(*, kind: int, public_key: str, identifier: str, relays: Iterable[str] = ()) -> str:
    """`naddr1…` of a replaceable event; `identifier` is its `d` tag, "" where its kind has none."""
    author = bytes.fromhex(check_public_key(public_key))
    data = _field(_SPECIAL, identifier.encode()) + _relay_fields(relays)
    return _encode("naddr", data + _field(_AUTHOR, author) + _field(_KIND, _kind_bytes(kind)))


def decode(text: str) -> Entity:
    """Read any NIP-19 text, with or without `nostr:` in front (NIP-21). Raises `InvalidKey`."""
    text = text.strip()
    if text[:6].lower() == "nostr:":
        text = text[6:]
    if len(text) > TEXT_CHARS_MAX:
        raise InvalidKey(f"a NIP-19 text has at most {TEXT_CHARS_MAX} characters, not {len(text)}")
    try:
        prefix, data = bech32.decode(text)
    except ValueError as error:
        raise InvalidKey(f"not a NIP-19 text such as npub1…: {error}") from None
    read = _READERS.get(prefix)
    if read is None:
        raise InvalidKey(f"not a NIP-19 text: it must begin with one of {', '.join(_READERS)}")
    return read(data)


def parse_public_key(text: str) -> str:
    """The x-only key in hex from an npub, nprofile or 64 hex digits. Raises `InvalidKey`."""
    text = text.strip()
    if _HEX_64.fullmatch(text):
        return check_public_key(text.lower())
    match decode(text):
        case Npub(public_key) | Nprofile(public_key):
            return public_key
        case Nsec():
            raise InvalidKey("this is a secret key (nsec): keep it to yourself, and give its npub here")
        case _:
            raise InvalidKey("this names an event: give an npub, an nprofile or 64 hex digits")


def parse_secret_key(text: str) -> SecretKey:
    """The key from an nsec or 64 hex digits. Raises `InvalidKey`."""
    text = text.strip()
    if _HEX_64.fullmatch(text):
        return SecretKey.from_hex(text)
    match decode(text):
        case Nsec(key):
            return key
        case Npub() | Nprofile():
            raise InvalidKey("this is a public key (npub): give the secret key, an nsec or 64 hex digits")
        case _:
            raise InvalidKey("this names an event: give a secret key, an nsec or 64 hex digits")


def _encode(prefix: str, data: bytes) -> str:
    text = bech32.encode(prefix, data)
    if len(text) > TEXT_CHARS_MAX:
        raise InvalidKey(
            f"{len(text)} characters are too long for NIP-19 ({TEXT_CHARS_MAX}): name fewer relays"
        )
    return text


def _field(type_: int, value: bytes) -> bytes:
    if len(value) > RELAY_BYTES_MAX:
        raise InvalidKey(f"NIP-19 holds {RELAY_BYTES_MAX} bytes in a relay or identifier, not {len(value)}")
    return bytes([type_, len(value)]) + value


def _relay_fields(relays: Iterable[str]) -> bytes:
    return b"".join(_field(_RELAY, relay.encode()) for relay in relays)


def _id_bytes(event_id: str) -> bytes:
    if not _HEX_64.fullmatch(event_id):
        raise InvalidKey("an event id is 64 hex digits")
    return bytes.fromhex(event_id)


def _kind_bytes(kind: int) -> bytes:
    if not 0 <= kind <= KIND_MAX:
        raise InvalidKey(f"kind must be 0 … {KIND_MAX}")
    return kind.to_bytes(4)


class _Fields:
    """Type-length-value fields of an nprofile, nevent or naddr; unknown types are ignored, as NIP-19 asks."""

    def __init__(self, data: bytes) -> None:
        self._values: dict[int, list[bytes]] = {}
        at = 0
        while at < len(data):
            value = data[at + 2 : at + 2 + data[at + 1]] if at + 1 < len(data) else None
            if value is None or len(value) != data[at + 1]:
                raise InvalidKey("not a NIP-19 text: a field in it is cut short")
            self._values.setdefault(data[at], []).append(value)
            at += 2 + len(value)

    def first(self, type_: int) -> bytes | None:
        return self._values.get(type_, [None])[0]

    def required(self, type_: int) -> bytes:
        value = self.first(type_)
        if value is None:
            raise InvalidKey(f"not a NIP-19 text: its field {type_} is missing")
        return value

    def relays(self) -> tuple[str, ...]:
        return tuple(_text(value) for value in self._values.get(_RELAY, []))


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidKey("not a NIP-19 text: a relay or identifier in it is not UTF-8") from None


def _public_key(value: bytes) -> str:
    return check_public_key(value.hex())


def _event_id(value: bytes) -> str:
    if len(value) != 32:
        raise InvalidKey(f"an event id has 32 bytes, not {len(value)}")
    return value.hex()


def _kind(value: bytes) -> int:
    kind = int.from_bytes(value)
    if len(value) != 4 or kind > KIND_MAX:
        raise InvalidKey(f"kind must be 0 … {KIND_MAX}, in four bytes")
    return kind


def _nprofile(data: bytes) -> Nprofile:
    fields = _Fields(data)
    return Nprofile(_public_key(fields.required(_SPECIAL)), fields.relays())


def _nevent(data: bytes) -> Nevent:
    fields = _Fields(data)
    author, kind = fields.first(_AUTHOR), fields.first(_KIND)
    return Nevent(
        _event_id(fields.required(_SPECIAL)),
        fields.relays(),
        author=None if author is None else _public_key(author),
        kind=None if kind is None else _kind(kind),
    )


def _naddr(data: bytes) -> Naddr:
    fields = _Fields(data)
    return Naddr(
        kind=_kind(fields.required(_KIND)),
        public_key=_public_key(fields.required(_AUTHOR)),
        identifier=_text(fields.required(_SPECIAL)),
        relays=fields.relays(),
    )


_READERS: dict[str, Callable[[bytes], Entity]] = {
    "npub": lambda data: Npub(_public_key(data)),
    "nsec": lambda data: Nsec(SecretKey(data)),
    "note": lambda data: Note(_event_id(data)),
    "nprofile": _nprofile,
    "nevent": _nevent,
    "naddr": _naddr,
}
