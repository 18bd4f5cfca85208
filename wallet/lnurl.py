"""What LNURL services and wallets say to each other, read and written: LUD-03, 06, 09, 12, 18, 21.

Reading takes the body of an answer, whatever its status (LUD-01), and trusts none: what is left out or added is borne,
what could cost money is `InvalidLnurl`. A service's `{"status": "ERROR"}` is `LnurlRefused`. Amounts are in msat.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson

from wallet.errors import InvalidLnurl, InvalidRequest, LnurlRefused
from wallet.invoice import parse_invoice
from wallet.lnurl_text import service_url

MESSAGE_CHARS_MAX: Final = 144  # LUD-09
DESCRIPTION_CHARS_MAX: Final = 640
METADATA_CHARS_MAX: Final = 200_000  # LUD-06 allows a picture of 136,536
K1_CHARS_MAX: Final = 512
PAYER_FIELDS_MAX: Final = 16
AMOUNT_MSAT_MAX: Final = 21 * 10**17  # all there will ever be
REASON_CHARS_MAX: Final = 200
_PREIMAGE: Final = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class PayRequest:
    """What a service takes (LUD-06, 12, 18). `metadata` as it was received; `payer_data`: field → mandatory."""

    callback: str
    min_msat: int
    max_msat: int
    metadata: str
    comment_chars_max: int = 0
    payer_data: Mapping[str, bool] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """The one `text/plain` entry, cut."""
        return _described(self.metadata)

    def to_json(self) -> dict[str, Any]:
        """The answer to the first call."""
        told: dict[str, Any] = {
            "tag": "payRequest", "callback": self.callback, "minSendable": self.min_msat, "maxSendable": self.max_msat,
            "metadata": self.metadata, "commentAllowed": self.comment_chars_max,
        }  # fmt: skip
        if self.payer_data:
            told["payerData"] = {name: {"mandatory": must} for name, must in self.payer_data.items()}
        return told


@dataclass(frozen=True)
class SuccessAction:
    """What to show once it is paid (LUD-09): a message, or a description with a URL."""

    message: str
    url: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As in the answer to the second call."""
        if self.url is None:
            return {"tag": "message", "message": self.message}
        return {"tag": "url", "description": self.message, "url": self.url}


@dataclass(frozen=True)
class Payable:
    """The invoice that a service made for us. `is_committed`: it carries the hash of the metadata we were shown."""

    bolt11: str
    amount_msat: int
    is_committed: bool = False
    success: SuccessAction | None = None
    verify_url: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The answer to the second call."""
        told: dict[str, Any] = {"pr": self.bolt11, "routes": []}
        if self.success is not None:
            told["successAction"] = self.success.to_json()
        if self.verify_url is not None:
            told["verify"] = self.verify_url
        return told


@dataclass(frozen=True)
class Verification:
    """Whether an invoice is settled, by the service's word (LUD-21), and with a preimage by proof."""

    bolt11: str
    settled: bool
    preimage: str | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The answer of a verify URL."""
        return {"status": "OK", "settled": self.settled, "preimage": self.preimage, "pr": self.bolt11}


@dataclass(frozen=True)
class WithdrawRequest:
    """What a service pays out (LUD-03). Whoever knows `k1` gets it."""

    callback: str
    k1: str = field(repr=False)
    min_msat: int
    max_msat: int
    description: str = ""

    def to_json(self) -> dict[str, Any]:
        """The answer to the first call."""
        return {
            "tag": "withdrawRequest", "callback": self.callback, "k1": self.k1, "minWithdrawable": self.min_msat,
            "maxWithdrawable": self.max_msat, "defaultDescription": self.description,
        }  # fmt: skip


def make_metadata(description: str, *, address: str | None = None) -> str:
    """LUD-06's metadata; `address` is the Lightning address that leads here (LUD-16)."""
    entries = [["text/plain", description]]
    if address is not None:
        entries.append(["text/identifier", address])
    return orjson.dumps(entries).decode()


