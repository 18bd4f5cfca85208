"""secp256k1 keys as Nostr uses them: 32-byte secrets, x-only public keys in lowercase hex (BIP-340)."""

import hmac
import os
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import coincurve
from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT

from identity.errors import InvalidKey

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class SecretKey:
    """A secret key. Its value never shows in `repr`, logs or errors; ask for `.hex()` on purpose."""

    __slots__ = ("_key", "_keypair", "public_key")

    #: The x-only public key, 64 lowercase hex digits: the owner's Nostr identity.
    public_key: str

    def __init__(self, secret: bytes) -> None:
        """Take 32 bytes. Raises `InvalidKey` unless they are a scalar in 1 … n−1."""
        if len(secret) != 32 or not 0 < int.from_bytes(secret) < _ORDER:
            raise InvalidKey("a secret key is 32 bytes, not zero and below the order of secp256k1")
        self._key = coincurve.PrivateKey(secret)
        self._keypair: Any = None  # made by the first signature; many keys sign but one event, or none
        self.public_key = self._key.public_key.format()[1:].hex()

    @classmethod
    def generate(cls) -> "SecretKey":
        """Draw a new key from the system's random source."""
        return cls((1 + secrets.randbelow(_ORDER - 1)).to_bytes(32))

    @classmethod
    def from_hex(cls, text: str) -> "SecretKey":
        """Read 64 hex digits. Raises `InvalidKey`, without repeating the text."""
        try:
            secret = bytes.fromhex(text)
        except ValueError:
            raise InvalidKey("a secret key in hex is 64 hex digits") from None
        return cls(secret)

    @property
    def compressed_public_key(self) -> str:
        """33-byte public key in hex, as Cashu locks name it (NUT-11)."""
        return self._key.public_key.format().hex()

    def hex(self) -> str:
        """The secret itself, 64 hex digits. Never log it."""
        return self._key.secret.hex()

    def to_bytes(self) -> bytes:
        """The secret itself, 32 bytes. Never log it."""
        return self._key.secret

    def sign(self, digest: bytes) -> bytes:
        """BIP-340 signature, 64 bytes, over a 32-byte digest, with fresh auxiliary randomness.

        coincurve's own `sign_schnorr` makes the key pair anew and verifies what it signed, each time: five times the
        cost. The randomness in every nonce is what keeps a faulty signature from telling the key (docs/decisions.md).
        """
        if len(digest) != 32:
            raise ValueError("a digest has 32 bytes")
        if self._keypair is None:
            keypair = ffi.new("secp256k1_keypair *")
            lib.secp256k1_keypair_create(GLOBAL_CONTEXT.ctx, keypair, self._key.secret)
            self._keypair = keypair
        signature = ffi.new("unsigned char[64]")
        if not lib.secp256k1_schnorrsig_sign32(
            GLOBAL_CONTEXT.ctx, signature, digest, self._keypair, os.urandom(32)
        ):
            raise ValueError("libsecp256k1 could not sign")
        return bytes(ffi.buffer(signature))

    def shared_x(self, public_key: str) -> bytes:
        """The unhashed x coordinate of ECDH with an x-only key (NIP-44, NIP-04). Raises `InvalidKey`."""
        try:
            point = coincurve.PublicKey(b"\x02" + bytes.fromhex(public_key))
        except ValueError:
            raise InvalidKey("the public key is not a point on secp256k1") from None
        shared: bytes = point.multiply(self._key.secret).format()
        return shared[1:]

    def __repr__(self) -> str:
        return f"SecretKey(public_key={self.public_key!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretKey) and hmac.compare_digest(self._key.secret, other._key.secret)

    def __hash__(self) -> int:
        return hash(self.public_key)


def check_public_key(text: str) -> str:
    """Return `text` if it is an x-only public key: 64 lowercase hex digits of a point on the curve.

    Raises `InvalidKey`, which never repeats the text: people mistake secret keys for public ones.
    """
    try:
        if len(text) == 64 and (raw := bytes.fromhex(text)).hex() == text:
            _point(raw)
            return text
    except ValueError:
        pass
    raise InvalidKey("a public key is 64 lowercase hex digits of a point on secp256k1")


def verify_signature(public_key: str, digest: bytes, signature: bytes) -> bool:
    """BIP-340 verification; False for anything malformed. Releases the GIL while libsecp256k1 works."""
    if len(signature) != 64:
        return False
    try:
        point = _point(bytes.fromhex(public_key))
    except ValueError:
        return False
    return bool(lib.secp256k1_schnorrsig_verify(GLOBAL_CONTEXT.ctx, signature, digest, len(digest), point))


#: Bytes of a claim: an x-only public key (32), a digest (32) and a signature (64) that is said to be right for both.
CLAIM_SIZE: Final = 128


def verify_claims(claims: Sequence[bytes]) -> list[bool]:
    """BIP-340 verification of each claim, one after the other: nothing else in between, so that the processor's caches
    are libsecp256k1's.
    """
    ready = [(_find_point(claim[:32]), claim[32:64], claim[64:]) for claim in claims]
    verify, context = lib.secp256k1_schnorrsig_verify, GLOBAL_CONTEXT.ctx
    return [
        len(signature) == 64 and point is not None and bool(verify(context, signature, digest, 32, point))
        for point, digest, signature in ready
    ]


def _find_point(raw: bytes) -> Any | None:
    try:
        return _point(raw)
    except ValueError:
        return None


@lru_cache(4096)
def _point(raw: bytes) -> Any:
    """Most events come from authors met a moment ago: their points need not be found anew. Raises `ValueError`."""
    if len(raw) != 32:
        raise ValueError("not 32 bytes")
    point = ffi.new("secp256k1_xonly_pubkey *")
    if not lib.secp256k1_xonly_pubkey_parse(GLOBAL_CONTEXT.ctx, point, raw):
        raise ValueError("not a point on the curve")
    return point
