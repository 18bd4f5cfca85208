import base64
import contextlib
import json
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import bech32, nip19
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
from wallet.proofs import Dleq, Lock, Proof
from wallet.token import PROOFS_MAX

FOLDER = Path(__file__).parent / "vectors"
VECTORS = json.loads((FOLDER / "nut18.json").read_text())["vectors"]
NUT26 = json.loads((FOLDER / "nut26.json").read_text())["vectors"]
KEY = "0249098aa8b9d2fbec49ff8598feb17b592b986e62319a4fa488a3dc36387157a7"
OTHER = "02698c4e2b5f9534cd0687d87513c759790cf829aa5739184a3e3735471fbda904"
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


@pytest.mark.parametrize("lock", [
    Lock(KEY, locktime=2_000_000_000, refund=(KEY,)),
    Lock(KEY, locktime=2_000_000_000, refund=(KEY,), pubkeys=(OTHER,), n_sigs=2),
    Lock(KEY, locktime=2_000_000_000, refund=(OTHER,), hash="ab" * 32),
    Lock(KEY, pubkeys=(OTHER,), n_sigs=2, hash="ab" * 32),
], ids=["prepaid", "multisig", "reveal", "both"])  # fmt: skip
def test_a_lock_can_be_asked_for(lock):
    request = PaymentRequest(amount=21, unit="sat", condition=lock_condition(lock))
    assert parse_request(encode_request(request)).condition.to_lock() == lock


def test_a_lock_that_we_do_not_make_is_not_promised():
    for vector in (VECTORS[5], NUT26[3], NUT26[14]):
        with pytest.raises(WrongLock):
            parse_request(vector["encoded"]).condition.to_lock()


@pytest.mark.parametrize("vector", NUT26, ids=lambda v: v["name"])
def test_bech32m_vectors(vector):
    expected = request_of(vector["request"])
    for text in (vector["encoded"], vector["encoded"].lower(), f" {vector['encoded']}\n"):
        assert parse_request(text) == expected
    assert parse_request(encode_request(expected)) == expected


def creqb(*fields: tuple[int, bytes], prefix: str = "creqb") -> str:
    """A request with these fields; `nested` makes one inside another."""
    return encode_bech32m(prefix, nested(*fields))


def nested(*fields: tuple[int, bytes]) -> bytes:
    return b"".join(bytes([field]) + len(value).to_bytes(2) + value for field, value in fields)


def encode_bech32m(prefix: str, data: bytes) -> str:
    digits = bech32._digits(data)
    checksum = bech32._polymod(prefix, digits + "q" * 6) ^ bech32.BECH32M
    return f"{prefix}1{digits}" + "".join(
        bech32._ALPHABET[checksum >> shift & 31] for shift in range(25, -1, -5)
    )


NOSTR = (7, nested((1, b"\0"), (2, bytes.fromhex(KEY[2:]))))


def test_of_bech32m_unknown_fields_are_skipped_and_unknown_locks_are_kept():
    plain = parse_request(creqb((3, b"\0"), (2, (7).to_bytes(8))))
    assert plain == PaymentRequest(amount=7, unit="sat")
    unknown = creqb((3, b"\0"), (99, b"x"), (2, (7).to_bytes(8)), (7, nested((1, b"\7"), (2, b"x"))))
    assert parse_request(unknown) == plain
    lock = parse_request(creqb((8, nested((1, b"\7"), (2, b"data"), (9, b"x"))))).condition
    assert lock == Condition("7", "data")
    with pytest.raises(WrongLock):
        lock.to_lock()
    (transport,) = parse_request(creqb(NOSTR)).transports
    assert nip19.decode(transport.target) == nip19.Nprofile(KEY[2:])


@pytest.mark.parametrize("text", [
    "creqb1",
    bech32.encode("creqb", nested((1, b"x"))),  # bech32, not bech32m
    creqb((1, b"x"), prefix="creqc"),
    creqb((1, b"x"), prefix="creqb1x"),
    creqb((1, b"x"))[:-1] + "q",
    "CREQB1" + creqb((1, b"x"))[6:],
    encode_bech32m("creqb", b"\1"),
    encode_bech32m("creqb", b"\1\0\5abc"),
    creqb((1, b"\xff")),
    creqb((1, b"a"), (1, b"b")),
    creqb((2, b"\7"), (3, b"\0")),
    creqb((2, (7).to_bytes(8))),
    creqb((2, bytes(8)), (3, b"\0")),
    creqb((2, b"\xff" * 8), (3, b"\0")),
    creqb((4, b"\2")),
    creqb((4, b"")),
    creqb((5, b"")),
    creqb(*[(5, b"x")] * 33),
    creqb((7, b"\1")),
    creqb((7, nested((2, b"x")))),
    creqb((7, nested((1, b"\0"), (2, b"x")))),
    creqb((7, nested((1, b"\0"), (2, bytes(31))))),
    creqb((7, nested((1, b"\1"), (1, b"\1"), (2, b"x")))),
    creqb((7, nested((1, b"\1"), (2, b"x"), (3, b"")))),
    creqb((7, nested((1, b"\1"), (2, b"x"), (3, b"\5ab")))),
    creqb((7, nested((1, b"\1"), (2, b"x"), (3, b"\0")))),
    creqb((8, nested((2, b"x")))),
], ids=range(27))  # fmt: skip
def test_malformed_bech32m_requests_are_refused(text):
    with pytest.raises(InvalidRequest):
        parse_request(text)


@given(st.binary(max_size=200))
def test_any_bech32m_is_a_request_or_refused(data):
    with contextlib.suppress(WalletError):
        parse_request(encode_bech32m("creqb", data))


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
