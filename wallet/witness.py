"""What spends a locked coin: signatures and preimages in its witness (NUT-10, NUT-11, NUT-14).

A signature is over the coin's secret alone (SIG_INPUTS), so signatures of several parties gather in any order.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson

from identity.keys import SecretKey, verify_signature
from wallet.errors import InvalidProof
from wallet.locks import KEYS_MAX
from wallet.proofs import Lock, Proof

SIGNATURES_MAX: Final = 2 * KEYS_MAX
_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}")
_PREIMAGE_CHARS: Final = 64
_PREIMAGE: Final = re.compile(f"[0-9a-f]{{{_PREIMAGE_CHARS}}}")


@dataclass(frozen=True)
class _Witness:
    signatures: tuple[str, ...] = ()
    preimage: str | None = None

    def write(self) -> str:
        members: dict[str, object] = {} if self.preimage is None else {"preimage": self.preimage}
        return json.dumps(members | {"signatures": self.signatures}, separators=(",", ":"))


def can_spend(lock: Lock, keys: Iterable[str], now: int, preimage: str | None = None) -> bool:
    """Whether signatures by these public keys (hex, compressed or x-only) suffice at `now`, the mint's clock.

    The main path, which asks for the preimage besides if the lock has a hash, stays open after the locktime;
    refund keys open a second one; without any, everybody may spend.
    """
    have = {_x(key) for key in keys}
    revealed = lock.hash is None or (preimage is not None and is_preimage(preimage, lock.hash))
    if revealed and sum(_x(key) in have for key in (lock.pubkey, *lock.pubkeys)) >= lock.n_sigs:
        return True
    if lock.locktime is None or now <= lock.locktime:
        return False
    return not lock.refund or sum(_x(key) in have for key in lock.refund) >= lock.n_sigs_refund


def is_unlocked(lock: Lock, secret: str, witness: str | None, now: int) -> bool:
    """Whether this witness spends the coin of that secret, which says `lock`, at `now`."""
    preimage = None if lock.hash is None else preimage_of(lock.hash, witness)
    return can_spend(lock, signers(secret, witness, named_keys(lock)), now, preimage)


def named_keys(lock: Lock) -> tuple[str, ...]:
    """Every key whose signature can count: of the main path and of the refund."""
    return lock.pubkey, *lock.pubkeys, *lock.refund


def complete(proof: Proof, lock: Lock, keys: Sequence[SecretKey]) -> Proof:
    """The coin with a witness of nothing but what counts: one signature by each named key, the right preimage.

    Signatures that are there already are kept, `keys` sign if the lock names them. Whatever else came in the
    witness is dropped: a doubled or foreign signature makes some mints refuse the good ones.
    """
    theirs = _by_signer(proof.secret, proof.witness, named_keys(lock))
    ours = {key.public_key: key for key in keys}
    signatures: dict[str, str] = {}
    for name in dict.fromkeys(_x(key) for key in named_keys(lock)):
        if name in theirs:
            signatures[name] = theirs[name]
        elif name in ours:
            signatures[name] = sign_secret(proof.secret, ours[name])
    preimage = preimage_of(lock.hash, proof.witness) if lock.hash else None
    useful = preimage is not None and len(preimage) == _PREIMAGE_CHARS
    return proof.with_witness(_Witness(tuple(signatures.values()), preimage if useful else None).write())


def make_witness(secret: str, keys: Iterable[SecretKey], preimage: str | None = None) -> str:
    """A witness of exactly these signatures and this preimage, whether they spend the coin or not."""
    return _Witness(tuple(sign_secret(secret, key) for key in keys), preimage).write()


def sign_secret(secret: str, key: SecretKey) -> str:
    """A signature over a coin's secret, 128 hex digits: all that SIG_INPUTS asks of one key."""
    return key.sign(_digest(secret)).hex()


def add_signature(proof: Proof, signature: str) -> Proof:
    """The coin with one more signature in its witness. Raises `InvalidProof` if either is malformed."""
    if not _SIGNATURE.fullmatch(signature):
        raise InvalidProof("a signature is 128 lowercase hex digits")
    witness = _parse(proof.witness)
    return proof.with_witness(replace(witness, signatures=(*witness.signatures, signature)).write())


def add_preimage(proof: Proof, preimage: str) -> Proof:
    """The coin with the preimage of its hash in its witness (NUT-14): 32 bytes in 64 lowercase hex digits.

    Raises `InvalidProof` for another form, or if the coin's witness is malformed.
    """
    if not _PREIMAGE.fullmatch(preimage):
        raise InvalidProof("a preimage is exactly 32 bytes, in 64 lowercase hex digits")
    return proof.with_witness(replace(_parse(proof.witness), preimage=preimage).write())


def signers(secret: str, witness: str | None, keys: Iterable[str]) -> frozenset[str]:
    """Which of these public keys (hex, compressed or x-only) signed the secret.

    None did by a malformed witness.
    """
    asked = tuple(keys)
    found = _by_signer(secret, witness, asked)
    return frozenset(key for key in asked if _x(key) in found)


def _by_signer(secret: str, witness: str | None, keys: Iterable[str]) -> dict[str, str]:
    """The first signature by each of these keys (x-only), where there is one.

    No signature is by two keys, so one that is found is not tried with the next.
    """
    left, digest = list(_lenient(witness).signatures), _digest(secret)
    found: dict[str, str] = {}
    for name in dict.fromkeys(_x(key) for key in keys):
        signature = next((s for s in left if verify_signature(name, digest, bytes.fromhex(s))), None)
        if signature is not None:
            found[name] = signature
            left.remove(signature)
    return found


def is_preimage(preimage: str, hash_: str) -> bool:
    """Whether this is 32 bytes in 64 lowercase hex digits, and `hash_` the sha256 of the bytes (NUT-14)."""
    return bool(_PREIMAGE.fullmatch(preimage)) and _sha256(bytes.fromhex(preimage)) == hash_


def preimage_of(hash_: str, witness: str | None) -> str | None:
    """The preimage, in lowercase hex, in the witness that a mint shows of a spent coin (NUT-07), else None.

    Total: a mint says whatever it likes, and only the hash decides. One of other than 32 bytes is no preimage to
    spend with, and yet is told: it proves that whoever drew it meant to cheat.
    """
    try:
        match orjson.loads(witness or "null"):
            case {"preimage": str(text)}:
                preimage = bytes.fromhex(text)
            case _:
                return None
    except ValueError:
        return None
    return preimage.hex() if _sha256(preimage) == hash_ else None


def _parse(witness: str | None) -> _Witness:
    if not witness:
        return _Witness()
    try:
        raw = orjson.loads(witness)
    except ValueError:
        raise InvalidProof("the witness is not JSON") from None
    if isinstance(raw, dict) and raw and raw.keys() <= {"signatures", "preimage"}:
        signatures, preimage = raw.get("signatures") or [], raw.get("preimage")
        if (
            isinstance(signatures, list)
            and len(signatures) <= SIGNATURES_MAX
            and all(isinstance(text, str) and _SIGNATURE.fullmatch(text) for text in signatures)
            and (preimage is None or (isinstance(preimage, str) and _PREIMAGE.fullmatch(preimage)))
        ):
            return _Witness(tuple(signatures), preimage)
    raise InvalidProof(
        f"a witness holds at most {SIGNATURES_MAX} signatures of 128 hex digits, a preimage of 64 and nothing else"
    )


def _lenient(witness: str | None) -> _Witness:
    try:
        return _parse(witness)
    except InvalidProof:
        return _Witness()


def _x(key: str) -> str:
    return key[-64:]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
