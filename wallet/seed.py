"""A post's seed: BIP-39 words, and all that is derived from them: coins (NUT-13), identities (NIP-06), one-job keys."""

import hashlib
import hmac
from functools import cached_property
from typing import Final

import coincurve
from mnemonic import Mnemonic

from identity.keys import SecretKey
from wallet.crypto import ORDER, is_scalar
from wallet.errors import InvalidKeyset, InvalidSeed
from wallet.keysets import is_keyset_id

COUNTER_MAX: Final = 2**31 - 1  # hardened BIP-32 indices end there, and one limit for both kinds is simpler
CUSTOMER: Final = "customer"  # the name of the identity that other clients find under the same words
_HARDENED: Final = 2**31
_WORDS: Final = Mnemonic("english")

_Node = tuple[bytes, bytes]  # a BIP-32 private key and its chain code


class Seed:
    """The root of a wallet. Neither `repr` nor errors show it; ask for `.words` on purpose."""

    def __init__(self, words: str) -> None:
        """Take a valid phrase; use `generate` or `from_words`."""
        self._words = words
        self._keyset_nodes: dict[str, _Node] = {}

    @classmethod
    def generate(cls) -> "Seed":
        """Draw 12 new words (128 bits) from the system's random source."""
        return cls(_WORDS.generate(128))

    @classmethod
    def from_words(cls, text: str) -> "Seed":
        """Read an English BIP-39 phrase of 12 … 24 words; case and spaces do not matter.

        Raises `InvalidSeed`.
        """
        words = " ".join(text.lower().split())
        if len(words) > 24 * 9 or not _WORDS.check(words):
            raise InvalidSeed(
                "not a BIP-39 phrase: check the number of words, their spelling and their order"
            )
        return cls(words)

    @property
    def words(self) -> str:
        """The phrase itself. Never log it: whoever reads it takes every coin."""
        return self._words

    def output_secret(self, keyset_id: str, counter: int) -> tuple[str, bytes]:
        """Secret (64 hex digits) and blinding factor (32 bytes) of a keyset's coin number `counter` (NUT-13).

        By BIP-32 for v1 keyset ids, by HMAC for v2. Raises `InvalidKeyset` for any other id, or a short one.
        """
        if not is_keyset_id(keyset_id):
            raise InvalidKeyset("NUT-13 derives from whole keyset ids only; resolve the short id first")
        if not 0 <= counter <= COUNTER_MAX:
            raise ValueError(f"a coin counter is 0 … {COUNTER_MAX}")
        if keyset_id.startswith("00"):
            node = _child(self._keyset_node(keyset_id), counter + _HARDENED)
            return _child(node, 0)[0].hex(), _child(node, 1)[0]
        message = b"Cashu_KDF_HMAC_SHA256" + bytes.fromhex(keyset_id) + counter.to_bytes(8)
        secret = hmac.digest(self._seed, message + b"\x00", "sha256")
        r = int.from_bytes(hmac.digest(self._seed, message + b"\x01", "sha256")) % ORDER
        return secret.hex(), r.to_bytes(32)

    def job_key(self, purpose: str, *parts: str) -> SecretKey:
        """A key for one job: the same for the same purpose and parts, unlinkable to any other.

        HMAC-SHA256(seed, "tradepost/job-key/1" ‖ each text as u32 length and UTF-8 ‖ u8 try), first valid
        scalar.
        """
        message = b"tradepost/job-key/1"
        for text in (purpose, *parts):
            raw = text.encode()
            message += len(raw).to_bytes(4) + raw
        attempt = 0
        while not is_scalar(digest := hmac.digest(self._seed, message + bytes([attempt]), "sha256")):
            attempt += 1
        return SecretKey(digest)

    def identity(self, name: str) -> SecretKey:
        """The Nostr identity of an agent (by its short name) or of the `customer`: m/44'/1237'/account'/0/0 (NIP-06).

        The customer's account is 0, an agent's SHA-256("tradepost/agent/" ‖ name) modulo 2³¹ - 1, plus 1.
        """
        if name == CUSTOMER:
            return self.nip06_key(0)
        digest = hashlib.sha256(f"tradepost/agent/{name}".encode()).digest()
        return self.nip06_key(1 + int.from_bytes(digest) % (2**31 - 1))

    def nip06_key(self, account: int) -> SecretKey:
        """The Nostr key of an account, 0 … 2³¹ - 1 (NIP-06)."""
        if not 0 <= account < _HARDENED:
            raise ValueError("an account is 0 … 2³¹ - 1")
        node = self._master
        for index in (44 + _HARDENED, 1237 + _HARDENED, account + _HARDENED, 0, 0):
            node = _child(node, index)
        return SecretKey(node[0])

    @cached_property
    def _seed(self) -> bytes:
        return Mnemonic.to_seed(self._words)

    @cached_property
    def _master(self) -> _Node:
        digest = hmac.digest(b"Bitcoin seed", self._seed, "sha512")
        return digest[:32], digest[32:]

    @cached_property
    def _root(self) -> _Node:
        node = self._master
        for index in (129372, 0):  # NUT-13's purpose, and its one coin type
            node = _child(node, index + _HARDENED)
        return node

    def _keyset_node(self, keyset_id: str) -> _Node:
        node = self._keyset_nodes.get(keyset_id)
        if node is None:
            index = int(keyset_id, 16) % (2**31 - 1)
            node = self._keyset_nodes[keyset_id] = _child(self._root, index + _HARDENED)
        return node

    def __repr__(self) -> str:
        return "Seed(hidden)"


def _child(node: _Node, index: int) -> _Node:
    """BIP-32 private child derivation, on plain integers: five times as fast as building key objects."""
    key, chain_code = node
    public = b"\x00" + key if index >= _HARDENED else coincurve.PublicKey.from_valid_secret(key).format()
    digest = hmac.digest(chain_code, public + index.to_bytes(4), "sha512")
    tweak = int.from_bytes(digest[:32])
    child = (tweak + int.from_bytes(key)) % ORDER
    if tweak >= ORDER or child == 0:
        raise AssertionError("unreachable: BIP-32 finds no key at an index once in 2^127")
    return child.to_bytes(32), digest[32:]
