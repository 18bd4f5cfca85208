import base64
import hmac
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import nostr_sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import DecryptionError, EncryptionError, InvalidKey, SecretKey, nip44

VECTORS_DIR = Path(__file__).parent / "vectors"
RAW_VECTORS = (VECTORS_DIR / "nip44.vectors.json").read_bytes()
VALID = json.loads(RAW_VECTORS)["v2"]["valid"]
INVALID = json.loads(RAW_VECTORS)["v2"]["invalid"]
EXTENDED = json.loads((VECTORS_DIR / "nip44_extended.json").read_bytes())
REASONS = {  # the file's notes, and what we say
    "unknown encryption version": "version",
    "unknown encryption version 0": "version 0",
    "invalid base64": "base64",
    "invalid MAC": "another key",
    "invalid padding": "padding",
    "invalid payload length": "characters",
}
ALLOWED_SINCE_2026 = {65536, 100_000, 10_000_000}

ALICE, BOB = SecretKey(bytes([1]) * 32), SecretKey(bytes([2]) * 32)
SHARED = nip44.conversation_key(ALICE, BOB.public_key)
THEIR_ALICE, THEIR_BOB = nostr_sdk.Keys.parse(ALICE.hex()), nostr_sdk.Keys.parse(BOB.hex())

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


def resealed(raw: bytes) -> str:
    """A payload with a right MAC over whatever `raw` decrypts to."""
    nonce = bytes(32)
    cipher_key, cipher_nonce, mac_key = nip44.message_keys(SHARED, nonce)
    ciphertext = nip44._chacha20(cipher_key, cipher_nonce, raw)
    mac = hmac.digest(mac_key, nonce + ciphertext, "sha256")
    return base64.b64encode(b"\x02" + nonce + ciphertext + mac).decode()


# --- official vectors ----------------------------------------------------------------------------------------------


def test_the_vectors_are_the_official_ones() -> None:
    digest = "269ed0f69e4c192512cc779e78c555090cebc7c785b609e338a62afc3ce25040"
    assert sha256(RAW_VECTORS).hexdigest() == digest


@pytest.mark.parametrize("case", VALID["get_conversation_key"])
def test_conversation_keys(case: dict[str, str]) -> None:
    key = nip44.conversation_key(SecretKey.from_hex(case["sec1"]), case["pub2"])
    assert key.hex() == case["conversation_key"]


@pytest.mark.parametrize("case", VALID["get_message_keys"]["keys"])
def test_message_keys(case: dict[str, str]) -> None:
    conversation = bytes.fromhex(VALID["get_message_keys"]["conversation_key"])
    keys = nip44.message_keys(conversation, bytes.fromhex(case["nonce"]))
    assert [key.hex() for key in keys] == [case["chacha_key"], case["chacha_nonce"], case["hmac_key"]]


@pytest.mark.parametrize(("size", "padded"), VALID["calc_padded_len"])
def test_padded_lengths(size: int, padded: int) -> None:
    assert nip44.padded_length(size) == padded


@pytest.mark.parametrize("case", VALID["encrypt_decrypt"])
def test_encryption_and_decryption(case: dict[str, str]) -> None:
    first, second = SecretKey.from_hex(case["sec1"]), SecretKey.from_hex(case["sec2"])
    key = nip44.conversation_key(first, second.public_key)
    assert key == nip44.conversation_key(second, first.public_key) == bytes.fromhex(case["conversation_key"])
    assert nip44.encrypt(case["plaintext"], key, nonce=bytes.fromhex(case["nonce"])) == case["payload"]
    assert nip44.decrypt(case["payload"], key) == case["plaintext"]


@pytest.mark.parametrize("case", VALID["encrypt_decrypt_long_msg"])
def test_long_messages(case: dict[str, Any]) -> None:
    key, plaintext = bytes.fromhex(case["conversation_key"]), case["pattern"] * case["repeat"]
    assert sha256(plaintext.encode()).hexdigest() == case["plaintext_sha256"]
    payload = nip44.encrypt(plaintext, key, nonce=bytes.fromhex(case["nonce"]))
    assert sha256(payload.encode()).hexdigest() == case["payload_sha256"]
    assert nip44.decrypt(payload, key) == plaintext


@pytest.mark.parametrize("case", EXTENDED["cases"], ids=lambda case: str(case["plaintext_length"]))
def test_the_long_form(case: dict[str, Any]) -> None:
    plaintext = EXTENDED["pattern"] * case["plaintext_length"]
    key, nonce = bytes.fromhex(EXTENDED["conversation_key"]), bytes.fromhex(EXTENDED["nonce"])
    assert sha256(plaintext.encode()).hexdigest() == case["plaintext_sha256"]
    assert nip44.padded_length(case["plaintext_length"]) == case["padded_length"]
    payload = nip44.encrypt(plaintext, key, nonce=nonce)
    assert sha256(payload.encode()).hexdigest() == case["payload_sha256"]
    assert nip44.decrypt(payload, key) == plaintext


@pytest.mark.parametrize("size", sorted({*INVALID["encrypt_msg_lengths"]} - ALLOWED_SINCE_2026))
def test_invalid_lengths(size: int) -> None:
    with pytest.raises(EncryptionError):
        nip44.encrypt("x" * size, SHARED)


@pytest.mark.parametrize("case", INVALID["get_conversation_key"], ids=lambda case: case["note"])
def test_invalid_conversation_keys(case: dict[str, str]) -> None:
    with pytest.raises(InvalidKey):
        nip44.conversation_key(SecretKey.from_hex(case["sec1"]), case["pub2"])


