"""The page for people with a browser: files that read /v1 like any other client, and the codes that phones scan."""

import asyncio
import hashlib
import io
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import msgspec
import segno
from aiohttp import web

from tradepost.facade.web.headers import OPEN_HEADERS
from tradepost.facade.web.operations import Call, Operation
from tradepost.facade.web.problems import NotValid

TEXT_BYTES_MAX: Final = 1200  # a long invoice with room; larger codes no camera reads
_FILES: Final = Path(__file__).parent / "static"
_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
#: Nothing from elsewhere, nothing inline, and no text that becomes markup: the browser itself sees to it.
PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Server": OPEN_HEADERS["Server"],
    "Cache-Control": "no-cache",  # asked for again each time, and sent again only if it changed
}


class Drawing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `draw_qr` takes: an invoice, an LNURL, a token, an address."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_BYTES_MAX)]


async def draw_qr(call: Call) -> web.Response:
    """A QR code as SVG. The text comes in the body, so that no secret is part of an address."""
    if len(call.body.text.encode()) > TEXT_BYTES_MAX:
        raise NotValid(f"a code holds {TEXT_BYTES_MAX} bytes of UTF-8 at most")
    svg = await asyncio.to_thread(_svg, call.body.text)
    return web.Response(body=svg, content_type="image/svg+xml")


OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        name="draw_qr",
        method="POST",
        path="/v1/qr",
        about="Draw a QR code\n\nFor pages: what a phone is to scan, an invoice or a login, as SVG. Nothing is kept.",
        handler=draw_qr,
        body=Drawing,
        media="image/svg+xml",
        costly=True,
        group="The page",
    ),
)


def add_pages(app: web.Application) -> None:
    """Serve the page at / and its parts under /static/."""
    for path in sorted(_FILES.iterdir()):
        url = "/" if path.name == "index.html" else f"/static/{path.name}"
        body = path.read_bytes()
        tag = hashlib.sha256(body).hexdigest()[:32]
        app.router.add_get(url, partial(_file, body, _TYPES[path.suffix], tag))


async def _file(body: bytes, kind: str, tag: str, request: web.Request) -> web.Response:
    headers = {**PAGE_HEADERS, "ETag": f'"{tag}"'}
    known = request.if_none_match or ()
    if any(one.value == tag for one in known):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers=headers, content_type=kind, charset="utf-8")


def _svg(text: str) -> bytes:
    """Dark on light, whatever the page is, with the margin that cameras need (ISO 18004)."""
    out = io.BytesIO()
    code = segno.make_qr(text, error="l", boost_error=False)
    code.save(out, kind="svg", border=4, light="#fff", xmldecl=False, omitsize=True)
    return out.getvalue()
