import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.keys import SecretKey
from wallet.errors import WrongLock
from wallet.locks import (
    Condition,
    check_lock,
    check_terms,
    is_plain,
    lock_condition,
    lock_secret,
    parse_lock,
)
from wallet.proofs import Lock
from wallet.witness import can_spend

NUT14 = json.loads((Path(__file__).parent / "vectors" / "nut14.json").read_text())

KEYS = [SecretKey(bytes([n]) * 32) for n in range(1, 6)]
PROVIDER, CUSTOMER, ARBITER, OTHER, STRANGER = (key.compressed_public_key for key in KEYS)
NONCE = "ab" * 32
T = 2_000_000_000

SIMPLE = Lock(PROVIDER)
PREPAID = Lock(PROVIDER, locktime=T, refund=(CUSTOMER,))
ESCROW = Lock(PROVIDER, locktime=T, refund=(CUSTOMER,), pubkeys=(CUSTOMER, ARBITER), n_sigs=2)
TWO_REFUNDS = Lock(PROVIDER, locktime=T, refund=(CUSTOMER, ARBITER), n_sigs_refund=2)
HASH = NUT14["pair"]["hash"]
REVEAL = replace(PREPAID, hash=HASH)
SEALED_ESCROW = replace(ESCROW, hash=HASH)
LOCKS = [SIMPLE, PREPAID, ESCROW, TWO_REFUNDS, REVEAL, SEALED_ESCROW]


def flip(key: str) -> str:
    """The same x with the other parity."""
    return ("03" if key[:2] == "02" else "02") + key[2:]


def test_the_exact_text_of_a_lock():
    assert lock_secret(SEALED_ESCROW, NONCE) == (
        f'["HTLC",{{"nonce":"{NONCE}","data":"{HASH}","tags":[["sigflag","SIG_INPUTS"],'
        f'["pubkeys","{PROVIDER}","{CUSTOMER}","{ARBITER}"],["n_sigs","2"],["locktime","{T}"],["refund","{CUSTOMER}"]]}}]'
    )
    assert lock_secret(ESCROW, NONCE) == (
        f'["P2PK",{{"nonce":"{NONCE}","data":"{PROVIDER}","tags":[["sigflag","SIG_INPUTS"],'
        f'["pubkeys","{CUSTOMER}","{ARBITER}"],["n_sigs","2"],["locktime","{T}"],["refund","{CUSTOMER}"]]}}]'
    )


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_read_as_it_was_made(lock):
    secret = lock_secret(lock, NONCE)
    check_lock(secret, lock)
    assert parse_lock(secret) == lock
    assert not is_plain(secret)
    assert lock_condition(lock).to_lock() == lock


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("other", LOCKS)
def test_one_lock_is_not_another(lock, other):
    if lock != other:
        with pytest.raises(WrongLock):
            check_lock(lock_secret(lock, NONCE), other)


keys = st.lists(st.sampled_from([key.compressed_public_key for key in KEYS]), unique=True, min_size=1)


@st.composite
def locks(draw: st.DrawFn) -> Lock:
    main, refund = draw(keys), draw(keys)
    timed = draw(st.booleans())
    return Lock(
        pubkey=main[0],
        pubkeys=tuple(main[1:]),
        n_sigs=draw(st.integers(1, len(main))),
        locktime=draw(st.integers(1, 10**10)) if timed else None,
        refund=tuple(refund) if timed else (),
        n_sigs_refund=draw(st.integers(1, len(refund))) if timed else 1,
        hash=draw(st.none() | st.sampled_from([HASH, "ab" * 32])),
    )


def meaning(lock: Lock) -> Lock:
    """The lock with the order of its keys, which no mint looks at, taken out; of an HTLC the first key too."""
    first, *others = (
        sorted((lock.pubkey, *lock.pubkeys)) if lock.hash else (lock.pubkey, *sorted(lock.pubkeys))
    )
    return replace(lock, pubkey=first, pubkeys=tuple(others), refund=tuple(sorted(lock.refund)))


@given(locks(), locks())
def test_any_good_lock_round_trips_and_matches_only_itself(lock, other):
    try:
        secret = lock_secret(lock, NONCE)
    except WrongLock:
        assert len(lock.pubkeys) + len(lock.refund) > 6  # too long for a secret
        return
    check_lock(secret, lock)
    assert parse_lock(secret) == lock
    if meaning(lock) == meaning(other):
        check_lock(secret, other)
    else:
        with pytest.raises(WrongLock):
            check_lock(secret, other)


