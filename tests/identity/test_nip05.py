"""NIP-05 names: what is read, what is asked, what an answer says."""

import json

import pytest

from identity import InvalidName
from identity.nip05 import Name, named_key, parse_name

KEY = "b0635d6a9851d3aed0cd6c495b282167acf761729078d975fc341b22650b07b9"  # of NIP-05's own example
BOB = Name("bob", "example.com")


@pytest.mark.parametrize(
    ("text", "name", "shown"),
    [
        ("bob@example.com", BOB, "bob@example.com"),
        (" Bob@Example.COM\n", BOB, "bob@example.com"),
        ("_@example.com", Name("_", "example.com"), "example.com"),
        ("example.com", Name("_", "example.com"), "example.com"),
        ("a.b-c_9@127.0.0.1:8080", Name("a.b-c_9", "127.0.0.1:8080"), "a.b-c_9@127.0.0.1:8080"),
        ("bob@bücher.example", Name("bob", "bücher.example"), "bob@bücher.example"),
    ],
)
def test_names_in_their_forms(text: str, name: Name, shown: str) -> None:
    assert parse_name(text) == name
    assert name.shown == shown
    assert parse_name(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "", "bob", "@example.com", "bob@", "bob+tag@example.com", "b&n@example.com", "bob@a@b.example", "bob@example.com/x",
        "bob@user:pw@example.com", "bob@example.com?x=1", "bob@exa mple.com", "bob@example.com#", "bob@[::1]:80",
        "bob@example.com:123456", "bob\u202e@example.com\u202e", "a" * 65 + "@example.com", "bob@" + "a." * 200,
    ],
)  # fmt: skip
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(InvalidName, match="not a NIP-05 name"):
        parse_name(text)


def test_where_it_is_asked_for() -> None:
    assert BOB.place == "example.com/.well-known/nostr.json?name=bob"


def test_what_an_answer_says() -> None:
    answer = json.dumps({"names": {"bob": KEY, "eve": 7}, "relays": {KEY: ["wss://relay.example.com"]}})
    assert named_key(answer, BOB) == KEY
    assert named_key(answer, Name("carol", "example.com")) is None
    with pytest.raises(InvalidName, match="gives for eve is no key in hex"):
        named_key(answer, Name("eve", "example.com"))
    with pytest.raises(InvalidName, match="no key in hex"):  # NIP-05: hex, lower case
        named_key(json.dumps({"names": {"bob": KEY.upper()}}), BOB)


@pytest.mark.parametrize(
    "answer", ["", "<html>", "[]", "{}", '{"names": []}', "[" * 100_000, '{"names": null}']
)
def test_what_is_no_answer(answer: str) -> None:
    with pytest.raises(InvalidName, match=r"example\.com does not answer as NIP-05 says"):
        named_key(answer, BOB)
