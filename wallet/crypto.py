"""Blind signatures on secp256k1 (NUT-00) and the proof that a mint used its published key (NUT-12).

Points are 33-byte compressed SEC1 in lowercase hex, scalars 32 bytes. Whatever is not a point raises
`InvalidProof`; the two `verify_*` functions answer False instead. Nothing here keeps state but caches of
points.
"""

import hashlib
import hmac
import re
from functools import lru_cache
from typing import Final

import coincurve

from wallet.errors import InvalidProof
from wallet.proofs import Dleq, Proof

ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_DOMAIN: Final = b"Secp256k1_HashToCurve_Cashu_"
_POINT: Final = re.compile(r"0[23][0-9a-f]{64}")
_SCALAR: Final = re.compile(r"[0-9a-f]{64}")


def parse_point(text: str) -> coincurve.PublicKey:
    """A curve point from 66 lowercase hex digits. Raises `InvalidProof`."""
    if _POINT.fullmatch(text):
        try:
            return coincurve.PublicKey(bytes.fromhex(text))
        except ValueError:
            pass
    raise InvalidProof("not a compressed point of secp256k1 in lowercase hex")


@lru_cache(maxsize=4096)
def parse_mint_key(text: str) -> coincurve.PublicKey:
    """`parse_point`, remembered: a mint's keys come back with every coin (64 a keyset)."""
    return parse_point(text)


@lru_cache(maxsize=1024)
def hash_to_curve(message: bytes) -> coincurve.PublicKey:
    """The point Y that stands for a message; nobody knows its logarithm (NUT-00).

    Remembered: a coin is blinded and unblinded, or checked and taken, within a second.
    """
    digest = hashlib.sha256(_DOMAIN + message).digest()
    counter = 0
    while True:
        candidate = hashlib.sha256(digest + counter.to_bytes(4, "little")).digest()
        try:
            return coincurve.PublicKey(b"\x02" + candidate)
        except ValueError:  # every second hash is no x coordinate
            counter += 1


def proof_y(secret: str) -> str:
    """How a mint names a coin in NUT-07: hash_to_curve of the secret, in hex.

    The secret counts as UTF-8 text.
    """
    return _hex(hash_to_curve(_utf8(secret)))


def blind(secret: str, blinding_factor: bytes) -> str:
    """B_ = Y + r·G: what the mint signs without seeing the secret.

    Raises `InvalidProof` if r is no scalar.
    """
    return _hex(_blinded(secret, _scalar(blinding_factor)))


def unblind(blind_signature: str, blinding_factor: bytes, mint_key: str) -> str:
    """C = C_ − r·K: the coin's signature. Raises `InvalidProof`."""
    minus_r = _minus(_scalar(blinding_factor))
    try:
        return _hex(_sum(parse_point(blind_signature), parse_mint_key(mint_key).multiply(minus_r)))
    except ValueError:
        raise InvalidProof("the blind signature unblinds to the point at infinity") from None


def verify_dleq_signature(blinded: str, blind_signature: str, dleq: Dleq, mint_key: str) -> bool:
    """Whether the mint signed `blinded` (B_) with `mint_key` as `blind_signature` (C_) (NUT-12)."""
    try:
        points = parse_point(blinded), parse_point(blind_signature), parse_mint_key(mint_key)
        return _dleq_holds(*points, dleq)
    except (InvalidProof, ValueError):
        return False


def verify_dleq_proof(proof: Proof, mint_key: str) -> bool:
    """Whether `mint_key` made this coin, by the DLEQ that its sender handed on (NUT-12, receiving user).

    False without a DLEQ or without its `r`. True says the coin is genuine, not that it is unspent.
    """
    if proof.dleq is None or proof.dleq.r is None:
        return False
    try:
        key = parse_mint_key(mint_key)
        r = _scalar(_parse_scalar(proof.dleq.r))
        blind_signature = _sum(parse_point(proof.C), key.multiply(r))
        return _dleq_holds(_blinded(proof.secret, r), blind_signature, key, proof.dleq)
    except (InvalidProof, ValueError):
        return False


