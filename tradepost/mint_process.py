"""A real Cashu mint for the demo and the tests: nutshell with FakeWallet, a process of its own on loopback.

FakeWallet pays every invoice by itself, so the sats are worth nothing; everything else is what a mint does.
"""

import asyncio
import http.client
import os
import secrets
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tradepost.mint_venv import MintVenvError, ensure_mint_venv, mint_python

__all__ = ["MintProcess", "MintProcessError", "MintVenvError", "ensure_mint_venv", "free_port", "mint_python"]

_HOST = "127.0.0.1"
_READY_SECONDS_MAX = 60.0
_STOP_SECONDS_MAX = 5.0
_POLL_SECONDS = 0.05
_WATCH_SECONDS = 0.5
_LOG_TAIL_CHARS = 2000

# The child reads a pipe that only we hold: however we end, kill -9 included, it reads the end of it and ends too.
_LAUNCHER = """
import os, sys, threading
def watch():
    sys.stdin.buffer.read()
    os._exit(1)
threading.Thread(target=watch, daemon=True).start()
from cashu.mint.main import main
main([])
"""


class MintProcessError(Exception):
    """The mint did not come up; the message holds the end of its log."""


def free_port() -> int:
    """A TCP port on loopback that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class MintProcess:
    """One mint, started with `async with` or by `start` and `stop` from code without a loop.

    Its database, key and log stay in `folder`, so that a mint started again on the same folder and port is the same
    mint. It writes nothing to the terminal, and it ends when this process ends, however that happens.
    """

    def __init__(
        self, python: Path, folder: Path, *, port: int | None = None, input_fee_ppk: int = 100
    ) -> None:
        """Take the Python of `ensure_mint_venv`, a private folder, and the fee per thousand inputs in sat (NUT-02)."""
        self._python = python
        self._folder = folder
        self._input_fee_ppk = input_fee_ppk
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port or free_port()
        self.url = f"http://{_HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """The file with everything the mint had to say."""
        return self._folder / "mint.log"

    def start(self) -> None:
        """Start the mint and block until it answers, about two seconds. Raises `MintProcessError`."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._python), "-c", _LAUNCHER],
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal is for us; we stop the mint when we are done with it
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask the mint to end and wait for it; kill it if it does not. Harmless when it has ended already."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap(self._process)

    def kill(self) -> None:
        """End the mint with SIGKILL, as a crash would. Harmless when it has ended already."""
        if self._process is not None:
            self._process.kill()
            self._reap(self._process)

    async def ended(self) -> str:
        """Wait until the mint has ended by itself; returns what it said last."""
        while self._process is not None and self._process.poll() is None:  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(_WATCH_SECONDS)  # real time: another process may end
        return f"the mint ended by itself:\n{self._log_tail()}"

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            self.kill()  # the thread sees it and ends
            await asyncio.wait([starting])
            self.kill()  # it may have started the mint only meanwhile
            starting.exception()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    @staticmethod
    def _reap(process: subprocess.Popen[bytes]) -> None:
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(
                self._folder
            ),  # nutshell looks for ~/.cashu/.env; the person's own must not reach this mint
            "PYTHONUNBUFFERED": "1",
            "TOR": "FALSE",
            "MINT_BACKEND_BOLT11_SAT": "FakeWallet",
            "MINT_PRIVATE_KEY": self._private_key(),
            "MINT_LISTEN_HOST": _HOST,
            "MINT_LISTEN_PORT": str(self.port),
            "MINT_DATABASE": str(self._folder),
            "MINT_INPUT_FEE_PPK": str(self._input_fee_ppk),
            "MINT_RATE_LIMIT": "FALSE",
            "MINT_QUOTE_BACKEND_CHECK_RATE_LIMIT": "0",
            "FAKEWALLET_DELAY_INCOMING_PAYMENT": "0",
            "FAKEWALLET_DELAY_OUTGOING_PAYMENT": "0",
        }

    def _private_key(self) -> str:
        path = self._folder / "mint.key"
        if not path.exists():
            draft = path.with_suffix(".new")
            draft.touch(mode=0o600)
            draft.write_text(secrets.token_hex(32))
            draft.replace(path)
        return path.read_text()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY_SECONDS_MAX
        while not self._answers():
            if process.poll() is not None:
                raise MintProcessError(f"the mint ended with code {process.returncode}:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise MintProcessError(
                    f"no answer from the mint in {_READY_SECONDS_MAX:.0f} s:\n{self._log_tail()}"
                )
            time.sleep(_POLL_SECONDS)  # real time: another process is starting

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=1)
        try:
            connection.request("GET", "/v1/info")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-_LOG_TAIL_CHARS:]
