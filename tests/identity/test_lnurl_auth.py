"""LNURL-auth (LUD-04): challenges, and what wallets answer."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import coincurve
import lnurl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import InvalidLogin, lnurl_auth
from identity.lnurl_auth import LoginAction

VECTOR = json.loads((Path(__file__).parent / "vectors" / "lud04.json").read_bytes())
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
WALLET = coincurve.PrivateKey(bytes([7]) * 32)
K1 = "42" * 32


def signed(k1: str = K1) -> dict[str, str]:
    """What a wallet sends for `k1`."""
    sig = WALLET.sign(bytes.fromhex(k1), hasher=None).hex()
    return {"k1": k1, "sig": sig, "key": WALLET.public_key.format().hex()}


def with_high_s(sig: str) -> str:
    """The other signature that is right for the same text and key, as DER."""
    der = bytes.fromhex(sig)
    r_size = der[3]
    r, s = der[4 : 4 + r_size], int.from_bytes(der[6 + r_size :])
    high = (ORDER - s).to_bytes(33).lstrip(b"\0")
    high = b"\0" + high if high[0] & 0x80 else high
    body = bytes([2, len(r)]) + r + bytes([2, len(high)]) + high
    return (bytes([0x30, len(body)]) + body).hex()


def test_the_example_of_the_lud() -> None:
    assert lnurl_auth.verify(**VECTOR) == VECTOR["key"]


def test_hex_in_either_case() -> None:
    assert lnurl_auth.verify(**{name: value.upper() for name, value in VECTOR.items()}) == VECTOR["key"]


def test_a_signature_with_a_high_s() -> None:
    given = signed()
    high = with_high_s(given["sig"])
    assert high != given["sig"]
    assert not WALLET.public_key.verify(bytes.fromhex(high), bytes.fromhex(K1), hasher=None)
    assert lnurl_auth.verify(**given | {"sig": high}) == given["key"]


def test_challenges() -> None:
    k1 = lnurl_auth.make_k1()
    assert len(bytes.fromhex(k1)) == 32
    assert k1 != lnurl_auth.make_k1()
    query = lnurl_auth.challenge_query(k1, LoginAction.LINK)
    assert parse_qs(query) == {"tag": ["login"], "k1": [k1], "action": ["link"]}


def test_a_published_wallet_signs_for_us() -> None:
    k1 = lnurl_auth.make_k1()
    seed, _ = lnurl.lnurlauth_derive_linking_key(seed="11" * 64, domain="desk.example")
    message, _ = lnurl.lnurlauth_derive_linking_key_sign_message(domain="desk.example", sig=b"a signature")
    for linking_key in (seed, message):
        key, sig = lnurl.lnurlauth_signature(k1, linking_key)
        assert lnurl_auth.verify(k1=k1, sig=sig, key=key) == key


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("k1", "43" * 32, "not the signature of k1"), ("k1", "", "32 bytes"), ("k1", "42" * 31, "32 bytes"),
        ("k1", "42" * 33, "32 bytes"), ("k1", "zz" * 32, "32 bytes"), ("k1", "é" * 64, "32 bytes"), ("k1", "4 " * 32, "32 bytes"),
        ("key", coincurve.PrivateKey(bytes([8]) * 32).public_key.format().hex(), "not the signature of k1"),
        ("key", "", "33 bytes"), ("key", WALLET.public_key.format(compressed=False).hex(), "33 bytes"),
        ("key", "00" * 33, "not a compressed public key"), ("key", "02" + "ff" * 32, "not a compressed public key"),
        ("key", "04" + "11" * 32, "not a compressed public key"), ("key", "\ud800" * 66, "33 bytes"),
        ("sig", "", "not a DER"), ("sig", "30", "not a DER"), ("sig", "00" * 64, "not a DER"), ("sig", "zz", "not a DER"),
        ("sig", signed()["sig"][:-2], "not a DER"), ("sig", signed()["sig"] + "00", "not a DER"),
        ("sig", "30" * 5000, "not a DER"), ("sig", "3006020100020100", "not the signature"),
    ],
)  # fmt: skip
def test_what_does_not_hold(name: str, value: str, said: str) -> None:
    with pytest.raises(InvalidLogin, match=said):
        lnurl_auth.verify(**signed() | {name: value})


def test_the_challenge_is_signed_raw() -> None:
    """A wallet that hashes it first, as most uses of ECDSA do, is refused."""
    hashed = WALLET.sign(bytes.fromhex(K1)).hex()
    with pytest.raises(InvalidLogin, match="not the signature"):
        lnurl_auth.verify(**signed() | {"sig": hashed})


_hex: Any = st.binary(max_size=80).map(bytes.hex)


@given(k1=_hex | st.just(K1), sig=_hex | st.text(max_size=9), key=_hex | st.just(signed()["key"]))
def test_anything(k1: str, sig: str, key: str) -> None:
    with pytest.raises(InvalidLogin) as told:
        lnurl_auth.verify(k1=k1, sig=sig, key=key)
    assert len(str(told.value)) < 100
