"""Logging in with a Lightning wallet (LNURL-auth, LUD-04): it signs a challenge, `k1`, with its key for this domain.

Pure. Whether a `k1` is one of ours, unused and not too old is for the caller to know.
"""

import secrets
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlencode

from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT

from identity.errors import InvalidLogin

DER_BYTES_MAX: Final = 72


class LoginAction(StrEnum):
    """What a wallet tells its user that the signature is for."""

    REGISTER = "register"
    LOGIN = "login"
    LINK = "link"
    AUTH = "auth"


def make_k1() -> str:
    """A new challenge: 32 random bytes, in hex."""
    return secrets.token_hex(32)


def challenge_query(k1: str, action: LoginAction) -> str:
    """The query of the URL that is shown to the wallet, as an LNURL (LUD-01)."""
    return urlencode({"tag": "login", "k1": k1, "action": action.value})


def verify(*, k1: str, sig: str, key: str) -> str:
    """The key that signed `k1`: 33 bytes compressed, in lowercase hex.

    `sig` is DER in hex, over the raw 32 bytes of `k1`; wallets send its S in either half of its range, so both count.
    Raises `InvalidLogin` for everything else, malformed or wrong.
    """
    challenge, public = _bytes("k1", k1, 32), _bytes("key", key, 33)
    point = ffi.new("secp256k1_pubkey *")
    if not lib.secp256k1_ec_pubkey_parse(GLOBAL_CONTEXT.ctx, point, public, len(public)):
        raise InvalidLogin("`key` is not a compressed public key on secp256k1: 66 hex digits")
    if not lib.secp256k1_ecdsa_verify(GLOBAL_CONTEXT.ctx, _signature(sig), challenge, point):
        raise InvalidLogin("`sig` is not the signature of k1 by `key`")
    return public.hex()


def _signature(sig: str) -> Any:
    """The signature in libsecp256k1's form, which verifies none but those with a low S."""
    try:
        der = bytes.fromhex(sig) if len(sig) <= 2 * DER_BYTES_MAX else b""
    except ValueError:
        der = b""
    found = ffi.new("secp256k1_ecdsa_signature *")
    if not lib.secp256k1_ecdsa_signature_parse_der(GLOBAL_CONTEXT.ctx, found, der, len(der)):
        raise InvalidLogin("`sig` is not a DER-encoded ECDSA signature in hex")
    lib.secp256k1_ecdsa_signature_normalize(GLOBAL_CONTEXT.ctx, found, found)
    return found


def _bytes(name: str, text: str, size: int) -> bytes:
    try:
        raw = bytes.fromhex(text) if len(text) == 2 * size else b""
    except ValueError:
        raw = b""
    if len(raw) != size:
        raise InvalidLogin(f"`{name}` must be {size} bytes in hex: {2 * size} digits")
    return raw
