"""Lightning invoices (BOLT-11): the one place where an outside library reads them, and what is believed of it."""

import re
from dataclasses import dataclass
from typing import Final

import bolt11

from wallet.errors import InvalidRequest

INVOICE_CHARS_MAX: Final = 4096  # about what a QR code holds; reading takes some 10 µs a character
_AMOUNT_MSAT_MAX: Final = 21_000_000 * 100_000_000 * 1000  # all there will ever be
_TIME_MAX: Final = 2**53 - 1
# Amounts are 1 … 18 digits without leading zeros, and no fraction of a millisat: 10 pico-bitcoin are one.
_FORM: Final = re.compile(
    r"ln(bcrt|bc|tbs|tb)(?:[1-9][0-9]{0,17}[mun]?|[1-9][0-9]{0,16}0p)?1[02-9ac-hj-np-z]+"
)


@dataclass(frozen=True)
class Invoice:
    """What we need of an invoice, and its signature was right.

    `network` is BOLT-11's: `bc`, `tb`, `tbs` or `bcrt`; `expires_at` is Unix seconds. `description_hash` is the `h`
    field, None where the invoice describes itself in words.
    """

    network: str
    amount_msat: int
    payment_hash: str
    expires_at: int
    description_hash: str | None = None

    @property
    def amount_sat(self) -> int:
        """The amount in whole sats, rounded up: what has to be there to pay it."""
        return -(-self.amount_msat // 1000)


def parse_invoice(text: str) -> Invoice:
    """Read an invoice that names its amount. Raises `InvalidRequest`, whatever the text is."""
    if len(text) > INVOICE_CHARS_MAX:
        raise InvalidRequest(f"an invoice of {len(text)} characters; at most {INVOICE_CHARS_MAX} are read")
    form = _FORM.fullmatch(text.lower()) if text.isascii() and text in (text.lower(), text.upper()) else None
    if form is None:
        raise InvalidRequest("not a Lightning invoice (BOLT-11): it begins with lnbc; copy the whole of it")
    try:
        read = bolt11.decode(text)
        amount_msat, payment_hash, expires_at = read.amount_msat, read.payment_hash, read.expiry_time
        description_hash = read.description_hash
    except Exception:  # noqa: BLE001 - it has errors of its own and lets through those of three other libraries
        raise InvalidRequest("the Lightning invoice is damaged or not signed; copy the whole of it") from None
    if not amount_msat:
        raise InvalidRequest("the invoice names no amount; ask for one that does")
    if amount_msat > _AMOUNT_MSAT_MAX or expires_at > _TIME_MAX:
        raise InvalidRequest("the invoice names an amount or a time that cannot be")
    return Invoice(form[1], int(amount_msat), payment_hash, expires_at, description_hash)
