import json
from contextlib import suppress
from urllib.parse import parse_qsl, urlsplit

import nostr_sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import InvalidEvent, SecretKey, make_template
from identity.nip46 import Answer, encode_request, encode_template, make_invitation, parse_answer


def test_a_request_is_what_the_specification_shows() -> None:
    template = make_template(1, content="a ü\n", tags=[["p", "x"]], created_at=5)
    request = json.loads(encode_request("id", "sign_event", [encode_template(template)]))
    assert {name: request[name] for name in ("id", "method")} == {"id": "id", "method": "sign_event"}
    (param,) = request["params"]
    assert json.loads(param) == {"kind": 1, "content": "a ü\n", "tags": [["p", "x"]], "created_at": 5}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"id": "1", "result": "ack"}', Answer("1", "ack")),
        ('{"id": "1", "result": "", "error": "no"}', Answer("1", "", "no")),
        ('{"id": "1", "error": null, "result": "x", "more": 1}', Answer("1", "x")),
        ('{"id": "1"}', Answer("1")),
        ('{"id": "1", "result": {"kind": 1}}', Answer("1", '{"kind":1}')),
        ('{"id": "1", "result": ["wss://r"]}', Answer("1", '["wss://r"]')),
        ('{"id": "1", "error": {"code": 5}}', Answer("1", "", '{"code":5}')),
    ],
)
def test_answers_are_read(text: str, answer: Answer) -> None:
    assert parse_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "{}",
        '{"id": 1}',
        '{"id": null}',
        "[" * 5000,
        json.dumps({"id": "1", "result": "x" * 2**21}),
    ],
)
def test_what_is_no_answer_is_refused(text: str) -> None:
    with pytest.raises(InvalidEvent):
        parse_answer(text)


@given(st.text())
def test_nothing_else_comes_of_reading(text: str) -> None:
    with suppress(InvalidEvent):
        parse_answer(text)


def test_long_errors_are_cut_and_answers_hide_their_content() -> None:
    assert len(parse_answer(json.dumps({"id": "1", "error": "x" * 9999})).error) == 500
    assert "nsec" not in repr(Answer("1", "nsec1", "nsec1"))


@pytest.mark.parametrize(
    ("result", "error", "is_visit"),
    [
        ("auth_url", "https://signer.example/1", True),
        ("auth_url", "http://127.0.0.1/1", True),
        ("auth_url", "", False),
        ("auth_url", "javascript:alert(1)", False),
        ("ack", "https://signer.example/1", False),
    ],
)
def test_a_visit_is_asked_for_by_a_web_address(result: str, error: str, is_visit: bool) -> None:
    assert Answer("1", result, error).is_auth_url is is_visit


def test_an_invitation_is_read_by_others(alice: SecretKey) -> None:
    url = make_invitation(
        alice.public_key,
        relays=["wss://a.example", "wss://b.example"],
        secret="s s",
        permissions="x,y:1",
        name="n",
    )
    nostr_sdk.NostrConnectUri.parse(url)
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc) == ("nostrconnect", alice.public_key)
    assert parse_qsl(parts.query) == [
        ("relay", "wss://a.example"),
        ("relay", "wss://b.example"),
        ("secret", "s s"),
        ("perms", "x,y:1"),
        ("name", "n"),
        ("metadata", '{"name":"n"}'),
    ]
