"""Spending conditions in the secrets of coins, and their witnesses (NUT-10, NUT-11)."""

from contextlib import suppress
from typing import Final

from fuzz.kit import ALICE, BOB, NOW, as_json, text_of, texts, vectors
from wallet.errors import InvalidProof, WrongLock
from wallet.locks import (
    SIGNATURES_MAX,
    can_spend,
    check_lock,
    check_terms,
    is_plain,
    p2pk_secret,
    parse_lock,
    sign_proof,
    sign_secret,
    signers,
)
from wallet.proofs import SECRET_CHARS_MAX, P2PKLock, Proof

_KEY: Final = ALICE.compressed_public_key
_NONCE: Final = "ab" * 32
_AGREED: Final = P2PKLock(_KEY, 1_800_000_000, (BOB.compressed_public_key,))
_SECRET: Final = p2pk_secret(_AGREED, _NONCE)


def _secret(data: bytes) -> None:
    secret = text_of(data)
    matches = False
    with suppress(WrongLock):
        check_lock(secret, _AGREED)
        matches = True
    try:
        lock = parse_lock(secret)
    except WrongLock as error:
        assert not matches
        assert len(secret) < 20 or secret not in str(error)
        return
    assert (lock is None) == is_plain(secret)
    if lock is None:
        return
    assert len(secret) <= SECRET_CHARS_MAX
    assert matches == (_meaning(lock) == _meaning(_AGREED))
    can_spend(lock, [_KEY], NOW)
    try:
        check_terms(lock)
    except WrongLock:
        return
    with suppress(WrongLock):  # the short spelling of ours fits whenever the long one did
        written = p2pk_secret(lock, _NONCE)
        assert parse_lock(written) == lock
        check_lock(written, lock)
        check_lock(secret, lock)
        return
    raise AssertionError("a lock that was read cannot be written")


def _meaning(lock: P2PKLock) -> tuple[object, ...]:
    return (
        lock.pubkey,
        lock.locktime,
        sorted(lock.refund),
        sorted(lock.pubkeys),
        lock.n_sigs,
        lock.n_sigs_refund,
    )


def _witness(data: bytes) -> None:
    witness = text_of(data)
    found = signers(_SECRET, witness, [_KEY, BOB.public_key])
    assert found <= {_KEY, BOB.public_key}
    coin = Proof(1, "009a1f293253e41e", _SECRET, _KEY, witness=witness)
    try:
        signed = sign_proof(coin, ALICE)
    except InvalidProof:
        assert not found
        return
    if witness.count('"') < 2 * SIGNATURES_MAX:
        assert ALICE.public_key in signers(_SECRET, signed.witness, [ALICE.public_key])
    assert sign_proof(signed, ALICE) == signed or len(witness) > 128 * SIGNATURES_MAX


CHECKS = {"secret": _secret, "witness": _witness}
SEEDS = [
    ("secret", _SECRET.encode()),
    ("secret", p2pk_secret(P2PKLock(_KEY, pubkeys=(BOB.compressed_public_key,), n_sigs=2), _NONCE).encode()),
    *(("secret", text.encode()) for text in texts(vectors("wallet/nut11.json")) if text.startswith("[")),
    *(("witness", text.encode()) for text in texts(vectors("wallet/nut11.json")) if text.startswith("{")),
    ("witness", as_json({"signatures": [sign_secret(_SECRET, ALICE), sign_secret(_SECRET, BOB)]})),
    ("secret", b"plain"),
    (
        "secret",
        _SECRET.replace(f',["refund","{BOB.compressed_public_key}"]', "").encode(),
    ),  # free for all after a while
]
WORDS = ("P2PK", "HTLC", "nonce", "data", "tags", "sigflag", "SIG_INPUTS", "SIG_ALL", "pubkeys", "n_sigs", "locktime",
         "refund", "n_sigs_refund", "signatures", "1", "2", "1800000000", _KEY, BOB.compressed_public_key)  # fmt: skip
