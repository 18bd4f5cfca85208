"""Cashu tokens, V3 and V4 (NUT-00)."""

from typing import Literal

import cbor2

from fuzz.kit import as_json, text_of, texts, vectors
from wallet.encoding import from_base64url, from_cbor, to_base64url, to_cbor
from wallet.errors import LimitExceeded, WalletError
from wallet.proofs import AMOUNT_MAX, SECRET_CHARS_MAX, Dleq, Proof, Token
from wallet.token import MINT_CHARS_MAX, PROOFS_MAX, TOKEN_CHARS_MAX, encode_token, parse_token


def _text(data: bytes) -> None:
    text = text_of(data)
    try:
        token = parse_token(text)
    except WalletError as error:
        _check_tells_nothing(text, error)
        return
    _check(token)


def _v3(data: bytes) -> None:
    _text(("cashuA" + to_base64url(data)).encode())


def _v4(data: bytes) -> None:
    _text(("cashuB" + to_base64url(data)).encode())


def _cbor(data: bytes) -> None:
    try:
        value = from_cbor(data)
    except ValueError:
        return
    try:
        assert repr(from_cbor(to_cbor(value))) == repr(value)
    except cbor2.CBOREncodeError:
        assert "CBORSimpleValue" in repr(value)


def _check(token: Token) -> None:
    assert 0 < len(token.proofs) <= PROOFS_MAX
    assert 0 < len(token.mint) <= MINT_CHARS_MAX
    assert all(0 < p.amount <= AMOUNT_MAX and len(p.secret) <= SECRET_CHARS_MAX for p in token.proofs)
    versions: tuple[Literal[3, 4], ...] = (3, 4)
    for version in versions:
        try:
            text = encode_token(token, version=version)
        except LimitExceeded:
            continue
        assert len(text) <= TOKEN_CHARS_MAX
        assert parse_token(text) == token
        assert encode_token(parse_token(text), version=version) == text


def _check_tells_nothing(text: str, error: WalletError) -> None:
    assert len(text) < 40 or text[6:] not in str(error)


CHECKS = {"text": _text, "v3": _v3, "v4": _v4, "cbor": _cbor}
_POINT = "02" + "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
_COINS = (
    Proof(8, "009a1f293253e41e", "a secret", _POINT, Dleq("01" * 32, "02" * 32, "03" * 32)),
    Proof(
        1,
        "009a1f293253e41e",
        '["P2PK",{"nonce":"00","data":"02","tags":[]}]',
        _POINT,
        None,
        '{"signatures":[]}',
    ),
    Proof(AMOUNT_MAX, "01" * 33, "é", _POINT),
)
_TOKENS = [
    Token("https://mint.example", _COINS, "sat", "a memo"),
    Token("https://mint.example/path", _COINS[:1]),
]
_WRITTEN = [encode_token(token, version=version) for token in _TOKENS for version in (3, 4)]
_OFFICIAL = [text for text in texts(vectors("wallet/nut00.json")) if text.startswith("cashu")]
SEEDS = [
    ("text", b"cashu:" + _WRITTEN[0].encode()),
    *(("text", text.encode()) for text in (*_WRITTEN, *_OFFICIAL)),
    *(("v3", from_base64url(text[6:])) for text in (*_WRITTEN, *_OFFICIAL) if text.startswith("cashuA")),
    *(("v4", from_base64url(text[6:])) for text in (*_WRITTEN, *_OFFICIAL) if text.startswith("cashuB")),
    ("v3", as_json({"token": [{"mint": "m", "proofs": []}] * 2, "unit": "usd"})),
    ("cbor", to_cbor({"a": [1, b"x", "y", None, True, 1.5, -1], "b": {"c": {}}})),
]
WORDS = ("cashuA", "cashuB", "cashu:", "token", "mint", "proofs", "unit", "memo", "amount", "id", "secret", "C", "dleq",
         "witness", "e", "s", "r", "m", "u", "d", "t", "i", "p", "a", "c", "w", _POINT, "009a1f293253e41e")  # fmt: skip
