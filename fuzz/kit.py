"""What several targets need: keys, official vectors, and coroutines that never wait."""

import hashlib
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import bolt11

from identity.event import Event, Rumor, make_template, sign_event
from identity.keys import SecretKey

ALICE: Final = SecretKey(bytes([1]) * 32)
BOB: Final = SecretKey(bytes([2]) * 32)
NOW: Final = 1_700_000_000
_TESTS: Final = Path(__file__).parent.parent / "tests"

_T = TypeVar("_T")


def vectors(name: str) -> Any:
    """An official vector file, `package/file.json`."""
    package, file = name.split("/")
    return json.loads((_TESTS / package / "vectors" / file).read_text(encoding="utf-8"))


def texts(value: Any) -> list[str]:
    """Every text in JSON data."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in texts(one)]


def as_json(value: object) -> bytes:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


def make_invoice(amount_msat: int, *, hashed: str | None = None, preimage: bytes = bytes([7]) * 32) -> str:
    """An invoice as a service makes it, of `NOW`; `hashed`: the text whose hash it carries, if any."""
    tags = bolt11.Tags()
    tags.add(bolt11.TagChar.payment_hash, hashlib.sha256(preimage).hexdigest())
    tags.add(bolt11.TagChar.payment_secret, "11" * 32)
    if hashed is None:
        tags.add(bolt11.TagChar.description, "a service")
    else:
        tags.add(bolt11.TagChar.description_hash, hashlib.sha256(hashed.encode()).hexdigest())
    amount = bolt11.MilliSatoshi(amount_msat)
    invoice = bolt11.Bolt11(currency="bc", amount_msat=amount, date=NOW, tags=tags)
    return bolt11.encode(invoice, "22" * 32)


def text_of(data: bytes) -> str:
    """Bytes as some text; what is no UTF-8 becomes lone surrogates, which texts from outside may hold too."""
    return data.decode("utf-8", "surrogateescape")


def signed(kind: int, content: str = "", tags: list[list[str]] | None = None) -> Event:
    """An event of Alice's."""
    return sign_event(make_template(kind, content=content, tags=tags or [], created_at=NOW), ALICE)


def as_verified(rumor: Rumor) -> Event:
    """The event behind the door that this would be: what reads tags does not look at the signature."""
    return Event(
        id=rumor.id, pubkey=rumor.pubkey, created_at=rumor.created_at, kind=rumor.kind,
        tags=rumor.tags, content=rumor.content, sig="0" * 128,
    )  # fmt: skip


def finished(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """The result of a coroutine that never waits: no event loop needed."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: _T = stop.value
        return result
    raise AssertionError("it waited")
