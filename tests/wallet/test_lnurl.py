"""What services say: read, refused, and written so that others read it."""

import json
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import lnurl as published
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.kit import make_invoice
from wallet.errors import InvalidLnurl, LnurlRefused
from wallet.lnurl import (
    AMOUNT_MSAT_MAX,
    Payable,
    PayRequest,
    SuccessAction,
    Verification,
    WithdrawRequest,
    make_metadata,
    parse_ok,
    parse_pay_request,
    parse_payable,
    parse_verification,
    parse_withdraw_request,
    with_query,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "lnurl.json").read_text(encoding="utf-8"))
PREIMAGE = bytes([7]) * 32
CALLBACK = "https://pay.example/cb"
METADATA = make_metadata("Coffee", address="shop@pay.example")
REQUEST = PayRequest(CALLBACK, 1000, 100_000, METADATA, 20, {"name": False})
WITHDRAW = WithdrawRequest(CALLBACK, "ab" * 32, 1000, 5000, "refund")


def said(**members: object) -> str:
    return json.dumps(members)


def payable(**members: object) -> Payable:
    body = {"pr": make_invoice(21_000, hashed=METADATA), "routes": []} | members
    return parse_payable(json.dumps(body), REQUEST, 21_000)


# --- the first call ---------------------------------------------------------------------------------------------------


def test_a_pay_request_is_read_as_it_was_written():
    assert parse_pay_request(json.dumps(REQUEST.to_json())) == REQUEST
    assert REQUEST.description == "Coffee"


def test_what_is_missing_or_new_is_borne():
    told = REQUEST.to_json() | {
        "commentAllowed": None,
        "payerData": None,
        "allowsNostr": True,
        "status": "OK",
    }
    assert parse_pay_request(json.dumps(told)) == PayRequest(CALLBACK, 1000, 100_000, METADATA)


@pytest.mark.parametrize(
    "change",
    [
        {"tag": "withdrawRequest"}, {"tag": None},
        {"callback": "javascript:alert(1)"}, {"callback": "http://pay.example/cb"}, {"callback": 7},
        {"callback": "http://x.onion/cb"}, {"callback": "https://user:pass@pay.example/cb"},
        {"minSendable": 0}, {"minSendable": 200_000}, {"minSendable": "1000"}, {"minSendable": 1000.0},
        {"minSendable": True}, {"minSendable": -1}, {"maxSendable": AMOUNT_MSAT_MAX + 1}, {"maxSendable": None},
        {"metadata": [["text/plain", "x"]]}, {"metadata": "x"}, {"metadata": "[]"}, {"metadata": "{}"},
        {"metadata": '[["text/plain","a"],["text/plain","b"]]'}, {"metadata": '["text/plain","a"]'},
        {"metadata": '[["text/plain",7]]'}, {"metadata": '[["text/plain"]]'}, {"metadata": "[" * 250_000},
        {"commentAllowed": -1}, {"commentAllowed": "20"}, {"payerData": []},
        {"payerData": {str(number): {} for number in range(17)}},
    ],
)  # fmt: skip
def test_a_pay_request_that_is_not_followed(change):
    with pytest.raises(InvalidLnurl):
        parse_pay_request(json.dumps(REQUEST.to_json() | change))


@pytest.mark.parametrize("body", ["", "<html>", "[]", "7", "null", '{"tag":', "[" * 100_000])
def test_no_lnurl_at_all(body):
    for read in (parse_pay_request, parse_withdraw_request, parse_ok):
        with pytest.raises(InvalidLnurl):
            read(body)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"status": "ERROR", "reason": "closed"}, "closed"),
        ({"status": "error"}, "no reason"),
        ({"status": "ERROR", "reason": "x" * 5000}, "x" * 200),
        ({"status": "ERROR", "reason": 7}, "no reason"),
    ],
)
def test_an_error_is_told_in_the_services_words_and_cut(body, shown):
    for read in (parse_pay_request, parse_withdraw_request, parse_ok):
        with pytest.raises(LnurlRefused, match=shown) as told:
            read(json.dumps(body))
        assert len(str(told.value)) < 250


# --- the second call --------------------------------------------------------------------------------------------------


