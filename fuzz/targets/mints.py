"""What mints answer: refusals, every answer we read, keysets, and how their URLs are spelt (NUT-00 … NUT-09)."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import orjson

from fuzz.kit import ALICE, as_json, finished, text_of, vectors
from wallet.errors import InvalidKeyset, MintError, MintUnavailable, UnknownMint
from wallet.keysets import (
    KEYS_MAX,
    Keyset,
    check_keys,
    check_keyset,
    is_short_id,
    keyset_id_v1,
    parse_keys,
    resolve_short_id,
)
from wallet.mint import BlindedMessage, MintClient, _judge, normalise_mint_url
from wallet.proofs import Proof

_URL: Final = "https://mint.example"
_ID: Final = "009a1f293253e41e"
_OUTPUTS: Final = [BlindedMessage(1, _ID, ALICE.compressed_public_key)]
_COIN: Final = Proof(1, _ID, "a secret", ALICE.compressed_public_key)

_CALLS: Final[tuple[Callable[[MintClient], Awaitable[Any]], ...]] = (
    lambda client: client.info(),
    lambda client: client.keysets(),
    lambda client: client.keys(_ID),
    lambda client: client.mint_quote(8, ALICE.compressed_public_key),
    lambda client: client.mint_quote_state("quote"),
    lambda client: client.mint("quote", _OUTPUTS, "00"),
    lambda client: client.melt_quote("lnbc1"),
    lambda client: client.melt_quote_state("quote"),
    lambda client: client.melt("quote", [_COIN], _OUTPUTS),
    lambda client: client.swap([_COIN], _OUTPUTS),
    lambda client: client.check_state([ALICE.compressed_public_key]),
    lambda client: client.restore(_OUTPUTS),
)


class _Answering:
    """A transport whose mint says this to everything."""

    def __init__(self, status: int, raw: bytes) -> None:
        self._status = status
        self._raw = raw

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return _judge(_URL, self._status, self._raw)

    async def close(self) -> None:
        return


def _answer(data: bytes) -> None:
    """The same answer to each of our questions."""
    client = MintClient(_URL, _Answering(200, data))
    for ask in _CALLS:
        try:
            answer: Any = finished(ask(client))  # type: ignore[arg-type]  # all of them are coroutines
        except MintUnavailable:
            continue
        for number in _numbers(answer):
            assert -(2**63) <= number < 2**63, f"{number} is beyond what the database holds"
    with suppress(MintUnavailable, InvalidKeyset):
        for entry in finished(client.keysets()):
            keys = finished(client.keys(entry.id))
            check_keyset(
                Keyset(entry.id, entry.unit, entry.active, entry.input_fee_ppk or 0, entry.final_expiry, keys)
            )


def _numbers(answer: Any) -> list[int]:
    """All numbers in an answer that may be stored."""
    if isinstance(answer, bool):
        return []
    if isinstance(answer, int):
        return [answer]
    if isinstance(answer, dict):
        return [number for one in (*answer, *answer.values()) for number in _numbers(one)]
    if isinstance(answer, list):
        return [number for one in answer for number in _numbers(one)]
    fields = getattr(answer, "__struct_fields__", ())
    return [number for name in fields if name != "nuts" for number in _numbers(getattr(answer, name))]


def _refusal(data: bytes) -> None:
    if len(data) < 2:
        return
    status = int.from_bytes(data[:2]) % 600
    try:
        _judge(_URL, status, data[2:])
    except MintError as error:
        assert 400 <= status < 500
        assert len(error.detail) <= 200
        assert "A" * 32 not in str(error)
    except MintUnavailable:
        assert status != 200 or not _is_json(data[2:])
    else:
        assert status == 200


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def _keys(data: bytes) -> None:
    try:
        keys = parse_keys(orjson.loads(data))
    except (orjson.JSONDecodeError, InvalidKeyset):
        return
    check_keys(keys)
    assert 0 < len(keys) <= KEYS_MAX
    assert parse_keys({str(amount): key for amount, key in keys.items()}) == keys
    assert keyset_id_v1(keys) == keyset_id_v1(dict(reversed(keys.items())))


def _ids(data: bytes) -> None:
    short, *known = text_of(data).split(",")
    try:
        whole = resolve_short_id(short, known)
    except InvalidKeyset:
        return
    assert whole in known
    assert whole == short or (is_short_id(short) and whole.startswith(short))


def _url(data: bytes) -> None:
    try:
        url = normalise_mint_url(text_of(data))
    except UnknownMint:
        return
    assert normalise_mint_url(url) == url
    assert url == url.strip()


CHECKS = {"answer": _answer, "refusal": _refusal, "keys": _keys, "ids": _ids, "url": _url}
_KEYS = [case["keys"] for case in (*vectors("wallet/nut02.json")["v1"], *vectors("wallet/nut02.json")["v2"])]
_SIGNATURE = {
    "id": _ID,
    "amount": 1,
    "C_": ALICE.compressed_public_key,
    "dleq": {"e": "01" * 32, "s": "02" * 32},
}
_ANSWERS: list[dict[str, object]] = [
    {"nuts": {"7": {"supported": True}}, "name": "a", "version": "b/1", "time": 1},
    {"keysets": [{"id": _ID, "unit": "sat", "active": True, "input_fee_ppk": 100, "final_expiry": 2}]},
    {"keysets": [{"id": _ID, "unit": "sat", "active": True, "keys": {"1": ALICE.compressed_public_key}}]},
    {"quote": "quote", "request": "lnbc80n1", "state": "UNPAID", "amount": 8, "expiry": 1_700_000_000},
    {"quote": "quote", "amount": 8, "fee_reserve": 1, "state": "PAID", "change": [_SIGNATURE]},
    {"signatures": [_SIGNATURE]},
    {"states": [{"Y": ALICE.compressed_public_key, "state": "SPENT", "witness": "{}"}]},
    {"outputs": [{"B_": ALICE.compressed_public_key, "amount": 1, "id": _ID}], "signatures": [_SIGNATURE]},
]
SEEDS = [
    *(("answer", as_json(answer)) for answer in _ANSWERS),
    *(("answer", as_json({"keysets": [case | {"unit": "sat", "active": True}]})) for case in vectors("wallet/nut02.json")["v2"]),
    ("refusal", (400).to_bytes(2) + as_json({"detail": "Token already spent.", "code": 11001})),
    ("refusal", (422).to_bytes(2) + as_json({"detail": [{"loc": []}], "code": "x"})),
    ("refusal", (200).to_bytes(2) + b"{}"),
    ("refusal", (502).to_bytes(2) + b"<html>"),
    *(("keys", as_json(keys)) for keys in (*_KEYS, *vectors("wallet/nut01.json")["invalid_keys"])),
    ("ids", b"015ba18a8adcd02e,015ba18a8adcd02e715a58358eb618da4a4b3791151a4bee5e968bb88406ccf76a,009a1f293253e41e"),
    *(("url", url) for url in (b"https://Mint.Example:443/a/", b"http://[::1]:3338", b"http://127.0.0.1:80//x")),
]  # fmt: skip
WORDS = ("quote", "request", "state", "amount", "expiry", "fee_reserve", "change", "signatures", "id", "C_", "dleq", "keysets",
         "unit", "sat", "active", "input_fee_ppk", "final_expiry", "keys", "nuts", "supported", "time", "states", "Y", "outputs",
         "B_", "detail", "code", "UNPAID", "PAID", "PENDING", "ISSUED", "SPENT", "http://", "https://", "[::1]", "@", ":443", "%")  # fmt: skip
