"""Payment requests (`creqA…`, NUT-18; `creqb1…` is read too, NUT-26) and the payload that answers them."""

from dataclasses import dataclass
from typing import Final

import orjson

from wallet.creqb import read_creqb
from wallet.encoding import from_base64url, from_cbor, to_base64url, to_cbor
from wallet.errors import InvalidRequest, LimitExceeded
from wallet.locks import Condition
from wallet.proofs import AMOUNT_MAX, Proof, parse_proof
from wallet.token import PROOFS_MAX

REQUEST_CHARS_MAX: Final = 16_384
PAYLOAD_BYTES_MAX: Final = 262_144
_ITEMS_MAX: Final = 32  # mints, transports, tags, and values of a tag


@dataclass(frozen=True)
class Transport:
    """One way to deliver a payment: `nostr` to an nprofile, or `post` to a URL."""

    type: str
    target: str
    tags: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class PaymentRequest:
    """What a payee asks for; `amount` is in `unit`.

    Without a transport the payment goes back the way the request came. `condition` is the lock
    asked for: `lock_condition(lock)` makes it, `condition.to_lock()` reads it.
    """

    id: str | None = None
    amount: int | None = None
    unit: str | None = None
    single_use: bool | None = None
    mints: tuple[str, ...] = ()
    description: str | None = None
    transports: tuple[Transport, ...] = ()
    condition: Condition | None = None


@dataclass(frozen=True)
class PaymentPayload:
    """The coins that answer a request, and the request's id."""

    mint: str
    unit: str
    proofs: tuple[Proof, ...]
    id: str | None = None
    memo: str | None = None


def encode_request(request: PaymentRequest) -> str:
    """Write `creqA…`, unpadded. Raises `ValueError` for an amount without a unit."""
    if request.amount is not None and request.unit is None:
        raise ValueError("a payment request with an amount names its unit")
    members = {
        "i": request.id,
        "a": request.amount,
        "u": request.unit,
        "s": request.single_use,
        "m": list(request.mints) or None,
        "d": request.description,
        "t": [_without_none(t=t.type, a=t.target, g=_lists(t.tags)) for t in request.transports] or None,
        "nut10": request.condition
        and _without_none(
            k=request.condition.kind, d=request.condition.data, t=_lists(request.condition.tags)
        ),
    }
    return "creqA" + to_base64url(to_cbor(_without_none(**members)))


def parse_request(text: str) -> PaymentRequest:
    """Read `creqA…`, padded or not, in either base64 alphabet, or `creqb1…` in either case (NUT-26).

    Raises `InvalidRequest`, `LimitExceeded`.
    """
    if len(text) > REQUEST_CHARS_MAX:
        raise LimitExceeded(
            f"a payment request has at most {REQUEST_CHARS_MAX} characters, this one {len(text)}"
        )
    raw = _members(text.strip())
    amount, unit, single_use = raw.get("a"), _text(raw, "u"), raw.get("s")
    if amount is not None and (type(amount) is not int or not 0 < amount <= AMOUNT_MAX or unit is None):
        raise InvalidRequest("a requested amount is a whole number above zero, of a named unit")
    if single_use is not None and not isinstance(single_use, bool):
        raise InvalidRequest("whether a payment request is for single use is yes or no")
    return PaymentRequest(
        id=_text(raw, "i"),
        amount=amount,
        unit=unit,
        single_use=single_use,
        mints=tuple(_texts(_list(raw, "m"))),
        description=_text(raw, "d"),
        transports=tuple(_parse_transport(transport) for transport in _list(raw, "t")),
        condition=_parse_condition(raw.get("nut10")),
    )


def _members(body: str) -> dict[object, object]:
    """The members of either encoding, named as in NUT-18, not yet checked."""
    try:
        if body[:6].lower() == "creqb1":
            return read_creqb(body)
        if body.startswith("creqA"):
            raw = from_cbor(from_base64url(body[5:]))
            if isinstance(raw, dict):
                return raw
            raise InvalidRequest("a payment request is a map")
    except ValueError:
        raise InvalidRequest("the payment request is damaged: copy the whole of it") from None
    raise InvalidRequest("a payment request begins with creqA or creqb1")


def encode_payload(payload: PaymentPayload) -> str:
    """The payload as JSON, DLEQ with `r` included: for the payee's eyes only."""
    proofs = [proof.to_receiver() for proof in payload.proofs]
    members = _without_none(
        id=payload.id, memo=payload.memo, mint=payload.mint, unit=payload.unit, proofs=proofs
    )
    return orjson.dumps(members).decode()


def parse_payload(text: str | bytes) -> PaymentPayload:
    """Read a payload. Raises `InvalidRequest` for its form, `InvalidToken` for its coins, `LimitExceeded`."""
    if len(text) > PAYLOAD_BYTES_MAX:
        raise LimitExceeded(f"a payment has at most {PAYLOAD_BYTES_MAX} bytes")
    try:
        raw = orjson.loads(text)
    except ValueError:
        raise InvalidRequest("the payment is not JSON") from None
    match raw:
        case {"mint": str(mint), "unit": str(unit), "proofs": list(coins), **_rest} if coins:
            pass
        case _:
            raise InvalidRequest("a payment names its mint and unit and holds coins")
    if len(coins) > PROOFS_MAX:
        raise LimitExceeded(f"a payment may hold {PROOFS_MAX} coins, this one holds {len(coins)}")
    proofs = tuple(parse_proof(coin) for coin in coins)
    return PaymentPayload(mint, unit, proofs, _text(raw, "id"), _text(raw, "memo"))


def _parse_transport(raw: object) -> Transport:
    match raw:
        case {"t": str(kind), "a": str(target), **others}:
            return Transport(kind, target, _parse_tags(others, "g"))
    raise InvalidRequest("a transport has a type and a target")


def _parse_condition(raw: object) -> Condition | None:
    match raw:
        case None:
            return None
        case {"k": str(kind), "d": str(data), **others}:
            return Condition(kind, data, _parse_tags(others, "t"))
    raise InvalidRequest("a requested lock has a kind and data")


def _parse_tags(raw: dict[object, object], name: str) -> tuple[tuple[str, ...], ...]:
    tags = []
    for tag in _list(raw, name):
        if not isinstance(tag, list) or not 0 < len(tag) <= _ITEMS_MAX:
            raise InvalidRequest("a tag is a list of texts")
        tags.append(tuple(_texts(tag)))
    return tuple(tags)


def _text(raw: dict[object, object], name: str) -> str | None:
    value = raw.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"{name!r} of a payment is text")
    return value


def _list(raw: dict[object, object], name: str) -> list[object]:
    value = raw.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > _ITEMS_MAX:
        raise InvalidRequest(f"{name!r} of a payment request is a list of at most {_ITEMS_MAX}")
    return value


def _texts(values: list[object]) -> list[str]:
    texts = [value for value in values if isinstance(value, str) and value]
    if len(texts) != len(values):
        raise InvalidRequest("a payment request has lists of texts, none of them empty")
    return texts


def _lists(tags: tuple[tuple[str, ...], ...]) -> list[list[str]] | None:
    return [list(tag) for tag in tags] or None


def _without_none(**members: object) -> dict[str, object]:
    return {name: value for name, value in members.items() if value is not None}
