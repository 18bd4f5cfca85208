"""Lightning beside invoices and LNURL: what a wallet says by NWC (NIP-47), and what an LNURL wallet asks our gateway."""

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

import msgspec

from fuzz.kit import ALICE, BOB, NOW, as_json, as_verified, finished, make_invoice, signed, text_of
from identity.errors import InvalidEvent
from identity.event import parse_rumor
from relay_bridge import usable_relays
from tradepost.errors import GatewayRefused
from tradepost.gateway import OrderWish, _check_payer
from wallet.errors import InvalidLnurl, InvalidRequest, LnurlRefused, RailRefused, RailUnavailable
from wallet.lnurl import parse_ok
from wallet.queries_rails import Payment, SendState
from wallet.rails import NwcRail, Verdict, Wish, parse_uri
from wallet.rails.nwc_wire import Encryption, paid_hash, parse_answer, parse_info

_PREIMAGE: Final = bytes([7]) * 32
_HASH: Final = hashlib.sha256(_PREIMAGE).hexdigest()
_BOLT11: Final = make_invoice(21_000, preimage=_PREIMAGE)
_PAYMENT: Final = Payment("order:1", "nwc", SendState.ASKED, _BOLT11, _HASH, 21_000, None, None, NOW)
_MSAT_MAX: Final = 21_000_000 * 100_000_000 * 1000
_URI: Final = (
    f"nostr+walletconnect://{BOB.public_key}?relay=wss%3A%2F%2Fa.example&relay=ws://b&secret={ALICE.hex()}"
)


