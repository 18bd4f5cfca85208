"""The document that describes all operations, and the page made of it."""

import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import jsonschema
import msgspec
import pytest

from tradepost.facade.api import OPERATIONS
from tradepost.facade.web.headers import JSON
from tradepost.facade.web.openapi import make_document, statuses
from tradepost.facade.web.operations import Nothing, Operation, Who
from tradepost.facade.web.reference import EXAMPLES
from tradepost.facade.web.reference_page import PAGE_POLICY, render

if TYPE_CHECKING:
    from conftest import Caller

    from tradepost.facade.desk import Desk

URL = "https://post.example"
NAMES = [one.name for one in OPERATIONS]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """As it is sent."""
    made = make_document(OPERATIONS, url=URL, version="1", examples=EXAMPLES)
    return msgspec.json.decode(msgspec.json.encode(made))


def described(document: dict[str, Any], operation: Operation) -> dict[str, Any]:
    return document["paths"][operation.path][operation.method.lower()]


def test_names_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)
    routes = [(one.method, one.path) for one in OPERATIONS]
    assert len(set(routes)) == len(routes)


@pytest.mark.parametrize("operation", OPERATIONS, ids=NAMES)
def test_every_operation_is_told_of(operation: Operation) -> None:
    summary = operation.about.strip().split("\n\n")[0].partition(". ")[0]
    assert 3 <= len(summary) <= 120, "the first sentence is the summary"
    assert operation.group
    assert operation.answer is not Nothing or operation.media != JSON or operation.method == "DELETE"
    assert [name for name, about in operation.parts if about] == re.findall(r"{(\w+)}", operation.path)
    assert set(operation.problems) <= set(statuses()), "a code that no error has"
    assert not operation.problems or operation.method != "OPTIONS"


@pytest.mark.parametrize(
    "operation", [one for one in OPERATIONS if one.body is not Nothing], ids=lambda one: one.name
)
def test_every_body_has_an_example_that_is_valid(operation: Operation, document: dict[str, Any]) -> None:
    example = EXAMPLES[operation.name]
    msgspec.json.decode(msgspec.json.encode(example), type=operation.body)
    content = described(document, operation)["requestBody"]["content"][JSON]
    assert content["example"] == example
    jsonschema.validate(example, {**content["schema"], "components": document["components"]})


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    refs = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document))
    assert refs
    assert set(refs) <= set(document["components"]["schemas"])
    used = set(refs)
    assert used == set(document["components"]["schemas"]), "a type that nothing uses"


def test_headers_security_and_problems(document: dict[str, Any]) -> None:
    for operation in OPERATIONS:
        told = described(document, operation)
        headers = {one["name"] for one in told["parameters"] if one["in"] == "header"}
        assert ("Idempotency-Key" in headers) == operation.once
        assert ("X-Cashu" in headers) == (operation.who is Who.PAYER)
        assert ("Last-Event-ID" in headers) == (operation.media == "text/event-stream")
        assert ({} in told["security"]) == (operation.who not in (Who.CALLER, Who.OPERATOR))
        always = {"400", "401", "405", "408", "413", "415", "429", "500"}
        assert always | {str(operation.status)} <= set(told["responses"])
        assert set(told["responses"][str(operation.status)]["headers"]) == set(operation.headers)
        for code in operation.problems:
            assert f"`{code}`" in told["responses"][str(statuses()[code][0])]["description"]
        assert "Retry-After" in told["responses"]["429"]["headers"]
        assert "Allow" in told["responses"]["405"]["headers"]
        assert "WWW-Authenticate" in told["responses"]["401"]["headers"]
        can_be_paid = "payment_required" in operation.problems
        assert ("X-Cashu" in told["responses"].get("402", {}).get("headers", ())) == can_be_paid
    assert set(document["components"]["securitySchemes"]) == {"nostr", "signature", "bearer"}


def test_a_query_that_may_be_left_out(document: dict[str, Any]) -> None:
    told = document["paths"]["/v1/agents"]["get"]["parameters"]
    by_name = {one["name"]: one for one in told}
    assert by_name["kind"] == {
        "name": "kind", "in": "query", "required": False, "schema": {"type": "integer", "minimum": 5000, "maximum": 5999},
    }  # fmt: skip
    assert by_name["limit"]["schema"]["default"] == 20


class _Links(HTMLParser):
    """Every id and every link of a page, and that tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        told = dict(attrs)
        self.ids += [one for one in [told.get("id")] if one]
        self.links += [one for one in [told.get("href")] if one]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page(document: dict[str, Any]) -> None:
    page = render(document)
    links = _Links()
    links.feed(page)
    assert not links.open
    assert len(set(links.ids)) == len(links.ids)
    assert {one[1:] for one in links.links if one.startswith("#")} <= set(links.ids)
    assert all(one.startswith(("#", "/")) for one in links.links), "a link to somebody else"
    assert not links.tags & {"script", "img", "link", "iframe"}
    assert set(NAMES) <= set(links.ids)
    assert "script-src" not in PAGE_POLICY
    assert "default-src 'none'" in PAGE_POLICY


def test_what_is_told_is_escaped(document: dict[str, Any]) -> None:
    evil = document | {"info": document["info"] | {"title": "<script>alert(1)</script>"}}
    assert "<script>" not in render(evil)


async def test_they_are_served(desk: "Desk", stranger: "Caller") -> None:
    answer = await stranger("GET", "/openapi.json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json["servers"] == [{"url": desk.url}]
    assert set(NAMES) == {
        one["operationId"] for item in answer.json["paths"].values() for one in item.values()
    }
    page = await stranger("GET", "/docs")
    assert page.status == 200
    assert page.headers["Content-Security-Policy"] == PAGE_POLICY
    assert page.headers["Content-Type"].startswith("text/html")
    assert f"<code>{desk.url}</code>" in page.text


@pytest.mark.parametrize(
    ("key", "fits"), [("a b", True), ("a", True), (" a", False), ("", False), ("ä", False)]
)
def test_a_key_may_have_spaces_within(document: dict[str, Any], key: str, fits: bool) -> None:
    found = document["paths"]["/v1/jobs"]["post"]["parameters"]
    pattern = next(one["schema"]["pattern"] for one in found if one["name"] == "Idempotency-Key")
    assert bool(re.search(pattern, key)) == fits
