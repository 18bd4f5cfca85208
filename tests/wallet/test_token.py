import base64
import json
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet.errors import InvalidKeyset, InvalidToken, LimitExceeded, WalletError
from wallet.proofs import Dleq, Proof, Token
from wallet.token import PROOFS_MAX, TOKEN_CHARS_MAX, encode_token, parse_token, resolve_ids

NUT00 = json.loads((Path(__file__).parent / "vectors" / "nut00.json").read_text())
V3, V4 = NUT00["v3"], NUT00["v4"]

C = "02" + "ab" * 32
V1_ID, V2_ID = "009a1f293253e41e", "01" + "5b" * 32
COIN = Proof(8, V2_ID, "the secret", C, Dleq("0e" * 32, "05" * 32, "0f" * 32), '{"signatures":[]}')
TOKEN = Token("https://mint.example", (COIN, Proof(1, V1_ID, "another", C)), memo="Thank you.")


def v3(raw: object) -> str:
    return "cashuA" + base64.urlsafe_b64encode(json.dumps(raw).encode()).decode()


def v4(raw: object) -> str:
    return "cashuB" + base64.urlsafe_b64encode(cbor2.dumps(raw)).decode()


def token_of_v3(raw: dict[str, object]) -> Token:
    (entry,) = raw["token"]
    return Token(entry["mint"], tuple(Proof(**proof) for proof in entry["proofs"]), raw["unit"], raw["memo"])


def token_of_v4(raw: dict[str, object]) -> Token:
    proofs = (Proof(p["a"], group["i"], p["s"], p["c"]) for group in raw["t"] for p in group["p"])
    return Token(raw["m"], tuple(proofs), raw["u"], raw.get("d"))


def test_v3_vectors():
    token = token_of_v3(V3["token"])
    assert parse_token(V3["serialized"]) == token
    assert parse_token(V3["correct"]) == token
    assert encode_token(token, version=3) == V3["serialized"].rstrip("=")
    padded, unpadded = V3["padded_and_not"]
    assert parse_token(padded) == parse_token(unpadded) == replace(token, memo="Thank you very much.")
    assert padded != unpadded


@pytest.mark.parametrize("text", V3["incorrect"])
def test_incorrect_v3_vectors(text):
    with pytest.raises(InvalidToken):
        parse_token(text)


@pytest.mark.parametrize("vector", V4[:2], ids=["one keyset", "two keysets"])
def test_v4_vectors(vector):
    token = token_of_v4(vector["token"])
    assert parse_token(vector["serialized"]) == token
    assert encode_token(token) == vector["serialized"].rstrip("=")


def test_v4_raw_vector():
    # We carry tokens as text only; the raw form is the same CBOR after another prefix.
    raw = bytes.fromhex(NUT00["v4_raw"]["serialized"])
    text = "cashuB" + base64.urlsafe_b64encode(raw.removeprefix(b"crawB")).decode()
    assert raw.startswith(b"crawB")
    assert parse_token(text) == token_of_v4(NUT00["v4_raw"]["token"])
    assert encode_token(parse_token(text)) == text.rstrip("=")


