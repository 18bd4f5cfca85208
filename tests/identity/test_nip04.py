"""NIP-04, against nostr-sdk and against payloads that mean ill."""

import nostr_sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import DecryptionError, EncryptionError, InvalidKey, LocalSigner, SecretKey, nip04, nip44
from identity.nip04 import decrypt, encrypt, is_payload

ALICE, BOB = SecretKey.generate(), SecretKey.generate()
THEIR_ALICE, THEIR_BOB = (nostr_sdk.SecretKey.parse(key.hex()) for key in (ALICE, BOB))
ALICES, BOBS = (nostr_sdk.PublicKey.parse(key.public_key) for key in (ALICE, BOB))


@given(st.text())
def test_what_we_encrypt_nostr_sdk_reads_and_the_other_way_round(text: str) -> None:
    ours = encrypt(text, ALICE, BOB.public_key)
    assert is_payload(ours)
    assert decrypt(ours, BOB, ALICE.public_key) == text
    assert nostr_sdk.nip04_decrypt(THEIR_BOB, ALICES, ours) == text
    assert decrypt(nostr_sdk.nip04_encrypt(THEIR_ALICE, BOBS, text), BOB, ALICE.public_key) == text


def test_the_same_iv_gives_the_same_payload() -> None:
    one, two = (encrypt("text", ALICE, BOB.public_key, iv=bytes(16)) for _ in range(2))
    assert one == two
    assert one.endswith("?iv=AAAAAAAAAAAAAAAAAAAAAA==")
    assert encrypt("text", ALICE, BOB.public_key) != encrypt("text", ALICE, BOB.public_key)


def test_a_payload_of_nip44_is_told_apart() -> None:
    assert not is_payload(nip44.encrypt("text", nip44.conversation_key(ALICE, BOB.public_key)))


@given(st.text() | st.builds(lambda a, b: f"{a}?iv={b}", st.text(), st.text()))
def test_rubbish_is_refused(payload: str) -> None:
    with pytest.raises(DecryptionError):
        decrypt(payload, BOB, ALICE.public_key)


@pytest.mark.parametrize(
    "payload",
    [
        "", "?iv=", "AAAA?iv=AAAA", "?iv=AAAAAAAAAAAAAAAAAAAAAA==", "AAAAAAAAAAAAAAAAAAAAAA==", "AAAAAAAAAAAAAAAAAAAAAA==?iv=",
        "AAAAAAAAAAAAAAAAAAAAAA==?iv=AAAAAAAAAAAAAAAAAAAAAA==?iv=AAAAAAAAAAAAAAAAAAAAAA==",
        "AAAAAAAAAAAAAAAAAAAAAAA=?iv=AAAAAAAAAAAAAAAAAAAAAA==", "A" * 100 + "?iv=AAAAAAAAAAAAAAAAAAAAAA==",
    ],
)  # fmt: skip
def test_malformed_payloads_are_refused(payload: str) -> None:
    with pytest.raises(DecryptionError):
        decrypt(payload, BOB, ALICE.public_key)


def test_how_a_guess_went_wrong_is_not_told() -> None:
    payload = encrypt("a text of some length, so that there are blocks", ALICE, BOB.public_key)
    told = set()
    for _ in range(300):
        try:
            decrypt(
                payload, SecretKey.generate(), ALICE.public_key
            )  # wrong padding, now and then right and no UTF-8
        except DecryptionError as error:
            told.add(str(error))
    assert len(told) == 1


def test_a_long_payload_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(DecryptionError, match="at most 100"):
        decrypt("é" * 101, BOB, ALICE.public_key, payload_bytes_max=100)


def test_what_cannot_be_encrypted() -> None:
    with pytest.raises(EncryptionError, match="surrogate"):
        encrypt("\ud800", ALICE, BOB.public_key)
    with pytest.raises(InvalidKey):
        encrypt("text", ALICE, "ff" * 32)
    with pytest.raises(InvalidKey):
        decrypt(encrypt("text", ALICE, BOB.public_key), BOB, "ff" * 32)


async def test_a_signer_does_it_for_its_key() -> None:
    alice, bob = LocalSigner(ALICE), LocalSigner(BOB)
    payload = await alice.nip04_encrypt(bob.public_key, "hi")
    assert await bob.nip04_decrypt(alice.public_key, payload) == "hi"
    assert nip04.decrypt(payload, BOB, ALICE.public_key) == "hi"
