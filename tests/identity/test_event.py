import json
from typing import Any

import msgspec
import nostr_sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from identity import (
    Event,
    InvalidEvent,
    SecretKey,
    check_form,
    event_id,
    make_rumor,
    make_template,
    parse_event,
    parse_rumor,
    sign_event,
)

ALICE = SecretKey(bytes([1]) * 32)
NOW = 1_700_000_000
FAR_FUTURE = 2**53 - 1
# Every character that JSON writers disagree on, and some beyond 16 bits.
AWKWARD = "".join(map(chr, range(0x20))) + '"\\/\x7f\x80\u2028\u2029é☃\uffff😀\U0010ffff'

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
tag_lists = st.lists(st.lists(texts, max_size=4), max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def signed(**changes: Any) -> Event:
    fields = {"kind": 5001, "content": "a text", "tags": [["i", "a", "text"]], "created_at": NOW} | changes
    return sign_event(make_template(fields.pop("kind"), **fields), ALICE)


def as_json(event: Event, **changes: Any) -> str:
    return json.dumps(event.to_dict() | changes)


def test_a_signed_event_verifies_and_survives_json() -> None:
    event = signed()
    event.verify()
    assert parse_event(event.to_json()) == event
    assert parse_event(event.to_json().decode()) == event
    assert event.id == event_id(ALICE.public_key, event)
    assert list(json.loads(event.to_json())) == [
        "id",
        "pubkey",
        "created_at",
        "kind",
        "tags",
        "content",
        "sig",
    ]


def test_an_event_is_immutable() -> None:
    with pytest.raises(AttributeError):
        signed().content = "another"  # type: ignore[misc]  # the point of the test


def test_tags_are_found() -> None:
    event = signed(tags=[[], ["e"], ["e", "1", "x"], ["e", "2"], ["flag"]])
    assert event.tag("e") == "1"
    assert event.tag("flag") is None
    assert event.tag("none") is None
    assert event.tags_named("e") == [("e",), ("e", "1", "x"), ("e", "2")]
    assert event.has_tag("flag")
    assert not event.has_tag("none")


# --- nostr-sdk as oracle -------------------------------------------------------------------------------------------


@given(content=texts, tags=tag_lists)
def test_nostr_sdk_accepts_our_events(content: str, tags: list[list[str]]) -> None:
    event = signed(content=content, tags=[["t", *tag] for tag in tags])
    theirs = nostr_sdk.Event.from_json(event.to_json().decode())
    assert theirs.verify()
    assert theirs.id().to_hex() == event.id
    assert theirs.content() == content


@given(content=texts, tags=tag_lists)
def test_we_accept_nostr_sdk_events(content: str, tags: list[list[str]]) -> None:
    builder = nostr_sdk.EventBuilder(nostr_sdk.Kind(1), content)
    builder = builder.tags([nostr_sdk.Tag.parse(["t", *tag]) for tag in tags])
    theirs = builder.finalize(nostr_sdk.Keys.parse(ALICE.hex()))
    event = parse_event(theirs.as_json())
    event.verify()
    assert event.content == content
    assert event.pubkey == ALICE.public_key


def test_both_escape_awkward_characters_alike() -> None:
    event = signed(content=AWKWARD, tags=[[AWKWARD, AWKWARD]])
    assert nostr_sdk.Event.from_json(event.to_json().decode()).verify()
    assert parse_event(event.to_json()) == event


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("content", "another text"),
        ("created_at", NOW + 1),
        ("kind", 5002),
        ("tags", []),
        ("tags", [["i", "a", "text"], ["i", "a", "text"]]),
        ("pubkey", SecretKey(bytes([2]) * 32).public_key),
        ("id", "0" * 64),
    ],
)
def test_a_wrong_id_is_refused(field: str, value: object) -> None:
    event = parse_event(as_json(signed(), **{field: value}))
    with pytest.raises(InvalidEvent, match="id is not the hash"):
        event.verify()


