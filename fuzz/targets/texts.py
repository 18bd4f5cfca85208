"""URLs, addresses and texts from outside, and how they are shown: logs, a terminal."""

import ipaddress
from typing import Final

from rich.text import Text

from fuzz.kit import ALICE, text_of
from identity.nip19 import encode_nsec
from relay_bridge.addresses import is_public
from relay_bridge.errors import FetchFailed, InvalidRelayUrl
from relay_bridge.fetch import _decode, check_url
from relay_bridge.urls import URL_MAX, normalise_relay_url, usable_relays
from tradepost.cli.output import quoted
from tradepost.logs import redact
from wallet.errors import InvalidSeed
from wallet.seed import Seed

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_URL_PARTS: Final = ("scheme", "raw_host", "port", "raw_path_qs")
_NSEC: Final = encode_nsec(ALICE)


def _relay_url(data: bytes) -> None:
    text = text_of(data)
    try:
        url = normalise_relay_url(text)
    except InvalidRelayUrl:
        assert usable_relays([text]) == ()
        return
    assert usable_relays([text, url, text], relays_max=2) == (url,)
    assert normalise_relay_url(url) == url
    assert len(url) <= URL_MAX + 8
    assert url.isascii()
    assert url.isprintable()
    assert not set(url) & set(" ?#\\")
    assert "@" not in url.split("/")[2]


def _words(data: bytes) -> None:
    text = text_of(data)
    try:
        seed = Seed.from_words(text)
    except InvalidSeed as error:
        assert len(text) < 20 or text not in str(error)
        return
    assert repr(seed) == "Seed(hidden)"


def _shown(data: bytes) -> None:
    """Somebody else's text is itself on a terminal, and nothing more."""
    text = text_of(data)
    shown = Text.from_markup(f"[bold]{quoted(text)}[/] after", emoji=False)
    assert shown.plain.endswith(" after")
    assert [span.style for span in shown.spans if span.start < span.end] == ["bold"] * bool(text)
    assert all(span.end == len(shown) - len(" after") for span in shown.spans)
    assert not any(ord(letter) < 32 and letter not in "\t\n" for letter in shown.plain)


def _logged(data: bytes) -> None:
    """A secret in a log is blotted out, whatever stands around it."""
    before, _, after = text_of(data).partition("|")
    logged = redact(None, "info", {"event": before + _NSEC + after, "more": [before, {"a": _NSEC}]})
    assert _NSEC not in str(logged)


def _fetched_url(data: bytes) -> None:
    try:
        url = check_url(text_of(data))
    except FetchFailed as error:
        assert len(str(error)) < 1000
        return
    assert url.scheme in ("http", "https")
    assert url.raw_host
    again = check_url(str(url))
    assert all(str(getattr(again, part)).lower() == str(getattr(url, part)).lower() for part in _URL_PARTS)


def _fetched_text(data: bytes) -> None:
    charset, _, body = data.partition(b"|")
    text = _decode(body, text_of(charset))
    assert text is None or len(text) <= len(body)


def _address(data: bytes) -> None:
    """Nothing is public that Python calls private, and no address becomes public by another name."""
    if len(data) == 4:
        address = ipaddress.IPv4Address(data)
        assert is_public(f"::ffff:{address}") == is_public(str(address))
        assert address.is_global or not is_public(str(address))
    if len(data) == 16:
        six = ipaddress.IPv6Address(data)
        is_other_name = six.ipv4_mapped or six.sixtofour or six.teredo or six in _NAT64
        assert six.is_global or is_other_name or not is_public(str(six))


CHECKS = {
    "fetched_url": _fetched_url, "fetched_text": _fetched_text, "address": _address, "relay_url": _relay_url, "words": _words, "shown": _shown, "logged": _logged,
}  # fmt: skip
SEEDS = [
    *(("relay_url", url) for url in (b"wss://Relay.Example:443/path/", b"ws://[::1]:7777", "wss://bücher.example".encode())),
    ("relay_url", b"wss://a.example./?x#y"),
    ("words", ("abandon " * 11 + "about").encode()),
    ("words", b"zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo zoo wrong"),
    *(("fetched_url", url) for url in (b"https://x.example/a?b#c", b"http://[a.example:1]", b"http://[:1]", b"http://[:]@", b"http://[:]:80", b"http://[::1]:80", "https://b\u00fccher.example/\u00e9".encode())),
    *(("fetched_text", body) for body in (b"utf-8|\xef\xbb\xbfx", b"utf-16|a\x00", b"\x00|x", b"\xff|x", b"gb18030|\x81\x30\x81\x30", b"shift_jis|\x82\xa0")),
    *(("address", ipaddress.ip_address(one).packed) for one in ("127.0.0.1", "8.8.8.8", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2001::1")),
    ("shown", b"[red]no[/] \\[b] \x1b[31m :smile: \\"),
    ("shown", "plain é\r\n\t[link=file:///x]y[/link]".encode()),
    ("logged", b'{"secret": "a\\"b|"}'),
    ("logged", b'["P2PK",{"nonce":"00|"}]'),
    ("logged", b"cashuAey|"),
]  # fmt: skip
WORDS = ("ws://", "wss://", "[::1]", "[fe80::1%25a]", ":443", "@", "?", "#", "%2f", "xn--", "[/]", "[bold]", "\\[", "\x1b[", "secret=",
         '"secret":"', "cashuA", "P2PK", "|", "abandon", "about")  # fmt: skip
