"""LNURL: texts that lead to a service, and what a service says (LUD-01, 03, 06, 09, 12, 16, 17, 18, 21)."""

import json
from typing import Any, Final
from urllib.parse import urlsplit

from lnurl import LnurlResponse
from lnurl.helpers import url_decode

from fuzz.kit import as_json, make_invoice, text_of, vectors
from wallet.errors import InvalidLnurl, LnurlRefused
from wallet.lnurl import (
    MESSAGE_CHARS_MAX,
    Payable,
    PayRequest,
    SuccessAction,
    Verification,
    WithdrawRequest,
    make_metadata,
    parse_pay_request,
    parse_payable,
    parse_verification,
    parse_withdraw_request,
)
from wallet.lnurl_text import encode_lnurl, parse_lnurl

_AMOUNT_MSAT: Final = 21_000
_REQUEST: Final = PayRequest(
    "https://pay.example/cb",
    1000,
    100_000,
    make_metadata("Coffee", address="shop@pay.example"),
    20,
    {"name": True},
)
_WITHDRAW: Final = WithdrawRequest("https://pay.example/cb?x=1", "ab" * 32, 1000, 5000, "refund")
_BOLT11: Final = make_invoice(_AMOUNT_MSAT, hashed=_REQUEST.metadata)
_OTHERS: Final = (
    make_invoice(_AMOUNT_MSAT),
    make_invoice(_AMOUNT_MSAT + 1),
    make_invoice(_AMOUNT_MSAT, hashed="x"),
)


def _text(data: bytes) -> None:
    text = text_of(data)
    for allow_private in (False, True):
        try:
            url = parse_lnurl(text, allow_private=allow_private)
        except InvalidLnurl as error:
            assert len(text) < 30 or text not in str(error)
            continue
        parts = urlsplit(url)
        assert parts.scheme in (("https", "http") if allow_private else ("https",))
        assert parts.hostname
        assert not (parts.hostname or "").endswith(".onion")
        assert parts.username is None
        again = parse_lnurl(encode_lnurl(url), allow_private=allow_private)
        assert again == url
        assert url_decode(encode_lnurl(url)) == url


def _pay_request(data: bytes) -> None:
    try:
        request = parse_pay_request(text_of(data))
    except (InvalidLnurl, LnurlRefused):
        return
    assert 1 <= request.min_msat <= request.max_msat
    assert request.callback.startswith("https://") or urlsplit(request.callback).scheme.lower() == "https"
    assert isinstance(request.description, str)
    assert parse_pay_request(_dumped(request.to_json())) == request


def _payable(data: bytes) -> None:
    try:
        payable = parse_payable(text_of(data), _REQUEST, _AMOUNT_MSAT)
    except (InvalidLnurl, LnurlRefused):
        return
    assert payable.amount_msat == _AMOUNT_MSAT
    assert payable.bolt11.lower() in (_BOLT11, _OTHERS[0])
    assert payable.is_committed == (payable.bolt11.lower() == _BOLT11)
    if payable.success is not None:
        assert len(payable.success.message) <= MESSAGE_CHARS_MAX
    for url in (payable.verify_url, payable.success.url if payable.success else None):
        assert url is None or urlsplit(url).hostname == "pay.example"
    assert parse_payable(_dumped(payable.to_json()), _REQUEST, _AMOUNT_MSAT) == payable
    LnurlResponse.from_dict(payable.to_json())


def _withdraw(data: bytes) -> None:
    try:
        request = parse_withdraw_request(text_of(data))
    except (InvalidLnurl, LnurlRefused):
        return
    assert 0 <= request.min_msat <= request.max_msat
    assert request.k1
    assert parse_withdraw_request(_dumped(request.to_json())) == request


def _verification(data: bytes) -> None:
    try:
        told = parse_verification(text_of(data), _BOLT11)
    except (InvalidLnurl, LnurlRefused):
        return
    assert told.preimage in (None, "07" * 32)
    assert parse_verification(_dumped(told.to_json()), _BOLT11) == told


def _dumped(value: dict[str, Any]) -> str:
    return json.dumps(value)


CHECKS = {
    "text": _text, "pay_request": _pay_request, "payable": _payable, "withdraw": _withdraw, "verification": _verification,
}  # fmt: skip
_OFFICIAL = vectors("wallet/lnurl.json")["lud01"]
_ACTIONS = (SuccessAction("thanks"), SuccessAction("look", "https://pay.example/o/1"))
SEEDS = [
    *(("text", text.encode()) for text in (
        _OFFICIAL["lnurl"], _OFFICIAL["url"], "lnurlp://pay.example/x", "lightning:a.b@pay.example:8443",
        "http://127.0.0.1:8790/x", "tips@localhost:8790", "http://aaaa.onion/x",
        f"https://shop.example/?lightning={_OFFICIAL['lnurl']}",
        "lnurlp://pay.example/" + "é" * 900,  # found: a URL that could not be read again, for it had grown
    )),
    ("pay_request", as_json(_REQUEST.to_json())),
    *(
        ("payable", as_json(Payable(bolt11, _AMOUNT_MSAT, success=action, verify_url="https://pay.example/v").to_json()))
        for bolt11 in (_BOLT11, *_OTHERS) for action in (None, *_ACTIONS)
    ),
    ("withdraw", as_json(_WITHDRAW.to_json())),
    ("verification", as_json(Verification(_BOLT11, True, "07" * 32).to_json())),
    ("verification", as_json(Verification(_BOLT11, False).to_json())),
]  # fmt: skip
WORDS = (
    "lnurl1", "lnurlp://", "lightning:", "@", ".onion", "javascript:", "https://", "http://127.0.0.1", "status", "ERROR",
    "text/plain", "aes", "message", "mandatory",
)  # fmt: skip
