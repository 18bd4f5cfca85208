"""Spending conditions: P2PK and HTLC locks made, read and checked (NUT-10, NUT-11, NUT-14).

Only SIG_INPUTS; docs/decisions.md says why. What spends a locked coin is in `wallet.witness`.
A payment's lock is checked by rebuilding, not by interpreting: the secret must say exactly what the agreed
lock says, but for the nonce, the order of tags and keys, and tags that only spell out a default. Mints
disagree about anything looser, and where they disagree somebody else may take the coins or nobody ever can.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from wallet.crypto import parse_point
from wallet.errors import InvalidProof, WrongLock
from wallet.proofs import SECRET_CHARS_MAX, Lock

P2PK: Final = "P2PK"
HTLC: Final = "HTLC"
KEYS_MAX: Final = 10  # of one path: more do not fit a secret
_NONCE: Final = re.compile(r"[0-9a-f]{32,64}")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,14}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_TAGS: Final = frozenset({"sigflag", "pubkeys", "n_sigs", "locktime", "refund", "n_sigs_refund"})

_Tags = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Condition:
    """A NUT-10 spending condition without its nonce: what NUT-18 calls a `NUT10Option`."""

    kind: str
    data: str
    tags: tuple[tuple[str, ...], ...] = ()

    def to_lock(self) -> Lock:
        """The lock this says. Raises `WrongLock` if it says anything else, or anything besides.

        An HTLC without keys is refused: whoever sees its preimage first takes the coins.
        """
        tags = _tags_by_name(self.tags)
        if self.kind not in {P2PK, HTLC} or not tags.keys() <= _TAGS:
            raise WrongLock(
                "the coins are locked in a way this wallet does not know; it reads plain P2PK and HTLC locks"
            )
        keys = tags.get("pubkeys", ())
        if self.kind == P2PK:
            keys = (self.data, *keys)
        elif not keys:
            raise WrongLock("an HTLC without pubkeys lets anybody who sees the preimage take the coins")
        lock = Lock(
            pubkey=keys[0],
            locktime=_number(tags, "locktime"),
            refund=tags.get("refund", ()),
            pubkeys=keys[1:],
            n_sigs=_number(tags, "n_sigs") or 1,
            n_sigs_refund=_number(tags, "n_sigs_refund") or 1,
            hash=self.data if self.kind == HTLC else None,
        )
        _check_form(lock)
        _check_same(self, lock)
        return lock


def lock_condition(lock: Lock) -> Condition:
    """The one way we write a lock: only tags that say something, and the signature flag spelled out."""
    tags: list[tuple[str, ...]] = [("sigflag", "SIG_INPUTS")]
    if lock.hash is not None:
        tags.append(("pubkeys", lock.pubkey, *lock.pubkeys))
    elif lock.pubkeys:
        tags.append(("pubkeys", *lock.pubkeys))
    if lock.n_sigs != 1:
        tags.append(("n_sigs", str(lock.n_sigs)))
    if lock.locktime is not None:
        tags.append(("locktime", str(lock.locktime)))
    if lock.refund:
        tags.append(("refund", *lock.refund))
    if lock.n_sigs_refund != 1:
        tags.append(("n_sigs_refund", str(lock.n_sigs_refund)))
    kind, data = (P2PK, lock.pubkey) if lock.hash is None else (HTLC, lock.hash)
    return Condition(kind, data, tuple(tags))


def check_terms(lock: Lock) -> None:
    """Raise `WrongLock` unless the lock is well-formed and nobody but its keys could ever take the coins.

    Keys are compressed, lowercase and distinct by x in each path; signatures asked for are 1 … keys of the
    path; a locktime and refund keys come together, because a locktime alone frees the coins for everybody; a
    hash is 64 lowercase hex digits.
    """
    _check_form(lock)
    if lock.locktime is not None and not _NUMBER.fullmatch(str(lock.locktime)):
        raise WrongLock("a locktime is unix seconds above zero")
    if (lock.locktime is None) != (not lock.refund):
        raise WrongLock(
            "a locktime and refund keys belong together: a locktime alone lets anybody take the coins"
        )


def lock_secret(lock: Lock, nonce: str) -> str:
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


def check_lock(secret: str, agreed: Lock) -> None:
    """Raise `WrongLock` unless the coin is locked exactly as agreed: no more, no less, nothing twice."""
    check_terms(agreed)
    _check_same(_read(secret), agreed)


def is_plain(secret: str) -> bool:
    """Whether no mint can take this secret for a spending condition: who has the coin can spend it."""
    return not secret.lstrip().startswith(("[", "{"))


@lru_cache(maxsize=1024)
def parse_lock(secret: str) -> Lock | None:
    """The lock of a coin, None for a plain secret. For display and refunds; a payment is for `check_lock`.

    Raises `WrongLock` for every other condition: another kind, SIG_ALL, unknown, doubled or malformed tags.
    Unlike `check_terms` it lets a locktime without refund keys pass: such coins exist, and their owner may
    want them. Remembered: of a coin it is asked when it comes, when it is taken and when that is posted.
    """
    return None if is_plain(secret) else _read(secret).to_lock()


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


def _check_same(condition: Condition, lock: Lock) -> None:
    expected = lock_condition(lock)
    if condition.kind != expected.kind:
        raise WrongLock(f"the coins are not locked in the agreed way, which is {expected.kind}")
    if condition.data != expected.data:
        raise WrongLock("the coins are locked to another key or hash than agreed")
    found = _meaning(_tags_by_name(condition.tags))
    agreed = _meaning(_tags_by_name(expected.tags))
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


def _check_form(lock: Lock) -> None:
    """Raise `WrongLock` unless keys, counts and the hash have the one form that every mint reads alike."""
    if lock.hash is not None and not _HASH.fullmatch(lock.hash):
        raise WrongLock("the hash of a lock is a sha256 in 64 lowercase hex digits")
    for path, keys, asked in (
        ("main", (lock.pubkey, *lock.pubkeys), lock.n_sigs),
        ("refund", lock.refund, lock.n_sigs_refund),
    ):
        if len(keys) > KEYS_MAX or len({key[-64:] for key in keys}) != len(keys):
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


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
