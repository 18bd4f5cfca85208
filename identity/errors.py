"""Errors of identity.

IdentityError
├── InvalidEvent        not a well-formed, correctly hashed and signed Nostr event
├── InvalidKey          not a usable secret or public key, or not the NIP-19 form that was asked for
├── EncryptionError     a text that NIP-44 or a gift wrap cannot carry
├── DecryptionError     a NIP-44 payload or a gift wrap that cannot be opened
├── MiningError         no proof of work found within the tries allowed
└── KeyFileError        a key file that is missing, unreadable or open to other users
"""


class IdentityError(Exception):
    """Base of this package's errors."""


class InvalidEvent(IdentityError):  # noqa: N818 - names the thing, as the specifications do
    """Not a well-formed, correctly hashed and signed Nostr event (NIP-01)."""


class InvalidKey(IdentityError):  # noqa: N818 - as above
    """Not a usable secret or public key, or not the NIP-19 form that was asked for."""


class EncryptionError(IdentityError):
    """A text that NIP-44 or a gift wrap cannot carry: empty, too long, or not UTF-8."""


class DecryptionError(IdentityError):
    """A payload that cannot be opened: wrong key, wrong version, too long, or altered on the way."""


class MiningError(IdentityError):
    """No proof of work was found within the tries allowed (NIP-13)."""


class KeyFileError(IdentityError):
    """A key file that is missing, unreadable or open to other users."""