def with_query(callback: str, **values: str) -> str:
    """The callback with more parameters, what it has already left untouched."""
    return (
        f"{callback}{'&' if '?' in callback else '?'}{urlencode(values, quote_via=quote, errors='replace')}"
    )


def parse_pay_request(body: str, *, allow_private: bool = False) -> PayRequest:
    """Read the answer to the first call (LUD-06)."""
    raw = _tagged(body, "payRequest")
    least, most = _amount(raw, "minSendable"), _amount(raw, "maxSendable")
    if not 1 <= least <= most:
        raise InvalidLnurl("the service takes no amount at all")
    metadata = raw.get("metadata")
    if not isinstance(metadata, str) or len(metadata) > METADATA_CHARS_MAX:
        raise InvalidLnurl("the service does not describe what is paid for")
    _described(metadata)
    comment = raw.get("commentAllowed") or 0
    if type(comment) is not int or comment < 0:
        raise InvalidLnurl("the service says nothing readable about comments")
    callback = _callback(raw, allow_private)
    return PayRequest(callback, least, most, metadata, comment, _payer_fields(raw.get("payerData")))


def parse_payable(
    body: str, request: PayRequest, amount_msat: int, *, payer_data: str = "", allow_private: bool = False
) -> Payable:
    """Read the answer to the second call, and see that it is what was asked for.

    The invoice is over exactly `amount_msat`. If it carries a hash, that is the one of metadata and `payer_data`; if it
    carries none (zaps, services on a mint), it is not refused: amount and receiver are the same, the proof of what was
    promised for it is missing, and `is_committed` says so. A success action we could not show is not paid for (LUD-09).
    A `verify` URL of another host is left out.
    """
    raw = _answer(body)
    bolt11 = raw.get("pr")
    if not isinstance(bolt11, str):
        raise InvalidLnurl("the service made no invoice")
    try:
        invoice = parse_invoice(bolt11)
    except InvalidRequest as error:
        raise InvalidLnurl(f"the service made an invoice that cannot be paid: {error}") from None
    if invoice.amount_msat != amount_msat:
        raise InvalidLnurl(
            f"the service made an invoice over {invoice.amount_msat} msat where {amount_msat} were asked for: not paid"
        )
    promised = hashlib.sha256((request.metadata + payer_data).encode()).hexdigest()
    if invoice.description_hash not in (None, promised):
        raise InvalidLnurl("the invoice is for something else than the service described: not paid")
    host = service_url(request.callback, allow_private=allow_private).host
    return Payable(
        bolt11, amount_msat, invoice.description_hash is not None,
        _success(raw.get("successAction"), host, allow_private), _verify_url(raw.get("verify"), host, allow_private),
    )  # fmt: skip


def parse_verification(body: str, bolt11: str) -> Verification:
    """Read the answer of a verify URL (LUD-21): about this invoice, and a preimage that belongs to it."""
    raw = _answer(body)
    settled, preimage, named = raw.get("settled"), raw.get("preimage"), raw.get("pr")
    if not isinstance(settled, bool):
        raise InvalidLnurl("the service does not say whether the invoice is settled")
    if not isinstance(named, str) or named.lower() != bolt11.lower():
        raise InvalidLnurl("the service speaks of another invoice")
    if preimage is None or not settled:
        return Verification(bolt11, settled)
    if not (isinstance(preimage, str) and _PREIMAGE.fullmatch(preimage)) or (
        hashlib.sha256(bytes.fromhex(preimage)).hexdigest() != parse_invoice(bolt11).payment_hash
    ):
        raise InvalidLnurl("the service shows a preimage that does not belong to the invoice")
    return Verification(bolt11, settled, preimage.lower())


def parse_withdraw_request(body: str, *, allow_private: bool = False) -> WithdrawRequest:
    """Read the answer to the first call (LUD-03)."""
    raw = _tagged(body, "withdrawRequest")
    least, most = _amount(raw, "minWithdrawable"), _amount(raw, "maxWithdrawable")
    if not 0 <= least <= most or most == 0:
        raise InvalidLnurl("the service pays out no amount at all")
    k1, description = raw.get("k1"), raw.get("defaultDescription")
    if not isinstance(k1, str) or not 0 < len(k1) <= K1_CHARS_MAX:
        raise InvalidLnurl("the service names no k1 to withdraw with")
    shown = description[:DESCRIPTION_CHARS_MAX] if isinstance(description, str) else ""
    return WithdrawRequest(_callback(raw, allow_private), k1, least, most, shown)


