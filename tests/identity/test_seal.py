"""Seals: what opens, what is fraud, and what proves nothing."""

import base64
import hmac
import json
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt

from identity import Event, InvalidSeal, SecretKey, make_template, nip44, sign_event
from identity.seal import (
    CIPHERTEXT_BYTES_MAX,
    Failure,
    FraudProof,
    Promise,
    Sealed,
    _derive,
    check_fraud,
    open_seal,
    parse_fraud_proof,
    read_promise,
    seal,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "tp-seal-1.json").read_bytes())
MAKER = SecretKey(bytes([7]) * 32)
REQUEST, K, SALT = "ab" * 32, bytes(range(32)), bytes([9]) * 32


def made(plaintext: bytes = b"forty two", k: bytes = K) -> Sealed:
    return seal(k, REQUEST, MAKER.public_key, plaintext, SALT)


def resealed(payload: bytes, k: bytes = K, **promised: Any) -> Sealed:
    """What somebody may seal and promise who does not keep to the scheme."""
    promise = replace(
        made(k=bytes(32)).promise, key_hash=sha256(k).hexdigest(), payload_hash=sha256(payload).hexdigest(),
        length=len(payload) + 16,
    )  # fmt: skip
    key, nonce, aad = _derive(k, promise)
    ciphertext = ChaCha20Poly1305(key).encrypt(nonce, payload, aad)
    return Sealed(
        ciphertext, replace(promise, **({"ciphertext_hash": sha256(ciphertext).hexdigest()} | promised))
    )


def published(promise: Promise, *tags: tuple[str, ...], maker: SecretKey = MAKER) -> Event:
    named = (("e", promise.request_id), promise.to_tag())
    return sign_event(make_template(7000, tags=[*named, *tags], created_at=1), maker)


# --- what opens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["note"])
def test_our_vectors(case: dict[str, Any]) -> None:
    k, salt, plaintext = (bytes.fromhex(case[name]) for name in ("k", "salt", "plaintext"))
    sealed = seal(k, case["request_id"], case["provider"], plaintext, salt)
    assert sealed.ciphertext.hex() == case["ciphertext"]
    assert list(sealed.promise.to_tag()) == case["tag"]
    assert open_seal(k, sealed.ciphertext, sealed.promise) == plaintext


