"""Payment requests and the payloads that answer them (NUT-18, NUT-26)."""

from contextlib import suppress

from fuzz.kit import ALICE, as_json, text_of, texts, vectors
from identity import bech32
from wallet.encoding import from_base64url, to_base64url
from wallet.errors import InvalidToken, WalletError, WrongLock
from wallet.locks import lock_condition
from wallet.payment_request import (
    REQUEST_CHARS_MAX,
    PaymentPayload,
    PaymentRequest,
    Transport,
    encode_payload,
    encode_request,
    parse_payload,
    parse_request,
)
from wallet.proofs import AMOUNT_MAX, Lock, Proof, Token
from wallet.token import PROOFS_MAX, encode_token


def _text(data: bytes) -> None:
    try:
        request = parse_request(text_of(data))
    except WalletError:
        return
    written = encode_request(request)
    assert parse_request(written) == request
    assert encode_request(parse_request(written)) == written
    # It may have left out what is a default; bech32m is longer than base64, but the names of nostr keys grow.
    assert len(written) <= (2 if text_of(data).strip()[:6].lower() == "creqb1" else 1) * REQUEST_CHARS_MAX + 8
    assert request.amount is None or (0 < request.amount <= AMOUNT_MAX and request.unit is not None)
    if request.condition is not None:
        with suppress(WrongLock):
            lock = request.condition.to_lock()
            assert lock_condition(lock).to_lock() == lock


def _tlv(data: bytes) -> None:
    digits = bech32._digits(data)
    checksum = bech32._polymod("creqb", digits + "q" * 6) ^ bech32.BECH32M
    letters = "".join(bech32._ALPHABET[checksum >> shift & 31] for shift in range(25, -1, -5))
    _text(f"creqb1{digits}{letters}".encode())


def _cbor(data: bytes) -> None:
    _text(("creqA" + to_base64url(data)).encode())


def _payload(data: bytes) -> None:
    try:
        payload = parse_payload(data)
    except WalletError:
        return
    assert 0 < len(payload.proofs) <= PROOFS_MAX
    assert parse_payload(encode_payload(payload)) == payload
    with suppress(InvalidToken):  # the unit and the mint are judged where it becomes a token
        encode_token(Token(payload.mint, payload.proofs, payload.unit, payload.memo))


CHECKS = {"text": _text, "cbor": _cbor, "tlv": _tlv, "payload": _payload}
_KEY = ALICE.compressed_public_key
_REQUEST = PaymentRequest(
    id="abc", amount=10, unit="sat", single_use=True, mints=("https://mint.example",), description="é",
    transports=(Transport("nostr", "nprofile1", (("n", "17"),)), Transport("post", "https://x.example")),
    condition=lock_condition(Lock(_KEY, 1_800_000_000, (_KEY,))),
)  # fmt: skip
_COIN = Proof(8, "009a1f293253e41e", "a secret", _KEY)
_TEXTS = [encode_request(_REQUEST)] + [
    text for text in texts(vectors("wallet/nut18.json")) if text.startswith("creqA")
]
_BECH32M = [text for text in texts(vectors("wallet/nut26.json")) if text.startswith("CREQB1")]
SEEDS = [
    *(("text", text.encode()) for text in _BECH32M),
    *(("tlv", bech32.decode(text, bech32.BECH32M)[1]) for text in _BECH32M),
    *(("text", text.encode()) for text in _TEXTS),
    *(("cbor", from_base64url(text[5:])) for text in _TEXTS),
    ("payload", encode_payload(PaymentPayload("https://mint.example", "sat", (_COIN, _COIN), "abc", "memo")).encode()),
    ("payload", as_json({"mint": "m", "unit": "u", "proofs": []})),
]  # fmt: skip
WORDS = ("creqA", "CREQB1", "i", "a", "u", "s", "m", "d", "t", "g", "nut10", "k", "P2PK", "HTLC", "locktime", "refund", "pubkeys",
         "n_sigs", "sigflag", "SIG_INPUTS", "mint", "unit", "proofs", "id", "memo", "amount", "secret", "C", _KEY)  # fmt: skip
