"""One HTTP request, from socket to answer: who calls, how often, with what; then the operation, then the answer.

Whatever goes wrong is told in the shape of `problems.Problem`, and what nobody foresaw in its simplest words.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
from aiohttp import web

from tradepost.facade.callers.doors import authenticate
from tradepost.facade.desk import Desk
from tradepost.facade.web.access import Access
from tradepost.facade.web.headers import OPEN_HEADERS, PREFLIGHT_HEADERS, json_response
from tradepost.facade.web.operations import EVENT_STREAM, X_CASHU, Call, Nothing, Operation, Who
from tradepost.facade.web.problems import NotValid, Unauthorized, problem_response, wallet_response

BODY_BYTES_MAX: Final = 131_072

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app() -> web.Application:
    """A server without routes, for `listening`, by which its errors have the shape of `Problem`."""
    return web.Application(client_max_size=BODY_BYTES_MAX)


@dataclass(frozen=True)
class Route:
    """Something else that the desk's server answers; `name` is for its log and metrics."""

    name: str
    method: str
    path: str
    handler: Handler


def add_operations(app: web.Application, desk: Desk, operations: Sequence[Operation]) -> None:
    """Route every operation, and what browsers ask before them."""
    for one in operations:
        has_head = one.media != EVENT_STREAM
        _add(app, one.method, one.path, partial(_answer, desk, one), has_head=has_head)
    _add_preflights(app, (one.path for one in operations))


def add_routes(app: web.Application, desk: Desk, routes: Sequence[Route]) -> None:
    """Route what has its own way to count and to tell errors."""
    for one in routes:
        _add(app, one.method, one.path, partial(_pass_on, desk, one))
    _add_preflights(app, (one.path for one in routes))


def _add(app: web.Application, method: str, path: str, handler: Handler, *, has_head: bool = True) -> None:
    app.router.add_route(method, path, handler)
    if method == "GET" and has_head:
        app.router.add_route("HEAD", path, handler)


def _add_preflights(app: web.Application, paths: Iterable[str]) -> None:
    for path in dict.fromkeys(paths):
        app.router.add_route("OPTIONS", path, _preflight)


async def _preflight(_request: web.Request) -> web.Response:
    return web.Response(status=204, headers=PREFLIGHT_HEADERS)


async def _answer(desk: Desk, operation: Operation, request: web.Request) -> web.StreamResponse:
    access = Access(operation.name)
    try:
        response = await _do(desk, operation, request, access)
    except Exception as error:  # noqa: BLE001 - all are told, and logged there if nobody foresaw them
        response = wallet_response(error) if operation.for_wallets else problem_response(error)
    access.answered(desk, request, response)
    return response


async def _pass_on(desk: Desk, route: Route, request: web.Request) -> web.StreamResponse:
    access = Access(route.name)
    response = await route.handler(request)
    access.answered(desk, request, response)
    return response


async def _do(desk: Desk, operation: Operation, request: web.Request, access: Access) -> web.StreamResponse:
    raw = await request.read()
    try:
        caller = await authenticate(desk, request, raw)
    except Unauthorized:
        if operation.who is not Who.WHOEVER:
            desk.limits.count(None, request)  # guessing has its limits too
            raise
        caller = None
    access.is_by(caller)
    if operation.counted:
        brings_sats = operation.who is Who.PAYER and X_CASHU in request.headers
        desk.limits.count(caller, request, costly=operation.costly, brings_sats=brings_sats)
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
    return json_response(answer, operation.status)


def _query(operation: Operation, request: web.Request) -> Any:
    if not request.query_string and operation.query is Nothing:
        return Nothing()
    try:
        given = {name: ",".join(dict.fromkeys(request.query.getall(name))) for name in request.query}
        if len(given) < len(request.query) and not operation.lenient:
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
