import json
from pathlib import Path

import nostr_sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity import InvalidKey, SecretKey, bech32, nip19
from identity.nip19 import (
    Naddr,
    Nevent,
    Note,
    Nprofile,
    Npub,
    Nsec,
    decode,
    parse_public_key,
    parse_secret_key,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "nip19.json").read_bytes())
ALICE = SecretKey(bytes([1]) * 32)
EVENT_ID = "ab" * 32
RELAYS = ("wss://one.example", "wss://two.example/path")
OFF_CURVE = bytes.fromhex("eefdea4cdb677750a420fee807eacf21eb9898ae79b9768766e4faa04a2d4a34")
NSEC = nip19.encode_nsec(ALICE)
ENTITIES = {
    nip19.encode_npub(ALICE.public_key): Npub(ALICE.public_key),
    NSEC: Nsec(ALICE),
    nip19.encode_note(EVENT_ID): Note(EVENT_ID),
    nip19.encode_nprofile(ALICE.public_key): Nprofile(ALICE.public_key),
    nip19.encode_nprofile(ALICE.public_key, RELAYS): Nprofile(ALICE.public_key, RELAYS),
    nip19.encode_nevent(EVENT_ID): Nevent(EVENT_ID),
    nip19.encode_nevent(EVENT_ID, relays=RELAYS, author=ALICE.public_key, kind=5001): Nevent(
        EVENT_ID, RELAYS, ALICE.public_key, 5001
    ),
    nip19.encode_naddr(kind=31990, public_key=ALICE.public_key, identifier="é", relays=RELAYS): Naddr(
        31990, ALICE.public_key, "é", RELAYS
    ),
    nip19.encode_naddr(kind=10002, public_key=ALICE.public_key, identifier=""): Naddr(
        10002, ALICE.public_key, ""
    ),
}

kinds = st.integers(0, 65535)
ids = st.binary(min_size=32, max_size=32).map(bytes.hex)
public_keys = st.integers(1, 2**255).map(lambda secret: SecretKey(secret.to_bytes(32)).public_key)
relay_lists = st.lists(st.from_regex(r"wss://[a-z]{1,12}\.example", fullmatch=True), max_size=3)


# --- official vectors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", VECTORS["npub"])
def test_npub_vectors(case: dict[str, str]) -> None:
    assert decode(case["text"]) == Npub(case["hex"])
    assert nip19.encode_npub(case["hex"]) == case["text"]


@pytest.mark.parametrize("case", VECTORS["nsec"])
def test_nsec_vectors(case: dict[str, str]) -> None:
    assert decode(case["text"]) == Nsec(SecretKey.from_hex(case["hex"]))
    assert nip19.encode_nsec(SecretKey.from_hex(case["hex"])) == case["text"]


@pytest.mark.parametrize("case", VECTORS["nprofile"])
def test_nprofile_vectors(case: dict[str, str]) -> None:
    assert decode(case["text"]) == Nprofile(case["hex"], tuple(case["relays"]))
    assert nip19.encode_nprofile(case["hex"], case["relays"]) == case["text"]


# --- nostr-sdk as oracle -------------------------------------------------------------------------------------------


@given(public_keys, ids)
def test_nostr_sdk_agrees_on_bare_keys_and_ids(public_key: str, event_id: str) -> None:
    assert nostr_sdk.PublicKey.parse(public_key).to_bech32() == nip19.encode_npub(public_key)
    assert nostr_sdk.EventId.parse(event_id).to_bech32() == nip19.encode_note(event_id)
    secret = nostr_sdk.SecretKey.parse(ALICE.hex())
    assert secret.to_bech32() == nip19.encode_nsec(ALICE)


@given(public_keys, relay_lists)
def test_nostr_sdk_reads_our_nprofile_and_we_theirs(public_key: str, relays: list[str]) -> None:
    theirs = nostr_sdk.Nip19Profile.from_bech32(nip19.encode_nprofile(public_key, relays))
    assert theirs.public_key().to_hex() == public_key
    assert [str(relay) for relay in theirs.relays()] == relays
    assert decode(theirs.to_bech32()) == Nprofile(public_key, tuple(relays))


@given(ids, relay_lists, st.none() | public_keys, st.none() | kinds)
def test_nostr_sdk_reads_our_nevent_and_we_theirs(
    event_id: str, relays: list[str], author: str | None, kind: int | None
) -> None:
    ours = nip19.encode_nevent(event_id, relays=relays, author=author, kind=kind)
    theirs = nostr_sdk.Nip19Event.from_bech32(ours)
    their_author, their_kind = theirs.author(), theirs.kind()
    assert theirs.event_id().to_hex() == event_id
    assert (their_author.to_hex() if their_author else None) == author
    assert (their_kind.as_u16() if their_kind else None) == kind
    assert decode(theirs.to_bech32()) == Nevent(event_id, tuple(relays), author, kind)


@given(public_keys, st.text("abc-é:", max_size=40), relay_lists)
def test_nostr_sdk_reads_our_naddr_and_we_theirs(public_key: str, identifier: str, relays: list[str]) -> None:
    ours = nip19.encode_naddr(kind=31990, public_key=public_key, identifier=identifier, relays=relays)
    theirs = nostr_sdk.Nip19Coordinate.from_bech32(ours)
    assert theirs.coordinate().identifier() == identifier
    assert theirs.coordinate().public_key().to_hex() == public_key
    assert decode(theirs.to_bech32()) == Naddr(31990, public_key, identifier, tuple(relays))


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ENTITIES)
def test_what_is_encoded_decodes(text: str) -> None:
    for form in (text, text.upper(), f" {text}\n", f"nostr:{text}", f"NOSTR:{text.upper()}"):
        assert decode(form) == ENTITIES[text]


