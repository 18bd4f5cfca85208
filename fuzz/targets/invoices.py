"""Lightning invoices (BOLT-11): as text, and with fields of anybody's choice under a right checksum and signature."""

import hashlib
from typing import Final

import coincurve
from bech32 import CHARSET, bech32_decode, bech32_encode

from fuzz.kit import ALICE, text_of, vectors
from wallet.errors import InvalidRequest
from wallet.invoice import INVOICE_CHARS_MAX, parse_invoice

_KEY: Final = coincurve.PrivateKey(ALICE.to_bytes())
_SIGNATURE_DIGITS: Final = 104
_PREFIXES: Final = (
    "lnbc", "lnbc1m", "lnbc2500u", "lnbc10n", "lnbc25p", "lnbc20p", "lntb1", "lntbs5u", "lnbcrt21000000", "lnbc0", "lnbc01u",
    "lnbc999999999999999999", "lnbc21000001", "lnxx1u", "lnbc1x", "ln", "lnbc1u1", "lnbc" + "9" * 70,
)  # fmt: skip


def _text(data: bytes) -> None:
    text = text_of(data)
    try:
        invoice = parse_invoice(text)
    except InvalidRequest as error:
        assert len(text) < 20 or text not in str(error)
        return
    assert len(text) <= INVOICE_CHARS_MAX
    assert text[:2].lower() == "ln"
    assert text.lower().startswith(f"ln{invoice.network}")
    assert 0 < invoice.amount_msat <= 21_000_000 * 10**11
    assert invoice.amount_sat * 1000 - 1000 < invoice.amount_msat <= invoice.amount_sat * 1000
    assert len(bytes.fromhex(invoice.payment_hash)) == 32
    assert 0 <= invoice.expires_at < 2**53
    assert parse_invoice(text.upper()) == parse_invoice(text.lower()) == invoice


def _fields(data: bytes) -> None:
    """The first byte chooses the part that people read; each further one is a digit."""
    if data:
        prefix, digits = _PREFIXES[data[0] % len(_PREFIXES)], [byte & 31 for byte in data[1:701]]
        _text(signed_invoice(prefix, digits).encode())


def signed_invoice(prefix: str, digits: list[int]) -> str:
    """An invoice of these fields (digits of 5 bits, from the date on), signed by Alice."""
    signature = _KEY.sign_recoverable(
        hashlib.sha256(prefix.encode() + _to_bytes(digits)).digest(), hasher=None
    )
    whole = int.from_bytes(signature)
    return bech32_encode(prefix, [*digits, *(whole >> shift & 31 for shift in range(515, -1, -5))])


def _to_bytes(digits: list[int]) -> bytes:
    """Their bits, filled up with zeroes to whole bytes."""
    bits = sum(digit << 5 * place for place, digit in enumerate(reversed(digits)))
    size = -(-5 * len(digits) // 8)
    return (bits << (8 * size - 5 * len(digits))).to_bytes(size)


def _digits_of(invoice: str) -> bytes:
    _, digits = bech32_decode(invoice)
    return bytes(digits[:-_SIGNATURE_DIGITS] if digits else [])


CHECKS = {"text": _text, "fields": _fields}
_OFFICIAL = vectors("wallet/bolt11.json")
SEEDS = [
    *(("text", case["invoice"].encode()) for case in (*_OFFICIAL["valid"], *_OFFICIAL["invalid"])),
    *(("fields", b"\x02" + _digits_of(case["invoice"])) for case in _OFFICIAL["valid"]),
]
# A field's letter and the two digits of its length.
_HEADS = [
    (CHARSET.index(letter), size >> 5, size & 31) for letter in "pshndmxcfr9q" for size in (0, 1, 52, 53)
]
WORDS = (*(bytes(head).decode() for head in _HEADS), "lnbc", "lntb", "10n", "1")
