"""Keys and addresses as people paste them (NIP-19, NIP-21, bech32), and names that lead to keys (NIP-05)."""

import nostr_sdk

from fuzz.kit import ALICE, text_of, vectors
from identity import bech32, nip19
from identity.errors import InvalidKey, InvalidName
from identity.keys import SecretKey
from identity.nip05 import Name, named_key, parse_name
from identity.nip19 import Entity, Naddr, Nevent, Note, Nprofile, Npub, Nsec, decode
from relay_bridge import FetchFailed, check_url
from wallet.crypto import ORDER

_PREFIXES = ("npub", "nsec", "note", "nprofile", "nevent", "naddr", "nrelay")


def _text(data: bytes) -> None:
    text = text_of(data)
    for read in (nip19.parse_public_key, nip19.parse_secret_key):
        try:
            read(text)
        except InvalidKey as error:
            assert len(text) < 20 or text not in str(error)
    try:
        entity = decode(text)
    except InvalidKey:
        return
    _check(entity)


def _entity(data: bytes) -> None:
    """The bytes as the payload of a NIP-19 text whose checksum is right."""
    if not data:
        return
    prefix, payload = _PREFIXES[data[0] % len(_PREFIXES)], data[1:1001]
    text = bech32.encode(prefix, payload)
    assert bech32.decode(text) == bech32.decode(text.upper()) == (prefix, payload)
    try:
        entity = decode(text)
    except InvalidKey:
        return
    _check(entity)
    if isinstance(entity, Npub):
        assert nostr_sdk.PublicKey.parse(text).to_hex() == entity.public_key
    if isinstance(entity, Nsec):
        assert nostr_sdk.SecretKey.parse(text).to_hex() == entity.key.hex()


def _check(entity: Entity) -> None:
    written = _written(entity)
    assert decode(written) == entity
    assert len(written) <= nip19.TEXT_CHARS_MAX
    assert decode("nostr:" + written) == decode(written.upper()) == entity


def _written(entity: Entity) -> str:
    match entity:
        case Npub(public_key):
            return nip19.encode_npub(public_key)
        case Nsec(key):
            return nip19.encode_nsec(key)
        case Note(event_id):
            return nip19.encode_note(event_id)
        case Nprofile(public_key, relays):
            return nip19.encode_nprofile(public_key, relays)
        case Nevent(event_id, relays, author, kind):
            return nip19.encode_nevent(event_id, relays=relays, author=author, kind=kind)
        case Naddr(kind, public_key, identifier, relays):
            return nip19.encode_naddr(kind=kind, public_key=public_key, identifier=identifier, relays=relays)


def _hex(data: bytes) -> None:
    """Scalars and points at the edge of what they may be."""
    try:
        key = SecretKey(data)
    except InvalidKey:
        assert len(data) != 32 or not 0 < int.from_bytes(data) < ORDER
    else:
        assert nostr_sdk.Keys.parse(data.hex()).public_key().to_hex() == key.public_key
    try:
        nip19.encode_npub(data.hex())
    except InvalidKey:
        pass
    else:
        assert nip19.parse_public_key(data.hex().upper()) == data.hex()


def _name(data: bytes) -> None:
    """A name's domain never reaches into the path or the query that is asked."""
    try:
        name = parse_name(text_of(data))
    except InvalidName:
        return
    assert parse_name(str(name)) == parse_name(str(name).upper()) == name
    try:
        url = check_url(f"https://{name.place}")
    except FetchFailed:
        return
    assert (url.path, dict(url.query)) == ("/.well-known/nostr.json", {"name": name.local})


def _names(data: bytes) -> None:
    """What a domain answers."""
    try:
        key = named_key(text_of(data), _BOB)
    except InvalidName:
        return
    assert key is None or (len(key) == 64 and bytes.fromhex(key).hex() == key)


_BOB = Name("bob", "example.com")
CHECKS = {"text": _text, "entity": _entity, "hex": _hex, "name": _name, "names": _names}
_TEXTS = [
    entry["text"]
    for entries in vectors("identity/nip19.json").values()
    for entry in entries
    if "text" in entry
]
_OURS = [
    nip19.encode_nevent("ab" * 32, relays=["wss://a.example", "wss://b"], author=ALICE.public_key, kind=5001),
    nip19.encode_naddr(kind=31990, public_key=ALICE.public_key, identifier="shop é", relays=["ws://x"]),
]
SEEDS = [
    *(("text", text.encode()) for text in (*_TEXTS, *_OURS, ALICE.public_key)),
    *(
        ("entity", bytes([_PREFIXES.index(prefix)]) + payload)
        for prefix, payload in map(bech32.decode, (*_TEXTS, *_OURS))
        if prefix in _PREFIXES
    ),
    ("hex", ALICE.to_bytes()),
    ("hex", bytes.fromhex(ALICE.public_key)),
    *(("name", name.encode()) for name in ("bob@example.com", "_@bücher.example:8080", "example.com", "bob@a/b?c#d")),
    ("names", f'{{"names": {{"bob": "{ALICE.public_key}"}}, "relays": {{}}}}'.encode()),
    ("names", b'{"names": {"bob": 7}}'),
]  # fmt: skip
WORDS = (
    "npub1",
    "nsec1",
    "note1",
    "nprofile1",
    "nevent1",
    "naddr1",
    "nostr:",
    "1",
    "\x00\x20",
    "\x01",
    "\x02\x20",
    "\x03\x04",
)
