"""Reviews and leaves: what is written is read again, and what has another form is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import InvalidReceipt, make_template, parse_event, sign_event
from identity.event import Event, Tag
from identity.keys import SecretKey
from identity.receipts import (
    AMOUNT_MSAT_MAX,
    COINS_MAX,
    LEAF_BYTES_MAX,
    NAMESPACE,
    TEXT_CHARS_MAX,
    JobLeaf,
    KeyLeaf,
    Leaf,
    Outcome,
    Preimage,
    Review,
    ReviewLeaf,
    SpentCoin,
    SpentLock,
    claim_lock,
    is_lock_of,
    parse_leaf,
    parse_review,
    read_confidence,
    write_confidence,
    write_leaf,
)
from tests.identity.receipt_files import CUSTOMER, FIRST_LEAF, INVOICED, JOB, NOW, PAID_REVIEW, REVIEW, signed

ids = st.binary(min_size=32, max_size=32).map(bytes.hex)
points = ids.map(lambda x: "02" + x)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
amounts = st.integers(0, AMOUNT_MSAT_MAX)
words = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=1, max_size=32)
hundredths = st.none() | st.integers(0, 100).map(lambda number: number / 100)
coins = st.builds(
    SpentCoin, amount=st.integers(1, AMOUNT_MSAT_MAX), keyset_id=texts, secret=texts, C=points,
    e=ids, s=ids, r=ids, witness=texts,
)  # fmt: skip
evidence = (
    st.none()
    | st.builds(SpentLock, mint=texts.filter(bool), coins=st.lists(coins, min_size=1, max_size=4).map(tuple))
    | st.builds(Preimage, bolt11=texts.filter(bool), preimage=ids)
)
offers = st.none() | texts.map(
    lambda text: sign_event(make_template(7000, content=text, created_at=NOW), CUSTOMER)
)
reviews = st.builds(
    Review, request_id=ids, provider=ids, kind=st.integers(0, 65_535), method=words, amount_msat=amounts,
    rating=st.integers(1, 5), result_id=st.none() | ids, confidence=hundredths, evidence=evidence, offer=offers,
    text=texts,
)  # fmt: skip
shares = st.none() | st.floats(0, 1)
signatures = st.binary(min_size=64, max_size=64).map(bytes.hex)
leaves = (
    st.builds(
        JobLeaf, request=ids, customer=ids, kind=amounts, method=words, outcome=st.sampled_from(Outcome),
        amount_msat=amounts, at=amounts, disputed=st.booleans(), result=st.none() | ids, confidence=shares,
        lock=st.just("") | points, lock_sig=st.just("") | signatures, hash=st.none() | ids,
    )
    | st.builds(ReviewLeaf, review=ids, request=ids, at=amounts, answer=texts)
    | st.builds(KeyLeaf, key=ids, next=ids, at=amounts, rotation=texts)
)  # fmt: skip

# Reviews ---------------------------------------------------------------------------------------------------------


@given(reviews)
def test_a_review_is_read_as_it_was_written(review: Review) -> None:
    event = sign_event(review.to_template(NOW, "wss://relay.test"), CUSTOMER)
    assert parse_review(parse_event(event.to_json())) == review


def test_who_knows_only_labels_reads_one() -> None:
    tags = signed(REVIEW).tags
    assert ("L", NAMESPACE) in tags
    assert ("l", "4/5", NAMESPACE) in tags
    assert [tag[1] for tag in tags if tag[0] == "e"] == [REVIEW.request_id, REVIEW.result_id]
    assert ("p", REVIEW.provider, "wss://relay.test") in tags
    assert [review.evidence_class for review in (REVIEW, PAID_REVIEW, replace(REVIEW, evidence=None))] == [
        "lock", "preimage", "none",
    ]  # fmt: skip


def bent(event: Event, name: str, *values: tuple[str, ...]) -> Event:
    """With other tags of that name: these, one after the other, or none."""
    tags: list[Tag] = [tag for tag in event.tags if tag[0] != name]
    return msgspec.structs.replace(event, tags=(*tags, *((name, *value) for value in values)))


COIN = signed(REVIEW).tags_named("coin")[0][1:]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("L", []), ("L", [("other",)]),
        ("l", []), ("l", [("5/5", NAMESPACE)]), ("l", [("4/5",)]), ("l", [("4/5", "other")]),
        ("e", []), ("e", [("aa" * 32,)]), ("e", [("AA" * 32, "", "request")]), ("e", [("aa", "", "request")]),
        ("e", [("aa" * 32, "", "request"), ("bb" * 32, "", "request")]),
        ("e", [("aa" * 32, "", "request"), ("bb" * 32, "", "result"), ("cc" * 32, "", "result")]),
        ("p", []), ("p", [("",)]), ("p", [("AA" * 32,)]), ("p", [("aa" * 33,)]), ("p", [("aa" * 32 + "\n",)]),
        ("k", []), ("k", [("65536",)]), ("k", [("-1",)]), ("k", [("5050.0",)]), ("k", [("05050",)]), ("k", [("٣",)]),
        ("rating", []), ("rating", [("0",)]), ("rating", [("6",)]), ("rating", [("5",)]), ("rating", [("4.0",)]),
        ("settle", []), ("settle", [("",)]), ("settle", [("Two Words",)]), ("settle", [("a" * 33,)]),
        ("amount", []), ("amount", [("-1",)]), ("amount", [(str(2**53 + 1),)]), ("amount", [("1" * 5000,)]),
        ("confidence", [("1.1",)]), ("confidence", [("nan",)]), ("confidence", [("-0",)]), ("confidence", [(".5",)]),
        ("confidence", [("0.5\n",)]), ("confidence", [("1e-1",)]),
        ("evidence", []), ("evidence", [("word",)]), ("evidence", [("preimage",)]),
        ("u", []), ("u", [("",)]),
        ("coin", []), ("coin", [COIN] * (COINS_MAX + 1)), ("coin", [COIN[:-1]]), ("coin", [(*COIN, "")]),
        ("coin", [("0", *COIN[1:])]), ("coin", [("1.5", *COIN[1:])]), ("coin", [(*COIN[:3], "04" + COIN[3][2:], *COIN[4:])]),
        ("coin", [(*COIN[:4], "", *COIN[5:])]), ("coin", [COIN, (*COIN[:6], "g" * 64, COIN[7])]),
        ("offer", [("",)]), ("offer", [("{}",)]), ("offer", [("[" * 50_000,)]),
    ],
)  # fmt: skip
def test_a_review_of_another_form_is_refused(name: str, values: list[tuple[str, ...]]) -> None:
    event = signed(REVIEW)
    assert parse_review(event) == REVIEW
    with pytest.raises(InvalidReceipt):
        parse_review(bent(event, name, *values))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("bolt11", []),
        ("bolt11", [("",)]),
        ("preimage", []),
        ("preimage", [("cc",)]),
        ("preimage", [("CC" * 32,)]),
    ],
)
def test_a_review_with_half_a_preimage_is_refused(name: str, values: list[tuple[str, ...]]) -> None:
    with pytest.raises(InvalidReceipt):
        parse_review(bent(signed(PAID_REVIEW), name, *values))


def test_what_is_no_review_is_refused() -> None:
    event = signed(REVIEW)
    for changes in ({"kind": 1984}, {"content": "x" * (TEXT_CHARS_MAX + 1)}):
        with pytest.raises(InvalidReceipt):
            parse_review(msgspec.structs.replace(event, **changes))


def test_a_confidence_is_a_share() -> None:
    assert [read_confidence(text) for text in ("0", "1", "1.0000", "0.85")] == [0, 1, 1, 0.85]
    assert write_confidence(0.854) == "0.85"
    for number in (-0.01, 1.01, float("nan")):
        with pytest.raises(ValueError, match="from 0 to 1"):
            write_confidence(number)


# Leaves ----------------------------------------------------------------------------------------------------------


@given(leaves)
def test_a_leaf_is_read_as_it_was_written(leaf: Leaf) -> None:
    text = write_leaf(leaf)
    assert parse_leaf(text) == leaf
    assert "\n" not in text
    told = json.loads(text)
    assert list(told) == sorted(told)
    assert not {None, ""} & {value for value in told.values() if isinstance(value, str | None)}


def test_the_leaf_in_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs" / "receipts.md").read_text(encoding="utf-8")
    lines = re.findall(r"```json\n(.*)\n```", page)
    assert [write_leaf(parse_leaf(line)) for line in lines] == lines != []


def with_members(leaf: Leaf, **members: Any) -> str:
    told = json.loads(write_leaf(leaf)) | members
    return json.dumps({name: value for name, value in told.items() if value != "left out"})


@pytest.mark.parametrize(
    "text",
    [
        *(with_members(JOB, **{name: "left out"}) for name in ("type", "request", "customer", "kind", "outcome", "at")),
        *(with_members(JOB, **{name: value}) for name in ("request", "customer", "result", "hash", "lock")
          for value in ("aa" * 31, "AA" * 32, "aa" * 32 + "\n", 7)),
        *(with_members(JOB, **{name: value}) for name in ("kind", "amount_msat", "at")
          for value in (-1, 2**53 + 1, "1", 1.5, True, None)),
        *(with_members(JOB, confidence=value) for value in (-0.1, 1.1, "0.5")),
        *(with_members(JOB, **{name: value}) for name, value in (
            ("type", "other"), ("outcome", "won"), ("method", "two words"), ("method", "a\n"), ("disputed", 1),
            ("lock", "04" + "aa" * 32), ("lock_sig", "aa" * 32), ("lock_sig", "AA" * 64), ("besides", 1),
        )),
        with_members(INVOICED, hash="aa"), with_members(FIRST_LEAF, next="left out"), with_members(FIRST_LEAF, key="aa"),
        with_members(ReviewLeaf(review="aa" * 32, request="bb" * 32, at=1), answer="x" * (TEXT_CHARS_MAX + 1)),
        with_members(ReviewLeaf(review="aa" * 32, request="bb" * 32, at=1), review="left out"),
        "", "null", "[]", "{}", "{", "[" * 50_000, '"job"', write_leaf(JOB) + "x", write_leaf(JOB)[:-1], "\ud800",
    ],
)  # fmt: skip
def test_a_leaf_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidReceipt):
        parse_leaf(text)


def test_a_leaf_has_a_limit() -> None:
    whole = write_leaf(msgspec.structs.replace(FIRST_LEAF, rotation="x"))
    most = msgspec.structs.replace(FIRST_LEAF, rotation="x" * (LEAF_BYTES_MAX - len(whole) + 1))
    assert parse_leaf(write_leaf(most)) == most
    with pytest.raises(ValueError, match="bytes at most"):
        write_leaf(msgspec.structs.replace(most, rotation=most.rotation + "x"))


def test_a_lock_is_of_the_agent_and_the_job_that_its_own_key_signed_for() -> None:
    key, agent, request = SecretKey(b"\x05" * 32), CUSTOMER.public_key, "aa" * 32
    lock, signature = key.compressed_public_key, claim_lock(key, agent, request)
    assert is_lock_of(lock, signature, agent, request)
    for wrong in (
        (lock, signature, agent, "bb" * 32), (lock, signature, key.public_key, request), ("", signature, agent, request),
        (CUSTOMER.compressed_public_key, signature, agent, request), (lock, "", agent, request), (lock, "00" * 64, agent, request),
        (lock[2:], signature, agent, request), (lock, signature.upper(), agent, request), (lock, signature + "00", agent, request),
        ("02" + "ff" * 32, signature, agent, request),
    ):  # fmt: skip
        assert not is_lock_of(*wrong)