def sign_blinded(blinded: str, mint_secret: bytes) -> str:
    """C_ = k·B_, the mint's side. Raises `InvalidProof`."""
    return _hex(parse_point(blinded).multiply(_scalar(mint_secret)))


def verify_coin(secret: str, signature: str, mint_secret: bytes) -> bool:
    """Whether C = k·Y, the mint's side of spending."""
    return _hex(hash_to_curve(_utf8(secret)).multiply(_scalar(mint_secret))) == signature


def make_dleq(blinded: str, blind_signature: str, mint_secret: bytes) -> Dleq:
    """The mint's side of NUT-12, with its deterministic nonce. Raises `InvalidProof`."""
    b, c = parse_point(blinded), parse_point(blind_signature)
    k = _scalar(mint_secret)
    key = coincurve.PublicKey.from_valid_secret(k)
    nonce = _dleq_nonce(k, key, b, c)
    e = _challenge(coincurve.PublicKey.from_valid_secret(nonce), b.multiply(nonce), key, c)
    s = (int.from_bytes(nonce) + int.from_bytes(e) * int.from_bytes(k)) % ORDER
    return Dleq(e=e.hex(), s=s.to_bytes(32).hex())


def _dleq_nonce(k: bytes, *points: coincurve.PublicKey) -> bytes:
    message = b"Cashu_DLEQ_R_v1" + b"".join(point.format(compressed=False) for point in points)
    counter = 0
    while not is_scalar(nonce := hmac.digest(k, message + bytes([counter]), "sha256")):
        counter += 1
    return nonce


def _dleq_holds(
    blinded: coincurve.PublicKey, blind_signature: coincurve.PublicKey, key: coincurve.PublicKey, dleq: Dleq
) -> bool:
    e = _parse_scalar(dleq.e)
    minus_e, s = _minus(e), _scalar(_parse_scalar(dleq.s))
    r1 = _sum(coincurve.PublicKey.from_valid_secret(s), key.multiply(minus_e))
    r2 = _sum(blinded.multiply(s), blind_signature.multiply(minus_e))
    return _challenge(r1, r2, key, blind_signature) == e


def _challenge(*points: coincurve.PublicKey) -> bytes:
    return hashlib.sha256("".join(point.format(compressed=False).hex() for point in points).encode()).digest()


def _blinded(secret: str, r: bytes) -> coincurve.PublicKey:
    return _sum(hash_to_curve(_utf8(secret)), coincurve.PublicKey.from_valid_secret(r))


def _sum(a: coincurve.PublicKey, b: coincurve.PublicKey) -> coincurve.PublicKey:
    total: coincurve.PublicKey = coincurve.PublicKey.combine_keys([a, b])
    return total


def is_scalar(raw: bytes) -> bool:
    """Whether these are the 32 bytes of a number from 1 to the order of secp256k1 less 1."""
    return len(raw) == 32 and 0 < int.from_bytes(raw) < ORDER


def _scalar(raw: bytes) -> bytes:
    if not is_scalar(raw):
        raise InvalidProof("a scalar is 32 bytes, not zero and below the order of secp256k1")
    return raw


def _parse_scalar(text: str) -> bytes:
    if not _SCALAR.fullmatch(text):
        raise InvalidProof("a scalar is 64 lowercase hex digits")
    return bytes.fromhex(text)


def _minus(scalar: bytes) -> bytes:
    return (-int.from_bytes(scalar) % ORDER).to_bytes(32)


def _utf8(secret: str) -> bytes:
    try:
        return secret.encode()
    except UnicodeEncodeError:
        raise InvalidProof("the secret cannot be UTF-8") from None


def _hex(point: coincurve.PublicKey) -> str:
    return point.format().hex()
