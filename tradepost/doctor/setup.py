"""What is examined: a folder's settings, and what relays and mints answered, asked once for all checks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from identity import KeyFileError, SecretKey, read_key_file
from store import Clock
from tradepost.doctor.probes import MintFacts, RelayFacts, probe_mint, probe_relay
from tradepost.settings import FILE, Settings

_T = TypeVar("_T")


@dataclass(frozen=True)
class Setup:
    """One post under examination. Nothing of it is changed."""

    folder: Path
    settings: Settings
    clock: Clock
    relays: "asyncio.Task[list[RelayFacts]]"
    mints: "asyncio.Task[list[MintFacts]]"

    @property
    def is_project(self) -> bool:
        """Whether the folder has agents of its own."""
        return (self.folder / FILE).exists()


@asynccontextmanager
async def examining(folder: Path, settings: Settings, clock: Clock) -> AsyncIterator[Setup]:
    """Begin to ask relays and mints, all at the same time."""
    key = _any_key(settings) or SecretKey.generate()
    relays = asyncio.create_task(_all(probe_relay(url, key, clock) for url in settings.relays))
    mints = asyncio.create_task(_all(probe_mint(url, clock) for url in settings.mints))
    try:
        yield Setup(folder, settings, clock, relays, mints)
    finally:
        for task in (relays, mints):
            task.cancel()
        await asyncio.gather(relays, mints, return_exceptions=True)


async def _all(probes: Iterable[Awaitable[_T]]) -> list[_T]:
    return list(await asyncio.gather(*probes))


def _any_key(settings: Settings) -> SecretKey | None:
    """A key of this post, since some relays take events of keys they know only; none is drawn, no password is asked."""
    for path in sorted((settings.data / "keys").glob("*.nsec")):
        try:
            key = read_key_file(path)
        except KeyFileError:
            continue
        if isinstance(key, SecretKey):
            return key
    return None
