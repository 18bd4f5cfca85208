"""The mint's environment: built once, anew when half-made or outdated, by one process at a time."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tradepost import mint_venv
from tradepost.mint_venv import MintVenvError, default_folder, ensure_mint_venv


class Builder:
    """Stands in for the minute of installing; `make` does the real thing before these tests can run."""

    def __init__(self) -> None:
        self.built = 0
        self.at_work = 0
        self.fails = False

    async def __call__(self, folder: Path, python: Path) -> None:
        assert self.at_work == 0
        self.at_work += 1
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        python.parent.mkdir()
        python.touch()
        await asyncio.sleep(0)
        self.at_work -= 1
        if self.fails:
            raise MintVenvError("no network")
        self.built += 1


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    replacement = Builder()
    monkeypatch.setattr(mint_venv, "_build", replacement)
    return replacement


async def test_it_is_built_once(builder: Builder, tmp_path: Path) -> None:
    python = await ensure_mint_venv(tmp_path / "deep" / "venv")
    assert python == tmp_path / "deep" / "venv" / "bin" / "python"
    assert await ensure_mint_venv(tmp_path / "deep" / "venv") == python
    assert builder.built == 1


async def test_a_half_made_one_is_made_anew(builder: Builder, tmp_path: Path) -> None:
    builder.fails = True
    with pytest.raises(MintVenvError, match="no network"):
        await ensure_mint_venv(tmp_path)
    assert (tmp_path / "bin" / "python").exists()
    builder.fails = False
    await ensure_mint_venv(tmp_path)
    assert builder.built == 1


async def test_one_made_for_other_pins_or_without_its_python_is_made_anew(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("cashu==0.20.2\n")
    monkeypatch.setattr(mint_venv, "REQUIREMENTS", pins)
    python = await ensure_mint_venv(tmp_path / "venv")
    pins.write_text("cashu==0.20.3\n")
    await ensure_mint_venv(tmp_path / "venv")
    assert builder.built == 2
    python.unlink()  # the interpreter it was made from is gone
    await ensure_mint_venv(tmp_path / "venv")
    assert builder.built == 3


async def test_those_who_come_meanwhile_wait_and_find_it_made(builder: Builder, tmp_path: Path) -> None:
    async with asyncio.timeout(10):
        await asyncio.gather(*(ensure_mint_venv(tmp_path) for _ in range(3)))
    assert builder.built == 1


def test_a_checkout_has_one_and_whoever_installed_the_package_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        default_folder() == Path(__file__).parents[2] / ".venv-mint"
    )  # which `make test` and `make demo` fill
    monkeypatch.setattr(mint_venv, "CHECKOUT", tmp_path / "site-packages")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "tradepost" / "mint-venv"


_LOCKED = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import mint_venv
async def main():
    async with mint_venv._locked(Path(sys.argv[1])):
        print("locked", flush=True)
        sys.stdin.read()
asyncio.run(main())
"""


@pytest.mark.process
async def test_another_process_is_waited_for_and_its_death_gives_way(
    builder: Builder, tmp_path: Path
) -> None:
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _LOCKED, str(tmp_path), str(Path(mint_venv.__file__).parent),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"locked\n"
    waiting = asyncio.create_task(ensure_mint_venv(tmp_path))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await asyncio.shield(waiting)
    assert builder.built == 0
    holder.kill()
    await holder.wait()
    async with asyncio.timeout(10):
        await waiting
    assert builder.built == 1


@pytest.mark.process
async def test_a_failing_installer_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("./no-such-folder\n")
    monkeypatch.setattr(mint_venv, "REQUIREMENTS", pins)
    with pytest.raises(MintVenvError, match="no-such-folder"):
        await ensure_mint_venv(tmp_path / "venv")
