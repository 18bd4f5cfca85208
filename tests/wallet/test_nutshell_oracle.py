"""Our pure modules against nutshell's own library, which runs as a subprocess in the mint's venv."""

import hashlib
import json
import os
import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import coincurve
import pytest

from identity.keys import SecretKey
from wallet import crypto
from wallet.keysets import keyset_id_v1, keyset_id_v2
from wallet.locks import check_lock, lock_secret, parse_lock
from wallet.proofs import Dleq, Lock, Proof, Token
from wallet.seed import Seed
from wallet.token import encode_token, parse_token
from wallet.witness import add_preimage, add_signature, complete, sign_secret, signers

pytestmark = pytest.mark.process

Ask = Callable[..., list[object]]

CHANCE = random.Random(2026)
V1_ID, V2_ID = "009a1f293253e41e", "015ba18a8adcd02e715a58358eb618da4a4b3791151a4bee5e968bb88406ccf76a"
PROVIDER, CUSTOMER, ARBITER = (SecretKey(bytes([n]) * 32) for n in (1, 2, 3))
PAST, FUTURE = 1_000_000_000, 4_000_000_000
PREIMAGE = "ab" * 32
PREIMAGE_HASH = hashlib.sha256(bytes.fromhex(PREIMAGE)).hexdigest()


def scalar() -> bytes:
    return CHANCE.randbytes(32)


def public_key(secret: bytes) -> str:
    return coincurve.PublicKey.from_valid_secret(secret).format().hex()


def make_coin(amount: int, keyset_id: str, secret: str, k: bytes) -> Proof:
    r = scalar()
    blinded = crypto.blind(secret, r)
    signature = crypto.sign_blinded(blinded, k)
    dleq = replace(crypto.make_dleq(blinded, signature, k), r=r.hex())
    return Proof(amount, keyset_id, secret, crypto.unblind(signature, r, public_key(k)), dleq)


