"""What the page is made of, and the codes that it shows. That it works: test_browser.py."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zxingcpp

from tradepost.facade.api import OPERATIONS
from tradepost.facade.desk import Desk
from tradepost.facade.web import pages
from tradepost.facade.web.pages import TEXT_BYTES_MAX

if TYPE_CHECKING:
    from conftest import Caller

FOLDER = Path(pages.__file__).parent / "static"
PARTS = [path for path in FOLDER.iterdir() if path.name != "reference.css"]
BYTES_MAX = 60_000
MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|DOMParser| style=| on[a-z]+="
)
CALLS = re.compile(r"(?:call|send|text|events)\((?:\"(\w+)\", )?[\"`]((?:/v1/|\$\{path\})[^\"`?]*)")


async def test_all_of_it_is_served_under_a_policy_that_leaves_nothing_open(
    desk: Desk, stranger: "Caller"
) -> None:
    for path in PARTS:
        served = await stranger("GET", "/" if path.suffix == ".html" else f"/static/{path.name}")
        assert (served.status, served.text) == (200, path.read_text(encoding="utf-8"))
        policy = served.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "*" not in policy
        again = await stranger("GET", "/" if path.suffix == ".html" else f"/static/{path.name}", If_None_Match=served.headers["ETag"])  # fmt: skip
        assert (again.status, again.text) == (304, "")
    assert (await stranger("GET", "/static/../pages.py")).status == 404


def test_it_is_small_asks_nobody_else_and_makes_no_markup_of_data() -> None:
    assert sum(path.stat().st_size for path in PARTS) < BYTES_MAX
    for path in PARTS:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|localStorage|cookie", text), path.name
        assert not MARKUP.search(text), path.name


def test_whatever_it_asks_for_is_an_operation() -> None:
    known = [(one.method, re.compile(re.sub(r"\{\w+\}", "[^/]+", one.path))) for one in OPERATIONS]
    asked = set()
    for path in FOLDER.glob("*.js"):
        for method, url in CALLS.findall(path.read_text(encoding="utf-8")):
            filled = re.sub(r"\$\{\w[^}]*\}", "x", url.replace("${path}", "/v1/jobs/x"))
            asked.add((method or "GET", filled))
    assert len(asked) > 20
    for method, url in asked:
        assert any(one == method and pattern.fullmatch(url) for one, pattern in known), (method, url)


@pytest.mark.parametrize("text", ["LNURL1DP68GURN8GHJ7", "lnbc1" + "a" * 600, "ünïcode"])
async def test_a_camera_reads_what_is_drawn(desk: Desk, stranger: "Caller", text: str) -> None:
    drawn = await stranger("POST", "/v1/qr", {"text": text})
    assert drawn.headers["Content-Type"] == "image/svg+xml"
    assert drawn.headers["Cache-Control"] == "no-store"
    assert _read(drawn.text) == text


async def test_no_more_is_drawn_than_a_camera_reads(desk: Desk, stranger: "Caller") -> None:
    assert (await stranger("POST", "/v1/qr", {"text": "x" * (TEXT_BYTES_MAX + 1)})).status == 400
    assert (await stranger("POST", "/v1/qr", {"text": "\U0001f600" * TEXT_BYTES_MAX})).status == 400
    assert (await stranger("POST", "/v1/qr", {"text": ""})).status == 400


def _read(svg: str) -> str:
    """What the SVG shows: rows of dark modules, each run as its start and length."""
    side = int(re.search(r'viewBox="0 0 (\d+)', svg)[1])  # type: ignore[index]
    rows = [bytearray(b"\xff" * side) for _ in range(side)]
    x = y = 0.0
    for command, numbers in re.findall(r"([Mmh])([-\d. ]+)", re.search(r'd="(M4[^"]*)"', svg)[1]):  # type: ignore[index]
        given = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        if command == "h":
            rows[int(y)][int(x) : int(x + given[0])] = bytes(int(given[0]))
            x += given[0]
        else:
            x, y = given if command == "M" else (x + given[0], y + given[1])
    scaled = b"".join(bytes(pixel for pixel in row for _ in range(4)) * 4 for row in rows)
    (found,) = zxingcpp.read_barcodes(memoryview(scaled).cast("B", (4 * side, 4 * side)), try_invert=False)
    return str(found.text)
