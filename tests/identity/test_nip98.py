"""NIP-98: what of a signed request is checked, and what a refusal says."""

import hashlib
import json
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import Event, InvalidSignedRequest, SecretKey, make_template, nip98, sign_event
from identity.errors import StaleSignature, WrongMethod, WrongPayload, WrongUrl

VECTOR = json.loads((Path(__file__).parent / "vectors" / "nip98.json").read_bytes())
URL = "https://desk.example/v1/jobs?wait=5&q=a%2Fb"
OTHER = "https://desk.onion.example/v1/jobs?wait=5&q=a%2Fb"
BODY = b'{"kind": 5001}'
NOW = 1_700_000_000
ALICE = SecretKey(bytes([1]) * 32)


def signed(**given: Any) -> Event:
    wish = {"url": URL, "method": "POST", "body": BODY, "created_at": NOW, "nonce": "n"} | given
    return sign_event(nip98.make(**wish), ALICE)


def with_tags(*tags: list[str], kind: int = 27235) -> Event:
    return sign_event(make_template(kind, tags=tags, created_at=NOW), ALICE)


def token(event: Event) -> str:
    return nip98.header(event).removeprefix("Nostr ")


def verify(event: Event | str, **given: Any) -> Event:
    asked = {"urls": (URL, OTHER), "method": "POST", "body": BODY, "now": NOW} | given
    return nip98.verify(event if isinstance(event, str) else token(event), **asked)


def test_the_example_of_the_nip_is_read_to_its_id() -> None:
    """Which is not the hash of the event: the NIP's example was changed after it was signed."""
    example = {
        "urls": ["https://api.snort.social/api/v1/n5sp/list"],
        "method": "GET",
        "body": b"",
        "now": 1682327852,
    }
    with pytest.raises(InvalidSignedRequest, match="the id is not the hash"):
        nip98.verify(VECTOR["authorization"].removeprefix("Nostr "), **example)
    with pytest.raises(WrongUrl):
        nip98.verify(
            VECTOR["authorization"].removeprefix("Nostr "),
            **example | {"urls": ["https://api.snort.social/"]},
        )


def test_what_is_made_is_verified() -> None:
    event = signed()
    assert verify(event) == event
    assert event.kind == 27235
    assert event.content == ""
    assert event.tag("payload") == hashlib.sha256(BODY).hexdigest()


def test_two_requests_that_are_alike_are_two_events() -> None:
    assert signed(nonce="a").id != signed(nonce="b").id


def test_a_request_may_have_come_to_any_of_our_addresses() -> None:
    verify(signed(url=OTHER))


@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
@pytest.mark.parametrize("is_padded", [True, False])
def test_base64_in_all_its_forms(encode: Any, is_padded: bool) -> None:
    raw = signed().to_json()
    for spaces in range(3):  # so that each length of the last group comes
        text = encode(raw + b" " * spaces).decode()
        verify(text if is_padded else text.rstrip("="))


@pytest.mark.parametrize("age", [-60, -1, 0, 60])
def test_the_window(age: int) -> None:
    verify(signed(created_at=NOW - age))


@pytest.mark.parametrize(
    ("age", "said"), [(61, "signed 61 s ago"), (-61, "61 s in the future"), (NOW, "ago")]
)
def test_outside_of_the_window(age: int, said: str) -> None:
    with pytest.raises(StaleSignature, match=said):
        verify(signed(created_at=NOW - age))


@pytest.mark.parametrize(
    "url",
    [
        "http://desk.example/v1/jobs?wait=5&q=a%2Fb", "https://desk.example.evil/v1/jobs?wait=5&q=a%2Fb",
        "https://Desk.example/v1/jobs?wait=5&q=a%2Fb", "https://desk.example:443/v1/jobs?wait=5&q=a%2Fb",
        "https://desk.example/v1/job?wait=5&q=a%2Fb", "https://desk.example/v1/jobs/?wait=5&q=a%2Fb",
        "https://desk.example/v1/jobs", "https://desk.example/v1/jobs?wait=6&q=a%2Fb", "/v1/jobs?wait=5&q=a%2Fb",
        "https://desk.example/v1/jobs?q=a%2Fb&wait=5", "https://desk.example/v1/jobs?wait=5&q=a/b",
        "https://desk.example/v1/jobs?wait=5&q=a%2fb", "https://desk.example/v1/jobs?wait=5&q=a%2Fb#x",
        "https://desk.example/v1/jobs?wait=5&q=a%2Fb ", "",
    ],
)  # fmt: skip
def test_another_url(url: str) -> None:
    with pytest.raises(WrongUrl) as told:
        verify(signed(url=url))
    assert f"sign {URL} or {OTHER}" in str(told.value)


