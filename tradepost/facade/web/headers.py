"""The headers of every answer of the desk, and its answers in JSON."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

JSON: Final = "application/json"
#: Anybody may read from any page: no cookie or other credential goes along that a script did not put there itself.
OPEN_HEADERS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "X-Cashu, X-Reason, X-Request-Id, Retry-After, RateLimit, RateLimit-Policy, "
    "Location, WWW-Authenticate, Accept-Signature",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Server": "tradepost",  # and nothing of what it is made with
}
PREFLIGHT_HEADERS: Final = {
    **OPEN_HEADERS,
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PATCH, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Content-Digest, Idempotency-Key, Last-Event-ID, "
    "Signature, Signature-Input, X-Cashu",
    "Access-Control-Max-Age": "86400",
}


def json_response(told: Any, status: int = 200, headers: Mapping[str, str] = {}) -> web.Response:
    """`told` as JSON, which ends with a line break, for people who read it in a terminal."""
    body = msgspec.json.encode(told) + b"\n"
    return web.Response(body=body, status=status, content_type=JSON, headers={**OPEN_HEADERS, **headers})