def test_an_invoice_that_carries_the_hash_of_the_metadata():
    assert payable().is_committed


def test_an_invoice_without_a_hash_is_taken_and_marked():
    found = payable(pr=make_invoice(21_000))
    assert not found.is_committed


@pytest.mark.parametrize("hashed", ["", METADATA + " ", json.dumps(json.loads(METADATA))])
def test_the_hash_of_something_else_is_refused(hashed):
    with pytest.raises(InvalidLnurl, match="something else"):
        payable(pr=make_invoice(21_000, hashed=hashed))


@pytest.mark.parametrize("amount_msat", [20_999, 21_001, 21_000_000, 1])
def test_another_amount_is_refused(amount_msat):
    with pytest.raises(InvalidLnurl, match="not paid"):
        payable(pr=make_invoice(amount_msat, hashed=METADATA))


@pytest.mark.parametrize("pr", [None, 7, "", "lnbc1", "x" * 9000])
def test_no_invoice(pr):
    with pytest.raises(InvalidLnurl, match="invoice"):
        payable(pr=pr)


def test_payer_data_are_hashed_as_in_the_official_example():
    example = VECTORS["lud18"]
    payer = unquote(example["payerdata_in_the_url"])
    assert example["metadata"] + payer == example["hashed"]
    request = PayRequest(CALLBACK, 1000, 100_000, example["metadata"], 0, {"name": False})
    body = json.dumps({"pr": make_invoice(21_000, hashed=example["hashed"])})
    assert parse_payable(body, request, 21_000, payer_data=payer).is_committed
    with pytest.raises(InvalidLnurl, match="something else"):
        parse_payable(body, request, 21_000)


@pytest.mark.parametrize(
    ("action", "read"),
    [
        (None, None),
        ({"tag": "message", "message": "x" * 144}, SuccessAction("x" * 144)),
        ({"tag": "url", "description": "look", "url": "https://pay.example/o/1"},
         SuccessAction("look", "https://pay.example/o/1")),
    ],
)  # fmt: skip
def test_success_actions(action, read):
    assert payable(successAction=action).success == read


@pytest.mark.parametrize(
    "action",
    [
        {"tag": "message", "message": "x" * 145}, {"tag": "message"}, {"tag": "message", "message": 7},
        {"tag": "url", "description": "x" * 145, "url": "https://pay.example/"},
        {"tag": "url", "description": "x", "url": "https://evil.example/"},
        {"tag": "url", "description": "x", "url": "https://pay.example.evil.example/"},
        {"tag": "url", "description": "x", "url": "https://sub.pay.example/"},
        {"tag": "url", "description": "x", "url": "http://pay.example/"},
        {"tag": "url", "description": "x", "url": "javascript:alert(document.domain)"},
        {"tag": "url", "description": "x", "url": "javascript://pay.example/%0aalert(1)"},
        {"tag": "url", "description": "x", "url": "https://pay.example@evil.example/"},
        {"tag": "url", "url": "https://pay.example/"},
        {"tag": "aes", "description": "x", "ciphertext": "", "iv": ""}, {"tag": "new"}, {}, "message", 7,
    ],
)  # fmt: skip
def test_what_could_not_be_shown_is_not_paid_for(action):
    with pytest.raises(InvalidLnurl):
        payable(successAction=action)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://pay.example/verify/1", True),
        ("https://other.example/verify/1", False),
        ("http://pay.example/verify/1", False),
        ("https://127.0.0.1/verify/1", False),
        ("javascript:alert(1)", False),
        (7, False),
    ],
)
def test_a_verify_url_of_another_host_is_left_out(url, kept):
    assert payable(verify=url).verify_url == (url if kept else None)


# --- verify and withdraw ----------------------------------------------------------------------------------------------