def written(kind="P2PK", *, spaced=False, extra_element=(), **members) -> str:
    """A secret as somebody else might write it; the members default to ESCROW's, in nutshell's order."""
    body = {"data": PROVIDER, "nonce": NONCE, "tags": tags()} | members
    body = {name: value for name, value in body.items() if value is not ...}
    separators = None if spaced else (",", ":")
    return json.dumps([kind, body, *extra_element], separators=separators)


def tags(*extra, **changed) -> list[object]:
    values = {
        "sigflag": ["SIG_INPUTS"],
        "pubkeys": [CUSTOMER, ARBITER],
        "n_sigs": ["2"],
        "locktime": [str(T)],
        "refund": [CUSTOMER],
    } | changed
    return [[name, *value] for name, value in values.items() if value is not ...] + list(extra)


HARMLESS = {
    "as nutshell writes": written(spaced=True),
    "compact": written(),
    "tags in another order": written(tags=tags()[::-1]),
    "keys in another order": written(tags=tags(pubkeys=[ARBITER, CUSTOMER])),
    "default flag left out": written(tags=tags(sigflag=...)),
    "default refund count spelled out": written(tags=tags(n_sigs_refund=["1"])),
    "short nonce": written(nonce="ab" * 16),
}


@pytest.mark.parametrize("secret", HARMLESS.values(), ids=HARMLESS)
def test_other_spellings_of_the_agreed_lock_pass(secret):
    check_lock(secret, ESCROW)
    check_terms(parse_lock(secret))


