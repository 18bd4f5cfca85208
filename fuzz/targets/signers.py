"""Keys as people give them, encrypted ones, and remote signers (NIP-46, NIP-49)."""

from dataclasses import replace
from typing import Final

import coincurve

from fuzz.kit import ALICE, as_json, text_of
from identity import bech32, nip46, nip49
from identity.credential import encode_stored_key, parse_credential
from identity.errors import InvalidEvent, InvalidKey, WrongPassword
from identity.keys import SecretKey, verify_signature
from identity.nip19 import Npub, encode_nprofile, encode_npub, encode_nsec
from identity.nip46 import RESULT_CHARS_MAX, BunkerUrl
from wallet.crypto import ORDER

_LOG_N: Final = 1  # scrypt's least: what it costs is not what is tried


def _credential(data: bytes) -> None:
    text = text_of(data)
    try:
        key = parse_credential(text)
    except InvalidKey as error:
        assert len(text) < 20 or text not in str(error)
        return
    if not isinstance(key, Npub):
        written = encode_stored_key(key)
        assert parse_credential(written) == key
        assert written not in repr(key)


def _bunker_url(data: bytes) -> None:
    try:
        url = nip46.parse_bunker_url(text_of(data))
    except InvalidKey:
        return
    assert url.relays
    assert nip46.parse_bunker_url(url.to_text()) == url
    assert repr(replace(url, secret="another")) == repr(url)


def _answer(data: bytes) -> None:
    try:
        answer = nip46.parse_answer(text_of(data))
    except InvalidEvent:
        return
    assert len(answer.result) <= RESULT_CHARS_MAX
    assert len(answer.error) <= 500
    again = as_json({"id": answer.id, "result": answer.result, "error": answer.error}).decode()
    assert nip46.parse_answer(again) == answer
    assert not answer.is_auth_url or answer.error.startswith("http")


def _encrypted(data: bytes) -> None:
    """Any payload under a right checksum; the cost is left at what takes no time."""
    text = bech32.encode(nip49.PREFIX, data[:1] + bytes([_LOG_N]) + data[2:200])
    try:
        nip49.handling_of(text)
    except InvalidKey:
        return
    try:
        key = nip49.decrypt(text, "password")
    except (InvalidKey, WrongPassword):
        return
    assert key == ALICE


def _signature(data: bytes) -> None:
    """A secret, a digest, and what somebody claims to be its signature: coincurve itself is asked too."""
    secret, digest, claimed = data[:32], data[32:64], data[64:]
    try:
        key = SecretKey(secret)
        signature = key.sign(digest)
    except (InvalidKey, ValueError):
        assert len(digest) != 32 or len(secret) != 32 or not 0 < int.from_bytes(secret) < ORDER
        return
    theirs = coincurve.PublicKeyXOnly(bytes.fromhex(key.public_key))
    assert theirs.verify(signature, digest)
    for one in (signature, claimed, claimed[:64], signature[:32] + claimed[:32]):
        try:
            expected = theirs.verify(one, digest)
        except ValueError:
            expected = False
        assert verify_signature(key.public_key, digest, one) == expected
    assert not verify_signature(key.public_key, digest, signature[:63])
    assert not verify_signature(key.public_key[:-2], digest, signature)


CHECKS = {
    "signature": _signature,
    "credential": _credential,
    "bunker_url": _bunker_url,
    "answer": _answer,
    "encrypted": _encrypted,
}
_ENCRYPTED = nip49.encrypt(ALICE, "password", log_n=_LOG_N)
_URL = BunkerUrl(ALICE.public_key, ("wss://a.example/x?y=z", "ws://b"), "p é&=#").to_text()
SEEDS = [
    ("signature", ALICE.to_bytes() + bytes(32) + ALICE.sign(bytes(32))),
    ("signature", (ORDER - 1).to_bytes(32) + bytes([255]) * 32 + bytes(64)),
    ("signature", ORDER.to_bytes(32) + bytes(96)),
    *(
        ("credential", text.encode())
        for text in (
            _ENCRYPTED, _ENCRYPTED.upper(), _URL, encode_nsec(ALICE), ALICE.hex(), encode_npub(ALICE.public_key),
            "nostr:" + encode_nprofile(ALICE.public_key, ["wss://a"]), "nostrconnect://" + ALICE.public_key,
        )
    ),
    ("bunker_url", _URL.encode()),
    ("bunker_url", f"bunker://{encode_npub(ALICE.public_key)}?relay=wss%3A%2F%2Fa&relay=b&perms=x".encode()),
    ("bunker_url", f"bunker://{ALICE.public_key}?relay=a&secret=".encode() + b"\xff"),  # found: could not be written
    ("answer", as_json({"id": "1", "result": "ack"})),
    ("answer", as_json({"id": "1", "result": "auth_url", "error": "https://x.example/y"})),
    ("answer", as_json({"id": "1", "result": {"id": "00", "tags": [["a"]]}, "error": None})),
    ("encrypted", bech32.decode(_ENCRYPTED)[1]),
    ("encrypted", bech32.decode(nip49.encrypt(SecretKey(bytes([9]) * 32), "other", log_n=_LOG_N))[1]),
]  # fmt: skip
WORDS = ("bunker://", "nostrconnect://", "ncryptsec1", "nsec1", "npub1", "nostr:", "?relay=", "&secret=", "wss://", "%00", "id", "result",
         "error", "auth_url", "https://", ALICE.public_key)  # fmt: skip
