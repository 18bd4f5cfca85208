"""QR codes, read back from the very characters a terminal shows by a decoder that is not the encoder."""

import io
import re
from typing import TYPE_CHECKING

import pytest
import zxingcpp
from rich.console import Console

from identity import SecretKey, encode_nsec
from tradepost.cli import qr
from tradepost.testing import MemoryMint

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli

SCALE = 4
NPUB = "npub10xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqpkge6d"
INVOICE = MemoryMint().invoice(21)
CREQ_A = "creqA" + "pWF0gaNhdGVub3N0cmFheKlucHJvZmlsZTFxcXN" * 4
TOKEN = "cashuB" + "o2FteCJodHRwOi8vbG9jYWxob3N0OjMzMzhhdWNzYXRhdIGiYWlIAK0" * 5


def decoded(drawing: str, *, ink_is_light: bool) -> str:
    """What a camera reads that looks at these lines."""
    ink, paper = (255, 0) if ink_is_light else (0, 255)
    pixels: list[bytes] = []
    for line in drawing.splitlines():
        for half in ("█▀", "█▄"):
            row = bytes(ink if character in half else paper for character in line for _ in range(SCALE))
            pixels += [row] * SCALE
    image = memoryview(b"".join(pixels)).cast("B", (len(pixels), len(pixels[0])))
    (code,) = zxingcpp.read_barcodes(image, try_invert=False)  # as a camera that knows only dark on light
    return str(code.text)


@pytest.mark.parametrize("text", [NPUB, CREQ_A, TOKEN, "shop@example.com", "ünïcode"])
def test_a_decoder_reads_back_what_is_drawn(text: str, cli: "Cli") -> None:
    ran = cli("qr", text)
    assert (ran.code, ran.err) == (0, "")
    assert decoded(ran.out, ink_is_light=True) == text
    assert "\x1b" not in ran.out


@pytest.mark.parametrize("text", [INVOICE, f"lightning:{INVOICE}", "creqb1" + "qypqxpq9qcrsszg" * 4])
def test_bech32_is_drawn_in_capitals_and_so_smaller(text: str) -> None:
    lines = qr.rows(text)
    assert decoded("\n".join(lines), ink_is_light=True) == text.upper()
    assert len(lines) < len(qr.rows(text[:-1] + "_"))


def test_stdin_and_a_quiet_zone(cli: "Cli", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f" {NPUB}\n"))
    lines = cli("qr", "-").out.splitlines()
    assert decoded("\n".join(lines), ink_is_light=True) == NPUB
    assert {*lines[0], *lines[1]} == {"█"}
    assert {line[:4] + line[-4:] for line in lines[:-1]} == {"█" * 8}


@pytest.mark.parametrize(
    ("text", "said"),
    [("x" * 2954, "too long for one QR code"), ("", "nothing to draw"), (encode_nsec(SecretKey(b"\x01" * 32)), "secret")],
)  # fmt: skip
def test_what_is_not_drawn(text: str, said: str, cli: "Cli") -> None:
    ran = cli("qr", text)
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err
    assert len(text) < 40 or text not in ran.err.replace("\n", "")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, cli: "Cli") -> None:
    """Stdout as a terminal of 100 columns and 60 lines with colours."""
    monkeypatch.setattr(
        qr,
        "result",
        Console(force_terminal=True, width=100, height=60, color_system="truecolor", no_color=False),
    )


def test_a_terminal_gets_black_on_white_whatever_its_theme(terminal: None, cli: "Cli") -> None:
    out = cli("qr", NPUB).out
    assert all(line.startswith("\x1b[38;5;16m\x1b[48;5;231m") for line in out.splitlines())
    assert decoded(re.sub("\x1b\\[[0-9;]*m", "", out), ink_is_light=False) == NPUB


def test_no_color_is_heeded(terminal: None, cli: "Cli", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qr.result, "no_color", True)
    out = cli("qr", NPUB).out
    assert "\x1b" not in out
    assert decoded(out, ink_is_light=True) == NPUB


def test_a_terminal_that_is_too_small_is_told_instead_of_garbled(terminal: None, cli: "Cli") -> None:
    ran = cli("qr", TOKEN * 5)
    assert (ran.code, ran.out) == (1, "")
    assert "this terminal has 100 and 60" in ran.err.replace("\n", " ")


async def test_what_the_wallet_shows_can_be_scanned_and_programs_see_none_of_it(
    configured: str, cli_beside: "AsyncCli"
) -> None:
    invoice, *drawing, received = (await cli_beside("wallet", "fund", 50, "--qr")).out.splitlines()
    assert received.startswith("received 50 sat")
    assert decoded("\n".join(drawing), ink_is_light=True) == invoice.upper()
    token, *drawing = (await cli_beside("wallet", "send", 8, "--qr")).out.splitlines()
    assert decoded("\n".join(drawing), ink_is_light=True) == token
    assert len((await cli_beside("wallet", "send", 8)).out.splitlines()) == 1
    assert (await cli_beside("wallet", "send", 8, "--qr", "--json")).lines[0]["amount_sat"] == 8
