"""Who can spend a locked coin, and how what it takes gathers in its witness."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.keys import SecretKey
from wallet.errors import InvalidProof
from wallet.locks import lock_secret
from wallet.proofs import Lock, Proof
from wallet.witness import (
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

KEYS = [SecretKey(bytes([n]) * 32) for n in range(1, 6)]
PROVIDER, CUSTOMER, ARBITER, OTHER, STRANGER = (key.compressed_public_key for key in KEYS)
NONCE = "ab" * 32
T = 2_000_000_000
PREIMAGE = "0" * 63 + "1"  # NUT-14's own pair
HASH = "ec4916dd28fc4c10d78e287ca5d9cc51ee1ae73cbfde08c6b37324cbfaac8bc5"

SIMPLE = Lock(PROVIDER)
PREPAID = Lock(PROVIDER, locktime=T, refund=(CUSTOMER,))
ESCROW = Lock(PROVIDER, locktime=T, refund=(CUSTOMER,), pubkeys=(CUSTOMER, ARBITER), n_sigs=2)
TWO_REFUNDS = Lock(PROVIDER, locktime=T, refund=(CUSTOMER, ARBITER), n_sigs_refund=2)
REVEAL = replace(PREPAID, hash=HASH)


def flip(key: str) -> str:
    """The same x with the other parity."""
    return ("03" if key[:2] == "02" else "02") + key[2:]


def coin(lock: Lock, witness: str | None = None) -> Proof:
    return Proof(1, "009a1f293253e41e", lock_secret(lock, NONCE), PROVIDER, witness=witness)


@pytest.mark.parametrize(
    ("lock", "who", "before", "after"),
    [
        (SIMPLE, [PROVIDER], True, True),
        (SIMPLE, [CUSTOMER], False, False),
        (SIMPLE, [], False, False),
        (PREPAID, [PROVIDER], True, True),
        (PREPAID, [CUSTOMER], False, True),
        (PREPAID, [ARBITER], False, False),
        (ESCROW, [PROVIDER], False, False),
        (ESCROW, [PROVIDER, PROVIDER], False, False),
        (ESCROW, [PROVIDER, flip(PROVIDER)], False, False),
        (ESCROW, [PROVIDER, CUSTOMER], True, True),
        (ESCROW, [PROVIDER, ARBITER], True, True),
        (ESCROW, [CUSTOMER, ARBITER], True, True),
        (ESCROW, [CUSTOMER], False, True),
        (ESCROW, [ARBITER, STRANGER], False, False),
        (TWO_REFUNDS, [CUSTOMER], False, False),
        (TWO_REFUNDS, [CUSTOMER, ARBITER], False, True),
    ],
)
def test_who_can_spend_when(lock, who, before, after):
    assert can_spend(lock, who, T - 1) is before
    assert can_spend(lock, who, T) is before
    assert can_spend(lock, who, T + 1) is after
    assert can_spend(lock, [key[2:] for key in who], T + 1) is after


@pytest.mark.parametrize(
    ("who", "preimage", "before", "after"),
    [
        ([PROVIDER], PREIMAGE, True, True),
        ([PROVIDER], None, False, False),
        ([PROVIDER], "0" * 64, False, False),
        ([PROVIDER], PREIMAGE.upper(), True, True),
        ([PROVIDER], PREIMAGE[2:], False, False),
        ([PROVIDER], " " + PREIMAGE[1:], False, False),
        ([], PREIMAGE, False, False),
        ([CUSTOMER], PREIMAGE, False, True),
        ([CUSTOMER], None, False, True),
        ([STRANGER], PREIMAGE, False, False),
    ],
)
def test_who_can_spend_under_a_hash(who, preimage, before, after):
    assert can_spend(REVEAL, who, T, preimage) is before
    assert can_spend(REVEAL, who, T + 1, preimage) is after


def test_a_preimage_is_32_bytes_in_lowercase():
    assert is_preimage(PREIMAGE, HASH)
    for raw in (b"k" * 31, b"k" * 33, b""):
        assert not is_preimage(raw.hex(), hashlib.sha256(raw).hexdigest())
    letters = b"\xab" * 32
    assert is_preimage(letters.hex(), hashlib.sha256(letters).hexdigest())
    assert not is_preimage(letters.hex().upper(), hashlib.sha256(letters).hexdigest())
    for text in (PREIMAGE[2:], PREIMAGE + "00", "AB" * 32, "xy" * 32, "", " " * 64):
        with pytest.raises(InvalidProof):
            add_preimage(coin(REVEAL), text)


def test_what_it_takes_gathers_in_the_witness_in_any_order():
    provider, customer, arbiter, *_ = KEYS
    lock = replace(ESCROW, hash=HASH)
    bare = coin(lock)
    by_customer, by_arbiter = sign_secret(bare.secret, customer), sign_secret(bare.secret, arbiter)
    first = add_preimage(add_signature(bare, by_customer), PREIMAGE)
    second = add_signature(add_preimage(bare, PREIMAGE), by_arbiter)
    for proof in (first, second):
        assert not is_unlocked(lock, proof.secret, proof.witness, 0)
        done = complete(proof, lock, [provider])
        assert is_unlocked(lock, done.secret, done.witness, 0)
        assert complete(done, lock, [provider]) == done
        assert json.loads(done.witness)["preimage"] == PREIMAGE
        assert len(json.loads(done.witness)["signatures"]) == 2
    assert signers(bare.secret, first.witness, [PROVIDER, CUSTOMER, ARBITER]) == {CUSTOMER}
    assert signers(lock_secret(lock, "cd" * 32), first.witness, [CUSTOMER]) == frozenset()
    without = complete(add_signature(bare, by_customer), lock, [provider])
    assert not is_unlocked(lock, without.secret, without.witness, T)
    assert is_unlocked(lock, without.secret, without.witness, T + 1)  # the refund asks for no preimage


def test_only_what_counts_stays_in_the_witness():
    """Nutshell 0.20.2 refuses a coin with a signature twice; whoever adds one must not stop the others."""
    provider, customer, _, _, stranger = KEYS
    bare = coin(ESCROW)
    theirs = sign_secret(bare.secret, customer)
    proof = bare
    for signature in (
        theirs,
        theirs,
        sign_secret(bare.secret, customer),
        sign_secret(bare.secret, stranger),
        "00" * 64,
    ):
        proof = add_signature(proof, signature)
    proof = add_preimage(proof, PREIMAGE)
    done = complete(proof, ESCROW, [provider, stranger])
    witness = json.loads(done.witness)
    assert witness.keys() == {"signatures"}
    assert len(witness["signatures"]) == 2
    assert theirs in witness["signatures"]
    assert signers(done.secret, done.witness, [PROVIDER, CUSTOMER, STRANGER]) == {PROVIDER, CUSTOMER}
    assert is_unlocked(ESCROW, done.secret, done.witness, 0)


def test_a_witness_holds_twenty_signatures():
    full = coin(SIMPLE, json.dumps({"signatures": ["ab" * 64] * 19}))
    full = add_signature(full, sign_secret(full.secret, KEYS[0]))
    assert signers(full.secret, full.witness, [PROVIDER]) == {PROVIDER}
    with pytest.raises(InvalidProof):
        add_signature(add_signature(full, "ab" * 64), "ab" * 64)


@pytest.mark.parametrize("signature", ["", "ab" * 63, "AB" * 64, "zz" * 64, "ab" * 64 + "\n"])
def test_what_is_no_signature_is_not_added(signature):
    with pytest.raises(InvalidProof):
        add_signature(coin(SIMPLE), signature)


MALFORMED = [
    "x",
    "[]",
    "{}",
    '{"signatures":1}',
    '{"signatures":[1]}',
    '{"signatures":["ab"]}',
    '{"signatures":[],"preimage":"00"}',
    '{"signatures":[],"memo":"x"}',
    json.dumps({"signatures": [], "preimage": "AB" * 32}),
    json.dumps({"signatures": ["ab" * 64] * 21}),
    "[" * 2000,
]


@pytest.mark.parametrize("witness", MALFORMED)
def test_a_malformed_witness_signs_nothing_and_is_not_added_to(witness):
    proof = coin(SIMPLE, witness)
    assert signers(proof.secret, witness, [PROVIDER]) == frozenset()
    with pytest.raises(InvalidProof):
        add_signature(proof, "ab" * 64)
    with pytest.raises(InvalidProof):
        add_preimage(proof, PREIMAGE)
    done = complete(proof, SIMPLE, [KEYS[0]])  # what is no witness keeps nobody from signing
    assert is_unlocked(SIMPLE, done.secret, done.witness, 0)


@pytest.mark.parametrize("witness", [
    json.dumps({"preimage": PREIMAGE, "signatures": None}),  # as nutshell writes
    json.dumps({"preimage": PREIMAGE}),
    json.dumps({"signatures": [], "preimage": PREIMAGE, "more": [1]}),
    json.dumps({"preimage": PREIMAGE.upper()}),
])  # fmt: skip
def test_a_preimage_is_read_from_what_a_mint_shows(witness):
    assert preimage_of(HASH, witness) == PREIMAGE
    assert preimage_of("ab" * 32, witness) is None


def test_a_preimage_of_31_bytes_is_told_and_spends_nothing():
    raw = b"k" * 31
    hash_ = hashlib.sha256(raw).hexdigest()
    witness = json.dumps({"preimage": raw.hex() + "  "})  # of 64 characters: nutshell 0.20.2 takes it
    assert preimage_of(hash_, witness) == raw.hex()
    lock = replace(REVEAL, hash=hash_)
    proof = complete(coin(lock, witness), lock, KEYS[:2])
    assert json.loads(proof.witness).keys() == {"signatures"}  # such a preimage would spoil the refund
    for shown in (witness, proof.witness):
        assert not is_unlocked(lock, proof.secret, shown, T)
    assert is_unlocked(lock, proof.secret, proof.witness, T + 1)


@given(
    st.none() | st.text() | st.dictionaries(st.just("preimage"), st.text() | st.integers()).map(json.dumps)
)
def test_reading_a_preimage_is_total(witness):
    assert preimage_of(HASH, witness) is None
    assert signers("secret", witness, [PROVIDER]) == frozenset()
