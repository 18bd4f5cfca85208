"""A result that is sealed before it is paid (scheme `tp-seal-1`), and the proof that one was false. Pure.

The maker signs a promise: hashes of the key, of the ciphertext and of what is inside. Who later holds ciphertext and
key opens them in the one way there is, and either has what was promised or has proved to anybody that it was not there.

    key ‖ nonce = HKDF-SHA256(k, salt = request id, info = "tradepost/seal/1", 44 bytes)
    payload     = salt (32) ‖ length (u64, big-endian) ‖ plaintext ‖ zeros, up to 40 + NIP-44's padded length
    ciphertext  = ChaCha20-Poly1305(key, nonce, payload, aad = request id ‖ provider ‖ H(k))

ids and keys are their 32 bytes. The cipher does not commit to its key; `H(k) = sha256(k)` does. The salt keeps a short
plaintext from being guessed by its hash.
"""

import base64
import hashlib
import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from identity.errors import InvalidEvent, InvalidSeal
from identity.event import Event, Tag, check_form
from identity.nip44 import padded_length

SCHEME: Final = "tp-seal-1"
SEALED: Final = "sealed"  # the tag of the promise
KEY_BYTES: Final = 32
CIPHERTEXT_BYTES_MAX: Final = 1 << 20
FRAUD_PROOF_BYTES_MAX: Final = 2 << 20
_KEY_BYTES_READ_MAX: Final = (
    1024  # a mint may have taken a preimage of another length: that proves fraud, too
)
_HEAD_BYTES: Final = 40
_TAG_BYTES: Final = 16
_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_LENGTH: Final = re.compile(r"[1-9][0-9]{0,6}")


@dataclass(frozen=True)
class Promise:
    """What the maker of a seal signs: 64 hex digits each, and the ciphertext's length in bytes. It tells no secret.

    Raises `InvalidSeal` if a part has another form.
    """

    request_id: str
    provider: str
    key_hash: str
    ciphertext_hash: str
    payload_hash: str
    length: int

    def __post_init__(self) -> None:
        parts = (self.request_id, self.provider, self.key_hash, self.ciphertext_hash, self.payload_hash)
        if not all(_HEX64.fullmatch(part) for part in parts) or not 0 < self.length <= CIPHERTEXT_BYTES_MAX:
            raise InvalidSeal(
                f"a seal has ids and hashes of 64 hex digits and at most {CIPHERTEXT_BYTES_MAX} bytes"
            )

    def is_about(self, ciphertext: bytes) -> bool:
        """Whether this is the ciphertext: to be asked before anything is paid for its key."""
        return len(ciphertext) == self.length and _sha256(ciphertext) == self.ciphertext_hash

    def to_tag(self) -> Tag:
        """The `sealed` tag of the event that makes the promise; request and maker are the event's own."""
        return SEALED, SCHEME, self.key_hash, self.ciphertext_hash, self.payload_hash, str(self.length)


@dataclass(frozen=True)
class Sealed:
    """A sealed result: the ciphertext for the customer, the promise for everybody."""

    ciphertext: bytes = field(repr=False)
    promise: Promise


class Failure(StrEnum):
    """Why a seal gives no plaintext. The first two prove nothing against its maker, the others do."""

    OTHER_KEY = "this is not the key that was promised"
    OTHER_CIPHERTEXT = "this is not the ciphertext that was promised"
    LENGTH = "the ciphertext has another length than promised"
    KEY_LENGTH = f"the key has other than {KEY_BYTES} bytes"
    CIPHER = "the key does not open the ciphertext"
    PAYLOAD = "inside is something else than promised"
    PADDING = "what is inside does not have the form of the scheme"

    @property
    def is_fraud(self) -> bool:
        """Whether the maker promised what it did not seal."""
        return self not in (Failure.OTHER_KEY, Failure.OTHER_CIPHERTEXT)


def seal(k: bytes, request_id: str, provider: str, plaintext: bytes, salt: bytes) -> Sealed:
    """Seal a plaintext for one request. `k` and `salt`: 32 bytes, secret until sold, and never used for another text.

    Raises `InvalidSeal` for a plaintext that is too long, or ids that are none.
    """
    if len(k) != KEY_BYTES or len(salt) != 32:
        raise ValueError("a seal's key and salt have 32 bytes")
    size = len(plaintext)
    payload = salt + size.to_bytes(8) + plaintext + bytes(padded_length(max(size, 1)) - size)
    blank = Promise(request_id, provider, _sha256(k), "0" * 64, _sha256(payload), len(payload) + _TAG_BYTES)
    key, nonce, aad = _derive(k, blank)
    ciphertext = ChaCha20Poly1305(key).encrypt(nonce, payload, aad)
    return Sealed(ciphertext, replace(blank, ciphertext_hash=_sha256(ciphertext)))


