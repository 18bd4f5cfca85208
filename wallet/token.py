"""Cashu tokens as text: V3 (`cashuA`, JSON) and V4 (`cashuB`, CBOR), both ways (NUT-00)."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Final, Literal

import orjson

from wallet.encoding import from_base64url, from_cbor, to_base64url, to_cbor
from wallet.errors import InvalidToken, LimitExceeded
from wallet.keysets import resolve_short_id
from wallet.proofs import SAT, Proof, Token, is_utf8, parse_proof

TOKEN_CHARS_MAX: Final = 262_144
PROOFS_MAX: Final = 100
MINT_CHARS_MAX: Final = 512
_UNIT: Final = re.compile(r"[a-z0-9_-]{1,32}")


def parse_token(text: str, known_keysets: Iterable[str] = ()) -> Token:
    """Read a V3 or V4 token, with or without `cashu:` and padding; the coins are not checked yet.

    Short keyset ids are resolved against `known_keysets` if any are given; without, call `resolve_ids` later.
    Raises `InvalidToken`, `LimitExceeded`, and `InvalidKeyset` for an id that does not resolve.
    """
    _check_length(text)
    body = text.strip().removeprefix("cashu:").removeprefix("//")
    try:
        if body.startswith("cashuA"):
            token = _read_v3(orjson.loads(from_base64url(body[6:])))
        elif body.startswith("cashuB"):
            token = _read_v4(from_cbor(from_base64url(body[6:])))
        else:
            raise InvalidToken("a token begins with cashuA or cashuB")
    except ValueError:
        raise InvalidToken("the token is damaged: copy the whole of it") from None
    known = list(known_keysets)
    return resolve_ids(token, known) if known else token


def resolve_ids(token: Token, keyset_ids: Iterable[str]) -> Token:
    """The token with whole keyset ids.

    Raises `InvalidKeyset` for an id that is none of the mint's, or ambiguous.
    """
    known = set(keyset_ids)
    whole = {short: resolve_short_id(short, known) for short in {proof.id for proof in token.proofs}}
    return replace(token, proofs=tuple(replace(proof, id=whole[proof.id]) for proof in token.proofs))


def encode_token(token: Token, *, version: Literal[3, 4] = 4) -> str:
    """Write a token, unpadded, with DLEQ and witnesses, keyset ids as they are.

    Raises `InvalidToken` and `LimitExceeded` for what `parse_token` would refuse.
    """
    token = _checked(token.mint, [parse_proof(p.to_receiver()) for p in token.proofs], token.unit, token.memo)
    if version == 3:
        text = "cashuA" + to_base64url(orjson.dumps(_to_v3(token)))
    else:
        text = "cashuB" + to_base64url(to_cbor(_to_v4(token)))
    _check_length(text)
    return text


def _checked(mint: object, proofs: list[Proof], unit: object, memo: object) -> Token:
    _check_count(len(proofs))
    mint = mint.rstrip("/") if isinstance(mint, str) else None
    if mint is None or not 0 < len(mint) <= MINT_CHARS_MAX or not is_utf8(mint):
        raise InvalidToken(f"a token names its mint by a URL of at most {MINT_CHARS_MAX} characters")
    if not isinstance(unit, str) or not _UNIT.fullmatch(unit):
        raise InvalidToken("a token's unit is a short lowercase word")
    if memo is not None and not (isinstance(memo, str) and is_utf8(memo)):
        raise InvalidToken("a token's memo is text")
    if not proofs:
        raise InvalidToken("the token holds no coins")
    return Token(mint, tuple(proofs), unit, memo)


def _read_v3(raw: object) -> Token:
    match raw:
        case {"token": [{"mint": str(mint)}, *_] as entries, **rest}:
            pass
        case _:
            raise InvalidToken("a V3 token is a list of mints with their coins")
    coins: list[object] = []
    for entry in entries:
        match entry:
            case {"mint": str(other), "proofs": list(more)} if other.rstrip("/") == mint.rstrip("/"):
                coins += more
            case _:
                raise InvalidToken("the token holds coins of several mints: split it and send one for each")
    _check_count(len(coins))
    unit = rest.get("unit")
    return _checked(
        mint, [parse_proof(coin) for coin in coins], SAT if unit is None else unit, rest.get("memo")
    )


def _read_v4(raw: object) -> Token:
    match raw:
        case {"m": mint, "u": unit, "t": list(groups), **rest}:
            coins = list(_v4_coins(groups))
            return _checked(mint, [parse_proof(coin) for coin in coins], unit, rest.get("d"))
    raise InvalidToken("a V4 token is a map of mint, unit and coins by keyset")


def _v4_coins(groups: list[object]) -> Iterator[dict[str, object]]:
    """Coins as the JSON objects that `parse_proof` reads."""
    count = 0
    for group in groups:
        match group:
            case {"i": bytes(keyset_id), "p": list(coins)}:
                count += len(coins)
                _check_count(count)
            case _:
                raise InvalidToken("coins in a V4 token are grouped under their keyset's id")
        for coin in coins:
            match coin:
                case {"a": amount, "s": secret, "c": bytes(signature), **rest}:
                    yield {
                        "amount": amount, "id": keyset_id.hex(), "secret": secret, "C": signature.hex(),
                        "dleq": _v4_dleq(rest.get("d")), "witness": rest.get("w"),
                    }  # fmt: skip
                case _:
                    raise InvalidToken("a coin in a V4 token has an amount, a secret and a signature")


def _v4_dleq(raw: object) -> dict[str, str] | None:
    match raw:
        case None:
            return None
        case {"e": bytes(e), "s": bytes(s), "r": bytes(r)}:
            return {"e": e.hex(), "s": s.hex(), "r": r.hex()}
    raise InvalidToken("a coin's DLEQ is e, s and r as bytes")


def _to_v3(token: Token) -> dict[str, object]:
    proofs = [proof.to_receiver() for proof in token.proofs]
    raw: dict[str, object] = {"token": [{"mint": token.mint, "proofs": proofs}], "unit": token.unit}
    if token.memo is not None:
        raw["memo"] = token.memo
    return raw


def _to_v4(token: Token) -> dict[str, object]:
    groups = [
        {"i": bytes.fromhex(keyset_id), "p": [_v4_coin(proof) for proof in proofs]}
        for keyset_id, proofs in groupby(token.proofs, key=lambda proof: proof.id)
    ]
    raw: dict[str, object] = {"t": groups}
    if token.memo is not None:
        raw["d"] = token.memo
    return raw | {"m": token.mint, "u": token.unit}


def _v4_coin(proof: Proof) -> dict[str, object]:
    raw: dict[str, object] = {"a": proof.amount, "s": proof.secret, "c": bytes.fromhex(proof.C)}
    if proof.dleq is not None and proof.dleq.r is not None:
        dleq = {"e": proof.dleq.e, "s": proof.dleq.s, "r": proof.dleq.r}
        raw["d"] = {name: bytes.fromhex(scalar) for name, scalar in dleq.items()}
    if proof.witness is not None:
        raw["w"] = proof.witness
    return raw


def _check_count(count: int) -> None:
    if count > PROOFS_MAX:
        raise LimitExceeded(f"a token may hold {PROOFS_MAX} coins, this one holds {count}: send several")


def _check_length(text: str) -> None:
    if len(text) > TOKEN_CHARS_MAX:
        raise LimitExceeded(
            f"a token has at most {TOKEN_CHARS_MAX} characters, this one {len(text)}: send several"
        )
