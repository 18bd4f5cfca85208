"""The old encryption between two keys (NIP-04), kept for those who know no other: AES-256-CBC under the ECDH secret.

It authenticates nothing: whoever can alter a payload alters what is read, and a wrong key is only probably noticed.
The event around it must be verified first, and only what its signer may say may be believed. `decrypt` names every
failure alike, so that nobody can learn from the answers how a guess went wrong.
"""

import binascii
import secrets

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from identity.errors import DecryptionError, EncryptionError
from identity.keys import SecretKey
from identity.nip44 import PAYLOAD_BYTES_MAX

_MARK = "?iv="
_BLOCK_BYTES = 16


def is_payload(text: str) -> bool:
    """Whether `text` claims to be a NIP-04 payload: `ciphertext?iv=…`. NIP-44's base64 knows no question mark."""
    return _MARK in text


def encrypt(plaintext: str, key: SecretKey, peer: str, *, iv: bytes | None = None) -> str:
    """Encrypt to `base64?iv=base64`. `iv` (16 bytes) is drawn at random; give one only to reproduce a test vector.

    Raises `EncryptionError` if the text is not UTF-8, `InvalidKey` for a bad `peer`.
    """
    iv = secrets.token_bytes(_BLOCK_BYTES) if iv is None else iv
    try:
        text = plaintext.encode()
    except UnicodeEncodeError:
        raise EncryptionError("the text holds a lone surrogate, which UTF-8 cannot carry") from None
    padder, encryptor = PKCS7(8 * _BLOCK_BYTES).padder(), _cipher(key, peer, iv).encryptor()
    ciphertext = encryptor.update(padder.update(text) + padder.finalize()) + encryptor.finalize()
    return f"{_base64(ciphertext)}{_MARK}{_base64(iv)}"


def decrypt(payload: str, key: SecretKey, peer: str, *, payload_bytes_max: int = PAYLOAD_BYTES_MAX) -> str:
    """Decrypt what `encrypt` made. Raises `DecryptionError`, whatever the payload is, `InvalidKey` for a bad `peer`.

    A payload longer than `payload_bytes_max` characters is refused before anything of it is decoded.
    """
    if len(payload) > payload_bytes_max:
        raise DecryptionError(
            f"a payload of {len(payload)} characters: at most {payload_bytes_max} are accepted"
        )
    coded, _, coded_iv = payload.partition(_MARK)
    try:
        ciphertext = binascii.a2b_base64(coded, strict_mode=True)
        iv = binascii.a2b_base64(coded_iv, strict_mode=True)
    except ValueError:
        raise DecryptionError("the payload is not NIP-04: base64?iv=base64") from None
    if len(iv) != _BLOCK_BYTES or not ciphertext or len(ciphertext) % _BLOCK_BYTES:
        raise DecryptionError("the payload is not NIP-04: whole blocks of 16 bytes and an iv of 16 bytes")
    decryptor, unpadder = _cipher(key, peer, iv).decryptor(), PKCS7(8 * _BLOCK_BYTES).unpadder()
    padded = decryptor.update(ciphertext) + decryptor.finalize()
    try:
        return (unpadder.update(padded) + unpadder.finalize()).decode()
    except ValueError:  # wrong padding or not UTF-8: a difference that would be an oracle
        raise DecryptionError("the payload is meant for another key, or was altered on the way") from None


def _cipher(key: SecretKey, peer: str, iv: bytes) -> Cipher[CBC]:
    return Cipher(AES256(key.shared_x(peer)), CBC(iv))


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")