def open_seal(k: bytes, ciphertext: bytes, promise: Promise) -> bytes | Failure:
    """The plaintext that was promised, or why there is none. Total, and the same for everybody who asks."""
    for failure, is_so in (
        (Failure.OTHER_KEY, _sha256(k) != promise.key_hash),
        (Failure.OTHER_CIPHERTEXT, _sha256(ciphertext) != promise.ciphertext_hash),
        (Failure.LENGTH, len(ciphertext) != promise.length),
        (Failure.KEY_LENGTH, len(k) != KEY_BYTES),
    ):
        if is_so:
            return failure
    key, nonce, aad = _derive(k, promise)
    try:
        payload = ChaCha20Poly1305(key).decrypt(nonce, ciphertext, aad)
    except InvalidTag:
        return Failure.CIPHER
    if _sha256(payload) != promise.payload_hash:
        return Failure.PAYLOAD
    size, body = int.from_bytes(payload[32:_HEAD_BYTES]), payload[_HEAD_BYTES:]
    if (
        len(payload) < _HEAD_BYTES
        or size > len(body)
        or len(body) != padded_length(max(size, 1))
        or any(body[size:])
    ):
        return Failure.PADDING
    return body[:size]


def read_promise(event: Event) -> Promise:
    """The promise that an event makes about the one request it names; the signature is the caller's to check.

    Raises `InvalidSeal`: an event without exactly one `sealed` and one `e` tag of the right form promises nothing.
    """
    match event.tags_named(SEALED), event.tags_named("e"):
        case [(_, scheme, key_hash, ciphertext_hash, payload_hash, length)], [(_, request_id, *_)]:
            pass
        case _:
            raise InvalidSeal("the event does not name one request and one seal")
    if scheme != SCHEME or not _LENGTH.fullmatch(length):
        raise InvalidSeal(f"the seal is not of the scheme {SCHEME}, the only one that is known here")
    return Promise(request_id, event.pubkey, key_hash, ciphertext_hash, payload_hash, int(length))


# Fraud -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What evidence about a seal shows, and why, in words."""

    is_fraud: bool
    reason: str


def check_fraud(event: Event, ciphertext: bytes, k: bytes) -> Verdict:
    """Judge whether the author of `event` sold a false seal. Anybody can, and all come to the same verdict.

    It is fraud if the event is signed, ciphertext and key are the ones it promises, and they do not open to what it
    promises. Evidence that is not what the event speaks of proves nothing: who accuses must bring the right one.
    """
    try:
        check_form(event).verify()
        promise = read_promise(event)
    except (InvalidEvent, InvalidSeal) as error:
        return Verdict(False, str(error))
    opened = open_seal(k, ciphertext, promise)
    if isinstance(opened, bytes):
        return Verdict(False, "the seal opens to what was promised")
    return Verdict(opened.is_fraud, str(opened))


@dataclass(frozen=True)
class FraudProof:
    """All that anybody needs in order to check a fraud: the signed promise, the ciphertext and the key that was sold.

    It tells what the seal hides to whom it is shown, if it hides anything.
    """

    event: Event
    ciphertext: bytes = field(repr=False)
    k: bytes = field(repr=False)

    def check(self) -> Verdict:
        """See `check_fraud`."""
        return check_fraud(self.event, self.ciphertext, self.k)

    def to_json(self) -> bytes:
        """`{"event": …, "ciphertext": base64, "k": hex}` in one line."""
        return msgspec.json.encode(
            _FraudProofJson(self.event, base64.b64encode(self.ciphertext).decode(), self.k.hex())
        )


def parse_fraud_proof(raw: bytes | str) -> FraudProof:
    """Read what `FraudProof.to_json` wrote. Checks the form alone, raises `InvalidSeal`."""
    if len(raw) > FRAUD_PROOF_BYTES_MAX:
        raise InvalidSeal(f"a fraud proof has at most {FRAUD_PROOF_BYTES_MAX} bytes")
    try:
        read = _FRAUD_PROOF_DECODER.decode(raw)
        proof = FraudProof(
            check_form(read.event), base64.b64decode(read.ciphertext, validate=True), bytes.fromhex(read.k)
        )
    except (msgspec.MsgspecError, InvalidEvent, ValueError, RecursionError):
        raise InvalidSeal(
            "a fraud proof is JSON with a signed event, a ciphertext in base64 and the key k in hex"
        ) from None
    if len(proof.k) > _KEY_BYTES_READ_MAX or len(proof.ciphertext) > CIPHERTEXT_BYTES_MAX:
        raise InvalidSeal("the key or the ciphertext of the fraud proof is too long")
    return proof


class _FraudProofJson(msgspec.Struct, frozen=True):
    event: Event
    ciphertext: str
    k: str


_FRAUD_PROOF_DECODER: Final = msgspec.json.Decoder(_FraudProofJson)


def _derive(k: bytes, promise: Promise) -> tuple[bytes, bytes, bytes]:
    """The cipher's key, nonce and additional data."""
    request_id = bytes.fromhex(promise.request_id)
    raw = HKDF(hashes.SHA256(), 44, salt=request_id, info=b"tradepost/seal/1").derive(k)
    return raw[:32], raw[32:], request_id + bytes.fromhex(promise.provider) + bytes.fromhex(promise.key_hash)


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
