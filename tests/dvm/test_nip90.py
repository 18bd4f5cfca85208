"""NIP-90 on the wire."""

import pytest

from dvm.errors import BadRequest
from dvm.kinds import is_request_kind, result_kind
from dvm.nip90 import (
    Input,
    Offer,
    Status,
    make_feedback,
    make_request,
    make_result,
    parse_feedback,
    parse_request,
    parse_result,
    stated_confidence,
)
from identity.event import Event, make_template, sign_event
from identity.keys import SecretKey

CUSTOMER = SecretKey.from_hex("11" * 32)
PROVIDER = SecretKey.from_hex("22" * 32)
NOW = 1_700_000_000


def request(*tags: tuple[str, ...], kind: int = 5001, content: str = "") -> Event:
    return sign_event(make_template(kind, content=content, tags=tags, created_at=NOW), CUSTOMER)


def test_a_request_is_read_whole() -> None:
    event = request(
        ("i", "first", "text"),
        ("i", "https://example.com", "url", "", "source"),
        ("i", "second"),
        ("param", "length", "3 sentences"),
        ("param", "range", "0", "10"),
        ("output", "text/plain"),
        ("bid", "21000"),
        ("relays", "wss://a", "wss://b"),
        ("p", PROVIDER.public_key),
        ("settle", "prepaid"),
        ("mint", "https://m"),
        ("lock", PROVIDER.compressed_public_key),
        ("expiration", str(NOW + 5)),
    )
    read = parse_request(event)
    assert read.id == event.id
    assert read.customer == CUSTOMER.public_key
    assert read.inputs == (
        Input("first"),
        Input("https://example.com", "url", "", "source"),
        Input("second"),
    )
    assert [part.text for part in read.inputs] == ["first", "", "second"]
    assert read.params == {"length": ("3 sentences",), "range": ("0", "10")}
    assert (read.output, read.bid_msat, read.relays) == ("text/plain", 21000, ("wss://a", "wss://b"))
    assert (read.settle, read.mints, read.lock) == (
        ("prepaid",),
        ("https://m",),
        PROVIDER.compressed_public_key,
    )
    assert read.expires_at == NOW + 5


def test_a_request_made_is_the_request_read() -> None:
    template = make_request(
        5001, [Input("text")], params={"length": ("short",)}, provider=PROVIDER.public_key, bid_msat=21000,
        relays=["wss://a"], mints=["https://m"], lock=CUSTOMER.compressed_public_key, expires_at=NOW + 9, now=NOW,
    )  # fmt: skip
    read = parse_request(sign_event(template, CUSTOMER))
    assert read.inputs == (Input("text"),)
    assert read.params == {"length": ("short",)}
    assert read.providers == (PROVIDER.public_key,)
    assert read.bid_msat == 21000
    assert read.mints == ("https://m",)
    assert read.lock == CUSTOMER.compressed_public_key


def test_lists_of_values_come_as_one_tag_or_as_several() -> None:
    read = parse_request(
        request(("param", "user", "a"), ("param", "user", "b"), ("mint", "x"), ("mint", "y"))
    )
    assert read.params == {"user": ("a", "b")}
    assert read.mints == ("x", "y")


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ([("i",)], "no data"),
        ([("i", "x", "image")], "not known"),
        ([("param",)], "no name"),
        ([("bid", "-1")], "whole number"),
        ([("bid", "٣")], "whole number"),
        ([("bid", "9" * 30)], "whole number"),
        ([("bid", "1"), ("bid", "2")], "2 times"),
        ([("lock", "02" + "zz" * 32)], "lock must be"),
        ([("lock", PROVIDER.public_key)], "lock must be"),
        ([("i", "x", "text")] * 101, "inputs"),
        ([("t", "x")] * 501, "tags"),
    ],
)
def test_a_bad_request_says_why(tags: list[tuple[str, ...]], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        parse_request(request(*tags))


@pytest.mark.parametrize("kind", [1, 4999, 5128, 6000, 7000])
def test_other_kinds_are_no_jobs(kind: int) -> None:
    assert not is_request_kind(kind)
    with pytest.raises(BadRequest):
        parse_request(request(kind=kind))
    with pytest.raises(BadRequest):
        result_kind(kind)


def test_an_offer_comes_back_as_it_was_made() -> None:
    offer = Offer(
        price_msat=21000, mints=("https://m", "https://n"), lock="02" + "11" * 32, locktime=NOW + 3600,
        settle=("prepaid",), creq="creqAxyz", expires_at=NOW + 600,
    )  # fmt: skip
    asked = request(("i", "x", "text"))
    event = sign_event(make_feedback(asked, Status.PAYMENT_REQUIRED, now=NOW, tags=offer.to_tags()), PROVIDER)
    read = parse_feedback(event)
    assert read is not None
    assert read.request_id == asked.id
    assert read.offer == offer
    assert event.tag("p") == CUSTOMER.public_key


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("job_failed", "job_failed"),
        ("of_another_post", "of_another_post"),
        ("Not Ours", ""),
        ("x" * 41, ""),
        ("", ""),
    ],
)
def test_a_code_is_read_if_it_has_the_form_of_one(said: str, read: str) -> None:
    asked = request(("i", "x", "text"))
    template = make_feedback(asked, Status.ERROR, now=NOW, message="no", tags=[("code", said)])
    feedback = parse_feedback(sign_event(template, PROVIDER))
    assert feedback is not None
    assert feedback.code == read


