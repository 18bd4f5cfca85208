"""The mint as a process: it comes up, remembers, reports why it did not, and never outlives us."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from tradepost.mint_process import MintProcess, MintProcessError, free_port

pytestmark = pytest.mark.process


async def _keysets(url: str) -> list[str]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/keysets") as answer:
        return sorted(keyset["id"] for keyset in (await answer.json())["keysets"])


async def test_same_folder_and_port_make_the_same_mint(mint_python: Path, tmp_path: Path) -> None:
    async with MintProcess(mint_python, tmp_path) as mint:
        before = await _keysets(mint.url)
        mint.kill()
        with pytest.raises(aiohttp.ClientConnectionError):
            await _keysets(mint.url)
    async with MintProcess(mint_python, tmp_path, port=mint.port) as again:
        assert again.url == mint.url
        assert await _keysets(again.url) == before


async def test_key_is_private_and_the_terminal_stays_quiet(
    mint_python: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with MintProcess(mint_python, tmp_path / "mint") as mint:
        assert "Mint started" in mint.log.read_text()
    assert (tmp_path / "mint" / "mint.key").stat().st_mode & 0o777 == 0o600
    assert capfd.readouterr() == ("", "")


async def test_a_mint_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(MintProcessError, match="No module named 'cashu'"):
        await MintProcess(Path(sys.executable), tmp_path).__aenter__()


async def test_cancelled_while_starting_leaves_no_mint_behind(mint_python: Path, tmp_path: Path) -> None:
    mint = MintProcess(mint_python, tmp_path)
    starting = asyncio.create_task(mint.__aenter__())
    async with asyncio.timeout(10):
        while mint._process is None:
            await asyncio.sleep(0.001)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert mint._process.returncode == -signal.SIGKILL


_PARENT = """
import sys
from pathlib import Path
from tradepost.mint_process import MintProcess
mint = MintProcess(Path(sys.argv[1]), Path(sys.argv[2]), port=int(sys.argv[3]))
mint.start()
print("ready", flush=True)
sys.stdin.read()
"""


async def test_the_mint_dies_with_its_parent_even_by_sigkill(mint_python: Path, tmp_path: Path) -> None:
    port = free_port()
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PARENT, str(mint_python), str(tmp_path), str(port),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert parent.stdout is not None
    assert await parent.stdout.readline() == b"ready\n"
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                break
            except ConnectionResetError:  # it is just dying
                pass
            else:
                writer.close()
            await asyncio.sleep(0.02)
