"""Bech32 (BIP-173) and, to read, bech32m (BIP-350), without their limit of 90 characters.

The standard library turns bytes into base32 digits and back: bech32 differs from it in the alphabet alone.
"""

import base64
import binascii
import re
from typing import Final

_ALPHABET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_RFC4648: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_FROM_RFC4648: Final = str.maketrans(_RFC4648, _ALPHABET)
_TO_RFC4648: Final = str.maketrans(_ALPHABET, _RFC4648)
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
BECH32: Final = 1
BECH32M: Final = 0x2BC830A3
_CHECKSUM_DIGITS: Final = 6
_PREFIX: Final = re.compile("[!-~]+")
_DIGITS: Final = re.compile(f"[{_ALPHABET}]{{{_CHECKSUM_DIGITS},}}")


def encode(prefix: str, data: bytes) -> str:
    """`data` under a lowercase `prefix`, in lowercase."""
    digits = _digits(data)
    polymod = _polymod(prefix, digits + "q" * _CHECKSUM_DIGITS) ^ BECH32
    checksum = (_ALPHABET[polymod >> shift & 31] for shift in range(25, -1, -5))
    return f"{prefix}1{digits}{''.join(checksum)}"


def decode(text: str, variant: int = BECH32) -> tuple[str, bytes]:
    """Prefix and data of `text`, which is all lowercase or all uppercase; `variant` is `BECH32` or `BECH32M`.

    Raises `ValueError`, without repeating the text, which may be a secret.
    """
    if not text.isascii() or text not in (text.lower(), text.upper()):
        raise ValueError("it mixes upper and lower case, or is not ASCII")
    prefix, _, digits = text.lower().rpartition("1")
    if not _PREFIX.fullmatch(prefix) or not _DIGITS.fullmatch(digits):
        raise ValueError("it is not a prefix, a 1 and letters of bech32")
    if _polymod(prefix, digits) != variant:
        raise ValueError("its checksum is wrong: a letter is missing or mistyped")
    digits = digits[:-_CHECKSUM_DIGITS]
    try:
        data = base64.b32decode(digits.translate(_TO_RFC4648) + "=" * (-len(digits) % 8))
    except binascii.Error:
        raise ValueError("it does not end at a whole byte") from None
    if _digits(data) != digits:
        raise ValueError("the bits that fill its last letter are not zero")
    return prefix, data


def _digits(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").rstrip("=").translate(_FROM_RFC4648)


def _polymod(prefix: str, digits: str) -> int:
    """BIP-173's checksum over prefix and digits; the variant's number for a valid text."""
    codes = prefix.encode("ascii")
    values = (
        [code >> 5 for code in codes]
        + [0]
        + [code & 31 for code in codes]
        + [_ALPHABET.index(d) for d in digits]
    )
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                checksum ^= generator
    return checksum
