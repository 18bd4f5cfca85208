"""Errors of identity.

IdentityError
├── InvalidEvent        not a well-formed, correctly hashed and signed Nostr event
├── InvalidSeal         not the form of a sealed result, of its promise or of a fraud proof
├── InvalidReceipt      not the form of a review, of a leaf, of a root or of a rotation
├── InvalidSignedRequest  an HTTP request whose signature (NIP-98, RFC 9421) is malformed or does not hold
│   ├── StaleSignature  made too long ago, or ahead of our clock
│   ├── WrongUrl        made for another URL
│   ├── WrongMethod     made for another method
│   └── WrongPayload    made for another body, or for none where there is one
├── InvalidLogin        not a wallet's answer to an LNURL-auth challenge, or one that does not hold
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

from store.errors import CodedError


class IdentityError(CodedError):
    """Base of this package's errors."""


class InvalidEvent(IdentityError):  # noqa: N818 - names the thing, as the specifications do
    """Not a well-formed, correctly hashed and signed Nostr event (NIP-01)."""


class InvalidSignedRequest(IdentityError):  # noqa: N818 - as above
    """An HTTP request whose signature (NIP-98, RFC 9421) is malformed or does not hold."""


class StaleSignature(InvalidSignedRequest):
    """The signature was made too long ago, or ahead of our clock."""


class WrongUrl(InvalidSignedRequest):
    """The signature was made for another URL. Says which one it had to be made for."""


class WrongMethod(InvalidSignedRequest):
    """The signature was made for another method."""


class WrongPayload(InvalidSignedRequest):
    """The signature was made for another body, or for none where there is one."""


class InvalidLogin(IdentityError):  # noqa: N818 - as above
    """Not a wallet's answer to an LNURL-auth challenge, or one that does not hold (LUD-04)."""


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
