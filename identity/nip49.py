"""Secret keys under a password: ncryptsec1… (NIP-49).

A guess at the password costs scrypt's time and memory, 128 · 8 · 2^log_n bytes. Python cannot wipe what it held; the
derived key and the password live as short as they can and are shown by nothing here.
"""

import unicodedata
from enum import IntEnum
from secrets import token_bytes
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from identity import bech32
from identity.errors import InvalidKey, KeyDerivationError, WrongPassword
from identity.keys import SecretKey

PREFIX: Final = "ncryptsec"
#: Cost of what we encrypt: 128 MiB and about a third of a second for each guess.
LOG_N: Final = 17
#: Cost we are willing to pay for what others encrypted: 4 GiB, the end of the specification's table.
LOG_N_MAX: Final = 22

_VERSION: Final = 2
_BYTES: Final = 91
_TEXT_CHARS_MAX: Final = 200  # of 162; for spaces and lines around it


class Handling(IntEnum):
    """What is known of a key's past, written into its encrypted form for everybody to read."""

    #: It was once stored or pasted without encryption.
    EXPOSED = 0
    #: It was never.
    GUARDED = 1
    UNKNOWN = 2


class _Parts(NamedTuple):
    log_n: int
    salt: bytes
    nonce: bytes
    handling: int
    ciphertext: bytes


def encrypt(
    key: SecretKey, password: str, *, log_n: int = LOG_N, handling: Handling = Handling.UNKNOWN
) -> str:
    """`ncryptsec1…`: the key, to be opened by `password` in any spelling that NFKC makes equal.

    Takes 2^(log_n + 10) bytes of memory. Raises `KeyDerivationError` if they are not there.
    """
    salt, nonce, associated = token_bytes(16), token_bytes(24), bytes([handling])
    ciphertext = crypto_aead_xchacha20poly1305_ietf_encrypt(
        key.to_bytes(), associated, nonce, _derive(password, salt, log_n)
    )
    return bech32.encode(PREFIX, bytes([_VERSION, log_n]) + salt + nonce + associated + ciphertext)


def decrypt(text: str, password: str) -> SecretKey:
    """The key in an `ncryptsec1…`.

    Raises `WrongPassword`, `InvalidKey` for what is no ncryptsec, `KeyDerivationError` if it asks for more memory than
    there is or than `LOG_N_MAX` allows.
    """
    parts = _split(text)
    try:
        secret = crypto_aead_xchacha20poly1305_ietf_decrypt(
            parts.ciphertext, bytes([parts.handling]), parts.nonce, _derive(password, parts.salt, parts.log_n)
        )
    except CryptoError:
        raise WrongPassword("the password is wrong, or the encrypted key was altered") from None
    return SecretKey(secret)


def handling_of(text: str) -> Handling:
    """What an `ncryptsec1…` says of its key's past; checks the form of all of it. Raises `InvalidKey`."""
    handling = _split(text).handling
    return Handling(handling) if handling in set(Handling) else Handling.UNKNOWN


def _derive(password: str, salt: bytes, log_n: int) -> bytes:
    if not 1 <= log_n <= LOG_N_MAX:
        raise KeyDerivationError(
            f"the encrypted key asks for 2^{log_n} rounds of scrypt; at most 2^{LOG_N_MAX} (4 GiB) are done"
        )
    try:
        raw = unicodedata.normalize("NFKC", password).encode()
        return Scrypt(salt=salt, length=32, n=1 << log_n, r=8, p=1).derive(raw)
    except UnicodeEncodeError:
        raise WrongPassword("the password is not text in UTF-8") from None
    except MemoryError:
        raise KeyDerivationError(
            f"this key takes {1 << (log_n - 10)} MiB of memory to open, and they are not free here"
        ) from None


def _split(text: str) -> _Parts:
    if len(text) > _TEXT_CHARS_MAX:
        raise InvalidKey("not an encrypted key (ncryptsec1…): it is too long")
    try:
        prefix, raw = bech32.decode(text.strip())
    except ValueError as error:
        raise InvalidKey(f"not an encrypted key (ncryptsec1…): {error}") from None
    if prefix != PREFIX or len(raw) != _BYTES:
        raise InvalidKey("not an encrypted key: an ncryptsec1… of 91 bytes is wanted")
    if raw[0] != _VERSION:
        raise InvalidKey(f"version {raw[0]} of encrypted keys is not supported, only version {_VERSION} is")
    return _Parts(raw[1], raw[2:18], raw[18:42], raw[42], raw[43:])
