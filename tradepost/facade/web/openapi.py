"""The OpenAPI 3.1 document of the desk, out of the very operations and types that answer. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from store import CodedError
from tradepost.facade.web.app import BODY_BYTES_MAX
from tradepost.facade.web.headers import JSON
from tradepost.facade.web.operations import (
    EVENT_STREAM,
    IDEMPOTENCY_KEY,
    KEY_CHARS_MAX,
    Nothing,
    Operation,
    Who,
)
from tradepost.facade.web.problems import Problem, status_of

VERSION: Final = "3.1.0"
_REF: Final = "#/components/schemas/{name}"
_ABOUT: Final = """\
Hire agents over HTTP: the jobs, escrows and receipts are those of Nostr (NIP-90), ecash (Cashu) pays for them.

**Money.** Amounts are whole sats (`…_sat`) or thousandths (`…_msat`), times are unix seconds. What you bring is held \
by this post and its mints until it is spent or withdrawn: every answer that shows a balance says so (`custodial`).

**Who calls.** Nobody has to: a call that costs something is answered with 402 and how to pay, and paid with `X-Cashu` \
or the invoice. With credentials you have a balance, your own list of jobs, and higher limits.

**Errors.** Every error is a `Problem`. Its `code` never changes; `action` tells a program what to do next; `money` \
says where your sats are.\
"""
SECURITY: Final[Mapping[str, dict[str, str]]] = {
    "nostr": {
        "type": "http",
        "scheme": "Nostr",
        "description": "NIP-98: a signed event of kind 27235 with this URL and method, and the body's hash; base64.",
    },
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "Signature",
        "description": "HTTP Message Signatures (RFC 9421) by an Ed25519 key, with Signature-Input and, where there is "
        "a body, Content-Digest (RFC 9530).",
    },
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "The access token of a session (LNURL-auth), or the ticket of somebody who paid without a key.",
    },
}
#: Problems of every operation, besides those that it names itself.
_ALWAYS: Final = (
    "not_valid", "unauthorized", "method_not_allowed", "request_timeout", "request_entity_too_large",
    "unsupported_media_type", "too_many_requests", "internal",
)  # fmt: skip
_OTHER_STATUSES: Final = {
    "internal": (500, "Something that nobody foresaw; the operator finds the reason in the log."),
    "method_not_allowed": (405, "Another method than the path takes."),
    "request_timeout": (408, "The body did not come in time."),
    "request_entity_too_large": (413, f"The body has more than {BODY_BYTES_MAX} bytes."),
}
_HEADERS: Final[Mapping[str, dict[str, Any]]] = {
    "Retry-After": {"description": "Seconds after which the same may work.", "schema": {"type": "integer"}},
    "Allow": {"description": "The methods that the path takes.", "schema": {"type": "string"}},
    "RateLimit": {
        "description": "The limit, what is left of it, and for how long.",
        "schema": {"type": "string"},
    },
    "RateLimit-Policy": {
        "description": "The limit, and within how many seconds.",
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {"description": "The schemes of Authorization.", "schema": {"type": "string"}},
    "Accept-Signature": {"description": "What to sign instead (RFC 9421).", "schema": {"type": "string"}},
    "Location": {"description": "Where it is, without the host.", "schema": {"type": "string"}},
    "X-Cashu": {
        "description": "With 402, how much to pay: a NUT-18 payment request, `creqA…` (NUT-24). Else your change.",
        "schema": {"type": "string"},
    },
    "X-Reason": {"description": "Why the token was not taken.", "schema": {"type": "string"}},
}
#: By the code of the problem, or by its status.
_HEADERS_OF: Final[Mapping[str | int, tuple[str, ...]]] = {
    "payment_required": ("X-Cashu",),
    "bad_token": ("X-Reason",),
    401: ("WWW-Authenticate", "Accept-Signature"),
    405: ("Allow",),
    429: ("Retry-After", "RateLimit", "RateLimit-Policy"),
    503: ("Retry-After",),
}


def make_document(
    operations: Sequence[Operation], *, url: str, version: str, examples: Mapping[str, Any]
) -> dict[str, Any]:
    """The document of a desk at `url`. `examples` are bodies of requests, by the operation's name."""
    types = dict.fromkeys(kind for one in operations for kind in (one.answer, one.query, one.body))
    told = [Problem, *(kind for kind in types if kind is not Nothing)]
    schemas, components = msgspec.json.schema_components(told, ref_template=_REF)
    of = dict(zip(told, schemas, strict=True))
    queries = {_named(of[one.query]) for one in operations if one.query is not Nothing}
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, of, components, examples)
    return {
        "openapi": VERSION,
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {"title": "Tradepost: the front desk", "version": version, "description": _ABOUT},
        "servers": [{"url": url}],
        "tags": [{"name": group} for group in dict.fromkeys(one.group for one in operations)],
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in components.items() if name not in queries},
            "securitySchemes": dict(SECURITY),
        },
    }


def statuses() -> dict[str, tuple[int, str]]:
    """The status of every code that a problem can have, and a sentence on it."""
    kinds = {kind.code: kind for kind in _subclasses(CodedError)}
    told = {code: (status_of(kind), _first_line(kind.__doc__ or "")) for code, kind in kinds.items()}
    return told | _OTHER_STATUSES


