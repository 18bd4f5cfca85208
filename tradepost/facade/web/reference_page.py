"""The OpenAPI document as a page for people: plain HTML without a script, readable on a phone and in the dark. Pure."""

import base64
import json
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any, Final

_STYLE: Final = (Path(__file__).parent / "static" / "reference.css").read_text(encoding="utf-8")
_DIGEST: Final = base64.b64encode(sha256(_STYLE.encode()).digest()).decode()
#: The page loads nothing, and runs nothing; its own style is named by its hash.
PAGE_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def render(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document made by `openapi.make_document`."""
    operations = list(_operations(document))
    groups = [tag["name"] for tag in document["tags"]]
    info = document["info"]
    body = [
        f"<header><h1>{escape(info['title'])}</h1>",
        f"<p class=version>{escape(info['version'])} · <code>{escape(document['servers'][0]['url'])}</code>",
        " · <a href=/openapi.json>openapi.json</a> · <a href=/llms.txt>llms.txt</a>",
        " · <a href=/>the page to hire</a></p>",
        _prose(info["description"]),
        "</header><nav aria-label=Operations>",
        *(_contents(group, operations) for group in groups),
        "</nav><main>",
    ]
    always = _always(operations)
    for group in groups:
        body.append(f"<h2 id={_slug(group)}>{escape(group)}</h2>")
        body += [_section(*one, always) for one in operations if group in one[2]["tags"]]
    body += [
        "<h2 id=always>Any operation may answer</h2><table>",
        *map(_answer, always, always.values()),
        "</table>",
    ]
    body += ["<h2 id=credentials>Credentials</h2>", _credentials(document), "<h2 id=types>Types</h2>"]
    body += [_type(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1">'
        '<meta name=color-scheme content="light dark">'
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(body)}</main></body></html>"
    )


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def _always(operations: list[tuple[str, str, dict[str, Any]]]) -> dict[str, Any]:
    """The answers that every operation has, which are told once."""
    first = operations[0][2]["responses"]
    return {
        status: answer
        for status, answer in first.items()
        if all(one["responses"].get(status) == answer for _, _, one in operations)
    }


def _contents(group: str, operations: list[tuple[str, str, dict[str, Any]]]) -> str:
    links = "".join(
        f"<li><a href=#{operation['operationId']}>{escape(operation['summary'])}</a></li>"
        for _, _, operation in operations
        if group in operation["tags"]
    )
    return f"<section><h2>{escape(group)}</h2><ul>{links}</ul></section>"


def _section(method: str, path: str, operation: Mapping[str, Any], always: Mapping[str, Any]) -> str:
    name = operation["operationId"]
    parts = [
        f"<article id={name}><h3><a href=#{name}>{escape(operation['summary'])}</a></h3>",
        f"<p class=call><b class={method.lower()}>{method}</b> <code>{escape(path)}</code></p>",
        _prose(operation["description"]),
        _parameters(operation["parameters"]),
        _body(operation.get("requestBody")),
        "<h4>Answers</h4><table>",
        *(
            _answer(status, answer)
            for status, answer in operation["responses"].items()
            if status not in always
        ),
        f"</table><p class=who>And <a href=#always>{', '.join(always)}</a>.</p>",
    ]
    if {} not in operation["security"]:
        parts.insert(2, "<p class=who>Needs <a href=#credentials>credentials</a>.</p>")
    return "".join(parts) + "</article>"


def _parameters(parameters: list[dict[str, Any]]) -> str:
    if not parameters:
        return ""
    rows = "".join(
        f"<tr><th scope=row><code>{escape(one['name'])}</code><small>{one['in']}"
        f"{', required' if one['required'] and one['in'] != 'path' else ''}</small></th>"
        f"<td>{_form(one['schema'])}{' – ' + _inline(one['description']) if one.get('description') else ''}</td></tr>"
        for one in parameters
    )
    return f"<h4>Parameters</h4><table>{rows}</table>"


def _body(body: Mapping[str, Any] | None) -> str:
    if body is None:
        return ""
    ((media, content),) = body["content"].items()
    told = f"<h4>Body</h4><p>{_form(content['schema'])} <small>{escape(media)}</small></p>"
    if "example" in content:
        example = json.dumps(content["example"], indent=2, ensure_ascii=False)
        told += f"<pre tabindex=0><code>{escape(example)}</code></pre>"
    return told


def _answer(status: str, answer: Mapping[str, Any]) -> str:
    forms = [
        _form(content["schema"]) if media == "application/json" else escape(media)
        for media, content in answer.get("content", {}).items()
    ]
    headers = "".join(f"<br><small>header {escape(name)}</small>" for name in answer.get("headers", ()))
    about = "" if status in ("200", "201") else _prose(answer["description"])
    return f"<tr><th scope=row>{status}</th><td>{' '.join(forms)}{headers}{about}</td></tr>"


def _credentials(document: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{_inline(scheme['description'])}</td></tr>"
        for name, scheme in document["components"]["securitySchemes"].items()
    )
    return f"<p>Any one of these:</p><table>{rows}</table>"


def _type(name: str, schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><th scope=row><code>{escape(field)}</code>{'' if field in required else '<small>optional</small>'}</th>"
        f"<td>{_form(one)}</td></tr>"
        for field, one in schema.get("properties", {}).items()
    )
    about = _prose(schema.get("description", ""))
    values = "" if rows else f"<p>{_form(schema)}</p>"
    return f"<article id=type-{name}><h3>{escape(name)}</h3>{about}{values}<table>{rows}</table></article>"


def _form(schema: Mapping[str, Any]) -> str:
    """What a value looks like, in few words, with a link where it has a name."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return f"<a href=#type-{name}>{escape(name)}</a>"
    if "anyOf" in schema:
        return " or ".join(_form(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        kind = f"list of {_form(schema.get('items') or {})}"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        kind = f"names with {_form(schema['additionalProperties'])}"
    limits = [
        told.format(escape(str(schema[key])))
        for key, told in (
            ("minimum", "from {}"), ("maximum", "to {}"), ("maxLength", "at most {} characters"),
            ("pattern", "like {}"), ("default", "default {}"),
        )
        if schema.get(key) not in (None, "")
    ]  # fmt: skip
    return kind + (f" <small>{', '.join(limits)}</small>" if limits else "")


def _prose(text: str) -> str:
    """Paragraphs of the little Markdown that we write ourselves."""
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part.strip())


def _inline(text: str) -> str:
    told = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", told)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())