@pytest.mark.parametrize("method", ["GET", "PUT", "", "POST ", "ＰＯＳＴ"])
def test_another_method(method: str) -> None:
    with pytest.raises(WrongMethod, match="sign POST"):
        verify(signed(method=method))


def test_the_case_of_a_method_does_not_count() -> None:
    verify(signed(method="post"))


def test_another_body() -> None:
    for body in (b"", BODY + b" ", BODY.upper()):
        with pytest.raises(WrongPayload, match="not the sha256 of the body"):
            verify(signed(), body=body)


def test_a_body_that_was_not_signed() -> None:
    with pytest.raises(WrongPayload, match="`payload` is missing"):
        verify(signed(body=b""))


def test_no_body_needs_no_payload_but_may_have_it() -> None:
    verify(signed(body=b""), body=b"")
    url_and_method = (["u", URL], ["method", "POST"])
    verify(with_tags(*url_and_method, ["payload", hashlib.sha256().hexdigest().upper()]), body=b"")
    with pytest.raises(WrongPayload):
        verify(with_tags(*url_and_method, ["payload", ""]), body=b"")


@pytest.mark.parametrize("tags", [[], [["u"]], [["u", URL]], [["method", "POST"]], [["", URL]]])
def test_missing_tags(tags: list[list[str]]) -> None:
    with pytest.raises((WrongUrl, WrongMethod)):
        verify(with_tags(*tags))


@pytest.mark.parametrize("name", ["u", "method", "payload"])
def test_a_tag_that_is_there_twice(name: str) -> None:
    tags = [*signed().tags, (name, "other")]
    with pytest.raises(InvalidSignedRequest, match=f"more than one tag `{name}`"):
        verify(with_tags(*map(list, tags)))


def test_another_kind() -> None:
    with pytest.raises(InvalidSignedRequest, match="of kind 1; sign one of kind 27235"):
        verify(with_tags(*map(list, signed().tags), kind=1))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("sig", "00" * 64, "signature is not valid"), ("pubkey", SecretKey(bytes([2]) * 32).public_key, "not the hash"),
        ("id", "00" * 32, "not the hash"), ("content", "more", "not the hash"), ("created_at", NOW + 1, "not the hash"),
        ("sig", "00", "sig must be"), ("id", None, "not an event"), ("tags", [1], "not an event"),
    ],
)  # fmt: skip
def test_an_event_that_was_changed(name: str, value: Any, said: str) -> None:
    raw = json.dumps(signed().to_dict() | {name: value}).encode()
    with pytest.raises(InvalidSignedRequest, match=said):
        verify(b64encode(raw).decode())


@pytest.mark.parametrize(
    "text",
    ["", "=", "====", "a", "ab?c", "é" * 8, "\ud800", "bm90IGFuIGV2ZW50", "e30", "W10", "////", "AAAA"],
)
def test_what_is_no_event(text: str) -> None:
    with pytest.raises(InvalidSignedRequest):
        verify(text)


def test_what_is_too_long() -> None:
    with pytest.raises(InvalidSignedRequest, match="longer than 8192"):
        verify("e" * 8193)


def test_no_refusal_repeats_what_was_sent() -> None:
    secret = "a-token-of-somebody"
    for event in (
        signed(url=secret),
        signed(method=secret),
        with_tags(["u", URL], ["payload", secret]),
        secret,
    ):
        with pytest.raises(InvalidSignedRequest) as told:
            verify(event)
        assert secret not in str(told.value)


@given(st.text(max_size=400) | st.binary(max_size=400).map(lambda raw: b64encode(raw).decode()))
def test_any_text(text: str) -> None:
    with pytest.raises(InvalidSignedRequest):
        verify(text)
