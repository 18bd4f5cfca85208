"""Spending conditions: P2PK locks made, checked and signed (NUT-10, NUT-11).

Only SIG_INPUTS; docs/decisions.md says why.
A payment's lock is checked by rebuilding, not by interpreting: the secret must say exactly what the agreed
lock says, but for the nonce, the order of tags and keys, and tags that only spell out a default. Mints
disagree about anything looser, and where they disagree somebody else may take the coins or nobody ever can.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from identity.keys import SecretKey, verify_signature
from wallet.crypto import parse_point
from wallet.errors import InvalidProof, WrongLock
from wallet.proofs import SECRET_CHARS_MAX, P2PKLock, Proof

KEYS_MAX: Final = 10  # of one path: more do not fit a secret
SIGNATURES_MAX: Final = 2 * KEYS_MAX
_NONCE: Final = re.compile(r"[0-9a-f]{32,64}")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,14}")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}")
_TAGS: Final = frozenset({"sigflag", "pubkeys", "n_sigs", "locktime", "refund", "n_sigs_refund"})

_Tags = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Condition:
    """A NUT-10 spending condition without its nonce: what NUT-18 calls a `NUT10Option`."""

    kind: str
    data: str
    tags: tuple[tuple[str, ...], ...] = ()

    def to_lock(self) -> P2PKLock:
        """The P2PK lock this says. Raises `WrongLock` if it says anything else, or anything besides."""
        tags = _tags_by_name(self.tags)
        if self.kind != "P2PK" or not tags.keys() <= _TAGS:
            raise WrongLock(
                "the coins are locked in a way this wallet does not know; it reads plain P2PK locks"
            )
        lock = P2PKLock(
            pubkey=self.data,
            locktime=_number(tags, "locktime"),
            refund=tags.get("refund", ()),
            pubkeys=tags.get("pubkeys", ()),
            n_sigs=_number(tags, "n_sigs") or 1,
            n_sigs_refund=_number(tags, "n_sigs_refund") or 1,
        )
        _check_keys(lock)
        _check_same(self, lock)
        return lock


def lock_condition(lock: P2PKLock) -> Condition:
    """The one way we write a lock: only tags that say something, and the signature flag spelled out."""
    tags: list[tuple[str, ...]] = [("sigflag", "SIG_INPUTS")]
    if lock.pubkeys:
        tags.append(("pubkeys", *lock.pubkeys))
    if lock.n_sigs != 1:
        tags.append(("n_sigs", str(lock.n_sigs)))
    if lock.locktime is not None:
        tags.append(("locktime", str(lock.locktime)))
    if lock.refund:
        tags.append(("refund", *lock.refund))
    if lock.n_sigs_refund != 1:
        tags.append(("n_sigs_refund", str(lock.n_sigs_refund)))
    return Condition("P2PK", lock.pubkey, tuple(tags))


def check_terms(lock: P2PKLock) -> None:
    """Raise `WrongLock` unless the lock is well-formed and nobody but its keys could ever take the coins.

    Keys are compressed, lowercase and distinct by x in each path; signatures asked for are 1 … keys of the
    path; a locktime and refund keys come together, because a locktime alone frees the coins for everybody.
    """
    _check_keys(lock)
    if lock.locktime is not None and not _NUMBER.fullmatch(str(lock.locktime)):
        raise WrongLock("a locktime is unix seconds above zero")
    if (lock.locktime is None) != (not lock.refund):
        raise WrongLock(
            "a locktime and refund keys belong together: a locktime alone lets anybody take the coins"
        )


def p2pk_secret(lock: P2PKLock, nonce: str) -> str:
    """The exact secret of a coin under this lock. `nonce`: 32 … 64 lowercase hex digits, never used twice.

    Raises `WrongLock` for a lock that `check_terms` refuses, or that does not fit a secret.
    """
    check_terms(lock)
    if not _NONCE.fullmatch(nonce):
        raise ValueError("a nonce is 32 … 64 lowercase hex digits")
    condition = lock_condition(lock)
    secret = _compact([condition.kind, {"nonce": nonce, "data": condition.data, "tags": condition.tags}])
    if len(secret) > SECRET_CHARS_MAX:
        raise WrongLock(f"a lock fits in {SECRET_CHARS_MAX} characters; use fewer keys")
    return secret


def check_lock(secret: str, agreed: P2PKLock) -> None:
    """Raise `WrongLock` unless the coin is locked exactly as agreed: no more, no less, nothing twice."""
    check_terms(agreed)
    _check_same(_read(secret), agreed)


def is_plain(secret: str) -> bool:
    """Whether no mint can take this secret for a spending condition: who has the coin can spend it."""
    return not secret.lstrip().startswith(("[", "{"))


def parse_lock(secret: str) -> P2PKLock | None:
    """The lock of a coin, None for a plain secret. For display and refunds; a payment is for `check_lock`.

    Raises `WrongLock` for every other condition: another kind, SIG_ALL, unknown, doubled or malformed tags.
    Unlike `check_terms` it lets a locktime without refund keys pass: such coins exist, and their owner may
    want them.
    """
    return None if is_plain(secret) else _read(secret).to_lock()


def can_spend(lock: P2PKLock, keys: Iterable[str], now: int) -> bool:
    """Whether signatures by these public keys (hex, compressed or x-only) suffice at `now`, the mint's clock.

    The main path stays open after the locktime; refund keys open a second one; without any, everybody may
    spend.
    """
    have = {_x(key) for key in keys}
    if sum(_x(key) in have for key in (lock.pubkey, *lock.pubkeys)) >= lock.n_sigs:
        return True
    if lock.locktime is None or now <= lock.locktime:
        return False
    return not lock.refund or sum(_x(key) in have for key in lock.refund) >= lock.n_sigs_refund


def sign_secret(secret: str, key: SecretKey) -> str:
    """A signature over a coin's secret, 128 hex digits: all that SIG_INPUTS asks of one key."""
    return key.sign(_digest(secret)).hex()


