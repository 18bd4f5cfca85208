"""Encryption between two keys: NIP-44 version 2, with the long form of 2026 for texts of 64 KiB and more.

A payload proves nothing to a third party: the event around it is signed, and must be verified before anything
here decrypts.
"""

import binascii
import hmac
import secrets
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from identity.errors import DecryptionError, EncryptionError
from identity.keys import SecretKey

#: What `decrypt` takes unless told otherwise, in base64 characters; the specification's 4 GiB are no limit.
PAYLOAD_BYTES_MAX: Final = 1 << 20

_VERSION = 2
_PLAINTEXT_BYTES_MAX = 2**32 - 1
_LONG_FORM_BYTES_MIN = 65536  # from here on the length takes six bytes, and older peers cannot read it
_PAYLOAD_BYTES_MIN = 132
_RAW_BYTES_MIN = 99
_CACHED_CONVERSATIONS_MAX = 4096


def conversation_key(key: SecretKey, peer: str) -> bytes:
    """The 32-byte key shared by `key` and the x-only public key `peer`: a secret, the same from both sides.

    The latest few thousand are remembered, as an ECDH costs more than the message. Raises `InvalidKey`.
    """
    return _remembered(key, peer)


def derive_conversation_key(key: SecretKey, peer: str) -> bytes:
    """As `conversation_key`, but remembers nothing: for keys that are used once."""
    return hmac.digest(b"nip44-v2", key.shared_x(peer), "sha256")


_remembered = lru_cache(maxsize=_CACHED_CONVERSATIONS_MAX)(derive_conversation_key)


def encrypt(plaintext: str, conversation_key: bytes, *, nonce: bytes | None = None) -> str:
    """Encrypt to base64. `nonce` (32 bytes) is drawn at random; give one only to reproduce a test vector.

    Raises `EncryptionError` if the text is empty, over 4 GiB or not UTF-8. Software from before 2026 cannot
    read 64 KiB or more.
    """
    nonce = secrets.token_bytes(32) if nonce is None else nonce
    cipher_key, cipher_nonce, mac_key = message_keys(conversation_key, nonce)
    ciphertext = _chacha20(cipher_key, cipher_nonce, _pad(plaintext))
    mac = hmac.digest(mac_key, nonce + ciphertext, "sha256")
    payload = bytes([_VERSION]) + nonce + ciphertext + mac
    return binascii.b2a_base64(payload, newline=False).decode("ascii")


def decrypt(payload: str, conversation_key: bytes, *, payload_bytes_max: int = PAYLOAD_BYTES_MAX) -> str:
    """Decrypt base64 as `encrypt` made it. Raises `DecryptionError`, whatever the payload is.

    A payload longer than `payload_bytes_max` characters is refused before anything of it is decoded.
    """
    nonce, ciphertext, mac = _split(payload, payload_bytes_max)
    cipher_key, cipher_nonce, mac_key = message_keys(conversation_key, nonce)
    if not hmac.compare_digest(hmac.digest(mac_key, nonce + ciphertext, "sha256"), mac):
        raise DecryptionError("the payload is meant for another key, or was altered on the way")
    return _unpad(_chacha20(cipher_key, cipher_nonce, ciphertext))


def is_payload(text: str) -> bool:
    """Whether `text` has the form of a payload that `decrypt` takes; only its key tells whether it is one."""
    try:
        _split(text, PAYLOAD_BYTES_MAX)
    except DecryptionError:
        return False
    return True


def message_keys(conversation_key: bytes, nonce: bytes) -> tuple[bytes, bytes, bytes]:
    """ChaCha20 key (32 bytes), its nonce (12) and HMAC key (32) of one message: HKDF-expand over `nonce`."""
    assert len(conversation_key) == 32
    assert len(nonce) == 32
    first = hmac.digest(conversation_key, nonce + b"\x01", "sha256")
    second = hmac.digest(conversation_key, first + nonce + b"\x02", "sha256")
    third = hmac.digest(conversation_key, second + nonce + b"\x03", "sha256")
    return first, second[:12], second[12:] + third[:12]


def padded_length(size: int) -> int:
    """Bytes that a text of `size` ≥ 1 bytes takes when padded, its length prefix not counted."""
    chunk = max(32, (1 << (size - 1).bit_length()) // 8)
    return -(-size // chunk) * chunk


def _chacha20(key: bytes, nonce: bytes, data: bytes) -> bytes:
    counter_and_nonce = bytes(4) + nonce
    return Cipher(ChaCha20(key, counter_and_nonce), mode=None).encryptor().update(data)


def _pad(plaintext: str) -> bytes:
    try:
        text = plaintext.encode()
    except UnicodeEncodeError:
        raise EncryptionError("the text holds a lone surrogate, which UTF-8 cannot carry") from None
    size = len(text)
    if not 1 <= size <= _PLAINTEXT_BYTES_MAX:
        raise EncryptionError(f"NIP-44 encrypts 1 … {_PLAINTEXT_BYTES_MAX} bytes, not {size}")
    prefix = size.to_bytes(2) if size < _LONG_FORM_BYTES_MIN else bytes(2) + size.to_bytes(4)
    return prefix + text + bytes(padded_length(size) - size)


def _unpad(padded: bytes) -> str:
    size, start = int.from_bytes(padded[:2]), 2
    if size == 0:
        size, start = int.from_bytes(padded[2:6]), 6
        if size < _LONG_FORM_BYTES_MIN:
            raise DecryptionError("the padding is wrong: a short text in the long form")
    if len(padded) != start + padded_length(size):
        raise DecryptionError("the padding is wrong: it does not fit the length of the text")
    try:
        return padded[start : start + size].decode()
    except UnicodeDecodeError:
        raise DecryptionError("the decrypted text is not UTF-8") from None


def _split(payload: str, payload_bytes_max: int) -> tuple[bytes, bytes, bytes]:
    """Take a payload apart: nonce, ciphertext, MAC."""
    if payload.startswith("#"):
        raise DecryptionError("the payload's encryption version is not supported, only version 2 is")
    if not _PAYLOAD_BYTES_MIN <= len(payload) <= payload_bytes_max:
        raise DecryptionError(
            f"a payload of {len(payload)} characters: {_PAYLOAD_BYTES_MIN} … {payload_bytes_max} are accepted"
        )
    try:
        raw = binascii.a2b_base64(payload, strict_mode=True)
    except ValueError:
        raise DecryptionError("the payload is not base64") from None
    if raw[0] != _VERSION:
        raise DecryptionError(
            f"the payload's encryption version {raw[0]} is not supported, only version 2 is"
        )
    if len(raw) < _RAW_BYTES_MIN:
        raise DecryptionError(f"the payload holds {len(raw)} bytes; {_RAW_BYTES_MIN} are the least")
    return raw[1:33], raw[33:-32], raw[-32:]
