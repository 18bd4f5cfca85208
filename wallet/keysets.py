"""A mint's keysets: their ids recomputed, short ids resolved, input fees (NUT-01, NUT-02)."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from wallet.crypto import parse_mint_key
from wallet.errors import InvalidKeyset, InvalidProof
from wallet.proofs import AMOUNT_MAX, Coin

KEYS_MAX: Final = 256
INPUT_FEE_PPK_MAX: Final = (
    1_000_000  # 1000 sat a coin: beyond that a mint is broken or out to take everything
)
_TIME_MAX: Final = 2**53 - 1
_ID: Final = re.compile(r"00[0-9a-f]{14}|01[0-9a-f]{64}")
_SHORT_ID: Final = re.compile(r"01[0-9a-f]{14}")
_UNIT: Final = re.compile(r"[a-z0-9_-]{1,32}")


@dataclass(frozen=True)
class Keyset:
    """One set of signing keys of a mint: amount (in `unit`) to compressed public key in hex.

    `input_fee_ppk` is the fee of one input in thousandths of `unit`; after `final_expiry` (unix seconds) the
    mint may forget the coins.
    """

    id: str
    unit: str
    active: bool
    input_fee_ppk: int
    final_expiry: int | None
    keys: Mapping[int, str] = field(repr=False)

    def key(self, amount: int) -> str:
        """The key that signs coins of `amount`. Raises `InvalidProof` if this keyset has no such coin."""
        try:
            return self.keys[amount]
        except KeyError:
            raise InvalidProof(f"keyset {self.id} has no coins of {amount}") from None


def parse_keys(raw: object) -> dict[int, str]:
    """The `keys` object of a mint's answer, amounts as JSON's decimal strings. Raises `InvalidKeyset`."""
    if not isinstance(raw, dict) or not 0 < len(raw) <= KEYS_MAX:
        raise InvalidKeyset(f"keys are an object of 1 … {KEYS_MAX} amounts")
    keys = {}
    for amount, key in raw.items():
        if (
            not isinstance(amount, str)
            or not re.fullmatch(r"[1-9][0-9]{0,18}", amount)
            or not isinstance(key, str)
        ):
            raise InvalidKeyset("keys map decimal amounts to public keys")
        keys[int(amount)] = key
    check_keys(keys)
    return keys


def check_keys(keys: Mapping[int, str]) -> None:
    """Raise `InvalidKeyset` unless amounts are 1 … 2⁶³ and keys compressed points in lowercase hex."""
    if not 0 < len(keys) <= KEYS_MAX:
        raise InvalidKeyset(f"a keyset has 1 … {KEYS_MAX} keys")
    for amount, key in keys.items():
        if not 0 < amount <= AMOUNT_MAX:
            raise InvalidKeyset(f"a keyset cannot have coins of {amount}")
        try:
            parse_mint_key(key)
        except InvalidProof:
            raise InvalidKeyset(f"the key for {amount} is not a compressed public key") from None


def keyset_id_v1(keys: Mapping[int, str]) -> str:
    """The deprecated 8-byte id `00…`: a hash of the keys alone, ordered by amount (NUT-02)."""
    return "00" + hashlib.sha256(bytes.fromhex("".join(keys[a] for a in sorted(keys)))).hexdigest()[:14]


def keyset_id_v2(
    keys: Mapping[int, str], unit: str, input_fee_ppk: int = 0, final_expiry: int | None = None
) -> str:
    """The 33-byte id `01…`: a hash of keys, unit, fee and expiry (NUT-02)."""
    text = ",".join(f"{amount}:{keys[amount]}" for amount in sorted(keys)) + f"|unit:{unit}"
    if input_fee_ppk:
        text += f"|input_fee_ppk:{input_fee_ppk}"
    if final_expiry:
        text += f"|final_expiry:{final_expiry}"
    return "01" + hashlib.sha256(text.encode()).hexdigest()


def check_keyset(keyset: Keyset) -> None:
    """Raise `InvalidKeyset` unless the fields are sane and the id is the one its contents hash to."""
    check_keys(keyset.keys)
    if not _UNIT.fullmatch(keyset.unit):
        raise InvalidKeyset("a keyset's unit is a short lowercase word")
    if not 0 <= keyset.input_fee_ppk <= INPUT_FEE_PPK_MAX:
        raise InvalidKeyset(f"an input fee is 0 … {INPUT_FEE_PPK_MAX} ppk, not {keyset.input_fee_ppk}")
    if keyset.final_expiry is not None and not 0 <= keyset.final_expiry <= _TIME_MAX:
        raise InvalidKeyset("a final expiry is unix seconds")
    if not is_keyset_id(keyset.id):
        raise InvalidKeyset("a keyset id is 00 and 7 bytes, or 01 and 32 bytes, in lowercase hex")
    if keyset.id.startswith("00"):
        expected = keyset_id_v1(keyset.keys)
    else:
        expected = keyset_id_v2(keyset.keys, keyset.unit, keyset.input_fee_ppk, keyset.final_expiry)
    if keyset.id != expected:
        raise InvalidKeyset(f"keyset {keyset.id} has keys that hash to {expected}: do not use this mint")


def is_keyset_id(text: str) -> bool:
    """Whether this is the form of a whole keyset id, v1 or v2."""
    return _ID.fullmatch(text) is not None


def is_short_id(text: str) -> bool:
    """Whether this is the form of a short id: the first 8 bytes of a v2 id (NUT-00)."""
    return _SHORT_ID.fullmatch(text) is not None


def resolve_short_id(short: str, keyset_ids: Iterable[str]) -> str:
    """The one of a mint's `keyset_ids` that `short` means; a whole id means itself.

    Raises `InvalidKeyset` when none fits or several do: the same coin would have two meanings.
    """
    found = {
        known for known in keyset_ids if known == short or (is_short_id(short) and known.startswith(short))
    }
    if len(found) != 1:
        raise InvalidKeyset(f"keyset id {short[:66]} is {'ambiguous' if found else 'not known'} at this mint")
    return found.pop()


def input_fee(proofs: Iterable[Coin], keysets: Mapping[str, Keyset]) -> int:
    """What a mint keeps for taking these coins in one transaction, in their unit, rounded up once (NUT-02).

    Raises `InvalidKeyset` for a coin of a keyset that is not among `keysets`.
    """
    try:
        return -(-sum(keysets[proof.id].input_fee_ppk for proof in proofs) // 1000)
    except KeyError as error:
        raise InvalidKeyset(f"keyset {error} is not known at this mint") from None