@pytest.fixture(scope="module")
def ask(mint_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Ask nutshell many questions at once: starting it takes seconds."""
    home = tmp_path_factory.mktemp("nutshell")

    def run(*questions: tuple[object, ...]) -> list[object]:
        done = subprocess.run(
            [str(mint_python), str(Path(__file__).with_name("nutshell_oracle.py"))],
            input=json.dumps([(name, arguments) for name, *arguments in questions]),
            env={"PATH": os.environ["PATH"], "HOME": str(home), "CASHU_DIR": str(home), "LOG_LEVEL": "ERROR"},
            capture_output=True, text=True, cwd=home, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return run


def test_tokens_both_ways(ask: Ask):
    k = scalar()
    lock = Lock(PROVIDER.compressed_public_key)
    coins = (
        make_coin(8, V1_ID, "ab" * 32, k),
        complete(make_coin(1, V1_ID, lock_secret(lock, "ab" * 32), k), lock, [PROVIDER]),
        make_coin(2**40, V2_ID, "cd" * 32, k),
    )
    token = Token("https://mint.example/Bitcoin", coins, "sat", "Thank you ✓")
    v3, v4 = encode_token(token, version=3), encode_token(token)
    read_v3, read_v4, (again_v4, again_v3) = ask(
        ("read_token", v3), ("read_token", v4), ("rewrite_token", v4)
    )
    for read in (read_v3, read_v4):
        assert (read["mint"], read["unit"]) == (token.mint, "sat")
        assert [Proof(**p | {"dleq": Dleq(**p["dleq"])}) for p in read["proofs"]] == list(coins)
    assert parse_token(again_v4) == token
    assert replace(parse_token(again_v3), memo=token.memo) == token


def test_the_curve_both_ways(ask: Ask):
    messages = [CHANCE.randbytes(n) for n in range(64)]
    coins = [("x" * n + "é", scalar(), scalar()) for n in range(1, 20)]
    questions = [("hash_to_curve", m.hex()) for m in messages]
    questions += [("mint_coin", secret, r.hex(), k.hex()) for secret, r, k in coins]
    answers = ask(*questions)
    assert answers[:64] == [crypto.hash_to_curve(m).format().hex() for m in messages]
    for (secret, r, k), theirs in zip(coins, answers[64:], strict=True):
        blinded = crypto.blind(secret, r)
        signature = crypto.sign_blinded(blinded, k)
        ours = crypto.make_dleq(blinded, signature, k)
        c = crypto.unblind(signature, r, public_key(k))
        assert theirs == {"B_": blinded, "C_": signature, "C": c, "e": ours.e, "s": ours.s}


def test_dleq_proofs_are_judged_alike(ask: Ask):
    k = scalar()
    good = make_coin(1, V1_ID, "ab" * 32, k)
    cases = [good, replace(good, secret="cd" * 32), replace(good, dleq=replace(good.dleq, r=scalar().hex()))]
    keys = [public_key(k), public_key(scalar())]
    questions = [
        ("verify_dleq", c.secret, c.dleq.r, c.C, c.dleq.e, c.dleq.s, key) for c in cases for key in keys
    ]
    ours = [crypto.verify_dleq_proof(c, key) for c in cases for key in keys]
    assert ask(*questions) == ours == [True, False, False, False, False, False]


def test_keyset_ids_are_derived_alike(ask: Ask):
    keys = {1 << bit: public_key(scalar()) for bit in range(64)}
    sent = {str(amount): key for amount, key in keys.items()}
    cases = [("sat", 0, None), ("sat", 100, None), ("usd", 0, 2_059_210_353), ("sat", 1, 1)]
    for case, answer in zip(cases, ask(*(("keyset_ids", sent, *case) for case in cases)), strict=True):
        v2 = keyset_id_v2(keys, *case)
        assert answer == [keyset_id_v1(keys), v2, v2[:16]]


def test_secrets_are_derived_alike(ask: Ask):
    seed = Seed.generate()
    cases = [
        (keyset_id, counter)
        for keyset_id in (V1_ID, "00" + "ff" * 7, V2_ID)
        for counter in (0, 1, 77, 2**31 - 1)
    ]
    answers = ask(*(("derive", seed.words, *case) for case in cases))
    for case, (secret, r) in zip(cases, answers, strict=True):
        ours, factor = seed.output_secret(*case)
        assert (secret, int(r, 16) % crypto.ORDER) == (ours, int.from_bytes(factor))


def coin(secret: str) -> Proof:
    return Proof(1, V1_ID, secret, public_key(b"\x01" * 32))


def test_our_witnesses_open_our_locks(ask: Ask):
    p, c, a = (key.compressed_public_key for key in (PROVIDER, CUSTOMER, ARBITER))
    simple, prepaid = Lock(p), Lock(p, locktime=FUTURE, refund=(c,))
    escrow = Lock(p, locktime=FUTURE, refund=(c,), pubkeys=(c, a), n_sigs=2)
    expired = replace(escrow, locktime=PAST)
    two = Lock(p, locktime=PAST, refund=(c, a), n_sigs_refund=2)
    cases = [
        (simple, [PROVIDER], True), (simple, [CUSTOMER], False), (simple, [], False),
        (prepaid, [PROVIDER], True), (prepaid, [CUSTOMER], False), (replace(prepaid, locktime=PAST), [CUSTOMER], True),
        (escrow, [PROVIDER, CUSTOMER], True), (escrow, [ARBITER, PROVIDER], True), (escrow, [PROVIDER], False),
        (escrow, [CUSTOMER], False), (expired, [CUSTOMER], True), (expired, [PROVIDER, ARBITER], True), (expired, [ARBITER], False),
        (two, [CUSTOMER, ARBITER], True), (two, [CUSTOMER], False),
    ]  # fmt: skip
    sealed = [(replace(lock, hash=PREIMAGE_HASH), keys, opens) for lock, keys, opens in cases]
    questions = [("spendable", *signed(lock, keys)) for lock, keys, _ in cases]
    questions += [("spendable", *signed(lock, keys, PREIMAGE)) for lock, keys, _ in sealed]
    answers = ask(*questions)
    assert [answer is True for answer in answers] == [opens for _, _, opens in cases + sealed], answers


def signed(lock: Lock, keys: list[SecretKey], preimage: str | None = None) -> tuple[str, str]:
    """A coin's secret under the lock, and the witness of these keys and this preimage."""
    proof = coin(lock_secret(lock, CHANCE.randbytes(32).hex()))
    proof = add_preimage(proof, preimage) if preimage else proof
    proof = complete(proof, lock, keys)
    return proof.secret, proof.witness or ""


def test_without_the_preimage_only_the_refund_opens(ask: Ask):
    p, c = PROVIDER.compressed_public_key, CUSTOMER.compressed_public_key
    lock = Lock(p, locktime=FUTURE, refund=(c,), hash=PREIMAGE_HASH)
    expired = replace(lock, locktime=PAST)
    short = coin(lock_secret(replace(lock, hash=hashlib.sha256(b"k" * 31).hexdigest()), "ab" * 32))
    answers = ask(
        ("spendable", *signed(lock, [PROVIDER])),
        ("spendable", *signed(lock, [CUSTOMER])),
        ("spendable", *signed(expired, [PROVIDER])),
        ("spendable", *signed(lock, [], PREIMAGE)),
        ("spendable", *signed(expired, [CUSTOMER])),
        ("spendable", short.secret, json.dumps(
            {"preimage": (b"k" * 31).hex(), "signatures": [sign_secret(short.secret, PROVIDER)]})),
    )  # fmt: skip
    assert [answer is True for answer in answers] == [False, False, False, False, True, False], answers


def test_nutshells_locks_and_signatures_are_ours_too(ask: Ask):
    p, c = PROVIDER.compressed_public_key, CUSTOMER.compressed_public_key
    tags = [["locktime", str(FUTURE)], ["refund", c], ["pubkeys", c]]
    plain, full = ask(("lock", p, [], 1), ("lock", p, tags, 2))
    check_lock(plain, Lock(p))
    check_lock(full, Lock(p, locktime=FUTURE, refund=(c,), pubkeys=(c,), n_sigs=2))
    assert parse_lock(plain) == Lock(p)
    (signature,) = ask(("sign", full, CUSTOMER.hex()))
    proof = add_signature(coin(full), signature)
    assert signers(full, proof.witness, [p, c]) == {c}
    assert sign_secret(full, CUSTOMER) != signature  # both are randomised, and both are valid
    lock = parse_lock(full)
    assert ask(("spendable", full, complete(proof, lock, [PROVIDER]).witness)) == [True]


def test_nutshells_hash_locks_are_ours_too(ask: Ask):
    p, c = PROVIDER.compressed_public_key, CUSTOMER.compressed_public_key
    (secret,) = ask(("hash_lock", PREIMAGE, [p], 3600, [c]))
    locktime = parse_lock(secret).locktime
    agreed = Lock(p, locktime=locktime, refund=(c,), hash=PREIMAGE_HASH)
    check_lock(secret, agreed)
    proof = complete(add_preimage(coin(secret), PREIMAGE), agreed, [PROVIDER])
    assert ask(("spendable", secret, proof.witness)) == [True]