def test_a_bad_signature_is_refused() -> None:
    other = signed(content="another text")
    for sig in (other.sig, "0" * 128, "f" * 128):
        with pytest.raises(InvalidEvent, match="signature"):
            parse_event(as_json(signed(), sig=sig)).verify()


def test_a_signature_by_another_key_is_refused() -> None:
    event = signed()
    mallory = SecretKey(bytes([3]) * 32)
    with pytest.raises(InvalidEvent, match="signature"):
        parse_event(as_json(event, sig=mallory.sign(bytes.fromhex(event.id)).hex())).verify()


@pytest.mark.parametrize("public_key", ["f" * 64, "0" * 64, "zz" * 32, "ab"])
def test_a_public_key_off_the_curve_is_refused(public_key: str) -> None:
    event = signed()
    broken = msgspec.structs.replace(event, pubkey=public_key, id=event_id(public_key, event))
    with pytest.raises(InvalidEvent, match="signature"):
        broken.verify()


@pytest.mark.parametrize("sig", ["", "zz" * 64, "ab"])
def test_verify_survives_an_event_whose_form_nobody_checked(sig: str) -> None:
    with pytest.raises(InvalidEvent, match="signature"):
        msgspec.structs.replace(signed(), sig=sig).verify()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "ab"),
        ("id", "AB" * 32),
        ("id", "zz" * 32),
        ("id", " " * 64),
        ("id", "é" * 64),
        ("id", None),
        ("pubkey", "ab" * 33),
        ("pubkey", "ab " * 16 + "ab" * 8),
        ("sig", "ab" * 63),
        ("sig", "AB" * 64),
        ("kind", -1),
        ("kind", 65536),
        ("kind", 1.5),
        ("kind", "1"),
        ("kind", True),
        ("kind", 10**30),
        ("created_at", -1),
        ("created_at", 2**53),
        ("created_at", 1e9 + 0.5),
        ("created_at", None),
        ("content", None),
        ("content", 7),
        ("tags", None),
        ("tags", {}),
        ("tags", ["e"]),
        ("tags", [[1]]),
        ("tags", [[None]]),
        ("tags", [[["deep"]]]),
    ],
)
def test_a_malformed_field_is_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidEvent):
        parse_event(as_json(signed(), **{field: value}))


@pytest.mark.parametrize("field", ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"])
def test_a_missing_field_is_refused(field: str) -> None:
    plain = signed().to_dict()
    del plain[field]
    with pytest.raises(InvalidEvent):
        parse_event(json.dumps(plain))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"\x00" * 100,
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"kind":' + b"9" * 5000 + b"}",
        "\ud800",
        '{"content":"\ud800"}',
    ],
    ids=range(11),
)
def test_what_is_no_event_is_refused(raw: bytes | str) -> None:
    with pytest.raises(InvalidEvent):
        parse_event(raw)


@pytest.mark.parametrize("field", ["tags", "content", "unknown"])
def test_deep_nesting_is_refused(field: str) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    with pytest.raises(InvalidEvent):
        parse_event(as_json(signed(), **{field: "DEEP"}).replace('"DEEP"', deep))


@pytest.mark.parametrize("escape", [r"\ud800", r"\udc00", r"\udc00\ud800", r"x\ud83dx"])
@pytest.mark.parametrize("field", ["content", "tags"])
def test_lone_surrogates_are_refused(field: str, escape: str) -> None:
    value = "MARK" if field == "content" else [["t", "MARK"]]
    with pytest.raises(InvalidEvent):
        parse_event(as_json(signed(), **{field: value}).replace("MARK", escape))


def test_encoded_surrogates_are_refused() -> None:
    with pytest.raises(InvalidEvent):
        parse_event(signed(content="MARK").to_json().replace(b"MARK", b"\xed\xa0\x80"))


def test_lone_surrogates_are_never_signed() -> None:
    for template in (
        make_template(1, content="\ud800", created_at=NOW),
        make_template(1, tags=[["t", "\udc00"]], created_at=NOW),
    ):
        with pytest.raises(InvalidEvent):
            sign_event(template, ALICE)
        with pytest.raises(InvalidEvent):
            make_rumor(template, ALICE.public_key)


