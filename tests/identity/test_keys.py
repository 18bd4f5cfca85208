import csv
from pathlib import Path

import coincurve
import pytest

from identity import InvalidKey, SecretKey, check_public_key, verify_signature
from identity.keys import CLAIM_SIZE, verify_claims

BIP340 = list(csv.DictReader((Path(__file__).parent / "vectors" / "bip340.csv").read_text().splitlines()))
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
OFF_CURVE = "eefdea4cdb677750a420fee807eacf21eb9898ae79b9768766e4faa04a2d4a34"


@pytest.mark.parametrize("case", BIP340, ids=lambda case: case["index"])
def test_bip340_verification(case: dict[str, str]) -> None:
    message, signature = bytes.fromhex(case["message"]), bytes.fromhex(case["signature"])
    expected = case["verification result"] == "TRUE"
    assert verify_signature(case["public key"].lower(), message, signature) is expected


def test_claims_are_verified_as_their_signatures_are() -> None:
    cases = [case for case in BIP340 if len(case["message"]) == 64]
    claims = [bytes.fromhex(case["public key"] + case["message"] + case["signature"]) for case in cases]
    truth = [case["verification result"] == "TRUE" for case in cases]
    assert set(truth) == {True, False}
    assert verify_claims([*claims, claims[0][:-1], claims[0][:31], b""]) == [*truth, False, False, False]
    assert len(claims[0]) == CLAIM_SIZE


@pytest.mark.parametrize(
    "case", [case for case in BIP340 if case["secret key"]], ids=lambda case: case["index"]
)
def test_bip340_signing(case: dict[str, str]) -> None:
    secret, message = bytes.fromhex(case["secret key"]), bytes.fromhex(case["message"])
    key = SecretKey(secret)
    assert key.public_key == case["public key"].lower()
    if len(message) == 32:  # coincurve signs 32 bytes and no other length; Nostr and Cashu sign nothing else
        signed = coincurve.PrivateKey(secret).sign_schnorr(message, bytes.fromhex(case["aux_rand"]))
        assert signed == bytes.fromhex(case["signature"])
        assert verify_signature(key.public_key, message, key.sign(message))
    else:
        with pytest.raises(ValueError, match="32 bytes"):
            key.sign(message)


def test_signatures_are_randomised(alice: SecretKey) -> None:
    assert alice.sign(bytes(32)) != alice.sign(bytes(32))


@pytest.mark.parametrize("secret", [b"", bytes(31), bytes(32), bytes(33), ORDER.to_bytes(32), b"\xff" * 32])
def test_refuses_what_is_no_secret_key(secret: bytes) -> None:
    with pytest.raises(InvalidKey):
        SecretKey(secret)


def test_takes_the_first_and_the_last_secret_key() -> None:
    assert SecretKey((1).to_bytes(32)).public_key == SecretKey((ORDER - 1).to_bytes(32)).public_key


def test_generated_keys_differ() -> None:
    assert SecretKey.generate() != SecretKey.generate()


def test_hex_there_and_back(alice: SecretKey) -> None:
    assert SecretKey.from_hex(alice.hex()) == alice
    assert hash(SecretKey.from_hex(alice.hex())) == hash(alice)
    assert alice.to_bytes().hex() == alice.hex()
    assert alice != alice.hex()


def test_a_key_is_not_equal_to_its_negation() -> None:
    one, other = SecretKey((1).to_bytes(32)), SecretKey((ORDER - 1).to_bytes(32))
    assert one != other


@pytest.mark.parametrize("text", ["", "zz" * 32, "ab" * 31, "ab" * 33])
def test_from_hex_refuses_without_repeating(text: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        SecretKey.from_hex(text)
    assert not text or text not in str(caught.value)


def test_repr_hides_the_secret(alice: SecretKey) -> None:
    for shown in (repr(alice), str(alice), f"{alice}", repr([alice])):
        assert alice.public_key in shown
        assert alice.hex() not in shown


def test_compressed_public_key(alice: SecretKey) -> None:
    assert alice.compressed_public_key[:2] in ("02", "03")
    assert alice.compressed_public_key[2:] == alice.public_key


def test_shared_x_is_the_same_from_both_sides(alice: SecretKey, bob: SecretKey) -> None:
    assert alice.shared_x(bob.public_key) == bob.shared_x(alice.public_key)


@pytest.mark.parametrize("public_key", ["", "ab", "zz" * 32, OFF_CURVE, "f" * 64, "ab" * 64])
def test_shared_x_refuses_what_is_no_key(alice: SecretKey, public_key: str) -> None:
    with pytest.raises(InvalidKey):
        alice.shared_x(public_key)


def test_check_public_key(alice: SecretKey) -> None:
    assert check_public_key(alice.public_key) == alice.public_key


@pytest.mark.parametrize(
    "text", ["", "ab", "zz" * 32, OFF_CURVE, "f" * 64, "AB" * 32, "02" + "ab" * 32, "é" * 64]
)
def test_check_public_key_refuses_without_repeating(text: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        check_public_key(text)
    assert len(text) < 3 or text not in str(caught.value)


@pytest.mark.parametrize("public_key", ["", "ab", "zz" * 32, "ab" * 31, "ab" * 33, OFF_CURVE])
@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(65)])
def test_verification_of_malformed_input_is_false(public_key: str, signature: bytes) -> None:
    assert verify_signature(public_key, bytes(32), signature) is False


def test_verification_looks_at_the_length_of_the_key(alice: SecretKey) -> None:
    assert verify_signature(alice.public_key, bytes(32), alice.sign(bytes(32))) is True
    assert verify_signature(alice.public_key + "00", bytes(32), alice.sign(bytes(32))) is False


def test_verification_of_a_short_signature_is_false(alice: SecretKey) -> None:
    assert verify_signature(alice.public_key, bytes(32), alice.sign(bytes(32))[:63]) is False
