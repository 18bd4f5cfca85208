"""The wire of remote signing: bunker:// and nostrconnect:// URLs, requests and answers (NIP-46). Pure; see
`relay_bridge.bunker` for what is done with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

from identity.errors import InvalidEvent, InvalidKey
from identity.event import EventTemplate
from identity.nip19 import parse_public_key

KIND: Final = 24133
SCHEME: Final = "bunker://"
INVITATION_SCHEME: Final = "nostrconnect://"
AUTH_URL: Final = "auth_url"
#: What the result of a request may have, in characters.
RESULT_CHARS_MAX: Final = 1 << 20

_URL_CHARS_MAX: Final = 4096
_RELAYS_MAX: Final = 8
_ERROR_CHARS_MAX: Final = 500


@dataclass(frozen=True)
class BunkerUrl:
    """Where a remote signer is: its own key (which need not be the user's), relays as written, and a secret that is
    good for the first connection only.
    """

    remote_key: str
    relays: tuple[str, ...]
    secret: str = field(default="", repr=False)

    def to_text(self) -> str:
        """`bunker://…`, with the secret. Never log it."""
        query = [("relay", relay) for relay in self.relays]
        query += [("secret", self.secret)] if self.secret else []
        return f"{SCHEME}{self.remote_key}?{urlencode(query)}"


class Answer(msgspec.Struct, frozen=True):
    """What a remote signer said to the request called `id`. `error` wins over `result`, if it is there."""

    id: str
    result: str = ""
    error: str = ""

    def __repr__(self) -> str:
        return f"Answer(id={self.id!r}, …)"

    @property
    def is_auth_url(self) -> bool:
        """Whether this is not the answer yet: the user must visit the URL in `error` first."""
        return self.result == AUTH_URL and self.error.startswith(("https://", "http://"))


class _RawAnswer(msgspec.Struct):
    id: str
    result: Any = None
    error: Any = None


_DECODER: Final = msgspec.json.Decoder(_RawAnswer)


def parse_bunker_url(text: str) -> BunkerUrl:
    """Read `bunker://<key>?relay=…&secret=…`. Raises `InvalidKey`, which never repeats the text."""
    text = text.strip()
    if len(text) > _URL_CHARS_MAX:
        raise InvalidKey(f"a bunker:// URL has at most {_URL_CHARS_MAX} characters")
    try:
        text.encode()  # what a shell hands over as bytes need not be UTF-8, and could not be written again
        parts = urlsplit(text)
        query = parse_qsl(parts.query, max_num_fields=64)
    except ValueError:
        raise InvalidKey("this bunker:// URL cannot be read: copy it whole from the signer") from None
    if parts.scheme != "bunker":
        raise InvalidKey("a remote signer is named by a URL like bunker://…?relay=wss://…")
    try:
        remote_key = parse_public_key(parts.netloc)
    except InvalidKey:
        raise InvalidKey(
            "this bunker:// URL names no public key after bunker://: copy it whole from the signer"
        ) from None
    relays = tuple(dict.fromkeys(value for name, value in query if name == "relay"))
    if not 1 <= len(relays) <= _RELAYS_MAX:
        raise InvalidKey(f"a bunker:// URL names 1 … {_RELAYS_MAX} relays (relay=wss://…), not {len(relays)}")
    secret = next((value for name, value in query if name == "secret"), "")
    return BunkerUrl(remote_key, relays, secret)


def make_invitation(
    client_key: str, *, relays: Iterable[str], secret: str, permissions: str, name: str
) -> str:
    """`nostrconnect://…`, to be given to a signer, which then answers to `client_key` with `secret`."""
    query = [("relay", relay) for relay in relays]
    query += [("secret", secret), ("perms", permissions), ("name", name)]
    # rust-nostr 0.45 reads no invitation without it.
    query += [("metadata", msgspec.json.encode({"name": name}).decode())]
    return f"{INVITATION_SCHEME}{client_key}?{urlencode(query)}"


def encode_request(request_id: str, method: str, params: Sequence[str]) -> str:
    """The plaintext of a request."""
    return msgspec.json.encode({"id": request_id, "method": method, "params": params}).decode()


def encode_template(template: EventTemplate) -> str:
    """The parameter of `sign_event`."""
    t = template
    fields = {"kind": t.kind, "content": t.content, "tags": t.tags, "created_at": t.created_at}
    return msgspec.json.encode(fields).decode()


def parse_answer(plaintext: str) -> Answer:
    """Read the plaintext of an answer; results that are not texts, as some signers send them, become JSON.

    Raises `InvalidEvent`.
    """
    try:
        raw = _DECODER.decode(plaintext)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidEvent(f"not an answer of a remote signer: {error}") from None
    result, error_text = _text(raw.result), _text(raw.error)
    if len(result) > RESULT_CHARS_MAX:
        raise InvalidEvent("the remote signer's answer is too long")
    return Answer(raw.id, result, error_text[:_ERROR_CHARS_MAX])


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