@pytest.mark.parametrize("case", INVALID["decrypt"], ids=lambda case: case["note"])
def test_invalid_payloads(case: dict[str, str]) -> None:
    with pytest.raises(DecryptionError) as caught:
        nip44.decrypt(case["payload"], bytes.fromhex(case["conversation_key"]))
    assert REASONS[case["note"].split(":")[0]] in str(caught.value)


# --- nostr-sdk as oracle -------------------------------------------------------------------------------------------


@given(texts)
def test_nostr_sdk_reads_ours(text: str) -> None:
    payload = nip44.encrypt(text, SHARED)
    assert nostr_sdk.nip44_decrypt(THEIR_BOB.secret_key(), THEIR_ALICE.public_key(), payload) == text


@given(texts)
def test_we_read_nostr_sdk(text: str) -> None:
    payload = nostr_sdk.nip44_encrypt(
        THEIR_ALICE.secret_key(), THEIR_BOB.public_key(), text, nostr_sdk.Nip44Version.V2
    )
    assert nip44.decrypt(payload, nip44.conversation_key(BOB, ALICE.public_key)) == text


# --- our own rules -------------------------------------------------------------------------------------------------


@given(st.integers(1, 2**32 - 1))
def test_padding_holds_the_text_and_wastes_little(size: int) -> None:
    padded = nip44.padded_length(size)
    assert max(32, size) <= padded <= max(size + 31, size * 1.25)


def test_the_same_text_never_encrypts_alike() -> None:
    assert nip44.encrypt("hi", SHARED) != nip44.encrypt("hi", SHARED)


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(EncryptionError):
        nip44.encrypt("hi \ud800", SHARED)


def test_a_long_payload_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(DecryptionError, match="characters"):
        nip44.decrypt("!" * (nip44.PAYLOAD_BYTES_MAX + 1), SHARED)
    payload = nip44.encrypt("x" * 1000, SHARED)
    assert nip44.decrypt(payload, SHARED, payload_bytes_max=len(payload)) == "x" * 1000
    with pytest.raises(DecryptionError, match="characters"):
        nip44.decrypt(payload, SHARED, payload_bytes_max=len(payload) - 1)


def test_a_short_payload_of_the_least_base64_length_is_refused() -> None:
    with pytest.raises(DecryptionError, match="the least"):
        nip44.decrypt(base64.b64encode(b"\x02" + bytes(97)).decode(), SHARED)


@pytest.mark.parametrize("junk", ["\n", " ", "!", "-", "_", "=", "é", "\ud800"])
def test_base64_is_read_strictly(junk: str) -> None:
    payload = nip44.encrypt("x" * 100, SHARED)
    with pytest.raises(DecryptionError, match="base64"):
        nip44.decrypt(payload[:50] + junk + payload[50:], SHARED)


@pytest.mark.parametrize(
    ("padded", "match"),
    [
        (bytes(2) + (65535).to_bytes(4) + bytes(65536), "padding"),
        (bytes(6) + bytes(32), "padding"),
        (b"\x00\x21" + b"x" * 32, "padding"),
        (b"\x00\x01" + b"x" + bytes(63), "padding"),
        (b"\xff\xff" + bytes(32), "padding"),
        (bytes(2) + b"\xff" * 4 + bytes(32), "padding"),
        (b"\x00\x01\xff" + bytes(31), "UTF-8"),
        (b"\x00\x03\xed\xa0\x80" + bytes(29), "UTF-8"),
    ],
)
def test_an_authentic_payload_with_a_wrong_inside_is_refused(padded: bytes, match: str) -> None:
    with pytest.raises(DecryptionError, match=match):
        nip44.decrypt(resealed(padded), SHARED)


@given(st.integers(0, 131), st.integers(1, 255))
def test_any_altered_byte_is_noticed(position: int, change: int) -> None:
    raw = bytearray(base64.b64decode(nip44.encrypt("a text of some length " * 3, SHARED)))
    raw[position] ^= change
    with pytest.raises(DecryptionError):
        nip44.decrypt(base64.b64encode(raw).decode(), SHARED)


@given(
    st.text(max_size=300)
    | st.binary(min_size=99, max_size=300).map(lambda raw: base64.b64encode(b"\x02" + raw).decode())
    | st.binary(min_size=34, max_size=200).map(resealed)
)
def test_decrypt_raises_nothing_but_the_packages_errors(payload: str) -> None:
    try:
        nip44.decrypt(payload, SHARED)
    except DecryptionError:
        return


def test_another_key_cannot_read() -> None:
    eve = SecretKey(bytes([3]) * 32)
    with pytest.raises(DecryptionError, match="another key"):
        nip44.decrypt(nip44.encrypt("hi", SHARED), nip44.conversation_key(eve, ALICE.public_key))


def test_errors_and_the_cache_show_no_secret() -> None:
    assert SHARED.hex() not in repr(nip44._remembered)
    with pytest.raises(DecryptionError) as caught:
        nip44.decrypt(resealed(b"\x00\x09secret!\xff\xff" + bytes(23)), SHARED)
    assert "secret" not in str(caught.value)


def test_a_payload_is_known_by_its_form(alice: SecretKey, bob: SecretKey) -> None:
    payload = nip44.encrypt("x", nip44.conversation_key(alice, bob.public_key))
    assert nip44.is_payload(payload)
    for other in (
        "",
        "x",
        payload[:-4],
        "#" + payload[1:],
        "B" + payload[1:],
        "a plain text of some length " * 10,
    ):
        assert not nip44.is_payload(other)
