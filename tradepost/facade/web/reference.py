"""The reference of all operations: /openapi.json for programs, /docs for people."""

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import msgspec
from aiohttp import web

from tradepost.facade.web.headers import JSON
from tradepost.facade.web.openapi import make_document
from tradepost.facade.web.operations import Call, Operation
from tradepost.facade.web.reference_page import PAGE_POLICY, render
from tradepost.release import release

HTML: Final = "text/html"
GROUP: Final = "Reference"
#: Bodies of requests as somebody may send them, by the operation's name.
EXAMPLES: Final[dict[str, Any]] = {
    "create_job": {"agent": "summaries", "kind": 5001, "input": "A long text …", "max_sat": 50},
    "price_job": {"kind": "summarisation", "input": "A long text …"},
    "dispute_result": {"reason": "It is about another text.", "fee_max_sat": 10},
    "review_job": {"rating": 5, "text": "Quick, and to the point."},
    "fund_by_lightning": {"amount_sat": 500},
    "fund_by_ecash": {"token": "cashuB…"},
    "withdraw": {"way": "lightning", "to": "alice@example.com", "amount_sat": 100},
    "verify_receipt": {
        "format": "tradepost-receipt-1",
        "root": {
            "id": "5c" * 32, "pubkey": "79" * 32, "created_at": 1_767_225_600, "kind": 78, "tags": [], "content": "…",
            "sig": "a1" * 64,
        },
        "leaves": [{"number": 0, "leaf": "…", "path": []}],
        "review": None,
    },
    "join_account": {"code": "the code of make_link", "name": "my phone"},
    "change_key": {"name": "my agent", "job_sat": 100, "day_sat": 1000},
    "begin_login": {"action": "login"},
    "finish_login": {"poll": "the poll of begin_login"},
    "refresh_session": {"refresh": "the refresh token that came last"},
    "draw_qr": {"text": "lightning:lnurl1…"},
}  # fmt: skip


def with_reference(operations: Sequence[Operation]) -> tuple[Operation, ...]:
    """These operations, and those that describe them all."""

    @cache  # one desk has one address
    def document(url: str) -> dict[str, Any]:
        return make_document(everything, url=url, version=release(), examples=EXAMPLES)

    @cache
    def page(url: str) -> str:
        return render(document(url))

    async def openapi(call: Call) -> web.Response:
        return web.Response(body=msgspec.json.encode(document(call.desk.url)), content_type=JSON)

    async def docs(call: Call) -> web.Response:
        headers = {"Content-Security-Policy": PAGE_POLICY}
        return web.Response(text=page(call.desk.url), content_type=HTML, headers=headers)

    everything = (
        *operations,
        Operation(
            name="openapi",
            method="GET",
            path="/openapi.json",
            about="Get this document\n\nOpenAPI 3.1, of the very types that check what you send.",
            handler=openapi,
            answer=dict[str, Any],
            group=GROUP,
        ),
        Operation(
            name="docs",
            method="GET",
            path="/docs",
            about="Read this document\n\nThe same as a page, without a script.",
            handler=docs,
            media=HTML,
            group=GROUP,
        ),
    )
    return everything
