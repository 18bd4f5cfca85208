import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet.errors import InvalidKeyset, InvalidProof
from wallet.keysets import (
    Keyset,
    check_keyset,
    input_fee,
    is_short_id,
    keyset_id_v1,
    keyset_id_v2,
    parse_keys,
    resolve_short_id,
)
from wallet.proofs import Proof

VECTORS = Path(__file__).parent / "vectors"
NUT01 = json.loads((VECTORS / "nut01.json").read_text())
NUT02 = json.loads((VECTORS / "nut02.json").read_text())

V2 = NUT02["v2"][0]
KEYS = parse_keys(V2["keys"])
KEYSET = Keyset(V2["id"], V2["unit"], True, V2["input_fee_ppk"], V2["final_expiry"], KEYS)


def coin(keyset_id: str) -> Proof:
    return Proof(1, keyset_id, "secret", "02" * 33)


@pytest.mark.parametrize("keys", NUT01["invalid_keys"])
def test_invalid_key_vectors(keys):
    with pytest.raises(InvalidKeyset):
        parse_keys(keys)


@pytest.mark.parametrize("keys", NUT01["valid_keys"])
def test_valid_key_vectors(keys):
    assert {str(amount): key for amount, key in parse_keys(keys).items()} == keys


@pytest.mark.parametrize("vector", NUT02["v1"], ids=lambda v: v["id"])
def test_keyset_id_v1_vectors(vector):
    keys = parse_keys(vector["keys"])
    assert keyset_id_v1(keys) == vector["id"]
    check_keyset(Keyset(vector["id"], "sat", True, 0, None, keys))


@pytest.mark.parametrize("vector", NUT02["v2"], ids=lambda v: v["id"])
def test_keyset_id_v2_vectors(vector):
    keys = parse_keys(vector["keys"])
    unit, fee, expiry = vector["unit"], vector["input_fee_ppk"], vector["final_expiry"]
    assert keyset_id_v2(keys, unit, fee, expiry) == vector["id"]
    check_keyset(Keyset(vector["id"], unit, True, fee, expiry, keys))


def test_ids_do_not_depend_on_the_order_of_keys():
    backwards = dict(reversed(KEYS.items()))
    assert keyset_id_v1(backwards) == keyset_id_v1(KEYS)
    assert keyset_id_v2(backwards, "sat") == keyset_id_v2(KEYS, "sat")


@pytest.mark.parametrize(
    "changed",
    [
        replace(KEYSET, unit="usd"),
        replace(KEYSET, unit="Sat"),
        replace(KEYSET, input_fee_ppk=99),
        replace(KEYSET, input_fee_ppk=-1),
        replace(KEYSET, input_fee_ppk=10**9),
        replace(KEYSET, final_expiry=None),
        replace(KEYSET, final_expiry=-1),
        replace(KEYSET, id="00" + "ab" * 7),
        replace(KEYSET, id=KEYSET.id.upper()),
        replace(KEYSET, id=KEYSET.id[:16]),
        replace(KEYSET, id="02" + "ab" * 32),
        replace(KEYSET, keys={**KEYS, 16: KEYS[8]}),
        replace(KEYSET, keys={**KEYS, 8: KEYS[4]}),
        replace(KEYSET, keys={**KEYS, 0: KEYS[8]}),
        replace(KEYSET, keys={**KEYS, 2**64: KEYS[8]}),
        replace(KEYSET, keys={}),
    ],
    ids=range(16),
)
def test_a_changed_keyset_does_not_fit_its_id(changed):
    check_keyset(KEYSET)
    with pytest.raises(InvalidKeyset):
        check_keyset(changed)


def test_an_unused_active_flag_is_not_in_the_id():
    check_keyset(replace(KEYSET, active=False))


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        {},
        {"1": 2},
        {1: KEYS[1]},
        {"01": KEYS[1]},
        {"-1": KEYS[1]},
        {"1.0": KEYS[1]},
        {"٢": KEYS[1]},
        {str(n): KEYS[1] for n in range(1, 300)},
    ],
)
def test_keys_of_another_form_are_refused(raw):
    with pytest.raises(InvalidKeyset):
        parse_keys(raw)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=70),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text(max_size=5) | st.integers(0, 9).map(str), inner)
        ),
    )
)
def test_keys_are_read_or_refused(raw):
    with pytest.raises(InvalidKeyset):
        parse_keys(raw)


def test_a_keyset_knows_its_coins():
    assert KEYSET.key(8) == KEYS[8]
    with pytest.raises(InvalidProof):
        KEYSET.key(3)


def test_short_ids_resolve_to_the_one_that_fits():
    short, other = KEYSET.id[:16], "01" + "ab" * 32
    assert is_short_id(short)
    assert not is_short_id("00" + "ab" * 7)
    assert resolve_short_id(short, [other, KEYSET.id]) == KEYSET.id
    assert resolve_short_id(KEYSET.id, [other, KEYSET.id, KEYSET.id]) == KEYSET.id
    assert resolve_short_id("009a1f293253e41e", ["009a1f293253e41e"]) == "009a1f293253e41e"


@pytest.mark.parametrize(
    ("short", "known"),
    [
        (KEYSET.id[:16], []),
        (KEYSET.id[:16], [KEYSET.id, KEYSET.id[:64] + "00"]),
        (KEYSET.id[:18], [KEYSET.id]),
        (KEYSET.id[:14], [KEYSET.id]),
        (KEYSET.id, [KEYSET.id[:16]]),
        ("", [KEYSET.id]),
    ],
)
def test_ids_that_mean_nothing_or_two_things_are_refused(short, known):
    with pytest.raises(InvalidKeyset):
        resolve_short_id(short, known)


@pytest.mark.parametrize(("coins", "fee"), [(0, 0), (1, 1), (3, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_input_fees_are_rounded_up_once(coins, fee):
    assert input_fee([coin(KEYSET.id)] * coins, {KEYSET.id: KEYSET}) == fee


def test_input_fees_add_up_over_keysets():
    free = replace(KEYSET, id="free", input_fee_ppk=0)
    dear = replace(KEYSET, id="dear", input_fee_ppk=1900)
    keysets = {k.id: k for k in (free, dear, KEYSET)}
    assert input_fee([coin("free"), coin("dear"), coin(KEYSET.id)], keysets) == 2
    with pytest.raises(InvalidKeyset):
        input_fee([coin("unknown")], keysets)
