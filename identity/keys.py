"""secp256k1 keys as Nostr uses them: 32-byte secrets, x-only public keys in lowercase hex (BIP-340)."""

import hmac
import secrets

import coincurve

from identity.errors import InvalidKey

_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class SecretKey:
    """A secret key. Its value never shows in `repr`, logs or errors; ask for `.hex()` on purpose."""

    __slots__ = ("_key", "public_key")

    #: The x-only public key, 64 lowercase hex digits: the owner's Nostr identity.
    public_key: str

    def __init__(self, secret: bytes) -> None:
        """Take 32 bytes. Raises `InvalidKey` unless they are a scalar in 1 … n−1."""
        if len(secret) != 32 or not 0 < int.from_bytes(secret) < _ORDER:
            raise InvalidKey("a secret key is 32 bytes, not zero and below the order of secp256k1")
        self._key = coincurve.PrivateKey(secret)
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
        """BIP-340 signature, 64 bytes, over a 32-byte digest."""
        return self._key.sign_schnorr(digest)

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
        raw = bytes.fromhex(text)
        if len(raw) == 32 and raw.hex() == text:
            coincurve.PublicKeyXOnly(raw)
            return text
    except ValueError:
        pass
    raise InvalidKey("a public key is 64 lowercase hex digits of a point on secp256k1")


def verify_signature(public_key: str, digest: bytes, signature: bytes) -> bool:
    """BIP-340 verification; False for anything malformed. Releases the GIL while libsecp256k1 works."""
    try:
        raw = bytes.fromhex(public_key)
        # coincurve hands the key to C without looking at its length: a short one would read past its end.
        return len(raw) == 32 and coincurve.PublicKeyXOnly(raw).verify(signature, digest)
    except ValueError:
        return False