@given(st.binary(max_size=2000), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_another_library_seals_alike(plaintext: bytes, k: bytes, salt: bytes) -> None:
    sealed = seal(k, REQUEST, MAKER.public_key, plaintext, salt)
    extracted = hmac.digest(bytes.fromhex(REQUEST), k, "sha256")
    first = hmac.digest(extracted, b"tradepost/seal/1\x01", "sha256")
    second = hmac.digest(extracted, first + b"tradepost/seal/1\x02", "sha256")
    padding = nip44.padded_length(max(len(plaintext), 1)) - len(plaintext)
    payload = salt + len(plaintext).to_bytes(8, "big") + plaintext + b"\x00" * padding
    aad = bytes.fromhex(REQUEST + MAKER.public_key) + sha256(k).digest()
    assert crypto_aead_chacha20poly1305_ietf_encrypt(payload, aad, second[:12], first) == sealed.ciphertext
    assert sealed.promise.payload_hash == sha256(payload).hexdigest()
    assert open_seal(k, sealed.ciphertext, sealed.promise) == plaintext


def test_the_length_tells_no_more_than_nip44_does() -> None:
    assert {made(b"x" * size).promise.length for size in range(33)} == {32 + 8 + 32 + 16}


def test_the_same_text_has_another_hash_under_another_salt() -> None:
    other = seal(K, REQUEST, MAKER.public_key, b"yes", bytes(32))
    assert other.promise.payload_hash != made(b"yes").promise.payload_hash


def test_neither_key_nor_text_shows() -> None:
    sealed = made(b"forty two")
    proof = FraudProof(published(sealed.promise), sealed.ciphertext, K)
    shown = f"{sealed!r} {proof!r}"
    assert str(sealed.ciphertext[:4])[2:-1] not in shown
    assert "ciphertext=" not in shown
    assert "k=" not in shown


def test_what_cannot_be_sealed() -> None:
    with pytest.raises(InvalidSeal):
        made(b"x" * CIPHERTEXT_BYTES_MAX)
    with pytest.raises(InvalidSeal):
        seal(K, "ab", MAKER.public_key, b"", SALT)
    for k, salt in ((K[1:], SALT), (K, SALT[1:])):
        with pytest.raises(ValueError, match="32 bytes"):
            seal(k, REQUEST, MAKER.public_key, b"", salt)


# --- what is not what was promised ---------------------------------------------------------------------------------


def _flips(raw: bytes) -> Iterator[bytes]:
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def test_every_bit_of_everything_counts() -> None:
    sealed = made(b"no")
    assert {open_seal(K, other, sealed.promise) for other in _flips(sealed.ciphertext)} == {
        Failure.OTHER_CIPHERTEXT
    }
    assert {open_seal(other, sealed.ciphertext, sealed.promise) for other in _flips(K)} == {Failure.OTHER_KEY}
    expected = {
        "key_hash": Failure.OTHER_KEY, "ciphertext_hash": Failure.OTHER_CIPHERTEXT, "payload_hash": Failure.PAYLOAD,
        "request_id": Failure.CIPHER, "provider": Failure.CIPHER,
    }  # fmt: skip
    for name, failure in expected.items():
        for other in _flips(bytes.fromhex(getattr(sealed.promise, name))):
            assert (
                open_seal(K, sealed.ciphertext, replace(sealed.promise, **{name: other.hex()})) is failure
            ), name
    for length in (1, sealed.promise.length - 1, sealed.promise.length + 1):
        assert open_seal(K, sealed.ciphertext, replace(sealed.promise, length=length)) is Failure.LENGTH


def test_a_ciphertext_altered_before_it_was_promised_is_fraud() -> None:
    sealed = made(b"no")
    for other in _flips(sealed.ciphertext):
        promise = replace(sealed.promise, ciphertext_hash=sha256(other).hexdigest())
        assert open_seal(K, other, promise) is Failure.CIPHER


HEAD = SALT + (2).to_bytes(8)


@pytest.mark.parametrize(
    "payload",
    [
        HEAD + b"no" + bytes(29),  # too little padding
        HEAD + b"no" + bytes(31),
        HEAD + b"no" + bytes(29) + b"\x01",
        HEAD + b"no" + b"\x01" + bytes(29),
        SALT + (33).to_bytes(8) + b"x" * 32,
        SALT + (2**64 - 1).to_bytes(8) + b"x" * 32,
        SALT + (0).to_bytes(8),
        SALT,
        b"",
    ],
)
def test_a_payload_of_another_form_is_fraud(payload: bytes) -> None:
    sealed = resealed(payload)
    assert open_seal(K, sealed.ciphertext, sealed.promise) is Failure.PADDING
    assert check_fraud(published(sealed.promise), sealed.ciphertext, K).is_fraud


@given(st.binary(max_size=300), st.binary(max_size=300), st.booleans())
def test_opening_is_total(k: bytes, ciphertext: bytes, fits: bool) -> None:
    promise = made().promise
    if fits:
        promise = replace(
            promise, key_hash=sha256(k).hexdigest(), ciphertext_hash=sha256(ciphertext).hexdigest(),
            length=max(len(ciphertext), 1),
        )  # fmt: skip
    opened = open_seal(k, ciphertext, promise)
    assert isinstance(opened, Failure)
    assert opened.is_fraud is fits
    assert opened is open_seal(k, ciphertext, promise)


@given(st.binary(max_size=200))
def test_any_payload_opens_or_is_fraud(payload: bytes) -> None:
    sealed = resealed(payload)
    opened = open_seal(K, sealed.ciphertext, sealed.promise)
    assert opened is Failure.PADDING or (isinstance(opened, bytes) and payload[40:].startswith(opened))


@pytest.mark.parametrize("k", [K[:31], K + b"\x00", b"", b"x" * 1000])
def test_a_key_of_another_length_is_fraud(k: bytes) -> None:
    sealed = resealed(HEAD + b"no" + bytes(30), k)
    assert open_seal(k, sealed.ciphertext, sealed.promise) is Failure.KEY_LENGTH


# --- two keys for one ciphertext -----------------------------------------------------------------------------------

P1305 = 2**130 - 5


def _poly1305_parts(key: bytes, nonce: bytes) -> tuple[int, int]:
    block = Cipher(ChaCha20(key, bytes(4) + nonce), mode=None).encryptor().update(bytes(32))
    return int.from_bytes(block[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF, int.from_bytes(
        block[16:], "little"
    )


def _blocks(raw: bytes) -> list[int]:
    return [
        int.from_bytes(raw[i : i + 16].ljust(16, b"\x00"), "little") + 2**128 for i in range(0, len(raw), 16)
    ]


def two_key_ciphertext(pairs: list[tuple[bytes, bytes]], aad: bytes, body: bytes) -> bytes:
    """A ciphertext whose Poly1305 tag is right under both keys: one free block, and one linear equation for it."""
    (r1, s1), (r2, s2) = (_poly1305_parts(key, nonce) for key, nonce in pairs)
    lengths = int.from_bytes(
        len(aad).to_bytes(8, "little") + (len(body) + 16).to_bytes(8, "little"), "little"
    )
    for first in range(256):
        known = bytes([first]) + body[1:]
        head = [*_blocks(aad), *_blocks(known)]
        tail = [lengths + 2**128]

        def evaluate(r: int, free: int, head: list[int] = head, tail: list[int] = tail) -> int:
            total = 0
            for block in [*head, free, *tail]:
                total = (total + block) * r % P1305
            return total

        slope = (r1 * r1 - r2 * r2) % P1305
        for carry in range(-3, 4):
            constant = (s2 - s1 + carry * 2**128 - evaluate(r1, 0) + evaluate(r2, 0)) % P1305
            free = constant * pow(slope, -1, P1305) % P1305
            tags = {(evaluate(r, free) + s) % 2**128 for r, s in ((r1, s1), (r2, s2))}
            if 2**128 <= free < 2**129 and len(tags) == 1:
                return known + (free - 2**128).to_bytes(16, "little") + tags.pop().to_bytes(16, "little")
    raise AssertionError("no block fits")


def test_a_ciphertext_that_two_keys_open_has_one_key_all_the_same() -> None:
    other = bytes([0xEE]) * 32
    promise = made().promise
    key, nonce, aad = _derive(K, promise)
    other_key, other_nonce, _ = _derive(other, promise)
    ciphertext = two_key_ciphertext([(key, nonce), (other_key, other_nonce)], aad, bytes(64))
    payloads = [
        ChaCha20Poly1305(key).decrypt(nonce, ciphertext, aad),
        ChaCha20Poly1305(other_key).decrypt(other_nonce, ciphertext, aad),
    ]
    assert payloads[0] != payloads[1]
    promise = replace(
        promise, ciphertext_hash=sha256(ciphertext).hexdigest(), payload_hash=sha256(payloads[1]).hexdigest(),
        length=len(ciphertext),
    )  # fmt: skip
    assert open_seal(other, ciphertext, promise) is Failure.OTHER_KEY  # it would fit the promised payload
    assert open_seal(K, ciphertext, promise) is Failure.PAYLOAD


# --- fraud that anybody can check ----------------------------------------------------------------------------------


def test_a_false_seal_is_proved_and_an_honest_one_is_not() -> None:
    honest, false = made(), resealed(HEAD + b"no" + bytes(30), payload_hash="00" * 32)
    proof = FraudProof(published(false.promise), false.ciphertext, K)
    again = parse_fraud_proof(proof.to_json())
    assert again == proof
    assert again.check().is_fraud
    assert again.check().reason == str(Failure.PAYLOAD)
    assert not check_fraud(published(honest.promise), honest.ciphertext, K).is_fraud


def test_nobody_can_be_accused_with_evidence_of_another_seal() -> None:
    honest, false = made(), resealed(HEAD + b"no" + bytes(30), payload_hash="00" * 32)
    event = published(honest.promise)
    assert not check_fraud(event, false.ciphertext, K).is_fraud
    assert not check_fraud(event, honest.ciphertext, bytes(32)).is_fraud
    accused = SecretKey(bytes([8]) * 32).public_key
    forged = Event(**(published(false.promise).to_dict() | {"pubkey": accused}))  # type: ignore[arg-type]
    assert not check_fraud(forged, false.ciphertext, K).is_fraud
    altered = Event(**(event.to_dict() | {"tags": published(false.promise).tags}))  # type: ignore[arg-type]
    assert not check_fraud(altered, false.ciphertext, K).is_fraud


def test_a_promise_is_read_from_its_event() -> None:
    promise = made().promise
    assert read_promise(published(promise)) == promise
    tag = promise.to_tag()
    for tags in (
        [("e", REQUEST)],
        [tag],
        [("e", REQUEST), ("e", REQUEST), tag],
        [("e", REQUEST), tag, tag],
        [("e", "ab"), tag],
        [("e", REQUEST), tag[:-1]],
        [("e", REQUEST), (*tag, "x")],
        [("e", REQUEST), (*tag[:-1], "0")],
        [("e", REQUEST), (*tag[:-1], str(CIPHERTEXT_BYTES_MAX + 1))],
        [("e", REQUEST), (*tag[:-1], "٣")],
        [("e", REQUEST), (tag[0], "tp-seal-2", *tag[2:])],
        [("e", REQUEST), (*tag[:2], tag[2].upper(), *tag[3:])],
        [("e", REQUEST), (*tag[:2], tag[2][:-1], *tag[3:])],
    ):
        event = sign_event(make_template(7000, tags=tags, created_at=1), MAKER)
        with pytest.raises(InvalidSeal):
            read_promise(event)
        assert not check_fraud(event, b"", b"").is_fraud


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_rubbish_is_no_fraud_proof(raw: bytes | str) -> None:
    with pytest.raises(InvalidSeal):
        parse_fraud_proof(raw)


def test_a_fraud_proof_has_a_form_and_a_size() -> None:
    sealed = made()
    good = json.loads(FraudProof(published(sealed.promise), sealed.ciphertext, K).to_json())
    assert base64.b64decode(good["ciphertext"]) == sealed.ciphertext
    for change in (
        {"k": "xyz"},
        {"k": "00" * 1025},
        {"ciphertext": "!"},
        {"ciphertext": base64.b64encode(bytes(CIPHERTEXT_BYTES_MAX + 1)).decode()},
        {"event": {}},
        {"event": good["event"] | {"id": "x"}},
    ):
        with pytest.raises(InvalidSeal):
            parse_fraud_proof(json.dumps(good | change))
    with pytest.raises(InvalidSeal, match="at most"):
        parse_fraud_proof(" " * (2 << 20) + " ")
