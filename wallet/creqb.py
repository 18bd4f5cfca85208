"""Payment requests in bech32m (`creqb1…`, NUT-26): type, length and value into the members that NUT-18 has in CBOR.

Only read: we write `creqA…`, which every wallet knows. Raises `ValueError` only.
"""

from collections.abc import Iterator
from typing import Final, TypeVar

from identity import bech32
from wallet.proofs import SAT

_TEXT_FIELDS: Final = {1: "i", 6: "d"}
_KINDS: Final = {0: "P2PK", 1: "HTLC"}
_YES_OR_NO: Final = {b"\x00": False, b"\x01": True}
_N = TypeVar("_N")
_T = TypeVar("_T")


def read_creqb(text: str) -> dict[object, object]:
    """The members of a request by their names in NUT-18, as unchecked as if they came out of CBOR.

    Unknown fields are skipped, and so are transports of unknown kinds. A lock of an unknown kind is kept, by its
    number: to pay without it would be to pay wrongly. Nostr keys become an nprofile with the relays of the `r` tags.
    """
    prefix, raw = bech32.decode(text, bech32.BECH32M)
    if prefix != "creqb":
        raise ValueError("not a payment request")
    members: dict[object, object] = {}
    mints: list[str] = []
    transports: list[object] = []
    for field, value in _fields(raw):
        match field:
            case 1 | 6:
                _set(members, _TEXT_FIELDS[field], value.decode())
            case 2:
                _set(members, "a", _number(value, 8))
            case 3:
                _set(members, "u", SAT if value == b"\x00" else value.decode())
            case 4:
                _set(members, "s", _YES_OR_NO.get(value, "neither"))
            case 5:
                mints.append(value.decode())
            case 7:
                transports += _transport(value)
            case 8:
                _set(members, "nut10", _condition(value))
    return members | ({"m": mints} if mints else {}) | ({"t": transports} if transports else {})


def _transport(raw: bytes) -> list[dict[str, object]]:
    kind, target, tags = _three(raw)
    match kind:
        case 0:
            relays = [value for name, *values in tags if name == "r" for value in values]
            kept = [tag for tag in tags if tag[0] != "r"]
            return [{"t": "nostr", "a": _nprofile(target, relays), "g": kept}]
        case 1:
            return [{"t": "post", "a": target.decode(), "g": tags}]
    return []


def _nprofile(key: bytes, relays: list[str]) -> str:
    """NIP-19's text of a key that may be none: whether somebody can be reached there, who pays will see."""
    if len(key) != 32:
        raise ValueError("a nostr transport has no key of 32 bytes")
    parts = [(0, key), *((1, relay.encode()) for relay in relays)]
    return bech32.encode("nprofile", b"".join(bytes([kind, len(value)]) + value for kind, value in parts))


def _condition(raw: bytes) -> dict[str, object]:
    kind, data, tags = _three(raw)
    return {"k": _KINDS.get(kind, str(kind)), "d": data.decode(), "t": tags}


def _three(raw: bytes) -> tuple[int, bytes, list[list[str]]]:
    """The fields that transports and locks have alike: a kind, what it is about, tags."""
    members: dict[str, bytes] = {}
    tags = []
    for field, value in _fields(raw):
        match field:
            case 1:
                _set(members, "kind", value)
            case 2:
                _set(members, "target", value)
            case 3:
                tags.append(_tag(value))
    return _number(members.get("kind", b""), 1), members.get("target", b""), tags


def _tag(raw: bytes) -> list[str]:
    """A name and values, each behind one byte of length."""
    texts = []
    while raw:
        length = raw[0]
        if len(raw) <= length:
            raise ValueError("a tag is cut short")
        texts.append(raw[1 : 1 + length].decode())
        raw = raw[1 + length :]
    if not texts:
        raise ValueError("a tag has a name")
    return texts


def _fields(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Each field: one byte of type, two of length, the value."""
    while raw:
        end = 3 + int.from_bytes(raw[1:3])
        if len(raw) < max(end, 3):
            raise ValueError("a field is cut short")
        yield raw[0], raw[3:end]
        raw = raw[end:]


def _number(value: bytes, size: int) -> int:
    if len(value) != size:
        raise ValueError("a number has the wrong size")
    return int.from_bytes(value)


def _set(members: dict[_N, _T], name: _N, value: _T) -> None:
    if name in members:
        raise ValueError("a field is there twice")
    members[name] = value