class _Line:
    """Answers by method, as somebody's wallet might write them; silence where there is none."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers

    async def call(self, method: str, **_params: object) -> Any:
        if method not in self._answers:
            raise RailUnavailable("silence")
        answer = parse_answer(json.dumps(self._answers[method]), method)
        if answer.error is not None:
            raise RailRefused(
                nwc_code=str(answer.error.get("code", "")), detail=str(answer.error.get("message", ""))
            )
        return answer.result or {}


def _rail(answers: dict[str, Any]) -> NwcRail:
    rail = NwcRail.__new__(NwcRail)  # its own line would connect
    rail._line = _Line(answers)  # type: ignore[assignment]  # the one method that is asked
    return rail


def _uri(data: bytes) -> None:
    text = text_of(data)
    try:
        uri = parse_uri(text)
    except InvalidRequest as error:
        assert len(text) < 30 or text not in str(error)
        return
    assert 1 <= len(uri.relays) == len(usable_relays(uri.relays))
    assert repr(replace(uri, secret=BOB)) == repr(uri)
    relays = "&".join(f"relay={quote(relay, safe='')}" for relay in uri.relays)
    again = parse_uri(f"nostr+walletconnect://{uri.wallet_key}?{relays}&secret={uri.secret.hex()}")
    assert (again.wallet_key, again.relays, again.secret) == (uri.wallet_key, uri.relays, uri.secret)


def _info(data: bytes) -> None:
    try:
        event = as_verified(parse_rumor(data))
    except InvalidEvent:
        return
    try:
        info = parse_info(event)
    except RailUnavailable as error:
        assert len(str(error)) < 300
        return
    assert len(info.methods) <= 64
    named = "".join(value for tag in event.tags_named("encryption") for value in tag[1:])
    assert info.encryption is Encryption.NIP04 or "nip44_v2" in named


def _answers(data: bytes) -> dict[str, Any] | None:
    try:
        answers = json.loads(text_of(data))
    except (ValueError, RecursionError):
        return None
    return answers if isinstance(answers, dict) else None


def _answer(data: bytes) -> None:
    try:
        answer = parse_answer(text_of(data), "pay_invoice")
    except RailUnavailable:
        return
    assert answer.result_type == "pay_invoice"
    assert (answer.result is None) != (answer.error is None)
    assert "preimage" not in repr(answer)


def _payment(data: bytes) -> None:
    """Only a result, or a lookup that says so of this very payment, makes it paid; only a refusal makes it failed."""
    answers = _answers(data)
    if answers is None:
        return
    told = answers.get("lookup_invoice")
    found = told.get("result") if isinstance(told, dict) else None
    is_ours = (
        isinstance(found, dict) and found.get("payment_hash") == _HASH and found.get("type") == "outgoing"
    )
    answered = answers.get("pay_invoice")
    is_done = isinstance(answered, dict) and isinstance(answered.get("result"), dict)
    for again in (False, True):
        sent = finished(_rail(answers).pay(_PAYMENT, again=again))
        assert 0 <= sent.fee_msat <= _MSAT_MAX
        assert sent.preimage in (None, _PREIMAGE.hex())
        assert sent.verdict is not Verdict.PAID or is_ours or (is_done and not again)
        assert sent.verdict is not Verdict.FAILED or is_ours or not (is_done or again)


def _invoice(data: bytes) -> None:
    """An invoice is settled if a lookup of that very hash says so, and not because a preimage is told."""
    answers = _answers(data)
    if answers is None:
        return
    rail = _rail(answers)
    with suppress(RailUnavailable, RailRefused):
        seen = finished(rail.look(_HASH))
        assert 0 <= seen.received_msat <= _MSAT_MAX
        result = answers["lookup_invoice"]["result"]
        assert not seen.settled or result["payment_hash"] == _HASH
        assert not seen.settled or result.get("state") == "settled" or result.get("settled_at")
    with suppress(RailUnavailable, RailRefused):
        made = finished(rail.make_invoice(Wish(21_000)))
        assert made.bolt11
        assert len(bytes.fromhex(made.handle)) == 32
    with suppress(RailUnavailable, RailRefused):
        assert isinstance(finished(rail.balance_msat()), int)


def _notification(data: bytes) -> None:
    found = paid_hash(text_of(data))
    assert found is None or (len(bytes.fromhex(found)) == 32 and found.encode() in data)


def _payer(data: bytes) -> None:
    text = text_of(data)
    try:
        _check_payer(text)
    except GatewayRefused as error:
        assert len(text) < 60 or text not in str(error)
        return
    assert not text or isinstance(json.loads(text), dict)


def _order(data: bytes) -> None:
    try:
        wish = msgspec.json.decode(data, type=OrderWish)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    assert msgspec.json.decode(msgspec.json.encode(wish), type=OrderWish) == wish


def _agreement(data: bytes) -> None:
    try:
        parse_ok(text_of(data))
    except (InvalidLnurl, LnurlRefused) as error:
        assert len(str(error)) < 1000
        return
    assert json.loads(data)["status"].upper() == "OK"


CHECKS = {
    "uri": _uri, "info": _info, "answer": _answer, "payment": _payment, "invoice": _invoice, "notification": _notification,
    "payer": _payer, "order": _order, "agreement": _agreement,
}  # fmt: skip
_FOUND: Final = {
    "type": "outgoing",
    "state": "settled",
    "payment_hash": _HASH,
    "preimage": _PREIMAGE.hex(),
    "fees_paid": 7,
}
_OWN: Final = {
    "type": "incoming", "invoice": _BOLT11, "payment_hash": _HASH, "amount": 21_000, "settled_at": NOW, "state": "settled",
}  # fmt: skip


def _told(method: str, result: object) -> dict[str, object]:
    return {"result_type": method, "result": result}


def _refused(method: str, code: str) -> dict[str, object]:
    return {"result_type": method, "error": {"code": code, "message": "no"}}


_LOOKUPS: Final = [
    _told("lookup_invoice", found)
    for found in (
        _FOUND,
        _FOUND | {"state": "failed"},
        _FOUND | {"state": None},
        _FOUND | {"payment_hash": "00" * 32},
        _OWN,
    )
]
SEEDS = [
    ("uri", _URI.encode()),
    ("uri", _URI.replace("://", ":").upper().encode()),
    ("uri", _URI.replace(ALICE.hex(), BOB.public_key).encode()),  # found: the check took the wallet's key for the secret
    *(
        ("info", as_json(signed(13194, content, tags).to_dict()))
        for content, tags in (
            ("pay_invoice get_balance", []),
            ("pay_invoice", [["encryption", "nip44_v2 nip04"], ["notifications", "payment_received payment_sent"]]),
            ("", [["encryption", "nip99"]]),
        )
    ),
    ("answer", as_json(_told("pay_invoice", {"preimage": _PREIMAGE.hex(), "fees_paid": 1}))),
    ("answer", as_json(_refused("pay_invoice", "PAYMENT_FAILED"))),
    *(("payment", as_json({"pay_invoice": asked, "lookup_invoice": found})) for found in _LOOKUPS for asked in (
        _told("pay_invoice", {"preimage": _PREIMAGE.hex()}), _refused("pay_invoice", "PAYMENT_FAILED"),
        _refused("pay_invoice", "INSUFFICIENT_BALANCE"), None,
    )),
    *(
        ("invoice", as_json({
            "lookup_invoice": found, "make_invoice": _told("make_invoice", _OWN),
            "get_balance": _told("get_balance", {"balance": 5}),
        }))
        for found in _LOOKUPS
    ),
    ("notification", as_json({"notification_type": "payment_received", "notification": {"payment_hash": _HASH}})),
    ("payer", as_json({"name": "Ann", "identifier": "ann@a.example"})),
    ("payer", as_json({"auth": {"key": "00", "k1": "11", "sig": "22"}})),
    ("order", as_json({"agent": "npub1", "kind": 5001, "text": "a", "max_sat": 5, "params": {"a": "b"}})),
    ("agreement", as_json({"status": "OK"})),
    ("agreement", as_json({"status": "ERROR", "reason": "no"})),
]  # fmt: skip
WORDS = (
    "nostr+walletconnect://", "?relay=", "&secret=", "wss%3A%2F%2F", "nip44_v2", "nip04", "encryption", "result_type", "error",
    "PAYMENT_FAILED", "OTHER", "payment_hash", "preimage", "settled_at", "incoming", "outgoing", "failed", "expired", "ERROR",
    _HASH, BOB.public_key,
)  # fmt: skip
