"""Errors of identity.

IdentityError
├── InvalidEvent        not a well-formed, correctly hashed and signed Nostr event
├── InvalidSeal         not the form of a sealed result, of its promise or of a fraud proof
├── InvalidReceipt      not the form of a review, of a leaf, of a root or of a rotation
├── InvalidKey          not a usable secret or public key, or not the NIP-19 form that was asked for
├── InvalidName         not a NIP-05 name, or not an answer that says where one leads
├── EncryptionError     a text that NIP-44 or a gift wrap cannot carry
├── DecryptionError     a payload (NIP-44, NIP-04) or a gift wrap that cannot be opened
│   └── WrongPassword   an encrypted key that this password does not open
├── KeyDerivationError  an encrypted key that takes more memory than there is, or than we spend
├── SignerUnavailable   the key lives elsewhere and cannot be asked just now; the same call may work later
├── MiningError         no proof of work found within the tries allowed
└── KeyFileError        a key file that is missing, unreadable or open to other users
"""


class IdentityError(Exception):
    """Base of this package's errors."""


class InvalidEvent(IdentityError):  # noqa: N818 - names the thing, as the specifications do
    """Not a well-formed, correctly hashed and signed Nostr event (NIP-01)."""


class InvalidKey(IdentityError):  # noqa: N818 - as above
    """Not a usable secret or public key, or not the NIP-19 form that was asked for."""


class InvalidName(IdentityError):  # noqa: N818 - as above
    """Not a NIP-05 name, or not an answer that says where one leads."""


class InvalidSeal(IdentityError):  # noqa: N818
    """Not the form of a sealed result, of the promise about it, or of a fraud proof (escrow §3)."""


class InvalidReceipt(IdentityError):  # noqa: N818
    """Not the form of a review, of a log's leaf, of its root or of a rotation of its keys."""


class EncryptionError(IdentityError):
    """A text that NIP-44 or a gift wrap cannot carry: empty, too long, or not UTF-8."""


class DecryptionError(IdentityError):
    """A payload that cannot be opened: wrong key, wrong version, too long, or altered on the way."""


class SignerUnavailable(IdentityError):  # noqa: N818 - as above
    """The key lives elsewhere and cannot be asked just now; the same call may work later. Says why."""


class WrongPassword(DecryptionError):  # noqa: N818
    """An encrypted key that this password does not open (NIP-49)."""


class KeyDerivationError(IdentityError):
    """An encrypted key that takes more memory than there is, or than we are willing to spend (NIP-49)."""


class MiningError(IdentityError):
    """No proof of work was found within the tries allowed (NIP-13)."""


class KeyFileError(IdentityError):
    """A key file that is missing, unreadable or open to other users."""
