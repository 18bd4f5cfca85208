"""Credentials of HTTP requests: NIP-98, RFC 9421 with RFC 9530, what a wallet answers to LNURL-auth (LUD-04)."""

import hashlib
import json
from base64 import b64encode
from typing import Any

import http_sf

from fuzz.kit import ALICE, NOW, as_json, text_of, vectors
from identity import lnurl_auth, message_signatures, nip98
from identity.errors import InvalidEvent, InvalidLogin, InvalidSignedRequest
from identity.event import event_id, make_template, sign_event

_URL = "https://desk.example/v1/jobs?wait=5&q=a%2Fb"
_BODY = b'{"kind": 5001}'
_SECRET = bytes([5]) * 32
_SIGNED = {
    name.lower(): value
    for name, value in message_signatures.sign(
        _SECRET, url=_URL, method="POST", body=_BODY, created_at=NOW, nonce="abc"
    ).items()
}
_LOGIN = vectors("identity/lud04.json")


def _nip98_token(data: bytes) -> None:
    """What is accepted is our own event, in whatever base64."""
    text = text_of(data)
    try:
        event = nip98.verify(text, urls=[_URL], method="POST", body=_BODY, now=NOW)
    except InvalidSignedRequest as error:
        assert len(text) < 30 or text not in str(error)
        return
    assert event_id(event.pubkey, event) == event.id
    assert (event.kind, event.tag("u"), event.pubkey) == (nip98.KIND, _URL, ALICE.public_key)


def _nip98_event(data: bytes) -> None:
    """The same, with the base64 put around it: so that the tree of the JSON is changed, and not its letters."""
    _nip98_token(b64encode(data))


def _nip98_tags(data: bytes) -> None:
    """Any tags, signed: accepted only if they name this request."""
    try:
        tags = [[str(part) for part in tag] for tag in json.loads(data)]
        event = sign_event(make_template(nip98.KIND, tags=tags, created_at=NOW), ALICE)
    except (ValueError, TypeError, RecursionError, InvalidEvent):  # nothing that can be signed
        return
    text = nip98.header(event).removeprefix("Nostr ")
    try:
        nip98.verify(text, urls=[_URL], method="POST", body=_BODY, now=NOW)
    except InvalidSignedRequest:
        return
    assert [tag[1] for tag in tags if tag[:1] == ["u"]] == [_URL]
    assert [tag[1].upper() for tag in tags if tag[:1] == ["method"]] == ["POST"]
    assert [tag[1].lower() for tag in tags if tag[:1] == ["payload"]] == [hashlib.sha256(_BODY).hexdigest()]


def _message_signature(data: bytes) -> None:
    """The three headers as JSON: what is accepted is what was signed, and http-sf reads it as we do."""
    try:
        given = json.loads(data)
        fields = {name: str(given[name]) for name in _SIGNED}
    except (ValueError, TypeError, KeyError, RecursionError):
        return
    try:
        signed = message_signatures.verify(fields, urls=[_URL], method="POST", body=_BODY, now=NOW)
    except InvalidSignedRequest:
        return
    assert (signed.nonce, signed.created_at) == ("abc", NOW)
    asked, digests = _dictionary(fields["signature-input"]), _dictionary(fields["content-digest"])
    ((members, parameters),) = asked.values()
    assert [name for name, _ in members] == ["@method", "@target-uri", "content-digest"]
    assert parameters["keyid"] == signed.public_key
    assert digests["sha-256"][0] == hashlib.sha256(_BODY).digest()


def _dictionary(value: str) -> Any:
    """A header as another library reads it."""
    return http_sf.parse(value.encode(), tltype="dictionary")


def _login(data: bytes) -> None:
    try:
        given = json.loads(data)
        k1, sig, key = str(given["k1"]), str(given["sig"]), str(given["key"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return
    try:
        told = lnurl_auth.verify(k1=k1, sig=sig, key=key)
    except InvalidLogin as error:
        assert len(str(error)) < 100
        return
    assert told == _LOGIN["key"]
    assert (k1.lower(), key.lower()) == (_LOGIN["k1"], _LOGIN["key"])


CHECKS = {
    "nip98_token": _nip98_token, "nip98_event": _nip98_event, "nip98_tags": _nip98_tags,
    "message_signature": _message_signature, "login": _login,
}  # fmt: skip
_EVENT = sign_event(nip98.make(url=_URL, method="POST", body=_BODY, created_at=NOW, nonce="n"), ALICE)
SEEDS = [
    ("nip98_token", b64encode(_EVENT.to_json())),
    ("nip98_token", b64encode(_EVENT.to_json()).rstrip(b"=").translate(bytes.maketrans(b"+/", b"-_"))),
    ("nip98_event", _EVENT.to_json()),
    ("nip98_tags", as_json(_EVENT.tags)),
    ("message_signature", as_json(_SIGNED)),
    (
        "message_signature",
        as_json(_SIGNED | {"content-digest": _SIGNED["content-digest"] + ", unixsum=:AAAA:"}),
    ),
    ("login", as_json(_LOGIN)),
]
WORDS = (
    "u", "method", "payload", "nonce", _URL, "POST", "created", "expires", "keyid", "alg", "ed25519", "tag", "@method",
    "@target-uri", "@authority", "@path", "@query", "content-digest", "sha-256", "sha-512", "sig=(", ";created=", "=:", ":",
    "k1", "sig", "key", "3044", "02",
)  # fmt: skip
