"""The mint's own Python environment.

Nutshell pins old releases of packages that Tradepost uses too, so the two cannot share an environment. Only the
standard library is imported here: `make` runs this file as a script while Tradepost itself is still being installed.
"""

import asyncio
import fcntl
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("data") / "mint-requirements.txt"

CHECKOUT = Path(__file__).absolute().parents[1]

_STAMP = "tradepost-mint-venv"
_LOCK_POLL_SECONDS = 0.2
_OUTPUT_TAIL_CHARS = 2000


class MintVenvError(Exception):
    """The mint's environment could not be made; the message holds the end of the installer's output."""


async def mint_python() -> Path:
    """The Python that has the mint's software: that of TRADEPOST_MINT_PYTHON, else one that is installed at first use.

    It is installed into TRADEPOST_MINT_VENV (default: `default_folder`). Raises `MintVenvError`.
    """
    if named := os.environ.get("TRADEPOST_MINT_PYTHON"):
        return Path(named)
    return await ensure_mint_venv(Path(os.environ.get("TRADEPOST_MINT_VENV") or default_folder()))


def default_folder() -> Path:
    """The XDG cache folder; in a checkout the one there into which `make` installs the mint."""
    if (CHECKOUT / "Makefile").exists():
        return CHECKOUT / ".venv-mint"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tradepost" / "mint-venv"


async def ensure_mint_venv(folder: Path) -> Path:
    """Return the Python of the mint's environment in `folder`, making the environment if it is not there.

    A half-made or outdated one is made anew; what counts is a stamp written last. Several processes may ask at the
    same time: one builds, the others wait. Takes about a minute the first time and needs the package index then.
    Raises `MintVenvError`.
    """
    folder = folder.absolute()
    python = folder / "bin" / "python"
    folder.mkdir(parents=True, exist_ok=True)
    async with _locked(folder):
        stamp = folder / _STAMP
        if not (stamp.exists() and stamp.read_text() == _wanted() and python.exists()):
            await _build(folder, python)
            stamp.write_text(_wanted())
    return python


def _wanted() -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{version} {hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()}\n"


@asynccontextmanager
async def _locked(folder: Path) -> AsyncIterator[None]:
    """Hold the folder's advisory lock, which a process that dies gives back by itself."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_POLL_SECONDS)  # real time: another process holds it
        yield
    finally:
        os.close(descriptor)


async def _build(folder: Path, python: Path) -> None:
    # This interpreter's pip installs into the new environment: no pip in it, and no ensurepip, which Debian splits off.
    await _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder))
    pip = (sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check")
    await _run(*pip, "install", "--quiet", "--no-deps", "--requirement", str(REQUIREMENTS))
    # Importing the mint needs the least of its settings; HOME, because it looks for the person's own mint there.
    settings = {"HOME": str(folder), "MINT_BACKEND_BOLT11_SAT": "FakeWallet", "MINT_PRIVATE_KEY": "trial"}
    settings["MINT_DATABASE"] = str(folder / "trial")  # else it makes a folder wherever we happen to be
    await _run(str(python), "-c", "import cashu.mint.app", **settings)


async def _run(*command: str, **environment: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        tail = output.decode(errors="replace")[-_OUTPUT_TAIL_CHARS:]
        raise MintVenvError(f"cannot make the mint's environment: {' '.join(command)} failed:\n{tail}")


if __name__ == "__main__":
    try:
        asyncio.run(ensure_mint_venv(Path(sys.argv[1])))
    except MintVenvError as error:
        sys.exit(str(error))
