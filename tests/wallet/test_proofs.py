import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet.errors import InvalidToken
from wallet.proofs import AMOUNT_MAX, SECRET_CHARS_MAX, Dleq, Proof, Token, parse_proof

C = "02" + "ab" * 32
DLEQ = Dleq("0e" * 32, "05" * 32, "0f" * 32)
COIN = Proof(8, "009a1f293253e41e", "the secret", C, DLEQ, '{"signatures":[]}')
RAW = COIN.to_receiver()


def test_a_coin_round_trips_and_ignores_what_it_does_not_know():
    assert parse_proof(RAW) == COIN
    assert parse_proof(RAW | {"Y": 1, "reserved": True}) == COIN
    bare = Proof(8, "01" + "ab" * 32, "the secret", C)
    assert parse_proof(bare.to_receiver()) == bare
    assert parse_proof(bare.to_receiver() | {"dleq": None, "witness": None}) == bare


def test_a_mint_never_sees_a_dleq():
    assert COIN.to_mint() == {
        "amount": 8,
        "id": COIN.id,
        "secret": "the secret",
        "C": C,
        "witness": '{"signatures":[]}',
    }
    assert "dleq" not in Proof(8, COIN.id, "s", C, Dleq("0e" * 32, "05" * 32)).to_receiver()


def test_a_coin_does_not_show_its_value():
    token = Token("https://mint.example", (COIN, COIN), memo="thanks")
    assert token.amount == 16
    for shown in (repr(COIN), repr(token), repr(DLEQ)):
        for hidden in ("the secret", C, DLEQ.r, "signatures"):
            assert hidden not in shown


@pytest.mark.parametrize(
    "changed",
    [
        {"amount": 0}, {"amount": -1}, {"amount": True}, {"amount": 1.0}, {"amount": "1"}, {"amount": AMOUNT_MAX + 1},
        {"id": ""}, {"id": "009A1F293253E41E"}, {"id": "009a1f293253e4"}, {"id": "02" + "ab" * 32}, {"id": 7},
        {"secret": ""}, {"secret": "x" * (SECRET_CHARS_MAX + 1)}, {"secret": "\ud800"}, {"secret": b"x"},
        {"C": C.upper()}, {"C": "04" + "ab" * 32}, {"C": C + "00"}, {"C": None},
        {"dleq": []}, {"dleq": {}}, {"dleq": {"e": "0e" * 32, "s": "05" * 32}}, {"dleq": {"e": 1, "s": 2, "r": 3}},
        {"dleq": {"e": "0E" * 32, "s": "05" * 32, "r": "0f" * 32}},
        {"witness": {}}, {"witness": "x" * 10_000}, {"witness": "\ud800"},
    ],
    ids=repr,
)  # fmt: skip
def test_malformed_coins_are_refused_and_not_repeated(changed):
    with pytest.raises(InvalidToken) as caught:
        parse_proof(RAW | changed)
    assert "the secret" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*RAW, "e", "s", "r"]), inner, max_size=6)
    ),
    max_leaves=10,
)


@given(json_values, st.dictionaries(st.sampled_from([*RAW]), json_values))
def test_coins_are_read_or_refused(value, changes):
    for raw in (value, RAW | changes):
        with contextlib.suppress(InvalidToken):
            assert parse_proof(parse_proof(raw).to_receiver())
