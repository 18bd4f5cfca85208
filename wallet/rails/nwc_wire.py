"""Nostr Wallet Connect on the wire (NIP-47): the connection URI, requests, answers, notifications. Pure.

Methods are asked for only if the wallet's info event lists them, which holds for the NIP and for the numbered
extensions it is being split into (hold invoices are one) alike.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from identity import Event, InvalidKey, SecretKey, check_public_key
from relay_bridge import usable_relays
from wallet.errors import InvalidRequest, RailUnavailable

INFO: Final = 13194
REQUEST: Final = 23194
ANSWER: Final = 23195
NOTIFICATION: Final = 23197
NOTIFICATION_NIP04: Final = 23196

_SCHEME: Final = "nostr+walletconnect"
_URI_CHARS_MAX: Final = 4096
_METHODS_MAX: Final = 64
_MSAT_MAX: Final = 21_000_000 * 100_000_000 * 1000


class Encryption(StrEnum):
    """How requests are encrypted, as the `encryption` tags name it."""

    NIP44 = "nip44_v2"
    NIP04 = "nip04"


@dataclass(frozen=True)
class NwcUri:
    """A connection to somebody's wallet: whoever has the secret can spend what the wallet allows."""

    wallet_key: str
    relays: tuple[str, ...]
    secret: SecretKey = field(repr=False)


def parse_uri(text: str) -> NwcUri:
    """Read `nostr+walletconnect://<key>?relay=…&secret=…`. Raises `InvalidRequest`, which never repeats the text."""
    text = text.strip()
    if len(text) > _URI_CHARS_MAX:
        raise InvalidRequest(f"a wallet connection has at most {_URI_CHARS_MAX} characters")
    try:
        parts = urlsplit(text)
        query = parse_qsl(parts.query, max_num_fields=32)
    except ValueError:
        raise InvalidRequest("this wallet connection cannot be read: copy it whole from the wallet") from None
    if parts.scheme.lower() != _SCHEME:
        raise InvalidRequest(f"a wallet connection looks like {_SCHEME}://…?relay=wss://…&secret=…")
    relays = usable_relays([value for name, value in query if name == "relay"])
    secrets = {value for name, value in query if name == "secret"}
    if not relays or len(secrets) != 1:
        raise InvalidRequest(
            "a wallet connection names one secret and a relay: copy it whole from the wallet"
        )
    try:
        return NwcUri(check_public_key(parts.netloc or parts.path), relays, SecretKey.from_hex(secrets.pop()))
    except InvalidKey:
        raise InvalidRequest(
            "this wallet connection holds a key that is none: copy it whole from the wallet"
        ) from None


@dataclass(frozen=True)
class Info:
    """What a wallet says it can do."""

    methods: frozenset[str]
    encryption: Encryption
    notifies: bool  # of payments to us


def parse_info(event: Event) -> Info:
    """Read an info event. Raises `RailUnavailable` if the wallet knows only encryptions that we do not."""
    methods = frozenset(event.content.split()[:_METHODS_MAX])
    schemes = [word for tag in event.tags_named("encryption") for value in tag[1:] for word in value.split()]
    if Encryption.NIP44 in schemes:
        encryption = Encryption.NIP44
    elif not schemes or Encryption.NIP04 in schemes:  # wallets from before the tag know only that
        encryption = Encryption.NIP04
    else:
        raise RailUnavailable(f"the wallet knows only encryptions that we do not: {' '.join(schemes)[:100]}")
    told = [word for tag in event.tags_named("notifications") for value in tag[1:] for word in value.split()]
    return Info(methods, encryption, "payment_received" in told)


class Answer(msgspec.Struct, frozen=True):
    """What a wallet answered: a result, or an error by its code."""

    result_type: str
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Answer(result_type={self.result_type!r}, …)"  # a result may hold a preimage


class _Notification(msgspec.Struct):
    notification_type: str
    notification: dict[str, Any]


_ANSWERS: Final = msgspec.json.Decoder(Answer)
_NOTIFICATIONS: Final = msgspec.json.Decoder(_Notification)
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)


def encode_request(method: str, params: Mapping[str, Any]) -> str:
    """The plaintext of a request; what is None is left out."""
    given = {name: value for name, value in params.items() if value is not None}
    return msgspec.json.encode({"method": method, "params": given}).decode()


def parse_answer(plaintext: str, method: str) -> Answer:
    """Read the plaintext of an answer to `method`. Raises `RailUnavailable`: then nothing is known."""
    try:
        answer = _ANSWERS.decode(plaintext)
    except _UNREADABLE:
        raise RailUnavailable(f"the wallet's answer to {method} cannot be read") from None
    if answer.result_type != method or (answer.result is None) == (answer.error is None):
        raise RailUnavailable(f"the wallet's answer to {method} is none")
    return answer


def paid_hash(plaintext: str) -> str | None:
    """The payment hash of which a notification says that it was paid to us; None if it says something else."""
    try:
        told = _NOTIFICATIONS.decode(plaintext)
    except _UNREADABLE:
        return None
    found = told.notification.get("payment_hash")
    return found if told.notification_type == "payment_received" and _is_hash(found) else None


class Stage(StrEnum):
    """Where a wallet says a payment stands, either way."""

    PENDING = "pending"  # or held, or in flight
    SETTLED = "settled"
    FAILED = "failed"


@dataclass(frozen=True)
class Transaction:
    """An invoice or a payment, as `lookup_invoice` and `make_invoice` tell it."""

    stage: Stage
    incoming: bool
    invoice: str = field(repr=False)
    payment_hash: str
    amount_msat: int
    fees_msat: int
    preimage: str | None = field(default=None, repr=False)  # only one that fits the hash


def parse_transaction(result: Mapping[str, Any]) -> Transaction:
    """Read leniently what wallets write in many ways; what is missing is empty.

    Wallets tell the preimage of unpaid invoices too, so it settles nothing that comes in.
    """
    told = result.get("payment_hash")
    payment_hash = str(told) if _is_hash(told) else ""
    preimage = fitting_preimage(result.get("preimage"), payment_hash)
    incoming = result.get("type") != "outgoing"
    match result.get("state"):
        case "settled":
            stage = Stage.SETTLED
        case "failed" | "expired":
            stage = Stage.FAILED
        case None | "" if result.get("settled_at") or (preimage and not incoming):
            stage = Stage.SETTLED
        case _:
            stage = Stage.PENDING
    invoice = result.get("invoice")
    return Transaction(
        stage, incoming, invoice if isinstance(invoice, str) else "", payment_hash,
        msat(result.get("amount")), msat(result.get("fees_paid")), preimage,
    )  # fmt: skip


def fitting_preimage(text: Any, payment_hash: str) -> str | None:
    """A preimage (32 bytes hex) if it is the one of that payment hash, which proves that it was paid; else None."""
    if not _is_hash(text) or hashlib.sha256(bytes.fromhex(text)).hexdigest() != payment_hash:
        return None
    return str(text)


def msat(value: Any) -> int:
    """An amount as a wallet tells it; 0 for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MSAT_MAX else 0


def _is_hash(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 64 and not set(text) - set("0123456789abcdef")