@given(st.text(max_size=200) | st.tuples(st.sampled_from([*nip19._READERS, "xyz"]), st.binary(max_size=300)))
def test_decode_raises_nothing_but_invalid_key(given: str | tuple[str, bytes]) -> None:
    text = given if isinstance(given, str) else bech32.encode(*given)
    for read in (decode, parse_public_key, parse_secret_key):
        try:
            read(text)
        except InvalidKey:
            continue


def field(type_: int, value: bytes) -> bytes:
    return bytes([type_, len(value)]) + value


KEY = bytes.fromhex(ALICE.public_key)


@pytest.mark.parametrize(
    ("prefix", "data"),
    [
        ("npub", KEY[:31]),
        ("npub", KEY + b"\0"),
        ("npub", OFF_CURVE),
        ("nsec", bytes(32)),
        ("nsec", b"\xff" * 32),
        ("nsec", KEY[:31]),
        ("note", KEY[:31]),
        ("nprofile", b""),
        ("nprofile", field(0, OFF_CURVE)),
        ("nprofile", field(0, KEY[:31])),
        ("nprofile", field(0, KEY)[:-1]),
        ("nprofile", field(0, KEY) + b"\x01"),
        ("nprofile", field(0, KEY) + field(1, b"\xff")),
        ("nprofile", field(1, b"wss://a.example")),
        ("nevent", field(0, KEY[:31])),
        ("nevent", field(0, KEY) + field(2, KEY[:31])),
        ("nevent", field(0, KEY) + field(3, b"\0\0\1")),
        ("nevent", field(0, KEY) + field(3, b"\0\1\0\0")),
        ("naddr", field(0, b"id") + field(2, KEY)),
        ("naddr", field(0, b"id") + field(3, b"\0\0\0\1")),
        ("naddr", field(2, KEY) + field(3, b"\0\0\0\1")),
        ("naddr", field(0, b"\xff") + field(2, KEY) + field(3, b"\0\0\0\1")),
        ("nrelay", field(0, b"wss://a.example")),
        ("lnurl", b"https://a.example"),
    ],
)
def test_what_is_malformed_is_refused(prefix: str, data: bytes) -> None:
    with pytest.raises(InvalidKey):
        decode(bech32.encode(prefix, data))


def test_unknown_fields_are_ignored_and_of_doubled_ones_the_first_counts() -> None:
    data = field(9, b"new") + field(0, KEY) + field(7, b"") + field(0, OFF_CURVE)
    assert decode(bech32.encode("nprofile", data)) == Nprofile(ALICE.public_key)


def test_the_size_is_limited_both_ways() -> None:
    relays = ["wss://" + "a" * 240] * 12
    assert len(nip19.encode_nprofile(ALICE.public_key, relays)) <= nip19.TEXT_CHARS_MAX
    with pytest.raises(InvalidKey, match="fewer relays"):
        nip19.encode_nprofile(ALICE.public_key, relays * 2)
    with pytest.raises(InvalidKey, match="5000"):
        decode(bech32.encode("nprofile", field(0, KEY) + field(1, b"a" * 255) * 13))


def test_a_field_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidKey, match="255"):
        nip19.encode_naddr(kind=30078, public_key=ALICE.public_key, identifier="x" * 256)


def test_bad_values_are_not_encoded() -> None:
    with pytest.raises(InvalidKey):
        nip19.encode_note("ab")
    with pytest.raises(InvalidKey):
        nip19.encode_nevent(EVENT_ID, kind=65536)
    for encode in (nip19.encode_npub, nip19.encode_nprofile):
        with pytest.raises(InvalidKey):
            encode("ab" * 31)


# --- keys as people give them --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        ALICE.public_key,
        ALICE.public_key.upper(),
        f" {ALICE.public_key} ",
        nip19.encode_npub(ALICE.public_key),
        "nostr:" + nip19.encode_npub(ALICE.public_key),
        nip19.encode_nprofile(ALICE.public_key, RELAYS),
    ],
)
def test_public_keys_are_read(text: str) -> None:
    assert parse_public_key(text) == ALICE.public_key


@pytest.mark.parametrize("text", [ALICE.hex(), ALICE.hex().upper(), NSEC, f"{NSEC}\n"])
def test_secret_keys_are_read(text: str) -> None:
    assert parse_secret_key(text) == ALICE


def test_a_secret_key_is_no_public_key_and_is_never_repeated() -> None:
    with pytest.raises(InvalidKey, match="keep it to yourself") as caught:
        parse_public_key(NSEC)
    assert NSEC not in str(caught.value)


@pytest.mark.parametrize(
    "text", [nip19.encode_npub(ALICE.public_key), nip19.encode_nprofile(ALICE.public_key)]
)
def test_a_public_key_is_no_secret_key(text: str) -> None:
    with pytest.raises(InvalidKey, match="public key"):
        parse_secret_key(text)


@pytest.mark.parametrize("parse", [parse_public_key, parse_secret_key])
def test_an_event_is_no_key(parse: object) -> None:
    with pytest.raises(InvalidKey, match="names an event"):
        parse(nip19.encode_note(EVENT_ID))


@pytest.mark.parametrize("text", [NSEC[:-1], NSEC[:-1] + "q", NSEC + "q", NSEC.capitalize(), OFF_CURVE.hex()])
def test_errors_never_repeat_the_text(text: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        parse_public_key(text)
    assert text[5:] not in str(caught.value)


def test_repr_hides_the_secret() -> None:
    shown = repr(decode(NSEC))
    assert ALICE.hex() not in shown
    assert NSEC not in shown
