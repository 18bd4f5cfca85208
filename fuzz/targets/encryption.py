"""Encrypted texts (NIP-44, NIP-04): payloads as they come, and what a peer who knows the key may put into them."""

import hmac
from binascii import a2b_base64, b2a_base64
from typing import Final

import nostr_sdk

from fuzz.kit import ALICE, BOB, text_of, vectors
from identity import nip04, nip44
from identity.errors import DecryptionError, EncryptionError

_KEY: Final = nip44.conversation_key(ALICE, BOB.public_key)
_NONCE: Final = bytes(range(32))
_THEIR_ALICE: Final = nostr_sdk.PublicKey.parse(ALICE.public_key)
_THEIR_BOB: Final = nostr_sdk.SecretKey.parse(BOB.hex())


def _payload(data: bytes) -> None:
    payload = text_of(data)
    try:
        text = nip44.decrypt(payload, _KEY)
    except DecryptionError:
        return
    assert nip44.decrypt(nip44.encrypt(text, _KEY), _KEY) == text


def _padded(data: bytes) -> None:
    """What is decrypted is these bytes: the only thing that a peer may choose freely."""
    cipher_key, cipher_nonce, mac_key = nip44.message_keys(_KEY, _NONCE)
    ciphertext = nip44._chacha20(cipher_key, cipher_nonce, data)
    mac = hmac.digest(mac_key, _NONCE + ciphertext, "sha256")
    payload = b2a_base64(b"\x02" + _NONCE + ciphertext + mac, newline=False).decode()
    try:
        text = nip44.decrypt(payload, _KEY)
    except DecryptionError:
        return
    # Nobody checks that the padding is zeroes (nor does the specification ask for it): the MAC vouches for it.
    size = len(text.encode())
    start = 2 if size < 65536 else 6
    if not any(data[start + size :]):
        assert nip44.encrypt(text, _KEY, nonce=_NONCE) == payload
    if size < 65536:
        assert nostr_sdk.nip44_decrypt(_THEIR_BOB, _THEIR_ALICE, payload) == text


def _text(data: bytes) -> None:
    text = text_of(data)
    try:
        payload = nip44.encrypt(text, _KEY)
    except EncryptionError:
        assert not text or not text.isascii()
        return
    assert nip44.decrypt(payload, _KEY) == text


def _nip04(data: bytes) -> None:
    payload = text_of(data)
    try:
        text = nip04.decrypt(payload, ALICE, BOB.public_key)
    except DecryptionError:
        return
    assert nip04.is_payload(payload)
    ciphertext, iv = map(a2b_base64, payload.split("?iv="))
    again = nip04.encrypt(text, ALICE, BOB.public_key, iv=iv)
    assert list(map(a2b_base64, again.split("?iv="))) == [ciphertext, iv]
    if again == payload:  # base64 leaves some bits free, and nostr-sdk wants them to be zero
        assert nostr_sdk.nip04_decrypt(_THEIR_BOB, _THEIR_ALICE, payload) == text


def _nip04_blocks(data: bytes) -> None:
    """Any ciphertext of whole blocks: what somebody makes who wants to learn from our answers."""
    blocks = data[: len(data) // 16 * 16]
    _nip04(b2a_base64(blocks, newline=False) + b"?iv=" + b2a_base64(_NONCE[:16], newline=False))


CHECKS = {
    "payload": _payload,
    "padded": _padded,
    "text": _text,
    "nip04": _nip04,
    "nip04_blocks": _nip04_blocks,
}
_VECTORS = vectors("identity/nip44.vectors.json")["v2"]
SEEDS = [
    ("payload", nip44.encrypt("hello", _KEY, nonce=_NONCE).encode()),
    *(("payload", case["payload"].encode()) for case in _VECTORS["invalid"]["decrypt"]),
    *(("text", case["plaintext"].encode()) for case in _VECTORS["valid"]["encrypt_decrypt"]),
    *(("padded", nip44._pad(text)) for text in ("a", "é" * 20, "x" * 33, "y" * 300)),
    ("padded", nip44._pad("z" * 70000)),
    *(
        ("nip04", nip04.encrypt(text, ALICE, BOB.public_key, iv=_NONCE[:16]).encode())
        for text in ("", "hello", "é" * 40)
    ),
    *(
        (
            "nip04_blocks",
            a2b_base64(nip04.encrypt("x" * size, ALICE, BOB.public_key, iv=_NONCE[:16]).partition("?")[0]),
        )
        for size in (3, 40)
    ),
]
WORDS = ("#", "Ag==", "?iv=", "\x00\x00", "\x00\x01\x00\x00", "=")
