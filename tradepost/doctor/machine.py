"""Checks of the machine: Python, disk, files a process may open, and whether clocks agree."""

import resource
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from tradepost.doctor.finding import Finding, fail, ok, warn
from tradepost.doctor.setup import Setup

PYTHONS: Final = ((3, 11), (3, 12))
DISK_LOW_BYTES: Final = 1_000_000_000
DISK_FULL_BYTES: Final = 50_000_000
FILES_LOW: Final = 1024
FILES_FEW: Final = 128
SKEW_WARN_SECONDS: Final = 30
SKEW_FAIL_SECONDS: Final = 300  # relays refuse events that are dated so wrong


async def check_python(_setup: Setup) -> list[Finding]:
    """Whether we run on a Python we are tested on."""
    return [judge_python(sys.version_info[:3])]


def judge_python(version: tuple[int, int, int]) -> Finding:
    """See `check_python`."""
    told = ".".join(map(str, version))
    if version[:2] in PYTHONS:
        return ok("python", told)
    return fail("python", f"{told}, and Tradepost needs 3.11 or 3.12", "make PYTHON=python3.12 demo")


async def check_disk(setup: Setup) -> list[Finding]:
    """Whether the disk with the post has room."""
    folder = setup.settings.data
    while not folder.exists():
        folder = folder.parent
    return [judge_disk(folder, shutil.disk_usage(folder).free)]


def judge_disk(folder: Path, free_bytes: int) -> Finding:
    """A full disk loses nothing, but nothing goes on."""
    told = f"{free_bytes / 1e9:.1f} GB free at {folder}"
    if free_bytes < DISK_FULL_BYTES:
        return fail("disk", told, "make room: without it no job and no payment is taken")
    return warn("disk", told, "make room soon") if free_bytes < DISK_LOW_BYTES else ok("disk", told)


async def check_files(_setup: Setup) -> list[Finding]:
    """Whether a process may open enough files: each relay and each visitor's relay takes one."""
    return [judge_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])]


def judge_files(limit: int) -> Finding:
    """`limit` is that of RLIMIT_NOFILE; -1 means none."""
    told = "no limit" if limit < 0 else f"a process may open {limit}"
    if 0 <= limit < FILES_FEW:
        return fail("open files", told, f"ulimit -n {FILES_LOW}")
    return (
        warn("open files", told, f"ulimit -n {FILES_LOW}")
        if 0 <= limit < FILES_LOW
        else ok("open files", told)
    )


async def check_clock(setup: Setup) -> list[Finding]:
    """Whether our clock agrees with those of relays and mints, as far as these tell theirs."""
    skews = [facts.skew_seconds for facts in await setup.relays]
    skews += [facts.skew_seconds for facts in await setup.mints]
    return [judge_clock([skew for skew in skews if skew is not None])]


def judge_clock(skews_seconds: Sequence[float]) -> Finding:
    """By how much others are ahead of us; the median, since one of them may be wrong."""
    if not skews_seconds:
        return ok("clock", "nobody to compare with: no relay or mint told its time")
    skew, count = median(skews_seconds), len(skews_seconds)
    if abs(skew) < SKEW_WARN_SECONDS:
        return ok("clock", f"agrees with {count} of {count} relays and mints that told theirs" if count > 1 else
                  "agrees with the one relay or mint that told its time")  # fmt: skip
    told = f"{abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} {count} relays and mints (median)"
    mend = "timedatectl set-ntp true"
    return (fail if abs(skew) >= SKEW_FAIL_SECONDS else warn)("clock", told, mend)
