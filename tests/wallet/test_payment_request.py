import base64
import contextlib
import json
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet.errors import InvalidRequest, InvalidToken, LimitExceeded, WalletError, WrongLock
from wallet.locks import Condition, lock_condition
from wallet.payment_request import (
    PaymentPayload,
    PaymentRequest,
    Transport,
    encode_payload,
    encode_request,
    parse_payload,
    parse_request,
)
from wallet.proofs import Dleq, P2PKLock, Proof
from wallet.token import PROOFS_MAX

VECTORS = json.loads((Path(__file__).parent / "vectors" / "nut18.json").read_text())["vectors"]
KEY = "0249098aa8b9d2fbec49ff8598feb17b592b986e62319a4fa488a3dc36387157a7"
COIN = Proof(8, "009a1f293253e41e", "the secret", KEY, Dleq("0e" * 32, "05" * 32, "0f" * 32))
PAYLOAD = PaymentPayload("https://m", "sat", (COIN,), id="abc", memo="thanks")


def creq(raw: object) -> str:
    return "creqA" + base64.urlsafe_b64encode(cbor2.dumps(raw)).decode()


def tags(raw: list[list[str]] | None) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(tag) for tag in raw or [])


def request_of(raw: dict[str, object]) -> PaymentRequest:
    nut10 = raw.get("nut10")
    return PaymentRequest(
        id=raw.get("i"), amount=raw.get("a"), unit=raw.get("u"), single_use=raw.get("s"),
        mints=tuple(raw.get("m", [])), description=raw.get("d"),
        transports=tuple(Transport(t["t"], t["a"], tags(t.get("g"))) for t in raw.get("t", [])),
        condition=nut10 and Condition(nut10["k"], nut10["d"], tags(nut10.get("t"))),
    )  # fmt: skip


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_vectors(vector):
    request = parse_request(vector["encoded"])
    expected = request_of(vector["request"])
    if vector["name"] == "Basic Payment Request":
        # The vector's own text and JSON name different mints and receivers; the rest agrees.
        assert request.mints == ("https://nofees.testnut.cashu.space",)
        assert request.transports[0].target.startswith(
            "nprofile1qy28wumn8ghj7un9d3shjtnyv9kh2uewd9hsz9mhwden5te0"
        )
        (transport,) = expected.transports
        expected = replace(
            expected,
            mints=request.mints,
            transports=(replace(transport, target=request.transports[0].target),),
        )
    assert request == expected
    assert parse_request(encode_request(expected)) == expected


@pytest.mark.parametrize("vector", VECTORS[4:], ids=lambda v: v["name"])
def test_vectors_in_the_order_of_the_specification_are_written_alike(vector):
    assert encode_request(request_of(vector["request"])) == vector["encoded"].rstrip("=")


def test_a_lock_can_be_asked_for():
    lock = P2PKLock(KEY, locktime=2_000_000_000, refund=(KEY,))
    request = PaymentRequest(amount=21, unit="sat", condition=lock_condition(lock))
    assert parse_request(encode_request(request)).condition.to_lock() == lock
    with pytest.raises(WrongLock):
        parse_request(VECTORS[5]["encoded"]).condition.to_lock()


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
tag_lists = st.lists(st.lists(text, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple)
requests = st.builds(
    PaymentRequest,
    id=st.none() | text, amount=st.none() | st.integers(1, 2**63), unit=text, single_use=st.none() | st.booleans(),
    mints=st.lists(text, max_size=3).map(tuple), description=st.none() | text,
    transports=st.lists(st.builds(Transport, text, text, tag_lists), max_size=3).map(tuple),
    condition=st.none() | st.builds(Condition, text, text, tag_lists),
)  # fmt: skip


@given(requests)
def test_requests_round_trip(request_):
    assert parse_request(" " + encode_request(request_) + "=\n") == request_


def test_an_amount_needs_a_unit():
    with pytest.raises(ValueError, match="unit"):
        encode_request(PaymentRequest(amount=1))
    with pytest.raises(InvalidRequest):
        parse_request(creq({"a": 1}))


@pytest.mark.parametrize(
    "raw",
    [
        [], {"i": 7}, {"a": 0, "u": "sat"}, {"a": True, "u": "sat"}, {"a": 1.5, "u": "sat"}, {"a": 2**64 - 1, "u": "sat"}, {"s": 1}, {"m": "x"},
        {"m": [7]}, {"m": [""]}, {"m": ["x"] * 33}, {"t": [7]}, {"t": [{"t": "post"}]}, {"t": [{"t": "post", "a": 7}]},
        {"t": [{"t": "post", "a": "x", "g": ["n"]}]}, {"t": [{"t": "post", "a": "x", "g": [[]]}]}, {"t": [{"t": "post", "a": "x", "g": [[7]]}]},
        {"nut10": []}, {"nut10": {"k": "P2PK"}}, {"nut10": {"k": "P2PK", "d": KEY, "t": [["n_sigs", 2]]}},
    ],
    ids=repr,
)  # fmt: skip
def test_malformed_requests_are_refused(raw):
    with pytest.raises(InvalidRequest):
        parse_request(creq(raw))


@pytest.mark.parametrize("text", ["", "creq", "creqB123", "creqA", "creqA???", "creqAo2Fpa"])
def test_other_text_is_no_request(text):
    with pytest.raises(InvalidRequest):
        parse_request(text)


def test_a_payload_round_trips():
    assert parse_payload(encode_payload(PAYLOAD)) == PAYLOAD
    assert parse_payload(encode_payload(PAYLOAD).encode()) == PAYLOAD
    bare = PaymentPayload("https://m", "sat", (replace(COIN, dleq=None),))
    assert json.loads(encode_payload(bare)).keys() == {"mint", "unit", "proofs"}
    assert parse_payload(encode_payload(bare)) == bare
    assert "the secret" not in repr(PAYLOAD)


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        ([], InvalidRequest), ({}, InvalidRequest), ({"mint": "m", "unit": "sat", "proofs": []}, InvalidRequest),
        ({"mint": "m", "unit": "sat", "proofs": [{}]}, InvalidToken), ({"mint": "m", "unit": "sat", "proofs": {}}, InvalidRequest),
        ({"mint": 7, "unit": "sat", "proofs": [COIN.to_receiver()]}, InvalidRequest),
        ({"mint": "m", "unit": "sat", "proofs": [COIN.to_receiver()], "id": 7}, InvalidRequest),
        ({"mint": "m", "unit": "sat", "proofs": [{}] * (PROOFS_MAX + 1)}, LimitExceeded),
        ("x" * 300_000, LimitExceeded),
    ],
)  # fmt: skip
def test_malformed_payloads_are_refused(raw, error):
    with pytest.raises(error):
        parse_payload(json.dumps(raw))


def test_limits_come_before_parsing():
    with pytest.raises(LimitExceeded):
        parse_request("creqA" + "A" * 20_000)
    with pytest.raises(InvalidRequest):
        parse_payload("{")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["i", "a", "u", "s", "m", "d", "t", "g", "k", "nut10", "mint", "unit", "proofs", "id", "memo"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(values, st.text())
def test_anything_is_read_or_refused(raw, text):
    for parse, source in (
        (parse_request, creq(raw)),
        (parse_request, "creqA" + text),
        (parse_payload, json.dumps(raw)),
        (parse_payload, text),
    ):
        with contextlib.suppress(WalletError):
            parse(source)
