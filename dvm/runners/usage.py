"""What a process and all it started use, as /proc tells it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_COUNTED: Final = frozenset(
    {"RssAnon", "RssShmem", "VmSwap"}
)  # not what is read from files: the kernel can drop it


@dataclass(frozen=True)
class Usage:
    """Memory in bytes, with pages that processes share counted for each; CPU seconds, those that ended included."""

    memory: int
    cpu_seconds: float
    pids: frozenset[int]


def usage_of(pid: int) -> Usage:
    """Of `pid` and its descendants now; zero for what has ended meanwhile."""
    waiting, seen = [pid], set[int]()
    memory, ticks = 0, 0
    while waiting:
        if (current := waiting.pop()) in seen:
            continue
        seen.add(current)
        try:
            memory += _memory(current)
            ticks += _ticks(current)
            for task in (_PROC / str(current) / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, ValueError, IndexError):  # it has ended
            continue
    return Usage(memory, ticks / _TICKS, frozenset(seen))


def _memory(pid: int) -> int:
    lines = (_PROC / str(pid) / "status").read_text(errors="replace").splitlines()
    parts = [line.split() for line in lines if line.partition(":")[0] in _COUNTED]
    return sum(int(part[1]) * 1024 for part in parts)


def _ticks(pid: int) -> int:
    """Time of the process and of its children that have ended (fields 14 to 17 of proc_pid_stat(5))."""
    fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15])