def parse_ok(body: str) -> None:
    """Read `{"status": "OK"}`. Raises `LnurlRefused` for an error, `InvalidLnurl` for anything else."""
    if str(_answer(body).get("status")).upper() != "OK":
        raise InvalidLnurl("the service neither agrees nor refuses")


def _answer(body: str) -> dict[str, Any]:
    """A JSON object that is no error."""
    try:
        raw = orjson.loads(body)
    except ValueError:
        raw = None
    if not isinstance(raw, dict):
        raise InvalidLnurl("what is there does not speak LNURL")
    if str(raw.get("status")).upper() == "ERROR":
        reason = raw.get("reason")
        told = reason[:REASON_CHARS_MAX] if isinstance(reason, str) and reason else "it gives no reason"
        raise LnurlRefused(f"the LNURL service refused: {told}")
    return raw


def _tagged(body: str, tag: str) -> dict[str, Any]:
    raw = _answer(body)
    if raw.get("tag") != tag:
        wanted = "takes payments" if tag == "payRequest" else "pays out"
        raise InvalidLnurl(f"the LNURL does not lead to a service that {wanted}")
    return raw


def _amount(raw: Mapping[str, Any], name: str) -> int:
    value = raw.get(name)
    if type(value) is not int or not 0 <= value <= AMOUNT_MSAT_MAX:
        raise InvalidLnurl(f"the service's {name} is no amount in millisats")
    return value


def _callback(raw: Mapping[str, Any], allow_private: bool) -> str:
    callback = raw.get("callback")
    if not isinstance(callback, str):
        raise InvalidLnurl("the service names no callback")
    service_url(callback, allow_private=allow_private)
    return callback.partition("#")[0]


def _described(metadata: str) -> str:
    """The `text/plain` of metadata. Raises `InvalidLnurl` unless there is exactly one."""
    try:
        entries = orjson.loads(metadata)
    except ValueError:
        entries = None
    if not isinstance(entries, list) or not all(isinstance(entry, list) for entry in entries):
        raise InvalidLnurl("the service's metadata are not a list of lists")
    plain = [entry[1] for entry in entries if len(entry) > 1 and entry[0] == "text/plain"]
    if len(plain) != 1 or not isinstance(plain[0], str):
        raise InvalidLnurl("the service's metadata must describe the payment once")
    return plain[0][:DESCRIPTION_CHARS_MAX]


def _payer_fields(raw: object) -> dict[str, bool]:
    if raw is None:
        return {}
    if not isinstance(raw, dict) or len(raw) > PAYER_FIELDS_MAX:
        raise InvalidLnurl("what the service wants to know of the payer cannot be read")
    return {
        name: isinstance(wish, dict) and wish.get("mandatory") is True
        for name, wish in raw.items()
        if wish is not None
    }


def _success(raw: object, host: str | None, allow_private: bool) -> SuccessAction | None:
    match raw:
        case None:
            return None
        case {"tag": "message", "message": str(message)}:
            action = SuccessAction(message)
        case {"tag": "url", "description": str(message), "url": str(text)}:
            url = service_url(text, allow_private=allow_private)
            if url.host != host:
                raise InvalidLnurl("the service would send you to another host once you have paid: not paid")
            action = SuccessAction(message, text)
        case _:
            raise InvalidLnurl("the service promises something this wallet cannot show: not paid")
    if len(action.message) > MESSAGE_CHARS_MAX:
        raise InvalidLnurl(f"the service's message is longer than {MESSAGE_CHARS_MAX} characters: not paid")
    return action


def _verify_url(raw: object, host: str | None, allow_private: bool) -> str | None:
    if not isinstance(raw, str):
        return None
    try:
        return raw if service_url(raw, allow_private=allow_private).host == host else None
    except InvalidLnurl:
        return None
