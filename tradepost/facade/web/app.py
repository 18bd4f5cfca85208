"""One HTTP request, from socket to answer: who calls, how often, with what; then the operation, then the answer.

Whatever goes wrong is told in the shape of `problems.Problem`, and what nobody foresaw in its simplest words.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web

from tradepost.facade.callers.doors import authenticate
from tradepost.facade.desk import Desk
from tradepost.facade.web.access import Access
from tradepost.facade.web.operations import JSON, Call, Nothing, Operation, Who
from tradepost.facade.web.problems import NotValid, Unauthorized, problem_response

BODY_BYTES_MAX: Final = 131_072
#: Anybody may read from any page: no cookie or other credential goes along that a script did not put there itself.
OPEN_HEADERS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "X-Cashu, X-Reason, X-Request-Id, Retry-After, Location",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
PREFLIGHT_HEADERS: Final = {
    **OPEN_HEADERS,
    "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Content-Digest, Idempotency-Key, Last-Event-ID, "
    "Signature, Signature-Input, X-Cashu",
    "Access-Control-Max-Age": "86400",
}

log = structlog.get_logger(__name__)


def make_app() -> web.Application:
    """A server without routes, whose errors have the shape of `Problem`."""
    return web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_tell_problems])


def add_operations(app: web.Application, desk: Desk, operations: Sequence[Operation]) -> None:
    """Route every operation, and what browsers ask before them."""
    for operation in operations:
        app.router.add_route(operation.method, operation.path, partial(_answer, desk, operation))
    for path in dict.fromkeys(operation.path for operation in operations):
        app.router.add_route("OPTIONS", path, _preflight)


async def _preflight(_request: web.Request) -> web.Response:
    return web.Response(status=204, headers=PREFLIGHT_HEADERS)


async def _answer(desk: Desk, operation: Operation, request: web.Request) -> web.StreamResponse:
    access = Access(operation)
    try:
        response = await _do(desk, operation, request, access)
    except Exception as error:  # noqa: BLE001 - all are told, and logged there if nobody foresaw them
        response = _told(error)
    access.answered(desk, request, response)
    return response


async def _do(desk: Desk, operation: Operation, request: web.Request, access: Access) -> web.StreamResponse:
    raw = await request.read()
    try:
        caller = await authenticate(desk, request, raw)
    except Unauthorized:
        await desk.limits.count(None, request)  # guessing has its limits too
        raise
    access.is_by(caller)
    await desk.limits.count(caller, request, costly=operation.costly)
    if caller is None and operation.who in (Who.CALLER, Who.OPERATOR):
        raise Unauthorized("this needs credentials: sign the request, or send a token; see /docs")
    desk.callers.check_may(caller, operator=operation.who is Who.OPERATOR)
    call = Call(desk, request, caller, _query(operation, request), _body(operation, raw), raw)
    answer = await operation.handler(call)
    if isinstance(answer, web.StreamResponse):
        if not answer.prepared:
            answer.headers.update(
                {name: told for name, told in OPEN_HEADERS.items() if name not in answer.headers}
            )
        return answer
    return web.Response(
        body=msgspec.json.encode(answer), status=operation.status, content_type=JSON, headers=OPEN_HEADERS
    )


def _query(operation: Operation, request: web.Request) -> Any:
    if not request.query_string and operation.query is Nothing:
        return Nothing()
    try:
        given = dict(request.query)
        if len(given) < len(request.query):
            raise NotValid("a parameter of the query is given twice")
        return msgspec.convert(given, operation.query, strict=False)
    except msgspec.ValidationError as error:
        raise NotValid(f"the query: {error}") from None


def _body(operation: Operation, raw: bytes) -> Any:
    if operation.body is Nothing:
        return Nothing()
    try:
        return msgspec.json.decode(raw or b"{}", type=operation.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotValid(f"the body: {str(error)[:200]}") from None
    except RecursionError:
        raise NotValid("the body: it is nested too deeply") from None


@web.middleware
async def _tell_problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """What reaches no operation: unknown paths, wrong methods."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _told(error)


def _told(error: Exception) -> web.Response:
    response = problem_response(error)
    response.headers.update(OPEN_HEADERS)
    return response
