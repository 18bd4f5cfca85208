"""`tradepost qr`, and the QR codes that other commands draw below what can be paid or scanned."""

import re
import sys
from typing import Annotated, Final

import segno
import typer

from tradepost.cli.output import print_text, result, say
from tradepost.errors import TradepostError

QUIET_MODULES: Final = 4  # ISO 18004: without the margin many cameras see nothing
_BYTES_MAX: Final = 2953  # what the largest code holds in byte mode
# Bech32 reads the same in capitals, which need a third less room. Base64 (cashuA, cashuB, creqA) does not.
_BECH32: Final = re.compile(
    r"(?:lightning:)?ln(?:bc|tb|bcrt|tbs)[0-9a-z]+|creqb1[0-9a-z]+|lnurl1[0-9a-z]+", re.I
)
_SECRET: Final = re.compile(r"n(?:crypt)?sec1|bunker:", re.I)
_DARK_ON_LIGHT: Final = (
    "\x1b[38;5;16m\x1b[48;5;231m"  # black on white of the colour cube, which no theme changes
)
_PLAIN: Final = "\x1b[0m"

Wanted = Annotated[
    bool | None,
    typer.Option("--qr/--no-qr", help="Draw a QR code, or not (default: in a terminal)."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(qr)


def qr(
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT", help="An invoice, payment request, token, npub or address; `-` reads stdin."
        ),
    ],
) -> None:
    """Draw anything payable as a QR code.

    For another wallet's camera. Examples: `tradepost qr lnbc…`, `tradepost wallet send 21 | tradepost qr -`
    """
    text = (sys.stdin.read() if text == "-" else text).strip()
    if not text:
        raise TradepostError("there is nothing to draw; give a text, or `-` and a text on stdin")
    if _SECRET.match(text):
        raise TradepostError("that is a secret key: a camera must not see it, so it is not drawn")
    lines = rows(text)
    if result.is_terminal and (narrow := _too_small(lines)):
        raise TradepostError(narrow)
    _print(lines)


def offer_qr(text: str, wanted: bool | None) -> None:
    """Draw `text` on stdout if it is wanted, or if stdout is a terminal; if it cannot be drawn, say why."""
    if not (result.is_terminal if wanted is None else wanted):
        return
    try:
        lines = rows(text)
    except TradepostError as error:
        say(f"[dim]{error}[/]")
        return
    if result.is_terminal and (narrow := _too_small(lines)):
        say(f"[dim]{narrow}[/]")
    else:
        _print(lines)


def rows(text: str) -> list[str]:
    """A QR code of `text` as lines, two modules in one character, the quiet zone included.

    A dark module is a blank and a light one is ink, as on a dark terminal; swap colours elsewhere. Raises
    `TradepostError` if it is too long for one code.
    """
    try:
        code = segno.make_qr(text.upper() if _BECH32.fullmatch(text) else text, error="l", boost_error=False)
    except segno.DataOverflowError:
        raise TradepostError(
            f"too long for one QR code: {len(text)} characters, and {_BYTES_MAX} are the most; copy the text instead"
        ) from None
    modules = [list(row) for row in code.matrix_iter(border=QUIET_MODULES)]
    modules += [[0] * len(modules[0])] * (len(modules) % 2)
    return [
        "".join("█▀▄ "[2 * bool(upper) + bool(lower)] for upper, lower in zip(*pair, strict=True))
        for pair in zip(modules[::2], modules[1::2], strict=True)
    ]


def _too_small(lines: list[str]) -> str:
    """Why the terminal cannot show a code; "" if it can. What wraps or scrolls away no camera reads."""
    width, height = result.size
    if len(lines[0]) <= width and len(lines) < height:
        return ""
    return (
        f"its QR code needs {len(lines[0])} columns and {len(lines) + 1} lines, this terminal has {width} and {height}"
        "; make it larger, or its letters smaller, or copy the text"
    )


def _print(lines: list[str]) -> None:
    if result.is_terminal and not result.no_color:
        swapped = str.maketrans("█▀▄ ", " ▄▀█")  # ink is black now
        lines = [f"{_DARK_ON_LIGHT}{line.translate(swapped)}{_PLAIN}" for line in lines]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    else:
        print_text("\n".join(lines))