DANGEROUS = {
    # Nutshell 0.20.2 lets anybody spend these without a signature (tried), 0.21.0 freezes them for ever.
    "integer tag value": written(tags=tags(n_sigs=[2])),
    "integer locktime": written(tags=tags(locktime=[T])),
    "float tag value": written(tags=tags(n_sigs=[2.0])),
    "boolean tag value": written(tags=tags(n_sigs=[True])),
    "null tag value": written(tags=tags(n_sigs=[None])),
    "nan tag value": written(tags=tags(n_sigs=[float("nan")])),
    "infinite tag value": written(tags=tags(locktime=[float("inf")])),
    "list in a tag": written(tags=tags(refund=[[CUSTOMER]])),
    "null tag": written(tags=tags(None)),
    "text for a tag": written(tags=tags("n_sigs")),
    "object for a tag": written(tags=tags({"n_sigs": "2"})),
    "no nonce": written(nonce=...),
    "null nonce": written(nonce=None),
    "integer nonce": written(nonce=7),
    "empty nonce": written(nonce=""),
    "odd nonce": written(nonce="xy" * 32),
    "null data": written(data=None),
    "no data": written(data=...),
    "no tags": written(tags=...),
    "null tags": written(tags=None),
    "object for tags": written(tags={"n_sigs": "2"}),
    "third element": written(extra_element=["x"]),
    "extra member": written(memo="x"),
    "another kind": written(kind="HTLC"),
    "lowercase kind": written(kind="p2pk"),
    "null kind": written(kind=None),
    "kind alone": '["P2PK"]',
    # Nutshell 0.20.2 lets the customer alone spend these (tried).
    "n_sigs 0": written(tags=tags(n_sigs=["0"])),
    "n_sigs missing": written(tags=tags(n_sigs=...)),
    "two locktimes": written(tags=[["locktime", "1"], *tags()]),
    "two locktimes, past last": written(tags=tags(["locktime", "1"])),
    "same locktime twice": written(tags=tags(["locktime", str(T)])),
    "two values of locktime": written(tags=tags(locktime=[str(T), "1"])),
    "n_sigs twice": written(tags=tags(["n_sigs", "1"])),
    "pubkeys twice": written(tags=tags(["pubkeys", STRANGER])),
    "refund twice": written(tags=tags(["refund", STRANGER])),
    "sigflag twice": written(tags=tags(["sigflag", "SIG_INPUTS"])),
    "unknown tag": written(tags=tags(["memo", "hello"])),
    "unknown tag without value": written(tags=tags(["x"])),
    "empty tag": written(tags=tags([])),
    "empty value": written(tags=tags(["memo", ""])),
    "empty tag name": written(tags=tags(["", "x"])),
    "tag without values": written(tags=tags(n_sigs=[])),
    "SIG_ALL": written(tags=tags(sigflag=["SIG_ALL"])),
    "unknown flag": written(tags=tags(sigflag=["SIG_NONE"])),
    "n_sigs 1": written(tags=tags(n_sigs=["1"])),
    "n_sigs 3": written(tags=tags(n_sigs=["3"])),
    "n_sigs of more than all": written(tags=tags(n_sigs=["4"])),
    "n_sigs 02": written(tags=tags(n_sigs=["02"])),
    "n_sigs +2": written(tags=tags(n_sigs=["+2"])),
    "n_sigs with a space": written(tags=tags(n_sigs=[" 2"])),
    "n_sigs in other digits": written(tags=tags(n_sigs=["٢"])),
    "n_sigs_refund 2": written(tags=tags(n_sigs_refund=["2"])),
    "n_sigs_refund 0": written(tags=tags(n_sigs_refund=["0"])),
    "earlier locktime": written(tags=tags(locktime=[str(T - 1)])),
    "locktime in milliseconds": written(tags=tags(locktime=[f"{T}000"])),
    "no locktime": written(tags=tags(locktime=...)),
    "no refund": written(tags=tags(refund=...)),
    "stranger's refund": written(tags=tags(refund=[STRANGER])),
    "one refund key more": written(tags=tags(refund=[CUSTOMER, STRANGER])),
    "refund key twice": written(tags=tags(refund=[CUSTOMER, CUSTOMER])),
    "one key more": written(tags=tags(pubkeys=[CUSTOMER, ARBITER, STRANGER])),
    "one key less": written(tags=tags(pubkeys=[CUSTOMER])),
    "another arbiter": written(tags=tags(pubkeys=[CUSTOMER, STRANGER])),
    "key twice": written(tags=tags(pubkeys=[CUSTOMER, ARBITER, ARBITER])),
    "key twice by x": written(tags=tags(pubkeys=[CUSTOMER, ARBITER, flip(ARBITER)])),
    "other parity": written(tags=tags(pubkeys=[CUSTOMER, flip(ARBITER)])),
    "uppercase key": written(tags=tags(pubkeys=[CUSTOMER, ARBITER.upper()])),
    "uppercase data": written(data=PROVIDER.upper()),
    "other parity of data": written(data=flip(PROVIDER)),
    "another provider": written(data=STRANGER),
    "data with a space": written(data=PROVIDER + " "),
    # Parsers disagree about these.
    "member twice": written().replace('{"data"', f'{{"data":"{STRANGER}","data"'),
    "member twice, escaped": written().replace('{"data"', '{"d\\u0061ta":"x","data"'),
    "tags twice": written()[:-2] + ',"tags":[]}]',
    "escaped letter": written().replace("P2PK", "P2P\\u004b"),
    "escaped slash": written().replace("SIG_INPUTS", "SIG_INPUTS\\/"),
    "odd spacing": written().replace(",", " ,"),
    "leading space": " " + written(),
    "trailing space": written() + " ",
    "trailing data": written() + "[]",
    "tab": written().replace(":", ":\t"),
    "unicode space": "\u00a0" + written(),
    "byte order mark": "\ufeff" + written(),
    "plain": "ab" * 32,
    "empty": "",
    "not closed": written()[:-1],
    "object": json.dumps({"kind": "P2PK", "data": PROVIDER}),
    "deep": "[" * 1000,
    "huge number": written().replace('"2"', "9" * 400),
    "too long": written(tags=tags(["memo", "x" * 700])),
    "lone surrogate": written(data="\ud800"),
}  # fmt: skip


@pytest.mark.parametrize("secret", DANGEROUS.values(), ids=DANGEROUS)
def test_every_change_to_the_agreed_lock_is_refused(secret):
    check_lock(written(), ESCROW)
    with pytest.raises(WrongLock):
        check_lock(secret, ESCROW)


def sealed(*extra, kind="HTLC", data=HASH, **changed) -> str:
    """SEALED_ESCROW as somebody else might write it."""
    values = {"pubkeys": [PROVIDER, CUSTOMER, ARBITER]} | changed
    return written(kind, data=data, tags=tags(*extra, **values))


@pytest.mark.parametrize("pubkeys", [
    [PROVIDER, CUSTOMER, ARBITER], [ARBITER, PROVIDER, CUSTOMER], [CUSTOMER, ARBITER, PROVIDER],
], ids=range(3))  # fmt: skip
def test_the_order_of_an_hash_locks_keys_means_nothing(pubkeys):
    check_lock(sealed(pubkeys=pubkeys), SEALED_ESCROW)