PAID = make_invoice(21_000)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Verification(PAID, True, PREIMAGE.hex()).to_json(), Verification(PAID, True, PREIMAGE.hex())),
        (Verification(PAID, True).to_json(), Verification(PAID, True)),
        (Verification(PAID, False).to_json(), Verification(PAID, False)),
        ({"settled": True, "preimage": None, "pr": PAID.upper()}, Verification(PAID, True)),
        ({"settled": False, "preimage": "junk", "pr": PAID}, Verification(PAID, False)),
    ],
)
def test_verification(answer, expected):
    assert parse_verification(json.dumps(answer), PAID) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"pr": make_invoice(21_000, preimage=bytes(32))}, {"pr": None}, {"settled": "true"}, {"settled": None},
        {"preimage": "00" * 32}, {"preimage": "00" * 31}, {"preimage": "zz" * 32}, {"preimage": 7},
        {"preimage": PREIMAGE.hex() + "00"}, {"preimage": " ".join(PREIMAGE.hex()[i:i + 2] for i in range(0, 64, 2))},
    ],
)  # fmt: skip
def test_a_verification_that_does_not_hold(change):
    with pytest.raises(InvalidLnurl):
        parse_verification(json.dumps(Verification(PAID, True, PREIMAGE.hex()).to_json() | change), PAID)


def test_a_withdraw_request_is_read_as_it_was_written_and_keeps_its_secret():
    assert parse_withdraw_request(json.dumps(WITHDRAW.to_json())) == WITHDRAW
    assert WITHDRAW.k1 not in repr(WITHDRAW)


@pytest.mark.parametrize(
    "change",
    [
        {"k1": ""}, {"k1": None}, {"k1": "x" * 513}, {"maxWithdrawable": 0, "minWithdrawable": 0},
        {"minWithdrawable": 6000}, {"minWithdrawable": -1}, {"maxWithdrawable": 1.5},
        {"callback": "http://pay.example"}, {"callback": "javascript:1"}, {"tag": "payRequest"},
    ],
)  # fmt: skip
def test_a_withdraw_request_that_is_not_followed(change):
    with pytest.raises(InvalidLnurl):
        parse_withdraw_request(json.dumps(WITHDRAW.to_json() | change))


def test_agreement_is_ok_and_nothing_else():
    parse_ok('{"status": "OK"}')
    parse_ok('{"status": "ok", "more": 1}')
    for body in ("{}", '{"status": "PENDING"}'):
        with pytest.raises(InvalidLnurl):
            parse_ok(body)


# --- others read what we write, and any input ends well ---------------------------------------------------------------


@pytest.mark.parametrize(
    "told",
    [
        REQUEST.to_json(),
        WITHDRAW.to_json(),
        Payable(PAID, 21_000, success=SuccessAction("thanks"), verify_url="https://pay.example/v").to_json(),
    ],
)
def test_the_published_library_reads_what_we_write(told):
    assert published.LnurlResponse.from_dict(dict(told)).ok


TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)


@given(
    least=st.integers(1, 10**6),
    more=st.integers(0, 10**9),
    about=TEXTS,
    comment=st.integers(0, 5000),
    payer=st.dictionaries(TEXTS.filter(bool), st.booleans(), max_size=5),
)
def test_any_pay_request_comes_back(least, more, about, comment, payer):
    request = PayRequest(CALLBACK, least, least + more, make_metadata(about), comment, payer)
    assert parse_pay_request(json.dumps(request.to_json())) == request
    assert request.description == about


@given(st.dictionaries(st.sampled_from(["a", "k1", "pr", "comment"]), TEXTS, min_size=1))
def test_a_query_keeps_what_was_there_and_what_is_added(values):
    from urllib.parse import parse_qsl, urlsplit

    url = with_query("https://pay.example/cb?x=%2B&y=a+b", **values)
    assert url.startswith("https://pay.example/cb?x=%2B&y=a+b&")
    read = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    assert dict(read[2:]) == values


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
)
FIELDS = (
    "tag",
    "callback",
    "minSendable",
    "metadata",
    "payerData",
    "k1",
    "pr",
    "successAction",
    "verify",
    "status",
)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_whatever_a_service_says_is_read_or_refused(odd):
    for good, read in (
        (REQUEST.to_json(), parse_pay_request),
        (WITHDRAW.to_json(), parse_withdraw_request),
        ({"pr": PAID}, lambda body: parse_payable(body, REQUEST, 21_000)),
        (Verification(PAID, True).to_json(), lambda body: parse_verification(body, PAID)),
    ):
        with suppress(InvalidLnurl, LnurlRefused):
            read(json.dumps(good | odd))
