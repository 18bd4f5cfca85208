"""Tools of a real MCP server as work: on stdio, and over HTTP."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dvm import Job, JobFailed, JobTimeout
from dvm.errors import RunnerUnusable
from dvm.runners import mcp

MakeJob = Callable[..., Job]
ARGV = (sys.executable, str(Path(__file__).parent / "mcp_server.py"))


@pytest.fixture
async def server_url(free_port: int) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(*ARGV, str(free_port), stderr=asyncio.subprocess.DEVNULL)
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", free_port)
                break
            except OSError:
                await asyncio.sleep(0.02)
    writer.close()
    yield f"http://127.0.0.1:{free_port}/mcp"
    process.kill()  # it would wait for its tools
    await process.wait()


async def test_a_tool_over_http(make_job: MakeJob, server_url: str) -> None:
    assert await mcp("repeat", url=server_url)(make_job("ab", ("param", "times", "2"))) == "abab"
    assert await mcp("two", url=server_url, text="left", arguments={"right": "!"})(make_job("ab")) == "ab!"
    with pytest.raises(JobFailed, match="times cannot be given to the agent's tool: it takes integer"):
        await mcp("repeat", url=server_url)(make_job("ab", ("param", "times", "two")))
    for tool, why in (
        ("fail", "^the agent's tool failed on this job$"), ("nothing", "tool is missing"), ("two", "not set up"),
        ("much", "longer than"),
    ):  # fmt: skip
        with pytest.raises(JobFailed, match=why):
            await mcp(tool, url=server_url)(make_job("ab"))
    with pytest.raises(JobTimeout):
        await mcp("sleep", url=server_url, seconds=1)(make_job("ab"))


async def test_a_server_of_its_own(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "for it")
    monkeypatch.setenv("TRADEPOST_KEY", "hunter2")
    named = mcp("environment", argv=ARGV, environment=["MY_KEY"])
    assert await named(make_job("MY_KEY")) == "for it"
    assert await named(make_job("TRADEPOST_KEY")) == "none"


async def test_its_owner_is_told_why_it_failed(make_job: MakeJob, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(JobFailed, match="cannot be reached"):
        await mcp("fail", argv=[sys.executable, "-c", "import no_such_module"])(make_job("ab"))
    out, err = capfd.readouterr()
    assert "No module named 'no_such_module'" in out
    assert err == ""
    with pytest.raises(JobFailed, match=r"^the agent's tool failed on this job$"):
        await mcp("fail", argv=ARGV)(make_job("ab", ("encrypted",)))
    assert "executing" not in "".join(capfd.readouterr())


async def test_a_server_that_is_not_there(make_job: MakeJob, free_port: int) -> None:
    with pytest.raises(JobFailed, match="cannot be reached"):
        await mcp("repeat", url=f"http://127.0.0.1:{free_port}/mcp")(make_job())
    with pytest.raises(JobFailed, match="cannot be reached"):
        await mcp("repeat", argv=["false"])(make_job())


def test_what_cannot_be_used_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ({}, {"url": "http://a.example/", "argv": ["a"]}, {"url": "ftp://a.example/"}):
        with pytest.raises(RunnerUnusable):
            mcp("repeat", **wrong)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "mcp", None)  # as if it were not installed
    with pytest.raises(RunnerUnusable, match=r"tradepost\[mcp\]"):
        mcp("repeat", argv=["a"])
