"""Base64 and CBOR as tokens and payment requests use them, read strictly. Raises `ValueError` only."""

import base64
import re
from collections.abc import Mapping
from typing import Final, Never

import cbor2

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")
_DEPTH_MAX: Final = 8


def to_base64url(raw: bytes) -> str:
    """URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """Read base64 in either alphabet, padded or not: deployed wallets write all four. Raises `ValueError`."""
    text = text.rstrip("=").translate(_URL_SAFE)
    if not _BASE64URL.fullmatch(text):
        raise ValueError("not base64")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def to_cbor(value: object) -> bytes:
    """CBOR, members in the order given."""
    return cbor2.dumps(value)


def from_cbor(raw: bytes) -> object:
    """Read one CBOR item: shallow, no member twice, no semantic tags. Raises `ValueError`."""
    try:
        return cbor2.loads(
            raw,
            max_depth=_DEPTH_MAX,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            semantic_decoders=_NO_TAGS,
            object_hook=_without_undefined,
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError("not CBOR of the expected kind") from error


def _without_undefined(members: Mapping[object, object], _immutable: bool) -> dict[object, object]:
    """Some wallets write members they leave out as CBOR's `undefined`; the official vectors of NUT-18 do."""
    return {name: value for name, value in members.items() if value is not cbor2.undefined}


def _refuse_tag(_value: object, _immutable: bool) -> Never:
    raise ValueError("semantic tags are not used here")


_URL_SAFE: Final = str.maketrans("+/", "-_")
# cbor2 would turn these into dates, regular expressions, cyclic lists and numbers of any size. Tags it does
# not know become objects that no caller's type check lets pass.
_NO_TAGS: Final = dict.fromkeys((*range(64), 100, 256, 258, 260, 261, 1004, 43000, 55799), _refuse_tag)
