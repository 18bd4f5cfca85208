import contextlib
import json
from dataclasses import replace
from pathlib import Path

import coincurve
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet import crypto
from wallet.errors import InvalidProof
from wallet.proofs import Dleq, Proof

VECTORS = Path(__file__).parent / "vectors"
NUT00 = json.loads((VECTORS / "nut00.json").read_text())
NUT12 = json.loads((VECTORS / "nut12.json").read_text())

INFINITE_ORDER = crypto.ORDER.to_bytes(32)
scalars = st.integers(1, crypto.ORDER - 1).map(lambda n: n.to_bytes(32))


def public_key(secret: bytes) -> str:
    return coincurve.PublicKey.from_valid_secret(secret).format().hex()


def make_coin(secret: str, r: bytes, k: bytes) -> Proof:
    blinded = crypto.blind(secret, r)
    signature = crypto.sign_blinded(blinded, k)
    dleq = crypto.make_dleq(blinded, signature, k)
    c = crypto.unblind(signature, r, public_key(k))
    return Proof(1, "00" * 8, secret, c, replace(dleq, r=r.hex()))


@pytest.mark.parametrize("vector", NUT00["hash_to_curve"])
def test_hash_to_curve_vectors(vector):
    assert crypto.hash_to_curve(bytes.fromhex(vector["message"])).format().hex() == vector["point"]


@pytest.mark.parametrize("vector", NUT00["blinded_messages"])
def test_blinded_message_vectors(vector):
    # The vectors' secrets are bytes that no text has, so this goes below `blind`.
    y = crypto.hash_to_curve(bytes.fromhex(vector["x"]))
    r = coincurve.PublicKey.from_valid_secret(bytes.fromhex(vector["r"]))
    assert coincurve.PublicKey.combine_keys([y, r]).format().hex() == vector["B_"]


@pytest.mark.parametrize("vector", NUT00["blinded_signatures"])
def test_blinded_signature_vectors(vector):
    assert crypto.sign_blinded(vector["B_"], bytes.fromhex(vector["k"])) == vector["C_"]


def test_dleq_hash_vector():
    v = NUT12["hash_e"]
    points = [coincurve.PublicKey(bytes.fromhex(v[name])) for name in ("R1", "R2", "K", "C_")]
    assert crypto._challenge(*points).hex() == v["hash"]


def test_deterministic_nonce_vector():
    v = NUT12["deterministic_nonce"]
    k = bytes.fromhex(v["a"])
    assert public_key(k) == v["A"]
    assert crypto.sign_blinded(v["B_"], k) == v["C_"]
    dleq = crypto.make_dleq(v["B_"], v["C_"], k)
    assert dleq == Dleq(v["e"], v["s"])
    assert crypto.verify_dleq_signature(v["B_"], v["C_"], dleq, v["A"])


def test_dleq_on_a_blind_signature_vector():
    v = NUT12["blind_signature"]
    dleq = Dleq(**v["signature"]["dleq"])
    assert crypto.verify_dleq_signature(v["B_"], v["signature"]["C_"], dleq, v["A"])
    for wrong in (v["A"], "nonsense", ""):
        assert not crypto.verify_dleq_signature(wrong, v["signature"]["C_"], dleq, v["A"])


def test_dleq_on_a_proof_vector():
    v = NUT12["proof"]
    raw = v["proof"]
    proof = Proof(raw["amount"], raw["id"], raw["secret"], raw["C"], Dleq(**raw["dleq"]))
    assert crypto.verify_dleq_proof(proof, v["A"])


@given(secret=st.text(min_size=1, max_size=80), r=scalars, k=scalars)
def test_a_coin_made_blindly_is_genuine(secret, r, k):
    coin = make_coin(secret, r, k)
    assert crypto.verify_coin(coin.secret, coin.C, k)
    assert crypto.verify_dleq_proof(coin, public_key(k))
    assert crypto.proof_y(secret) == crypto.hash_to_curve(secret.encode()).format().hex()


COIN = make_coin("ab" * 32, b"\x05" * 32, b"\x07" * 32)
KEY = public_key(b"\x07" * 32)


@pytest.mark.parametrize(
    "forged",
    [
        replace(COIN, secret="cd" * 32),
        replace(COIN, C=crypto.proof_y("cd" * 32)),
        replace(COIN, C="02" + "00" * 32),
        replace(COIN, C="zz"),
        replace(COIN, dleq=None),
        replace(COIN, dleq=replace(COIN.dleq, r=None)),
        replace(COIN, dleq=replace(COIN.dleq, r="05" * 31 + "06")),
        replace(COIN, dleq=replace(COIN.dleq, r="00" * 32)),
        replace(COIN, dleq=replace(COIN.dleq, r="5")),
        replace(COIN, dleq=replace(COIN.dleq, e="00" * 32)),
        replace(COIN, dleq=replace(COIN.dleq, e="zz" * 32)),
        replace(COIN, dleq=replace(COIN.dleq, s="01" * 32)),
        replace(COIN, dleq=replace(COIN.dleq, s=INFINITE_ORDER.hex())),
    ],
    ids=range(13),
)
def test_a_forged_coin_is_no_coin(forged):
    assert crypto.verify_dleq_proof(COIN, KEY)
    assert not crypto.verify_dleq_proof(forged, KEY)


def test_another_mints_key_does_not_make_a_coin():
    assert not crypto.verify_dleq_proof(COIN, public_key(b"\x08" * 32))
    assert not crypto.verify_dleq_proof(COIN, "nonsense")
    assert not crypto.verify_coin(COIN.secret, COIN.C, b"\x08" * 32)


def test_a_dleq_whose_points_vanish_is_false():
    # r = -1 and C = A make C' = C + rA the point at infinity, which libsecp256k1 refuses to build.
    minus_one = (crypto.ORDER - 1).to_bytes(32).hex()
    vanishing = replace(COIN, C=KEY, dleq=Dleq("01" * 32, "01" * 32, minus_one))
    assert not crypto.verify_dleq_proof(vanishing, KEY)


def test_unblinding_to_infinity_is_refused():
    k = b"\x07" * 32
    one = (1).to_bytes(32)
    with pytest.raises(InvalidProof):
        crypto.unblind(public_key(k), one, public_key(k))


@pytest.mark.parametrize("scalar", [b"", b"\x01" * 31, bytes(32), INFINITE_ORDER, b"\xff" * 32])
def test_a_blinding_factor_is_a_scalar(scalar):
    with pytest.raises(InvalidProof):
        crypto.blind("secret", scalar)


def test_a_secret_that_is_no_text_is_refused():
    with pytest.raises(InvalidProof):
        crypto.proof_y("\ud800")


@given(st.one_of(st.text(max_size=80), st.from_regex(r"\A0[0-9][0-9a-fA-F]{64}\Z")))
def test_points_are_points_or_refused(text):
    with contextlib.suppress(InvalidProof):
        assert crypto.parse_point(text).format().hex() == text


def test_points_have_one_spelling():
    for text in (
        KEY.upper(),
        KEY + " ",
        " " + KEY[1:],
        coincurve.PublicKey(bytes.fromhex(KEY)).format(compressed=False).hex(),
    ):
        with pytest.raises(InvalidProof):
            crypto.parse_point(text)