def _subclasses(kind: type[CodedError]) -> Iterator[type[CodedError]]:
    for one in kind.__subclasses__():
        yield one
        yield from _subclasses(one)


def _operation(
    operation: Operation, of: Mapping[Any, Any], components: Mapping[str, Any], examples: Mapping[str, Any]
) -> dict[str, Any]:
    first, *more = [_flat(part) for part in operation.about.split("\n\n")]
    summary, _, rest = first.partition(". ")
    about = [rest, *more]
    if operation.query is not Nothing:
        about.append(_flat(operation.query.__doc__ or ""))
    told: dict[str, Any] = {
        "operationId": operation.name,
        "summary": summary.removesuffix("."),
        "description": "\n\n".join(filter(None, about)),
        "tags": [operation.group],
        "parameters": [*_path(operation), *_query(of.get(operation.query), components), *_headers(operation)],
        "responses": {**_answers(operation, of), **_problems(operation, of)},
        "security": _security(operation),
    }
    if operation.body is not Nothing:
        content: dict[str, Any] = {"schema": of[operation.body]}
        if operation.name in examples:
            content["example"] = examples[operation.name]
        is_needed = bool(components[_named(of[operation.body])].get("required"))
        told["requestBody"] = {"required": is_needed, "content": {JSON: content}}
    return told


def _path(operation: Operation) -> list[dict[str, Any]]:
    about = dict(operation.parts)
    return [
        {
            "name": name, "in": "path", "required": True, "description": about.get(name, ""),
            "schema": {"type": "string", "minLength": 1},
        }
        for name in re.findall(r"{(\w+)}", operation.path)
    ]  # fmt: skip


def _query(ref: Mapping[str, str] | None, components: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each field of the query's type is a parameter; that it may be null means that it may be left out."""
    schema = components[_named(ref)] if ref else {}
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _not_null(field)}
        for name, field in schema.get("properties", {}).items()
    ]


def _not_null(field: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return field
    told = {name: value for name, value in field.items() if name not in ("anyOf", "default")}
    return told | dict(kinds[0])


def _headers(operation: Operation) -> list[dict[str, Any]]:
    found = []
    if operation.once:
        found.append(
            (
                IDEMPOTENCY_KEY,
                "Any text, new for each new request: sent again, the same request is done once.",
                {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": KEY_CHARS_MAX,
                    "pattern": "^[!-~]([ -~]*[!-~])?$",
                },
            )
        )
    if operation.who is Who.PAYER:
        found.append(
            (
                "X-Cashu",
                "Ecash that pays for this call (NUT-24).",
                {"type": "string", "pattern": "^cashu[AB]"},
            )
        )
    if operation.media == EVENT_STREAM:
        found.append(
            (
                "Last-Event-ID",
                "The id of the last event that came: those after it are told.",
                {"type": "string"},
            )
        )
    return [
        {"name": name, "in": "header", "required": False, "description": about, "schema": schema}
        for name, about, schema in found
    ]


def _answers(operation: Operation, of: Mapping[Any, Any]) -> dict[str, Any]:
    if operation.media != JSON:
        schema: Any = {"type": "string"}
    else:
        schema = {"type": "object"} if operation.answer is Nothing else of[operation.answer]
    answer = {
        "headers": {name: _HEADERS[name] for name in operation.headers},
        "content": {operation.media: {"schema": schema}},
    }
    told: dict[str, Any] = {
        str(operation.status): {"description": HTTPStatus(operation.status).phrase, **answer}
    }
    if operation.media == EVENT_STREAM:
        told["204"] = {"description": "All was told already: do not come back."}
    if operation.once and operation.status == 201:
        told["200"] = {"description": "The same request made this before.", **answer}
    return dict(sorted(told.items()))


def _problems(operation: Operation, of: Mapping[Any, Any]) -> dict[str, Any]:
    """One answer for each status, with the codes that it may have."""
    known = statuses()
    refused = ("forbidden",) if operation.who in (Who.CALLER, Who.OPERATOR) else ()
    codes = dict.fromkeys((*operation.problems, *refused, *_ALWAYS))
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(known[code][0], []).append(code)
    return {
        str(status): {
            "description": "\n\n".join(f"`{code}`: {known[code][1]}" for code in found),
            "headers": {name: _HEADERS[name] for name in _headers_of(status, found)},
            "content": {JSON: {"schema": of[Problem]}},
        }
        for status, found in sorted(by_status.items())
    }


def _headers_of(status: int, codes: Iterable[str]) -> list[str]:
    keys: list[str | int] = [*codes, status]
    return [name for key in keys for name in _HEADERS_OF.get(key, ())]


def _security(operation: Operation) -> list[dict[str, list[str]]]:
    """Any of these will do; where anybody may call, none will too."""
    needed: list[dict[str, list[str]]] = [{name: []} for name in SECURITY]
    return needed if operation.who in (Who.CALLER, Who.OPERATOR) else [{}, *needed]


def _named(ref: Mapping[str, str]) -> str:
    """The name of the type that a reference leads to."""
    return ref["$ref"].rpartition("/")[2]


def _first_line(doc: str) -> str:
    return _flat(doc.strip().partition("\n\n")[0])


def _flat(doc: str) -> str:
    return " ".join(doc.split())
