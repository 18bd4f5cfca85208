"""Payment requests and the payloads that answer them (NUT-18)."""

from contextlib import suppress

from fuzz.kit import ALICE, as_json, text_of, texts, vectors
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
from wallet.proofs import AMOUNT_MAX, P2PKLock, Proof, Token
from wallet.token import PROOFS_MAX, encode_token


def _text(data: bytes) -> None:
    try:
        request = parse_request(text_of(data))
    except WalletError:
        return
    written = encode_request(request)
    assert parse_request(written) == request
    assert encode_request(parse_request(written)) == written
    assert len(written) <= REQUEST_CHARS_MAX + 8  # it may have left out what is a default
    assert request.amount is None or (0 < request.amount <= AMOUNT_MAX and request.unit is not None)
    if request.condition is not None:
        with suppress(WrongLock):
            lock = request.condition.to_lock()
            assert lock_condition(lock).to_lock() == lock


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


CHECKS = {"text": _text, "cbor": _cbor, "payload": _payload}
_KEY = ALICE.compressed_public_key
_REQUEST = PaymentRequest(
    id="abc", amount=10, unit="sat", single_use=True, mints=("https://mint.example",), description="é",
    transports=(Transport("nostr", "nprofile1", (("n", "17"),)), Transport("post", "https://x.example")),
    condition=lock_condition(P2PKLock(_KEY, 1_800_000_000, (_KEY,))),
)  # fmt: skip
_COIN = Proof(8, "009a1f293253e41e", "a secret", _KEY)
_TEXTS = [encode_request(_REQUEST)] + [
    text for text in texts(vectors("wallet/nut18.json")) if text.startswith("creqA")
]
SEEDS = [
    *(("text", text.encode()) for text in _TEXTS),
    *(("cbor", from_base64url(text[5:])) for text in _TEXTS),
    ("payload", encode_payload(PaymentPayload("https://mint.example", "sat", (_COIN, _COIN), "abc", "memo")).encode()),
    ("payload", as_json({"mint": "m", "unit": "u", "proofs": []})),
]  # fmt: skip
WORDS = ("creqA", "i", "a", "u", "s", "m", "d", "t", "g", "nut10", "k", "P2PK", "HTLC", "locktime", "refund", "pubkeys",
         "n_sigs", "sigflag", "SIG_INPUTS", "mint", "unit", "proofs", "id", "memo", "amount", "secret", "C", _KEY)  # fmt: skip
