"""What people give when they are asked for a key: an nsec, an ncryptsec, hex, a bunker:// URL or an npub, told apart.

No error and no `repr` here repeats the text.
"""

from dataclasses import dataclass, field
from typing import Final

from identity import nip46, nip49
from identity.errors import InvalidKey
from identity.keys import SecretKey
from identity.nip19 import Npub, encode_nsec, parse_public_key, parse_secret_key
from identity.nip46 import BunkerUrl


@dataclass(frozen=True)
class EncryptedKey:
    """A secret key under a password (NIP-49)."""

    text: str = field(repr=False)


#: What can sign, given a password or a remote signer's consent: what a key file may hold.
StoredKey = SecretKey | EncryptedKey | BunkerUrl
#: All of it: an `Npub` stands for somebody whose key is elsewhere.
Credential = StoredKey | Npub

_WANTED: Final = "give an nsec, an ncryptsec, 64 hex digits, a bunker:// URL or an npub"


def parse_credential(text: str) -> Credential:
    """Tell what kind of key `text` is, and read it; 64 hex digits are a secret key. Raises `InvalidKey`."""
    text = text.strip()
    start = text[:20].lower()
    if start.startswith(nip49.PREFIX):
        nip49.handling_of(text)
        return EncryptedKey(text.lower())
    if start.startswith(nip46.SCHEME):
        return nip46.parse_bunker_url(text)
    if start.startswith(nip46.INVITATION_SCHEME):
        raise InvalidKey(
            "a nostrconnect:// URL is made here and given to the signer, not the other way round"
        )
    if start.removeprefix("nostr:").startswith(("npub1", "nprofile1")):
        return Npub(parse_public_key(text))
    try:
        return parse_secret_key(text)
    except InvalidKey as error:
        raise InvalidKey(f"not a key ({error}): {_WANTED}") from None


def encode_stored_key(key: StoredKey) -> str:
    """The text that `parse_credential` reads as this key: a secret. Never log it."""
    match key:
        case EncryptedKey(text):
            return text
        case BunkerUrl():
            return key.to_text()
        case SecretKey():
            return encode_nsec(key)