def add_signature(proof: Proof, signature: str) -> Proof:
    """The coin with one more signature in its witness. Raises `InvalidProof` if its witness is malformed."""
    signatures = [*_signatures(proof.witness), signature]
    return proof.with_witness(_compact({"signatures": signatures}))


def sign_proof(proof: Proof, key: SecretKey) -> Proof:
    """The coin with this key's signature in its witness, after those that are there.

    Unchanged if the key signed already. Raises `InvalidProof` if the witness is malformed.
    """
    if signers(proof.secret, proof.witness, [key.public_key]):
        return proof
    return add_signature(proof, sign_secret(proof.secret, key))


def signers(secret: str, witness: str | None, keys: Iterable[str]) -> frozenset[str]:
    """Which of these public keys (hex, compressed or x-only) signed the secret.

    None did by a malformed witness.
    """
    try:
        signatures = [bytes.fromhex(signature) for signature in _signatures(witness)]
    except InvalidProof:
        return frozenset()
    digest = _digest(secret)
    return frozenset(key for key in keys if any(verify_signature(_x(key), digest, s) for s in signatures))


def _read(secret: str) -> Condition:
    """The condition in a secret, if it is written so that every JSON parser reads the same."""
    if len(secret) > SECRET_CHARS_MAX:
        raise WrongLock(f"a lock has at most {SECRET_CHARS_MAX} characters, this one {len(secret)}")
    try:
        raw = json.loads(secret)
        # Doubled names, escapes, odd spacing and odd numbers do not survive being written again.
        if secret not in (_compact(raw), json.dumps(raw)):
            raise WrongLock("the lock is not written in a canonical way: mints could read it differently")
    except (ValueError, RecursionError):
        raise WrongLock("the lock is not JSON") from None
    match raw:
        case [str(kind), {"nonce": str(nonce), "data": str(data), "tags": list(tags)} as members]:
            pass
        case _:
            raise WrongLock("a lock is a kind and an object of nonce, data and tags")
    if len(members) != 3:
        raise WrongLock("a lock's object has a member besides nonce, data and tags")
    if not _NONCE.fullmatch(nonce):
        raise WrongLock("a lock's nonce is 32 … 64 lowercase hex digits")
    for tag in tags:
        if not isinstance(tag, list) or not tag or not all(isinstance(value, str) and value for value in tag):
            raise WrongLock("a lock's tags are lists of texts, none of them empty")
    return Condition(kind, data, tuple(tuple(tag) for tag in tags))