def test_feedback_of_deployed_providers_is_read_leniently() -> None:
    def feedback(*tags: tuple[str, ...], kind: int = 7000) -> Event:
        return sign_event(make_template(kind, tags=tags, created_at=NOW), PROVIDER)

    ndk = parse_feedback(feedback(("status", "payment_required"), ("e", "aa"), ("amount", "1000", "lnbc1")))
    assert ndk is not None
    assert ndk.status == Status.PAYMENT_REQUIRED
    assert ndk.offer == Offer(price_msat=1000, bolt11="lnbc1")
    bare = parse_feedback(feedback(("e", "aa")))
    assert bare is not None
    assert bare.status == Status.PROCESSING
    odd = parse_feedback(feedback(("status", "subscription-required", "why"), ("e", "aa")))
    assert odd is not None
    assert (odd.status, odd.message) == ("subscription-required", "why")
    assert parse_feedback(feedback(("status", "error"))) is None
    assert parse_feedback(feedback(("e", "aa"), kind=7001)) is None
    unreadable = parse_feedback(feedback(("status", "payment-required"), ("e", "aa"), ("amount", "lots")))
    assert unreadable is not None
    assert unreadable.offer is None
    nothing = parse_feedback(feedback(("status", "payment-required"), ("e", "aa")))
    assert nothing is not None
    assert nothing.offer is None


def test_a_result_carries_what_nip90_asks_for() -> None:
    asked = request(("i", "x", "text"), ("i", "y", "text"))
    event = sign_event(make_result(asked, "done", price_msat=5000, now=NOW, relay="wss://a"), PROVIDER)
    assert event.kind == 6001
    assert event.tag("request") == asked.to_json().decode()
    assert event.tags_named("e") == [("e", asked.id, "wss://a")]
    assert event.tags_named("i") == [("i", "x", "text"), ("i", "y", "text")]
    assert event.tag("p") == CUSTOMER.public_key
    assert event.tag("amount") == "5000"
    read = parse_result(event)
    assert read is not None
    assert (read.request_id, read.content) == (asked.id, "done")
    assert parse_result(asked) is None


def test_a_result_says_how_sure_its_agent_is_if_the_agent_does() -> None:
    asked = request(("i", "x", "text"))
    for stated, tag in ((None, None), (0.8, "0.80"), (0, "0.00"), (1, "1.00")):
        event = sign_event(make_result(asked, "done", price_msat=0, now=NOW, confidence=stated), PROVIDER)
        assert event.tag("confidence") == tag
        assert stated_confidence(event) == stated
    for unreadable in ("1.5", "-1", "very", "", "nan"):
        template = make_template(6001, tags=[("confidence", unreadable)], created_at=NOW)
        assert stated_confidence(sign_event(template, PROVIDER)) is None


def test_trailing_empty_fields_of_an_input_are_left_out() -> None:
    assert Input("x").to_tag() == ("i", "x", "text")
    assert Input("x", "text", "", "m").to_tag() == ("i", "x", "text", "", "m")