def test_paired_surrogate_escapes_are_a_character() -> None:
    raw = json.dumps(signed(content="😀").to_dict())
    assert r"\ud83d\ude00" in raw
    parse_event(raw).verify()


@pytest.mark.parametrize("tags", [[["t", "x" * 65536]], [["t", "x"]] * 16384, [[]] * 32768, [["x"] * 20000]])
def test_64_kib_of_tags_are_well_formed(tags: list[list[str]]) -> None:
    event = parse_event(signed(tags=tags).to_json())
    event.verify()
    assert len(event.tags) == len(tags)


def test_a_far_future_date_is_well_formed() -> None:
    parse_event(signed(created_at=FAR_FUTURE).to_json()).verify()


def test_duplicate_tags_are_kept_as_they_are() -> None:
    event = parse_event(signed(tags=[["i", "one"], ["i", "two"], ["i", "one"]]).to_json())
    event.verify()
    assert [tag[1] for tag in event.tags_named("i")] == ["one", "two", "one"]


def test_unknown_fields_are_ignored_and_the_last_of_a_doubled_field_counts() -> None:
    event = signed()
    raw = event.to_json().decode()
    assert parse_event(raw[:-1] + ',"relay":{"a":[1]}}') == event
    assert parse_event('{"content":"hidden",' + raw[1:]) == event
    with pytest.raises(InvalidEvent):
        parse_event(raw[:-1] + ',"content":"shown"}').verify()


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_parse_event_raises_nothing_but_invalid_event(raw: bytes | str) -> None:
    with pytest.raises(InvalidEvent):
        parse_event(raw)


@given(st.dictionaries(st.sampled_from([*signed().to_dict()]), json_values, max_size=7))
def test_parse_event_survives_any_value_in_any_field(changes: dict[str, object]) -> None:
    raw = as_json(signed(), **changes)
    for parse in (parse_event, parse_rumor):
        try:
            event = parse(raw)
        except InvalidEvent:
            continue
        assert json.loads(event.to_json())["kind"] == event.kind


def test_check_form_returns_the_event() -> None:
    event = signed()
    assert check_form(event) is event


# --- rumors --------------------------------------------------------------------------------------------------------


def test_a_rumor_survives_json_without_a_signature() -> None:
    rumor = make_rumor(make_template(14, content="hi", tags=[["p", "x"]], created_at=NOW), ALICE.public_key)
    assert parse_rumor(rumor.to_json()) == rumor
    assert "sig" not in json.loads(rumor.to_json())
    assert rumor.id == event_id(ALICE.public_key, rumor)


def test_a_rumors_id_is_computed_and_its_signature_dropped() -> None:
    event = signed()
    for changes in ({"id": "0" * 64}, {"id": None, "sig": 5}, {}):
        rumor = parse_rumor(as_json(event, **changes))
        assert rumor.id == event.id
        assert not hasattr(rumor, "sig")


@pytest.mark.parametrize(
    ("field", "value"),
    [("pubkey", "ab"), ("kind", 65536), ("created_at", -1), ("content", None), ("tags", [1])],
)
def test_a_malformed_rumor_is_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidEvent):
        parse_rumor(as_json(signed(), **{field: value}))


def test_nothing_private_shows_in_repr() -> None:
    template = make_template(14, content="cashuB-secret", tags=[["cashu", "cashuB-secret"]], created_at=NOW)
    for unpublished in (template, make_rumor(template, ALICE.public_key)):
        for shown in (repr(unpublished), str([unpublished]), pretty_repr({"local": unpublished})):
            assert "kind=14" in shown
            assert "secret" not in shown


def test_errors_repeat_nothing_private() -> None:
    for raw in (
        '{"content":"secret","tags":7}',
        '{"content":"secret',
        '{"tags":[["secret",7]]}',
        '{"kind":"secret"}',
    ):
        with pytest.raises(InvalidEvent) as caught:
            parse_rumor(raw)
        assert "secret" not in str(caught.value)