def _check_same(condition: Condition, lock: P2PKLock) -> None:
    if condition.kind != "P2PK":
        raise WrongLock("the coins are not locked to a public key (P2PK)")
    if condition.data != lock.pubkey:
        raise WrongLock("the coins are locked to another key than agreed")
    found = _meaning(_tags_by_name(condition.tags))
    agreed = _meaning(_tags_by_name(lock_condition(lock).tags))
    for name in sorted(_TAGS):
        if found.get(name) != agreed.get(name):
            raise WrongLock(f"the lock's {name} is not exactly the agreed one")
    if found.keys() != agreed.keys():
        raise WrongLock("the lock has a tag that was not agreed")


def _meaning(tags: _Tags) -> dict[str, list[str]]:
    """Tags without those that spell out a default, and without the order of their values."""
    defaults = {("sigflag", "SIG_INPUTS"), ("n_sigs", "1")}
    if "refund" in tags:  # without refund keys, asking for one of them makes a coin that nobody can spend
        defaults.add(("n_sigs_refund", "1"))
    return {name: sorted(values) for name, values in tags.items() if (name, *values) not in defaults}


def _tags_by_name(tags: Iterable[tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    by_name = {}
    for name, *values in tags:
        if name in by_name:
            raise WrongLock("the lock has a tag twice: no mint should let such coins be spent")
        by_name[name] = tuple(values)
    return by_name


def _number(tags: _Tags, name: str) -> int | None:
    values = tags.get(name)
    if values is None:
        return None
    if len(values) != 1 or not _NUMBER.fullmatch(values[0]):
        raise WrongLock(f"the lock's {name} is not one whole number above zero")
    return int(values[0])


def _check_keys(lock: P2PKLock) -> None:
    for path, keys, asked in (
        ("main", (lock.pubkey, *lock.pubkeys), lock.n_sigs),
        ("refund", lock.refund, lock.n_sigs_refund),
    ):
        if len(keys) > KEYS_MAX or len({_x(key) for key in keys}) != len(keys):
            raise WrongLock(
                f"the {path} keys of a lock are at most {KEYS_MAX}, each there once, whatever its parity"
            )
        if not 0 < asked <= max(len(keys), 1):
            raise WrongLock(
                f"a lock asks for as many {path} signatures as it has keys, or fewer, and for one at least"
            )
        try:
            for key in keys:
                parse_point(key)
        except InvalidProof:
            raise WrongLock(
                f"a {path} key of the lock is not a compressed public key in lowercase hex"
            ) from None


def _signatures(witness: str | None) -> list[str]:
    if not witness:
        return []
    try:
        raw = orjson.loads(witness)
    except ValueError:
        raise InvalidProof("the witness is not JSON") from None
    match raw:
        case {"signatures": list(signatures), **others} if not others and len(signatures) <= SIGNATURES_MAX:
            if all(
                isinstance(signature, str) and _SIGNATURE.fullmatch(signature) for signature in signatures
            ):
                return signatures
    raise InvalidProof(
        f"a witness holds at most {SIGNATURES_MAX} signatures of 128 hex digits and nothing else"
    )


def _x(key: str) -> str:
    return key[-64:]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
