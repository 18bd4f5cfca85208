"""HTTP requests signed with a Nostr key (NIP-98): `Authorization: Nostr <base64 of an event>`. Pure.

Stricter than the NIP where it leaves a choice: a request with a body must be signed with its `payload`, and each tag
may stand there once. Whether the event was seen before is not judged here: its id is what to remember, for the window.
"""

import binascii
import hashlib
from base64 import b64encode
from collections.abc import Sequence
from typing import Final

from identity.errors import (
    InvalidEvent,
    InvalidSignedRequest,
    StaleSignature,
    WrongMethod,
    WrongPayload,
    WrongUrl,
)
from identity.event import Event, EventTemplate, make_template, parse_event

KIND: Final = 27235
SCHEME: Final = "Nostr"
#: How far a signature's time may be from ours, either way; seconds.
WINDOW_SECONDS: Final = 60
TOKEN_CHARS_MAX: Final = 8192  # more than HTTP servers take for one header

_NAMES: Final = ("u", "method", "payload")
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")  # of bytes: thrice as quick as of text


def make(*, url: str, method: str, body: bytes = b"", created_at: int, nonce: str) -> EventTemplate:
    """What to sign for one request. `url` is absolute, with its query, exactly as it is going to be asked for.

    `nonce` is a tag of ours, any text that is new: two requests that are alike, made in the same second, would else be
    the same event, and the second a replay.
    """
    tags = [["u", url], ["method", method], ["nonce", nonce]]
    if body:
        tags.append(["payload", hashlib.sha256(body).hexdigest()])
    return make_template(KIND, tags=tags, created_at=created_at)


def header(event: Event) -> str:
    """The value of `Authorization` for a signed event."""
    return f"{SCHEME} {b64encode(event.to_json()).decode()}"


def verify(token: str, *, urls: Sequence[str], method: str, body: bytes, now: int) -> Event:
    """The event of a request that is signed as it should be, with its id and signature checked.

    `token` is what follows `Nostr` in the header: base64 of either alphabet, padded or not. `urls` are the absolute
    URLs under which this request can have come, one of which must be signed to the letter. Methods are compared without
    regard to case: widespread clients sign `post`. Raises `InvalidSignedRequest`, of the class that fits.
    """
    event = _parse(token)
    if event.kind != KIND:
        raise InvalidSignedRequest(
            f"the event in Authorization is of kind {event.kind}; sign one of kind {KIND}"
        )
    check_age(event.created_at, now)
    told = _told(event)
    if told.get("u") not in urls:
        raise WrongUrl(f"the tag `u` is not this request's URL; sign {' or '.join(urls)}")
    if told.get("method", "").upper() != method:
        raise WrongMethod(f"the tag `method` is not this request's method; sign {method}")
    _check_payload(told.get("payload"), body)
    try:
        event.verify()
    except InvalidEvent as error:
        raise InvalidSignedRequest(f"the event in Authorization: {error}") from None
    return event


def check_age(created_at: int, now: int) -> None:
    """Raise `StaleSignature` unless a signature of this time can still count; both in Unix seconds."""
    age = now - created_at
    if age > WINDOW_SECONDS:
        raise StaleSignature(
            f"signed {age} s ago, and {WINDOW_SECONDS} s is the most; sign each request anew"
        )
    if age < -WINDOW_SECONDS:
        raise StaleSignature(f"signed {-age} s in the future: set your clock, and sign the request anew")


def _parse(token: str) -> Event:
    if len(token) > TOKEN_CHARS_MAX:
        raise InvalidSignedRequest(f"the event in Authorization is longer than {TOKEN_CHARS_MAX} characters")
    try:
        text = token.encode("ascii").translate(_STANDARD).rstrip(b"=")
        raw = binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except ValueError:  # of which binascii's own error is one, and that of a text that is not ASCII
        raise InvalidSignedRequest("what follows Nostr in Authorization is not base64") from None
    try:
        return parse_event(raw)
    except InvalidEvent as error:
        raise InvalidSignedRequest(f"the event in Authorization: {error}") from None


def _told(event: Event) -> dict[str, str]:
    """The values of the tags that count, each of which may be there once."""
    told: dict[str, str] = {}
    for tag in event.tags:
        if tag and (name := tag[0]) in _NAMES:
            if name in told:
                raise InvalidSignedRequest(f"the event in Authorization has more than one tag `{name}`")
            told[name] = tag[1] if len(tag) > 1 else ""
    return told


def _check_payload(payload: str | None, body: bytes) -> None:
    if payload is None:
        if body:
            raise WrongPayload("the tag `payload` is missing: sign the sha256 of the body, in hex")
    elif payload.lower() != hashlib.sha256(body).hexdigest():
        raise WrongPayload("the tag `payload` is not the sha256 of the body as it came")
