"""Every example of docs/http.md, and of README's part on it, as it stands there, against a desk like that of
`tradepost dev`.
"""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, _missing
from tests.tradepost.facade.conftest import PRICE
from tradepost.facade.desk import Desk

PAGE = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
README = (
    (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Over HTTP\n")[2].partition("\n## ")[0]
)
SECONDS_MAX = 90

pytestmark = pytest.mark.process


def blocks(language: str, page: str = PAGE) -> list[str]:
    """The examples in one language, in the order of the page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


async def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """What a program prints that must end well."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(SECONDS_MAX):
            told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0, told.decode()
    return told.decode()


async def test_curl(hiring_desk: Desk, tmp_path: Path, token_of: Callable[[int], Awaitable[str]]) -> None:
    if shutil.which("curl") is None:
        _missing("curl", "apt-get install curl")
    script = "".join((*blocks("sh", README), *blocks("sh")))
    script, replaced = re.subn(
        r"^export DESK=.*", f"export DESK={hiring_desk.url}", script, flags=re.MULTILINE
    )
    assert replaced == 2
    told = await run("sh", "-euc", script, folder=tmp_path, TOKEN=await token_of(32))
    assert told.count('"result":"One. Two. Three"') == 3  # README's, by the ticket, and by X-Cashu
    assert '"result":"Five. Six. Seven"' in told
    assert "event: end" in told
    assert '"stage":"released"' in told
    assert '"token":"cashuB' in told


async def test_python(hiring_desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text("".join(blocks("python")), encoding="utf-8")
    told = await run(sys.executable, "example.py", folder=tmp_path, DESK=hiring_desk.url)
    assert "One. Two. Three" in told
    assert "'keys': [{'key': 'nostr:" in told
    assert "event: update" in told
    assert "\nbad_request " in told


async def test_javascript(hiring_desk: Desk, tmp_path: Path, node: Path, node_modules: Path) -> None:
    (tmp_path / "node_modules").symlink_to(node_modules)
    (tmp_path / "example.mjs").write_text("".join(blocks("js")), encoding="utf-8")
    told = await run(node, "example.mjs", folder=tmp_path, DESK=hiring_desk.url)
    assert "One. Two. Three" in told
    assert "key: 'nostr:" in told
    assert f"200 {PRICE + 4}" in told
    assert "event: job" in told