scalars = st.binary(min_size=32, max_size=32).map(bytes.hex)
proofs = st.builds(
    Proof,
    amount=st.integers(1, 2**63),
    id=st.sampled_from([V1_ID, V2_ID, V2_ID[:16]]),
    secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    C=scalars.map(lambda x: "03" + x),
    dleq=st.none() | st.builds(Dleq, scalars, scalars, scalars),
    witness=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
tokens = st.builds(
    Token,
    mint=st.sampled_from(["https://mint.example", "http://127.0.0.1:3338", "https://mint.example/Bitcoin"]),
    proofs=st.lists(proofs, min_size=1, max_size=8).map(tuple),
    unit=st.sampled_from(["sat", "msat", "usd"]),
    memo=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)


@given(
    tokens,
    st.sampled_from([3, 4]),
    st.sampled_from(["", "cashu:", "cashu://", " \n"]),
    st.sampled_from(["", "=", "==", "\n"]),
)
def test_tokens_round_trip(token, version, before, after):
    assert parse_token(before + encode_token(token, version=version) + after) == token


def test_trailing_slashes_of_the_mint_go():
    for version in (3, 4):
        text = encode_token(replace(TOKEN, mint="https://mint.example//"), version=version)
        assert parse_token(text).mint == "https://mint.example"


def test_a_v3_token_may_name_one_mint_twice_and_leave_out_the_unit():
    proof = COIN.to_receiver()
    entries = [{"mint": "https://m", "proofs": [proof]}, {"mint": "https://m/", "proofs": [proof, proof]}]
    assert parse_token(v3({"token": entries})) == Token("https://m", (COIN, COIN, COIN), "sat", None)
    entries[1]["mint"] = "https://other"
    with pytest.raises(InvalidToken, match="several mints"):
        parse_token(v3({"token": entries}))


def test_unknown_members_are_ignored():
    raw = {
        "m": "https://m",
        "u": "sat",
        "x": 1,
        "t": [{"i": b"\x00" * 8, "x": 1, "p": [{"a": 1, "s": "x", "c": bytes.fromhex(C), "pe": b"x"}]}],
    }
    assert parse_token(v4(raw)).amount == 1


def test_short_ids_resolve_or_wait():
    short = replace(TOKEN, proofs=tuple(replace(proof, id=proof.id[:16]) for proof in TOKEN.proofs))
    text = encode_token(short)
    assert parse_token(text) == short
    assert parse_token(text, [V2_ID, V1_ID]) == TOKEN
    assert resolve_ids(TOKEN, [V2_ID, V1_ID, "01" + "00" * 32]) == TOKEN
    for known in ([V1_ID], [V2_ID], [V1_ID, V2_ID, V2_ID[:62] + "0000"]):
        with pytest.raises(InvalidKeyset):
            parse_token(text, known)


COIN_V4 = {"a": 1, "s": "x", "c": bytes.fromhex(C)}


def group(**coin: object) -> dict[str, object]:
    return {"m": "https://m", "u": "sat", "t": [{"i": b"\x00" * 8, "p": [COIN_V4 | coin]}]}


MALFORMED = {
    "empty": "", "prefix": "cashu", "old version": "cashuAA", "unknown version": "cashuC" + encode_token(TOKEN)[6:],
    "nothing": "cashuB", "not base64": "cashuB???", "cut": encode_token(TOKEN)[:-9], "cut v3": encode_token(TOKEN, version=3)[:-9],
    "v3 no object": v3([]), "v3 no mints": v3({"token": []}), "v3 no mint": v3({"token": [{"proofs": []}]}),
    "v3 no coins": v3({"token": [{"mint": "https://m", "proofs": []}]}),
    "v3 null coins": v3({"token": [{"mint": "https://m", "proofs": None}]}),
    "v3 null entry": v3({"token": [{"mint": "https://m", "proofs": []}, None]}),
    "v3 bad coin": v3({"token": [{"mint": "https://m", "proofs": [{}]}]}),
    "v3 bad memo": v3({"token": [{"mint": "https://m", "proofs": [COIN.to_receiver()]}], "memo": 7}),
    "v3 bad unit": v3({"token": [{"mint": "https://m", "proofs": [COIN.to_receiver()]}], "unit": "S A T"}),
    "v4 no map": v4([]), "v4 no unit": v4({"m": "https://m", "t": []}), "v4 no coins": v4({"m": "https://m", "u": "sat", "t": []}),
    "v4 group": v4({"m": "https://m", "u": "sat", "t": [{"i": "00" * 8, "p": []}]}),
    "v4 coin": v4({"m": "https://m", "u": "sat", "t": [{"i": b"\x00" * 8, "p": [7]}]}),
    "v4 mint": v4(group() | {"m": 7}), "v4 no mint": v4(group() | {"m": "//"}), "v4 long mint": v4(group() | {"m": "x" * 600}),
    "v4 unit": v4(group() | {"u": "SAT"}), "v4 memo": v4(group() | {"d": b"x"}),
    "v4 amount": v4(group(a=1.5)), "v4 bool": v4(group(a=True)), "v4 secret": v4(group(s=b"x")), "v4 signature": v4(group(c=C)),
    "v4 short signature": v4(group(c=b"\x02")), "v4 dleq": v4(group(d={"e": b"x"})), "v4 dleq sizes": v4(group(d={"e": b"x", "s": b"x", "r": b"x"})),
    "v4 witness": v4(group(w=7)),
}  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_tokens_are_refused(text):
    parse_token(v4(group()))
    with pytest.raises(InvalidToken):
        parse_token(text)


def test_too_much_is_refused():
    full = replace(TOKEN, proofs=(COIN,) * PROOFS_MAX)
    assert parse_token(encode_token(full)) == full
    coins = [COIN_V4] * (PROOFS_MAX + 1)
    for text in (
        "cashuB" + "A" * TOKEN_CHARS_MAX,
        v4({"m": "https://m", "u": "sat", "t": [{"i": b"\x00" * 8, "p": coins}]}),
        v3({"token": [{"mint": "https://m", "proofs": [{}] * (PROOFS_MAX + 1)}]}),
    ):
        with pytest.raises(LimitExceeded):
            parse_token(text)
    with pytest.raises(LimitExceeded):
        encode_token(replace(full, proofs=(COIN,) * (PROOFS_MAX + 1)))


@pytest.mark.parametrize(
    "token",
    [
        replace(TOKEN, proofs=()),
        replace(TOKEN, proofs=(replace(COIN, C="zz"),)),
        replace(TOKEN, memo="\ud800"),
    ],
)
def test_what_could_not_be_read_is_not_written(token):
    with pytest.raises(InvalidToken):
        encode_token(token)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["https://m", "sat"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*"mutdipsacwer", "token", "mint", "proofs", "unit", "memo"]), inner, max_size=5
        )
    ),
    max_leaves=12,
)


@given(
    st.one_of(
        st.text(),
        st.binary().map(lambda raw: "cashuB" + base64.b64encode(raw).decode()),
        values.map(v3),
        values.map(v4),
        st.text().map(lambda s: "cashuA" + s),
    )
)
def test_any_text_is_a_token_or_refused(text):
    try:
        token = parse_token(text)
    except WalletError:
        return
    assert parse_token(encode_token(token)) == token


@given(st.data())
def test_a_damaged_token_is_refused_or_another_token(data):
    text = encode_token(TOKEN, version=data.draw(st.sampled_from([3, 4])))
    at = data.draw(st.integers(0, len(text) - 1))
    said = ""
    try:
        parse_token(text[:at] + data.draw(st.characters()) + text[at + 1 :])
    except WalletError as error:
        said = str(error)
    assert "the secret" not in said


def test_what_would_be_too_long_to_read_is_not_written():
    coin = replace(COIN, secret="s" * 1024, witness="w" * 8000)
    for version in (3, 4):
        with pytest.raises(LimitExceeded):
            encode_token(replace(TOKEN, proofs=(coin,) * 40), version=version)
