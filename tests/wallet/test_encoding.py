import base64
import contextlib

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wallet.encoding import from_base64url, from_cbor, to_base64url, to_cbor


@given(st.binary())
def test_base64_is_read_in_all_four_spellings(raw):
    assert from_base64url(to_base64url(raw)) == raw
    for spelling in (base64.b64encode(raw), base64.urlsafe_b64encode(raw)):
        assert from_base64url(spelling.decode()) == raw
        assert from_base64url(spelling.decode().rstrip("=")) == raw


@pytest.mark.parametrize("text", ["a b", "a\nb", "a.b", "é", "abcde", "=a", "a=b"])
def test_other_text_is_not_base64(text):
    with pytest.raises(ValueError):  # noqa: PT011 - ValueError is the contract
        from_base64url(text)


values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**63) | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_plain_data_round_trips(value):
    try:
        assert from_cbor(to_cbor(value)) == value
    except ValueError:
        assert cbor2.dumps(value).count(b"\x81") > 3  # deeper than anything we read


def test_undefined_members_are_absent():
    assert from_cbor(cbor2.dumps({"a": cbor2.undefined, "b": 1})) == {"b": 1}


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\xff", b"\x81", b"\x61", b"\x9b" + b"\xff" * 8, b"\x5b" + b"\x7f" * 8, b"\x81" * 2000, b"\xa2\x01\x02\x01\x02",
        b"\xa2\x61a\x01\x61a\x02", b"\xa1\x80\x01", b"\x61\xff", b"\xc2\x41\x01", b"\xd8\x23\x61[", b"\xd8\x1c\x81\xd8\x1d\x00",
        cbor2.dumps(2**200), b"\xc4\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01", b"\xd9\xd9\xf7\x01",
    ],
)  # fmt: skip
def test_hostile_cbor_is_refused(raw):
    with pytest.raises(ValueError):  # noqa: PT011
        from_cbor(raw)


@given(st.binary())
def test_any_bytes_are_read_or_refused(raw):
    with contextlib.suppress(ValueError):
        from_cbor(raw)