DANGEROUS_SEALED = {
    "P2PK to the hash": sealed(kind="P2PK"),
    "P2PK without the hash": written(),
    "another hash": sealed(data="ab" * 32),
    "uppercase hash": sealed(data=HASH.upper()),
    "hash of 31 bytes": sealed(data=HASH[2:]),
    "hash of 33 bytes": sealed(data=HASH + "00"),
    "hash with 0x": sealed(data="0x" + HASH),
    "integer hash": sealed(data=int(HASH, 16)),
    "no hash": sealed(data=...),
    "null hash": sealed(data=None),
    "empty hash": sealed(data=""),
    "the provider's key for the hash": sealed(data=PROVIDER),
    "no pubkeys": sealed(pubkeys=..., n_sigs=...),
    "empty pubkeys": sealed(pubkeys=[], n_sigs=...),
    "without the provider": sealed(pubkeys=[CUSTOMER, ARBITER]),
    "a stranger more": sealed(pubkeys=[PROVIDER, CUSTOMER, ARBITER, STRANGER]),
    "pubkeys twice": sealed(["pubkeys", STRANGER]),
    "hash in a tag": sealed(["hash", HASH]),
    "preimage in a tag": sealed(["preimage", "00" * 32]),
    "n_sigs 0": sealed(n_sigs=["0"]),
    "n_sigs 1": sealed(n_sigs=["1"]),
    "n_sigs 4": sealed(n_sigs=["4"]),
    "integer n_sigs": sealed(n_sigs=[2]),
    "two locktimes": sealed(["locktime", "1"]),
    "no refund": sealed(refund=...),
    "no locktime": sealed(locktime=...),
    "another refund": sealed(refund=[STRANGER]),
    "SIG_ALL": sealed(sigflag=["SIG_ALL"]),
    "data twice": sealed().replace('{"data"', f'{{"data":"{"ab" * 32}","data"'),
    "third element": sealed()[:-1] + ',"x"]',
}  # fmt: skip


@pytest.mark.parametrize("secret", DANGEROUS_SEALED.values(), ids=DANGEROUS_SEALED)
def test_every_change_to_the_agreed_hash_lock_is_refused(secret):
    check_lock(sealed(), SEALED_ESCROW)
    with pytest.raises(WrongLock):
        check_lock(secret, SEALED_ESCROW)


@given(st.data())
def test_a_lock_with_any_character_changed_is_refused(data):
    secret = written()
    nonce_at = secret.index(NONCE)
    places = [at for at in range(len(secret)) if not nonce_at <= at < nonce_at + len(NONCE)]
    at = data.draw(st.sampled_from(places))
    character = data.draw(st.sampled_from('0123456789abcdefABCDEF"[]{},: \\ntrueNaN') | st.characters())
    for changed in (
        secret[:at] + character + secret[at + 1 :],
        secret[:at] + character + secret[at:],
        secret[:at] + secret[at + 1 :],
    ):
        if changed != secret:
            with pytest.raises(WrongLock):
                check_lock(changed, ESCROW)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([PROVIDER, NONCE, "P2PK", "n_sigs", "1"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["nonce", "data", "tags"]) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    st.one_of(st.text(), json_values.map(json.dumps), st.tuples(st.just("P2PK"), json_values).map(json.dumps))
)
def test_any_secret_is_plain_or_a_lock_or_refused(secret):
    try:
        lock = parse_lock(secret)
    except WrongLock:
        assert not is_plain(secret)
    else:
        assert (lock is None) == is_plain(secret)
    with pytest.raises(WrongLock):
        check_lock(secret, ESCROW)


def test_a_lock_that_frees_itself_is_read_but_never_agreed_to():
    secret = written(tags=tags(refund=..., pubkeys=..., n_sigs=...))
    lock = parse_lock(secret)
    assert lock == Lock(PROVIDER, locktime=T)
    assert can_spend(lock, [], T + 1)
    with pytest.raises(WrongLock):
        check_lock(secret, lock)


