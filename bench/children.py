"""Processes of a measurement: started, asked, weighed and always ended."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_ROOT = Path(__file__).parent.parent
_TICK = os.sysconf("SC_CLK_TCK")
_STOP_SECONDS_MAX = 20.0
_SILENT_SECONDS_MAX = 120.0
_LOOK_SECONDS = 0.1
_BUSY_LOOKS_MAX = 300


class Child:
    """A running `python -m MODULE ARGUMENTS…`. `greeting` is the first line it printed."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self._name = name
        self._process = process
        self.greeting = self.read().decode().strip()

    def ask(self, line: bytes) -> bytes:
        """Write one line to it and return the line it answers."""
        _pipe(self._process.stdin).write(line + b"\n")
        _pipe(self._process.stdin).flush()
        return self.read()

    def read(self) -> bytes:
        """The next line it prints. Raises `RuntimeError` if it ends instead; it is made to if it says nothing."""
        alarm = threading.Timer(_SILENT_SECONDS_MAX, self._process.kill)
        alarm.start()
        try:
            line = _pipe(self._process.stdout).readline()
        finally:
            alarm.cancel()
        if not line:
            raise RuntimeError(f"{self._name} ended with {self._process.wait()}")
        return line

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far, once it is quiet. Raises `RuntimeError` if it never is."""
        before = self._ticks()
        for _ in range(_BUSY_LOOKS_MAX):
            time.sleep(_LOOK_SECONDS)
            now = self._ticks()
            if now == before:
                return now / _TICK
            before = now
        raise RuntimeError(f"{self._name} is busy although nobody asks it for anything")

    def memory_bytes(self) -> int:
        """Resident set size."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def open_files(self) -> int:
        """Descriptors it holds."""
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def _ticks(self) -> int:
        fields = (
            Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        )
        return int(fields[11]) + int(fields[12])


@contextmanager
def child(module: str, *arguments: str) -> Iterator[Child]:
    """Run a module until the context is left; then it is told to end, and in the end made to."""
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Child(module, process)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _pipe(process.stdin).close()
        _pipe(process.stdout).close()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
