"""The vectors of NUT-11 and NUT-14."""

import hashlib
import json
from pathlib import Path

import pytest

from identity.keys import verify_signature
from wallet.errors import WrongLock
from wallet.locks import (
    check_lock,
    is_plain,
    parse_lock,
)
from wallet.proofs import Lock
from wallet.witness import is_unlocked

VECTORS = Path(__file__).parent / "vectors"
NUT11 = json.loads((VECTORS / "nut11.json").read_text())
NUT14 = json.loads((VECTORS / "nut14.json").read_text())
T = 2_000_000_000


def spendable(proof: dict[str, str], now: int) -> bool:
    lock = parse_lock(proof["secret"])
    assert lock is not None
    return is_unlocked(lock, proof["secret"], proof.get("witness"), now)


@pytest.mark.parametrize("vector", NUT11["sig_inputs"], ids=lambda v: v["name"])
def test_sig_inputs_vectors(vector):
    expected = vector["name"].startswith("valid_")
    assert spendable(vector["proof"], now=T) is expected


@pytest.mark.parametrize("vector", NUT11["sig_all"], ids=lambda v: v["name"])
def test_sig_all_vectors_are_not_ours_to_spend(vector):
    # We never make, accept or sign SIG_ALL; a coin under it must not pass for a plain coin, or for one under a lock of ours.
    for proof in vector["request"]["inputs"]:
        assert not is_plain(proof["secret"])
        with pytest.raises(WrongLock):
            parse_lock(proof["secret"])


@pytest.mark.parametrize("vector", NUT11["sig_all_messages"], ids=lambda v: v["request"])
def test_sig_all_message_vectors(vector):
    request = next(v["request"] for v in NUT11["sig_all"] if v["name"] == vector["request"])
    (first,) = request["inputs"]
    message = first["secret"] + first["C"] + "".join(f"{o['amount']}{o['B_']}" for o in request["outputs"])
    message += request.get("quote", "")
    assert message == vector["message"]
    digest = hashlib.sha256(message.encode())
    assert digest.hexdigest() == vector["sha256"]
    (signature,) = json.loads(first["witness"])["signatures"]
    assert verify_signature(
        json.loads(first["secret"])[1]["data"][2:], digest.digest(), bytes.fromhex(signature)
    )


@pytest.mark.parametrize("vector", NUT14["secrets"], ids=lambda v: v["name"])
def test_hash_locks_of_the_specification(vector):
    secret, lock = vector["secret"], vector["lock"]
    if lock is None:
        with pytest.raises(WrongLock):
            parse_lock(secret)
        secret, lock = secret.replace("SIG_ALL", "SIG_INPUTS"), vector["otherwise"]
    if lock is None:
        with pytest.raises(WrongLock):
            parse_lock(secret)
        return
    lock = Lock(**lock | {name: tuple(lock.get(name, ())) for name in ("pubkeys", "refund")})
    assert parse_lock(secret) == lock
    check_lock(secret, lock)
