from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import (
    BunkerUrl,
    EncryptedKey,
    InvalidKey,
    Npub,
    SecretKey,
    encode_npub,
    encode_nsec,
    nip19,
    nip49,
    parse_credential,
)
from identity.credential import encode_stored_key

BUNKER = "bunker://{key}?relay=wss%3A%2F%2Frelay.example&relay=ws://127.0.0.1:7777&secret=s3cr3t"


def test_each_form_is_told_apart(alice: SecretKey) -> None:
    encrypted = nip49.encrypt(alice, "x", log_n=4)
    bunker = BunkerUrl(alice.public_key, ("wss://relay.example", "ws://127.0.0.1:7777"), "s3cr3t")
    for text, expected in (
        (encode_nsec(alice), alice),
        (f"  nostr:{encode_nsec(alice).upper()}\n", alice),
        (alice.hex(), alice),
        (alice.hex().upper(), alice),
        (encrypted, EncryptedKey(encrypted)),
        (f" {encrypted.upper()}\n", EncryptedKey(encrypted)),
        (BUNKER.format(key=alice.public_key), bunker),
        (BUNKER.format(key=encode_npub(alice.public_key)), bunker),
        (encode_npub(alice.public_key), Npub(alice.public_key)),
        (nip19.encode_nprofile(alice.public_key, ["wss://x"]), Npub(alice.public_key)),
    ):
        assert parse_credential(text) == expected


def test_what_is_stored_reads_back(alice: SecretKey) -> None:
    encrypted = EncryptedKey(nip49.encrypt(alice, "x", log_n=4))
    odd = BunkerUrl(alice.public_key, ("wss://r/?a=b&c=d",), "a b+c&d=é")
    for key in (alice, encrypted, odd, BunkerUrl(alice.public_key, ("wss://r",))):
        assert parse_credential(encode_stored_key(key)) == key


def test_repr_hides_what_is_secret(alice: SecretKey) -> None:
    encrypted = nip49.encrypt(alice, "x", log_n=4)
    bunker = parse_credential(BUNKER.format(key=alice.public_key))
    assert encrypted[20:] not in repr(EncryptedKey(encrypted))
    assert "s3cr3t" not in repr(bunker) + str(bunker)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "give an nsec, an ncryptsec, 64 hex digits, a bunker:// URL or an npub"),
        ("hunter2", "give an nsec"),
        ("ncryptsec1qqqqqqqqqqqqqqqq", "not an encrypted key"),
        ("npub1qqqqqqqqqqqqqqqqqqq", "checksum"),
        ("nostrconnect://abcd?relay=wss://r&secret=x", "made here and given to the signer"),
        ("bunker://nobody?relay=wss://r&secret=hunter2", "no public key"),
        ("bunker://" + "5" * 64 + "?relay=wss://r", "no public key"),  # not on the curve
        ("bunker://{key}", "names 1 … 8 relays"),
        ("bunker://{key}?secret=hunter2", "names 1 … 8 relays"),
        ("bunker://{key}?" + "&".join(f"relay=wss://r{n}" for n in range(9)), "not 9"),
        ("bunker://{key}?relay=wss://r&" + "&".join(["x=y"] * 100), "cannot be read"),
        ("bunker://{key}?relay=wss://" + "r" * 5000, "at most 4096 characters"),
        ("bunker://[{key}?relay=wss://r", "cannot be read"),
    ],
)
def test_what_is_no_key_is_told_without_repeating_it(alice: SecretKey, text: str, said: str) -> None:
    text = text.replace("{key}", alice.public_key)
    with pytest.raises(InvalidKey, match=said) as caught:
        parse_credential(text)
    assert "hunter2" not in str(caught.value)


def test_a_mistyped_secret_is_not_repeated(alice: SecretKey) -> None:
    nsec = encode_nsec(alice)
    for text in (nsec[:-1], nsec + "q", alice.hex()[:-1], "0" * 64):
        with pytest.raises(InvalidKey) as caught:
            parse_credential(text)
        assert text[5:40] not in str(caught.value)


@given(st.sampled_from(["", "bunker://", "ncryptsec1", "nsec1", "npub1", f"bunker://{'5' * 63}"]), st.text())
def test_nothing_else_comes_of_reading(start: str, rest: str) -> None:
    with suppress(InvalidKey):
        parse_credential(start + rest)
