"""The relays of a post that runs: others from the moment on at which its tradepost.yaml names others."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from dvm import Post, Provider
from relay_bridge import InvalidRelayUrl, RelayChange
from relay_bridge.tasks import Tasks
from tradepost.errors import ConfigError
from tradepost.restore import keep_record
from tradepost.settings import Settings

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0  # a change is taken up when it was the same at two looks

#: Told after each change.
OnRelays = Callable[[RelayChange], None]


class RelayWatch:
    """Looks whether the file of `settings` names other relays than the post uses, and goes over to those.

    A file that is gone, or cannot be read, changes nothing. Relays that the environment names stay what they are. The
    file is looked at, and no signal is waited for: SIGHUP is what a terminal sends when it is closed.
    """

    def __init__(
        self, settings: Settings, post: Post, providers: Sequence[Provider], on_relays: OnRelays
    ) -> None:
        self._settings = settings
        self._post = post
        self._providers = providers
        self._on_relays = on_relays
        self._used = post.pool.urls  # by everybody
        self._read: Sequence[int] = ()  # what there is now may be newer than the settings
        self._seen: Sequence[int] = ()

    def start(self, tasks: Tasks) -> None:
        """Look again and again, until `tasks` are closed."""
        if self._settings.file is not None:
            tasks.every(self._post.clock, LOOK_SECONDS, partial(self._look, self._settings.file), "relays")

    async def _look(self, file: Path) -> None:
        before, self._seen = self._seen, await _state(file)
        # Somebody may be writing it: half of it, or none, names other relays than all of it.
        if self._seen != before or self._seen == self._read or not self._seen:
            return
        try:
            settings = self._settings.reload()
            if await _state(file) != self._seen:
                return
            await self._go_over(settings)
        except (ConfigError, InvalidRelayUrl) as error:
            log.warning("relays_not_read", reason=str(error))
        self._read = self._seen  # not if something else failed: then it is done again at the next look

    async def _go_over(self, settings: Settings) -> None:
        """Have everybody use the relays of `settings`. Whatever is done of it may be done again."""
        await change_relays(self._post, settings.relays)
        change = RelayChange.between(self._used, self._post.pool.urls)
        if change.added or change.left:
            await keep_record(settings, self._post)
            for provider in self._providers:
                provider.follow_pool(change)
            self._used = self._post.pool.urls
            self._on_relays(change)


async def change_relays(post: Post, urls: Sequence[str]) -> RelayChange:
    """Make these the relays of a post, and have all it listens to and has to send follow. If it fails, do it again.

    Raises `ConfigError` for none at all, `InvalidRelayUrl`: then nothing is changed.
    """
    if not urls:
        raise ConfigError("no relays are named any more: the post stays where it is")
    change = post.pool.set_urls(urls)
    await post.inbox.follow_pool()
    await post.outbox.follow_pool()
    return change


async def _state(path: Path) -> Sequence[int]:
    """What is another after each change of a file; nothing while there is none."""
    try:
        stat = await asyncio.to_thread(path.stat)
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
