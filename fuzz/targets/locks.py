"""Spending conditions in the secrets of coins, and their witnesses (NUT-10, NUT-11, NUT-14)."""

import hashlib
from contextlib import suppress
from dataclasses import replace
from typing import Final

from fuzz.kit import ALICE, BOB, NOW, as_json, text_of, texts, vectors
from wallet.errors import InvalidProof, WrongLock
from wallet.locks import check_lock, check_terms, is_plain, lock_secret, parse_lock
from wallet.proofs import SECRET_CHARS_MAX, Lock, Proof
from wallet.witness import (
    SIGNATURES_MAX,
    add_preimage,
    add_signature,
    can_spend,
    complete,
    is_preimage,
    is_unlocked,
    preimage_of,
    sign_secret,
    signers,
)

_KEY: Final = ALICE.compressed_public_key
_NONCE: Final = "ab" * 32
_AGREED: Final = Lock(_KEY, 1_800_000_000, (BOB.compressed_public_key,))
_SECRET: Final = lock_secret(_AGREED, _NONCE)
_PREIMAGE: Final = "cd" * 32
_SEALED: Final = replace(_AGREED, hash=hashlib.sha256(bytes.fromhex(_PREIMAGE)).hexdigest())
_SEALED_SECRET: Final = lock_secret(_SEALED, _NONCE)


def _matches(secret: str, agreed: Lock) -> bool:
    with suppress(WrongLock):
        check_lock(secret, agreed)
        return True
    return False


def _secret(data: bytes) -> None:
    secret = text_of(data)
    matches = {agreed: _matches(secret, agreed) for agreed in (_AGREED, _SEALED)}
    try:
        lock = parse_lock(secret)
    except WrongLock as error:
        assert not any(matches.values())
        assert len(secret) < 20 or secret not in str(error)
        return
    assert (lock is None) == is_plain(secret)
    if lock is None:
        return
    assert len(secret) <= SECRET_CHARS_MAX
    assert all(found == (_meaning(lock) == _meaning(agreed)) for agreed, found in matches.items())
    can_spend(lock, [_KEY], NOW, _PREIMAGE)
    try:
        check_terms(lock)
    except WrongLock:
        return
    with suppress(WrongLock):  # the short spelling of ours fits whenever the long one did
        written = lock_secret(lock, _NONCE)
        read = parse_lock(written)
        assert read is not None
        assert _meaning(read) == _meaning(lock)
        check_lock(written, lock)
        check_lock(secret, lock)
        return
    raise AssertionError("a lock that was read cannot be written")


def _meaning(lock: Lock) -> tuple[object, ...]:
    return (
        lock.hash,
        lock.pubkey if lock.hash is None else None,  # one of its keys like the others
        lock.locktime,
        sorted(lock.refund),
        sorted(lock.pubkeys if lock.hash is None else (lock.pubkey, *lock.pubkeys)),
        lock.n_sigs,
        lock.n_sigs_refund,
    )


def _witness(data: bytes) -> None:
    witness = text_of(data)
    found = signers(_SECRET, witness, [_KEY, BOB.public_key])
    assert found <= {_KEY, BOB.public_key}
    preimage = preimage_of(_SEALED.hash or "", witness)
    assert preimage in (None, _PREIMAGE)
    coin = Proof(1, "009a1f293253e41e", _SECRET, _KEY, witness=witness)
    for lock, secret in ((_AGREED, _SECRET), (_SEALED, _SEALED_SECRET)):
        signed = complete(replace(coin, secret=secret), lock, [ALICE])
        assert is_unlocked(lock, secret, signed.witness, NOW) == (lock.hash is None or preimage is not None)
        assert complete(signed, lock, [ALICE]) == signed
    try:
        more = add_signature(add_preimage(coin, _PREIMAGE), sign_secret(_SECRET, BOB))
    except InvalidProof:
        assert not found
        return
    assert preimage_of(_SEALED.hash or "", more.witness) == _PREIMAGE
    if witness.count('"') < 2 * SIGNATURES_MAX:
        assert BOB.public_key in signers(_SECRET, more.witness, [BOB.public_key])


def _preimage(data: bytes) -> None:
    text = text_of(data)
    hash_ = hashlib.sha256(data).hexdigest()
    assert preimage_of(hash_, as_json({"preimage": data.hex()}).decode()) == data.hex()
    assert is_preimage(data.hex(), hash_) == (len(data) == 32)
    assert not is_preimage(text, hash_)
    assert preimage_of(hash_, text) is None


CHECKS = {"secret": _secret, "witness": _witness, "preimage": _preimage}
SEEDS = [
    ("secret", _SECRET.encode()),
    ("secret", lock_secret(Lock(_KEY, pubkeys=(BOB.compressed_public_key,), n_sigs=2), _NONCE).encode()),
    ("secret", _SEALED_SECRET.encode()),
    *(
        ("secret", text.encode())
        for name in ("nut11", "nut14")
        for text in texts(vectors(f"wallet/{name}.json"))
        if text.startswith("[")
    ),
    *(("witness", text.encode()) for text in texts(vectors("wallet/nut11.json")) if text.startswith("{")),
    ("witness", as_json({"signatures": [sign_secret(_SECRET, ALICE), sign_secret(_SECRET, BOB)]})),
    ("witness", as_json({"preimage": _PREIMAGE, "signatures": [sign_secret(_SEALED_SECRET, ALICE)]})),
    ("witness", as_json({"preimage": _PREIMAGE.upper(), "signatures": None})),
    ("preimage", b"k" * 31),
    ("preimage", b"k" * 32),
    ("secret", b"plain"),
    (
        "secret",
        _SECRET.replace(f',["refund","{BOB.compressed_public_key}"]', "").encode(),
    ),  # free for all after a while
]
WORDS = ("P2PK", "HTLC", "nonce", "data", "tags", "sigflag", "SIG_INPUTS", "SIG_ALL", "pubkeys", "n_sigs", "locktime",
         "refund", "n_sigs_refund", "signatures", "preimage", _PREIMAGE, "1", "2", "1800000000", _KEY, BOB.compressed_public_key)  # fmt: skip
