"""Who a request says it comes from, and whether that holds: one credential of three kinds, or none.

`Authorization: Nostr …` (NIP-98), `Signature` with `Signature-Input` (RFC 9421, Ed25519), `Authorization: Bearer …` (a
session's token, or a ticket). The URL that must be signed is the desk's own, from its configuration, with the path and
query exactly as they came: no header that a client or a proxy writes has a say in it. Signatures with a `tag` are none
of ours.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

from aiohttp import web

from identity import InvalidSignedRequest, message_signatures, nip98
from tradepost.facade.callers.callers import NOSTR, TICKET, Caller
from tradepost.facade.desk import Desk
from tradepost.facade.web.problems import Unauthorized

TOKEN_CHARS_MAX: Final = 256


async def authenticate(desk: Desk, request: web.Request, raw: bytes) -> Caller | None:
    """Who sent this request, whose body is `raw`; None if it has no credentials.

    Each signature counts once (`Replays`). Raises `Unauthorized` for credentials that do not hold, and for more than
    one of them; `TooManyRequests` if there is no room to remember another signature.
    """
    authorizations = request.headers.getall("Authorization", ())
    fields: Mapping[str, str] = {}
    if any(name in request.headers for name in message_signatures.FIELDS):
        fields = message_signatures.untagged(_fields(request))
    is_signed = any(name in fields for name in message_signatures.FIELDS)
    if len(authorizations) + is_signed > 1:
        raise Unauthorized(
            "more than one credential: send either Authorization, once, or Signature-Input and Signature"
        )
    if is_signed:
        return await _by_message_signature(desk, request, fields, raw)
    if not authorizations:
        return None
    scheme, _, value = authorizations[0].partition(" ")
    match scheme.lower():
        case "nostr":
            return await _by_nip98(desk, request, raw, value.strip())
        case "bearer":
            return await _by_token(desk, value.strip())
    raise Unauthorized("Authorization is neither `Nostr <base64 of a signed event>` nor `Bearer <token>`")


async def _by_nip98(desk: Desk, request: web.Request, raw: bytes, token: str) -> Caller:
    urls, now = _urls(desk, request), desk.post.clock.now()
    try:
        event = nip98.verify(token, urls=urls, method=request.method, body=raw, now=now)
    except InvalidSignedRequest as error:
        raise Unauthorized(str(error)) from None
    await desk.replays.remember(bytes.fromhex(event.id), event.created_at)
    return await desk.callers.of_key(f"{NOSTR}{event.pubkey}")


async def _by_message_signature(
    desk: Desk, request: web.Request, fields: Mapping[str, str], raw: bytes
) -> Caller:
    urls, now = _urls(desk, request), desk.post.clock.now()
    try:
        signed = message_signatures.verify(fields, urls=urls, method=request.method, body=raw, now=now)
    except InvalidSignedRequest as error:
        raise Unauthorized(str(error)) from None
    used = hashlib.sha256(f"{signed.public_key}:{signed.nonce}".encode()).digest()
    await desk.replays.remember(used, signed.created_at)
    return await desk.callers.of_key(f"ed25519:{signed.public_key}")


async def _by_token(desk: Desk, token: str) -> Caller:
    if len(token) > TOKEN_CHARS_MAX or not token.isascii():
        raise Unauthorized("the Bearer token is none of this desk's")
    if token.startswith(TICKET):
        return await desk.callers.of_ticket(token)
    return await desk.sessions.caller_of(token)


def _fields(request: web.Request) -> dict[str, str]:
    """The headers by lowercase name, those that came more than once joined (RFC 9110 §5.3)."""
    fields: dict[str, str] = {}
    for name, value in request.headers.items():
        known = fields.get(name := name.lower())
        fields[name] = value.strip() if known is None else f"{known}, {value.strip()}"
    return fields


def _urls(desk: Desk, request: web.Request) -> tuple[str, ...]:
    """Every absolute URL under which this request can have been made."""
    target = request.raw_path
    if not target.startswith("/"):
        raise Unauthorized("a signed request names its path alone, not a whole URL, in its first line")
    return tuple(f"{origin}{target}" for origin in (desk.url, *desk.settings.http_origins))
