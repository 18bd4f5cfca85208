"""Relay URLs and the guard against private addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_bridge import InvalidRelayUrl, normalise_relay_url, usable_relays
from relay_bridge.urls import resolve_public


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("wss://Relay.Example.com", "wss://relay.example.com"),
        (" wss://relay.example.com:443/ ", "wss://relay.example.com"),
        ("WS://relay.example.com:80/Path/", "ws://relay.example.com/Path"),
        ("ws://127.0.0.1:7777", "ws://127.0.0.1:7777"),
        ("ws://[::1]:7777/?x=1#y", "ws://[::1]:7777"),
        ("wss://relay.example.com.", "wss://relay.example.com"),
        ("wss://bücher.example", "wss://xn--bcher-kva.example"),
    ],
)
def test_one_spelling(text, normal):
    assert normalise_relay_url(text) == normal == normalise_relay_url(normal)


@pytest.mark.parametrize(
    "text",
    ["", "relay.example.com", "http://x", "wss://", "wss://user:pass@x", "wss://x:99999", "wss://a b", "ws://x\n", "wss://" + "x" * 600, "ws://[::1", "wss://x\\@y"],
)  # fmt: skip
def test_refused(text):
    with pytest.raises(InvalidRelayUrl):
        normalise_relay_url(text if text != "ws://x\n" else "ws://x\ny")


@given(st.text())
def test_any_text_is_normalised_or_refused(text):
    try:
        normal = normalise_relay_url("wss://" + text)
    except InvalidRelayUrl:
        return
    assert normalise_relay_url(normal) == normal


def test_long_texts_are_refused_before_anything_reads_or_remembers_them():
    for text in ("wss://" + "é" * 10**6, " " * 10**6 + "wss://a"):
        with pytest.raises(InvalidRelayUrl, match="512"):
            normalise_relay_url(text)


def test_usable_relays_leaves_out_and_limits():
    assert usable_relays(["wss://a/", "nonsense", "wss://A", "wss://b", "wss://c"], relays_max=2) == (
        "wss://a",
        "wss://b",
    )


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "0.0.0.0", "10.1.2.3", "192.168.1.1", "169.254.169.254", "172.16.0.1", "100.64.0.1", "224.0.0.1",
        "::1", "::", "fe80::1", "fc00::1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "2130706433", "0x7f.1", "no.such.name.invalid",
    ],
)  # fmt: skip
async def test_addresses_of_our_own_network_are_refused(host):
    with pytest.raises(InvalidRelayUrl):
        await resolve_public(host, 80)


@pytest.mark.parametrize("host", ["1.1.1.1", "2606:4700:4700::1111"])
async def test_public_addresses_are_given_back(host):
    assert await resolve_public(host, 443) == host
