"""Who: keys, events, encryption, and how people write them down (floor 1).

Protocols whose functions have short names (`nip44.encrypt`, `nip59.wrap`, `nip19.decode`, …) are modules.
"""

from identity import nip04, nip05, nip13, nip19, nip40, nip44, nip49, nip59
from identity.credential import Credential, EncryptedKey, StoredKey, parse_credential
from identity.errors import (
    DecryptionError,
    EncryptionError,
    IdentityError,
    InvalidEvent,
    InvalidKey,
    InvalidName,
    InvalidReceipt,
    InvalidSeal,
    KeyDerivationError,
    KeyFileError,
    MiningError,
    SignerUnavailable,
    WrongPassword,
)
from identity.event import (
    Event,
    EventTemplate,
    Rumor,
    Tag,
    Tags,
    check_form,
    event_id,
    make_rumor,
    make_template,
    parse_event,
    parse_rumor,
    sign_event,
)
from identity.keyfile import read_key_file, replace_key_file, write_key_file
from identity.keys import SecretKey, check_public_key, verify_signature
from identity.nip19 import Npub, encode_npub, encode_nsec, parse_public_key, parse_secret_key
from identity.nip40 import is_expired
from identity.nip46 import BunkerUrl
from identity.signer import LocalSigner, Signer

__all__ = [
    "BunkerUrl",
    "Credential",
    "DecryptionError",
    "EncryptedKey",
    "EncryptionError",
    "Event",
    "EventTemplate",
    "IdentityError",
    "InvalidEvent",
    "InvalidKey",
    "InvalidName",
    "InvalidReceipt",
    "InvalidSeal",
    "KeyDerivationError",
    "KeyFileError",
    "LocalSigner",
    "MiningError",
    "Npub",
    "Rumor",
    "SecretKey",
    "Signer",
    "SignerUnavailable",
    "StoredKey",
    "Tag",
    "Tags",
    "WrongPassword",
    "check_form",
    "check_public_key",
    "encode_npub",
    "encode_nsec",
    "event_id",
    "is_expired",
    "make_rumor",
    "make_template",
    "nip04",
    "nip05",
    "nip13",
    "nip19",
    "nip40",
    "nip44",
    "nip49",
    "nip59",
    "parse_credential",
    "parse_event",
    "parse_public_key",
    "parse_rumor",
    "parse_secret_key",
    "read_key_file",
    "replace_key_file",
    "sign_event",
    "verify_signature",
    "write_key_file",
]
