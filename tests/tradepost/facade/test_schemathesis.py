"""schemathesis against a desk that runs: what is served is what the document says, whatever is sent.

It is a process of its own, as others would run it; its cases are the same each time.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.tradepost.facade.conftest import capitals, open_desk
from tradepost.settings import RequestLimits, Settings
from tradepost.testing import Market

if TYPE_CHECKING:
    from conftest import Caller

    from tradepost.facade.desk import Desk

SECONDS_MAX = 180  # on a machine that does much else; alone it is six
#: 400 is an answer to what is well-formed, too: a token may be damaged, an agent unknown. 402 and 413 come first.
CONFIGURATION = """
continue-on-failure = true
[generation]
max-examples = 3
no-shrink = true
deterministic = true
[warnings]
enabled = false
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 402, 403, 404, 409, 503]
[checks.negative_data_rejection]
expected-statuses = [400, 401, 402, 403, 404, 405, 406, 409, 413, 415, 422]
[phases.examples]
enabled = false
[phases.stateful]
enabled = false
"""


@pytest.fixture
async def desk(market: Market, settings: Settings) -> AsyncIterator["Desk"]:
    """One without limits on how often somebody may call."""
    free = settings.model_copy(update={"http_requests_per_minute": RequestLimits(*[1_000_000] * 4)})
    async with open_desk(market, free, [capitals()]) as desk:
        yield desk


@pytest.mark.process
async def test_the_desk_is_as_its_document_says(desk: "Desk", caller: "Caller", tmp_path: Path) -> None:
    session = (await caller("POST", "/v1/auth/sessions")).json
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"), "--config-file", configuration, "run",
        f"{desk.url}/openapi.json", "--checks", "all", "--exclude-operation-id", "end_session",
        "-H", f"Authorization: Bearer {session['access']}",
        cwd=tmp_path, env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(SECONDS_MAX):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    told = out.decode()
    assert process.returncode == 0, told
    assert "No issues found" in told
    assert "Coverage (in" in told
