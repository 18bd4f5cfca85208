"""Nostr Wallet Connect on the wire: any text as a URI, any JSON as an answer, and what is believed of either."""

import hashlib
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from identity import SecretKey, make_template, sign_event
from wallet.errors import InvalidRequest, RailUnavailable
from wallet.rails.nwc_wire import (
    Encryption,
    Stage,
    encode_request,
    fitting_preimage,
    msat,
    paid_hash,
    parse_answer,
    parse_info,
    parse_transaction,
    parse_uri,
)

WALLET = SecretKey(bytes([7]) * 32)
SECRET = "71a8c14c1407c113601079c4302dab36460f0ccd0ad506f1f2dc73b5100e4f3c"
# The example of NIP-47.
EXAMPLE = (
    "nostr+walletconnect://b889ff5b1513b641e2a139f661a661364979c5beee91842f8f0ef42ab558e9d4"
    f"?relay=wss%3A%2F%2Frelay.damus.io&secret={SECRET}"
)
PREIMAGE = "ab" * 32
HASH = hashlib.sha256(bytes.fromhex(PREIMAGE)).hexdigest()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
NAMES = (
    "type", "state", "invoice", "payment_hash", "preimage", "amount", "fees_paid", "settled_at",
)  # fmt: skip


def info(content: str, *tags: tuple[str, ...]) -> Any:
    return parse_info(sign_event(make_template(13194, content=content, tags=tags, created_at=1), WALLET))


def test_the_example_of_the_nip_is_read() -> None:
    uri = parse_uri(EXAMPLE)
    assert uri.wallet_key == "b889ff5b1513b641e2a139f661a661364979c5beee91842f8f0ef42ab558e9d4"
    assert uri.relays == ("wss://relay.damus.io",)
    assert uri.secret.to_bytes().hex() == SECRET
    assert SECRET not in repr(uri)
    assert (
        parse_uri(f" {EXAMPLE}&lud16=me%40wallet.test&relay=wss://two.test \n").relays[1] == "wss://two.test"
    )
    assert parse_uri(EXAMPLE.replace("://b8", ":b8")) == uri


@pytest.mark.parametrize(
    "text",
    [
        "", EXAMPLE[:-2], EXAMPLE.replace("relay=", "relais="), EXAMPLE.replace("nostr+", ""), EXAMPLE + "&secret=" + "11" * 32,
        EXAMPLE.replace("b889", "zzzz"), EXAMPLE.replace(SECRET, "00" * 32), EXAMPLE.replace("wss", "http"), EXAMPLE + "x" * 5000,
        "nostr+walletconnect://[", EXAMPLE.replace("?", "#"),
    ],
)  # fmt: skip
def test_a_bad_uri_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_uri(text)
    assert SECRET not in str(refusal.value)


@given(st.text(max_size=200) | st.text(max_size=100).map(lambda text: EXAMPLE[:70] + text))
@example("nostr+walletconnect://\ud800?relay=a&secret=b")
def test_any_text_is_a_uri_or_refused(text: str) -> None:
    try:
        uri = parse_uri(text)
    except InvalidRequest:
        return
    assert 1 <= len(uri.relays) <= 8


@given(
    st.lists(
        st.sampled_from(["wss://a.test", "ws://b.test/x%20y", "wss://c.test:7777"]), min_size=1, max_size=8
    )
)
def test_relays_come_out_as_they_went_in(relays: list[str]) -> None:
    query = "&".join(f"relay={quote(relay, safe='')}" for relay in relays)
    text = f"nostr+walletconnect://{WALLET.public_key}?{query}&secret={SECRET}"
    assert parse_uri(text).relays == tuple(dict.fromkeys(relays))


