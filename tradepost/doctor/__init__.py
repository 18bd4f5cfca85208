"""What is wrong with a set-up, in words and with what mends it. Looks, and changes nothing.

Each check is a function of a `Setup`; what it judges is a pure function beside it. `CHECKS` lists them in the order in
which they are told.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Final

from store import SystemClock
from tradepost.doctor.agents import check_agents
from tradepost.doctor.configuration import check_addresses, load_settings
from tradepost.doctor.finding import Finding, Level
from tradepost.doctor.machine import check_clock, check_disk, check_files, check_python
from tradepost.doctor.mints import check_mints
from tradepost.doctor.rails import check_rails
from tradepost.doctor.records import check_database, check_lock
from tradepost.doctor.relays import check_relays
from tradepost.doctor.secrets import check_folder, check_keys, check_seed
from tradepost.doctor.setup import Setup, examining

__all__ = ["CHECKS", "Finding", "Level", "examine"]

CHECKS: Final[tuple[Callable[[Setup], Awaitable[list[Finding]]], ...]] = (
    check_python,
    check_disk,
    check_files,
    check_folder,
    check_seed,
    check_keys,
    check_lock,
    check_database,
    check_addresses,
    check_relays,
    check_mints,
    check_rails,
    check_clock,
    check_agents,
)


async def examine(folder: Path) -> AsyncGenerator[Finding, None]:
    """All findings on the post of `folder`, as they come. Without settings that can be read there is only that one."""
    settings, findings = load_settings(folder)
    for finding in findings:
        yield finding
    if settings is None:
        return
    async with examining(folder, settings, SystemClock()) as setup:
        for check in CHECKS:
            for finding in await check(setup):
                yield finding
