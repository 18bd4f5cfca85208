"""LUD-01, LUD-16, LUD-17: what people paste and scan."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import bech32
from wallet.errors import InvalidLnurl
from wallet.lnurl_text import TEXT_CHARS_MAX, encode_lnurl, is_address, parse_lnurl

VECTORS = json.loads((Path(__file__).parent / "vectors" / "lnurl.json").read_text(encoding="utf-8"))
URL, LNURL = VECTORS["lud01"]["url"], VECTORS["lud01"]["lnurl"]


def test_the_official_vector_both_ways():
    assert parse_lnurl(LNURL) == URL
    assert encode_lnurl(URL) == LNURL


@pytest.mark.parametrize(
    "text",
    [
        LNURL.lower(),
        f"  {LNURL}\n",
        f"lightning:{LNURL}",
        f"LIGHTNING:{LNURL}",
        f"lightning://{LNURL}",
        f"https://shop.example/redeem?id=1&lightning={LNURL}",
        URL,
        URL.replace("https", "lnurlp"),
        URL.replace("https", "LNURLW"),
    ],
)
def test_every_form_leads_to_the_same_url(text):
    assert parse_lnurl(text) == URL


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("satoshi@bitcoin.org", "https://bitcoin.org/.well-known/lnurlp/satoshi"),
        ("Satoshi@Bitcoin.org", "https://bitcoin.org/.well-known/lnurlp/satoshi"),
        ("a_b-c.d@pay.example:8443", "https://pay.example:8443/.well-known/lnurlp/a_b-c.d"),
        ("lightning:satoshi@bitcoin.org", "https://bitcoin.org/.well-known/lnurlp/satoshi"),
    ],
)
def test_a_lightning_address(address, url):
    assert parse_lnurl(address) == url


def test_on_this_machine_there_is_no_tls_but_only_where_that_is_allowed():
    assert parse_lnurl("tips@127.0.0.1:80", allow_private=True).startswith("http://127.0.0.1")
    assert parse_lnurl("lnurlp://localhost:8790/x", allow_private=True) == "http://localhost:8790/x"
    assert parse_lnurl("tips@shop.example", allow_private=True).startswith("https://")
    with pytest.raises(InvalidLnurl, match="not on the public internet"):
        parse_lnurl("tips@127.0.0.1:80")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not an LNURL"),
        ("hello", "not an LNURL"),
        ("+tag@x.example", "not an LNURL"),
        ("name+tag@x.example", "not an LNURL"),
        ("two@at@x.example", "not an LNURL"),
        ("@x.example", "not an LNURL"),
        ("name@", "not an LNURL"),
        (LNURL[:-1] + "Q", "checksum"),
        (LNURL[:40] + LNURL[40:].lower(), "mixes"),
        (bech32.encode("lnurl", b"\xff\xfe"), "no text"),
        (bech32.encode("lnurl", b"https://x.example/\0a"), "no URL of the web"),
        ("https://x.example/a\x7fb", "no URL of the web"),
        (encode_lnurl("javascript:alert(1)"), "no URL of the web"),
        (encode_lnurl("file:///etc/passwd"), "no URL of the web"),
        (encode_lnurl("ftp://host.example/"), "no URL of the web"),
        (encode_lnurl("https://name:word@host.example/"), "no URL of the web"),
        ("javascript://shop.example/%0aalert(1)", "no URL of the web"),
        ("http://shop.example/pay", "without encryption"),
        (encode_lnurl("http://shop.example/pay"), "without encryption"),
        (f"http://{'a' * 56}.onion/pay", "Tor"),
        (f"lnurlp://{'a' * 56}.onion/pay", "Tor"),
        (f"name@{'a' * 56}.onion", "Tor"),
        ("keyauth://shop.example/login?k1=00", "logs in"),
        ("lnurlc://shop.example/open", "opens a channel"),
        ("x" * (TEXT_CHARS_MAX + 1), "characters"),
    ],
)
def test_what_is_refused_and_why(text, reason):
    with pytest.raises(InvalidLnurl, match=reason):
        parse_lnurl(text)


def test_an_onion_is_refused_even_where_private_addresses_are_not():
    with pytest.raises(InvalidLnurl, match="Tor"):
        parse_lnurl(f"http://{'a' * 56}.ONION./pay", allow_private=True)


@given(st.text(max_size=200))
def test_any_text_is_a_url_or_an_error(text):
    for allowed in (False, True):
        try:
            url = parse_lnurl(text, allow_private=allowed)
        except InvalidLnurl:
            continue
        assert url.startswith(("https://", "http://") if allowed else "https://")


@given(st.from_regex(r"https://[a-z]{1,20}\.example/[a-z0-9/]{0,100}", fullmatch=True))
def test_what_was_written_is_read(url):
    assert parse_lnurl(encode_lnurl(url)) == url


@pytest.mark.parametrize(
    ("text", "expected"), [("a@b.example", True), ("A@b.example ", True), (LNURL, False), ("a b@c", False)]
)
def test_what_looks_like_an_address(text, expected):
    assert is_address(text) is expected