def test_the_best_encryption_that_both_know_is_taken() -> None:
    assert info("pay_invoice", ("encryption", "nip44_v2 nip04")).encryption is Encryption.NIP44
    assert info("pay_invoice", ("encryption", "nip04", "nip44_v2")).encryption is Encryption.NIP44
    assert info("pay_invoice", ("encryption", "nip04")).encryption is Encryption.NIP04
    assert info("pay_invoice").encryption is Encryption.NIP04
    with pytest.raises(RailUnavailable, match="nip99"):
        info("pay_invoice", ("encryption", "nip99"))
    both = info("pay_invoice  get_balance\n", ("notifications", "payment_received payment_sent"))
    assert both.methods == {"pay_invoice", "get_balance"}
    assert both.notifies
    assert not info("").notifies


def test_a_request_leaves_out_what_is_not_given() -> None:
    sent = json.loads(encode_request("make_invoice", {"amount": 1, "description": None}))
    assert sent == {"method": "make_invoice", "params": {"amount": 1}}


def test_an_answer_is_a_result_or_an_error_to_that_method() -> None:
    answer = parse_answer(
        '{"result_type": "get_balance", "result": {"balance": 1}, "error": null, "x": 1}', "get_balance"
    )
    assert answer.result == {"balance": 1}
    assert "balance" not in repr(answer).replace("get_balance", "")
    for text in (
        "", "[]", "{}", '{"result_type": "pay_invoice", "result": {}}', '{"result_type": "get_balance"}',
        '{"result_type": "get_balance", "result": {}, "error": {}}', '{"result_type": "get_balance", "result": 7}',
        "[" * 5000,
    ):  # fmt: skip
        with pytest.raises(RailUnavailable):
            parse_answer(text, "get_balance")


@given(JSON)
def test_any_answer_is_read_or_says_that_nothing_is_known(value: Any) -> None:
    text = json.dumps(value)
    for candidate in (text, json.dumps({"result_type": "x", "result": value}), text[:-1]):
        try:
            answer = parse_answer(candidate, "x")
        except RailUnavailable:
            continue
        parse_transaction(answer.result or {})
    assert paid_hash(text) is None


@given(
    st.dictionaries(st.sampled_from(NAMES), JSON | st.sampled_from([HASH, PREIMAGE, "settled", "outgoing"]))
)
@example({"payment_hash": HASH, "preimage": PREIMAGE})  # wallets tell the preimage of unpaid invoices too
def test_only_a_settled_state_settles_what_comes_in(result: dict[str, Any]) -> None:
    read = parse_transaction(result)
    assert read.amount_msat >= 0
    assert read.fees_msat >= 0
    if read.stage is Stage.SETTLED and read.incoming:
        assert result.get("state") == "settled" or result.get("settled_at")
    if read.preimage is not None:
        assert (read.preimage, read.payment_hash) == (PREIMAGE, HASH)
        assert PREIMAGE not in repr(read)


def test_a_preimage_counts_only_if_it_fits() -> None:
    assert fitting_preimage(PREIMAGE, HASH) == PREIMAGE
    for bad in (PREIMAGE[:-2], PREIMAGE.upper(), "00" * 32, "", None, 7, [PREIMAGE]):
        assert fitting_preimage(bad, HASH) is None
    sent = {"type": "outgoing", "payment_hash": HASH, "preimage": PREIMAGE}
    assert parse_transaction(sent).stage is Stage.SETTLED
    assert parse_transaction(sent | {"state": "pending"}).stage is Stage.PENDING
    assert parse_transaction({"state": "accepted"}).stage is Stage.PENDING  # a hold invoice is not settled
    assert [msat(value) for value in (5, True, -1, "5", 5.0, 10**30)] == [5, 0, 0, 0, 0, 0]


def test_a_notification_is_a_hint_of_one_hash() -> None:
    told = {"notification_type": "payment_received", "notification": {"payment_hash": HASH}}
    assert paid_hash(json.dumps(told)) == HASH
    assert paid_hash(json.dumps(told | {"notification_type": "payment_sent"})) is None
    assert paid_hash(json.dumps(told | {"notification": {"payment_hash": 7}})) is None
