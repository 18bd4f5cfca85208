"""Filters: matching by NIP-01, narrowing, and reading what comes from outside."""

from contextlib import suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_bridge import Filter, InvalidMessage
from relay_bridge.filters import FILTER_VALUES_MAX, matches_any, parse_filter

HEX = "ab" * 32


def test_every_condition_counts(make):
    event = make(kind=5001, tags=[["p", HEX], ["t", "x", "y"], ["empty"]], at=100)
    for right in (
        Filter(), Filter(kinds=(1, 5001)), Filter(ids=(event.id,)), Filter(authors=(event.pubkey,)), Filter(since=100),
        Filter(until=100), Filter(tags={"p": (HEX,)}), Filter(tags={"t": ("x", "z")}), Filter(limit=0),
    ):  # fmt: skip
        assert right.matches(event)
    for wrong in (
        Filter(kinds=(1,)), Filter(kinds=()), Filter(ids=(HEX,)), Filter(authors=(HEX,)), Filter(since=101), Filter(until=99),
        Filter(tags={"p": ("cd" * 32,)}), Filter(tags={"t": ("y",)}), Filter(tags={"p": (HEX,), "t": ("z",)}),
    ):  # fmt: skip
        assert not wrong.matches(event)
        assert matches_any([wrong, Filter(kinds=(5001,))], event)


def test_between_only_narrows():
    assert Filter(since=10, until=20).between(5, 30) == Filter(since=10, until=20)
    assert Filter(since=10).between(15, 30) == Filter(since=15, until=30)
    assert Filter().between(None, None) == Filter()


hexes = st.binary(min_size=32, max_size=32).map(bytes.hex)
times = st.none() | st.integers(0, 2**53)
filters = st.builds(
    Filter,
    ids=st.none() | st.lists(hexes, min_size=1, max_size=3).map(tuple),
    authors=st.none() | st.lists(hexes, min_size=1, max_size=3).map(tuple),
    kinds=st.none() | st.lists(st.integers(0, 65535), min_size=1, max_size=3).map(tuple),
    since=times,
    until=times,
    limit=times,
    tags=st.dictionaries(
        st.sampled_from("dtZ"),
        st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=3).map(tuple),
        max_size=2,
    ),
)


@given(filters)
def test_what_is_written_is_read_back(one):
    assert parse_filter(orjson.loads(orjson.dumps(one.to_dict()))) == one


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_anything_else_is_refused_cleanly(plain):
    with suppress(InvalidMessage):
        assert isinstance(parse_filter(plain), Filter)


@pytest.mark.parametrize(
    "plain",
    [
        [], "x", {"kinds": []}, {"kinds": [True]}, {"kinds": [65536]}, {"ids": ["abc"]}, {"authors": [HEX.upper()]}, {"#p": ["x"]},
        {"#pp": ["x"]}, {"#": ["x"]}, {"#1": ["x"]}, {"since": -1}, {"limit": 1.5}, {"search": "x"}, {"#t": [1]},
        {"kinds": [1] * (FILTER_VALUES_MAX + 1)},
    ],
)  # fmt: skip
def test_bad_filters(plain):
    with pytest.raises(InvalidMessage):
        parse_filter(plain)
