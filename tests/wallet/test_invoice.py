"""Lightning invoices, of which only what is checked is believed."""

import json
import time
from pathlib import Path

import bolt11
import pytest
from bech32 import CHARSET

from fuzz.targets.invoices import signed_invoice
from wallet.errors import InvalidRequest
from wallet.invoice import INVOICE_CHARS_MAX, Invoice, parse_invoice

VECTORS = json.loads((Path(__file__).parent / "vectors" / "bolt11.json").read_text(encoding="utf-8"))
COFFEE = VECTORS["valid"][1]["invoice"]
DATE = [CHARSET.index(letter) for letter in "pvjluez"]


def field(letter: str, digits: list[int]) -> list[int]:
    return [CHARSET.index(letter), len(digits) >> 5, len(digits) & 31, *digits]


NEEDED = DATE + field("p", [1] * 51 + [0]) + field("s", [2] * 51 + [0]) + field("d", [0, 0])


@pytest.mark.parametrize("case", VECTORS["valid"], ids=lambda case: case["invoice"][:20])
def test_official_invoices(case: dict[str, object]) -> None:
    if case["amount_msat"] is None:
        with pytest.raises(InvalidRequest, match="names no amount"):
            parse_invoice(case["invoice"])
    else:
        assert parse_invoice(case["invoice"]).amount_msat == case["amount_msat"]


@pytest.mark.parametrize("case", VECTORS["invalid"], ids=lambda case: case["why"])
def test_official_invoices_that_are_none(case: dict[str, str]) -> None:
    if case["why"] == "unknown required feature 100":  # for those who find the route; mints do that for us
        assert parse_invoice(case["invoice"])
        return
    with pytest.raises(InvalidRequest):
        parse_invoice(case["invoice"])


def test_what_we_need_of_an_invoice() -> None:
    assert parse_invoice(COFFEE) == Invoice(
        network="bc",
        amount_msat=250_000_000,
        payment_hash="0001020304050607080900010203040506070809000102030405060708090102",
        expires_at=1_496_314_658 + 60,
    )
    assert parse_invoice(signed_invoice("lntbs10n", NEEDED)).network == "tbs"


@pytest.mark.parametrize(
    ("prefix", "msat", "sat"), [("lnbc10p", 1, 1), ("lnbc20u", 2_000_000, 2000), ("lnbc10010p", 1001, 2), ("lnbc21000000", 21 * 10**17, 21 * 10**14)],
)  # fmt: skip
def test_amounts_are_exact_and_rounded_up_to_sats(prefix: str, msat: int, sat: int) -> None:
    invoice = parse_invoice(signed_invoice(prefix, NEEDED))
    assert (invoice.amount_msat, invoice.amount_sat) == (msat, sat)


@pytest.mark.parametrize(
    "prefix", ["lnbc1p", "lnbc15p", "lnbc0", "lnbc0u", "lnbc01u", "lnbc1x", "lnbc21000001", "lnbc999999999999999999", "lnbc" + "9" * 60, "lnxx1u", "lnbc$"]
)  # fmt: skip
def test_amounts_that_cannot_be(prefix: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_invoice(signed_invoice(prefix, NEEDED))


@pytest.mark.parametrize(
    "digits",
    [
        [], [0] * 6, [0] * 7, DATE, [*DATE, 1], [*DATE, 1, 31], [*DATE, 1, 31, 31], NEEDED + field("x", []), NEEDED + field("x", [31] * 14),
        NEEDED + field("c", []), NEEDED + field("f", []), NEEDED + field("n", [0] * 53), NEEDED + field("d", [31] * 8)[:5],
        DATE + field("d", [31] * 8) + NEEDED[7:], DATE + field("p", [1] * 52), NEEDED[:-5],
    ],
)  # fmt: skip
def test_signed_rubbish_is_refused_and_nothing_else_is_raised(digits: list[int]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_invoice(signed_invoice("lnbc1u", digits))
    assert "lnbc" not in str(caught.value)


def test_one_spelling_of_each_letter() -> None:
    assert parse_invoice(COFFEE.upper()) == parse_invoice(COFFEE)
    kelvin = COFFEE.replace("k", "\u212a")  # becomes a k in lower case
    assert bolt11.decode(kelvin).amount_msat == 250_000_000  # the library takes it
    for text in (kelvin, COFFEE.capitalize(), COFFEE[:40].upper() + COFFEE[40:], f" {COFFEE}", f"{COFFEE}\n"):
        with pytest.raises(InvalidRequest):
            parse_invoice(text)


def test_length_is_limited() -> None:
    started = time.process_time()
    with pytest.raises(InvalidRequest, match=str(INVOICE_CHARS_MAX)):
        parse_invoice("lnbc1u1" + "q" * 10**6)
    assert time.process_time() - started < 0.1