@pytest.mark.parametrize(
    "terms",
    [
        replace(ESCROW, n_sigs=0),
        replace(ESCROW, n_sigs=4),
        replace(ESCROW, n_sigs_refund=2),
        replace(ESCROW, locktime=None),
        replace(ESCROW, locktime=0),
        replace(ESCROW, locktime=-5),
        replace(ESCROW, locktime=10**16),
        replace(ESCROW, refund=()),
        replace(ESCROW, refund=(CUSTOMER, flip(CUSTOMER))),
        replace(ESCROW, pubkeys=(CUSTOMER, PROVIDER)),
        replace(ESCROW, pubkeys=(CUSTOMER, flip(PROVIDER))),
        replace(ESCROW, pubkeys=(CUSTOMER, ARBITER.upper())),
        replace(ESCROW, pubkeys=(CUSTOMER, ARBITER[2:])),
        replace(ESCROW, pubkeys=(CUSTOMER, "02" + "ff" * 32)),
        replace(ESCROW, pubkey=""),
        replace(ESCROW, hash=""),
        replace(ESCROW, hash=HASH.upper()),
        replace(ESCROW, hash=HASH[2:]),
        replace(ESCROW, hash=HASH + "\n"),
        replace(
            ESCROW, pubkeys=tuple(SecretKey(bytes([n]) * 32).compressed_public_key for n in range(10, 30))
        ),
    ],
    ids=range(20),
)
def test_bad_terms_are_refused_by_whoever_makes_or_checks(terms):
    check_terms(ESCROW)
    with pytest.raises(WrongLock):
        check_terms(terms)
    with pytest.raises(WrongLock):
        lock_secret(terms, NONCE)
    with pytest.raises(WrongLock):
        check_lock(written(), terms)


def test_a_lock_too_long_for_a_secret_is_refused():
    many = tuple(SecretKey(bytes([n]) * 32).compressed_public_key for n in range(10, 19))
    with pytest.raises(WrongLock, match="fewer keys"):
        lock_secret(Lock(PROVIDER, locktime=T, refund=many, pubkeys=many), NONCE)


def test_a_secret_longer_than_mints_take_is_refused_however_well_it_says_the_lock():
    many = tuple(SecretKey(bytes([n]) * 32).compressed_public_key for n in range(10, 18))
    lock = Lock(PROVIDER, locktime=T, refund=(CUSTOMER, ARBITER, OTHER), pubkeys=many, n_sigs=2)
    secret = lock_secret(lock, NONCE)
    check_lock(secret, lock)
    spaced = json.dumps(json.loads(secret))
    assert len(secret) <= 1024 < len(spaced)
    with pytest.raises(WrongLock, match="1024"):
        check_lock(spaced, lock)


@pytest.mark.parametrize("nonce", ["", "ab", "AB" * 32, "zz" * 32, "ab" * 33])
def test_a_nonce_has_one_form(nonce):
    with pytest.raises(ValueError, match="nonce"):
        lock_secret(SIMPLE, nonce)


def test_other_kinds_of_conditions_are_named_as_such():
    for unknown in (Condition("PLAIN", PROVIDER), Condition("P2PK", PROVIDER, (("timeout", "3600"),))):
        with pytest.raises(WrongLock, match="does not know"):
            unknown.to_lock()


@pytest.mark.parametrize("condition", [
    Condition("HTLC", HASH),
    Condition("HTLC", HASH, (("pubkeys",),)),
    Condition("HTLC", PROVIDER, (("pubkeys", PROVIDER),)),
    Condition("HTLC", HASH, (("pubkeys", PROVIDER), ("preimage", "00" * 32))),
    Condition("PLAIN", HASH, (("pubkeys", PROVIDER),)),
    Condition("P2PK", PROVIDER, (("timeout", "3600"),)),
    Condition("P2PK", PROVIDER, (("n_sigs", "1"), ("n_sigs", "1"))),
    Condition("P2PK", PROVIDER, (("n_sigs", "2"),)),
    Condition("P2PK", PROVIDER, (("n_sigs_refund", "1"),)),
    Condition("P2PK", PROVIDER, (("sigflag", "SIG_ALL"),)),
    Condition("P2PK", PROVIDER, (("locktime", "0"),)),
    Condition("P2PK", PROVIDER[2:]),
])  # fmt: skip
def test_requested_conditions_we_cannot_make_are_refused(condition):
    assert Condition("P2PK", PROVIDER).to_lock() == SIMPLE
    assert Condition("HTLC", HASH, (("pubkeys", PROVIDER),)).to_lock() == replace(SIMPLE, hash=HASH)
    with pytest.raises(WrongLock):
        condition.to_lock()
