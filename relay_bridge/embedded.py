"""A relay of our own in this process: nostr-sdk's `LocalRelay`, with the limits a post needs."""

import asyncio
import socket
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from relay_bridge.errors import ConnectionLost

if TYPE_CHECKING:
    import nostr_sdk  # imported where it is used: it is large, and few posts have a relay of their own

_NOTES_PER_MINUTE_MAX: Final = 1_000_000  # the library's 60 would stop a post within a second
_SUBSCRIPTIONS_MAX: Final = 1000
_RELEASE_SECONDS_MAX: Final = 5.0


class EmbeddedRelay:
    """Listens on 127.0.0.1 while the context is entered; `url` is set from then on.

    `port` 0 takes a free one. With `path` (a folder for an LMDB database) events survive a restart, else they live in
    memory. One event may have 64 KiB at most, and there is no NIP-11 page. One with a `path` at a time in a process.
    """

    def __init__(self, *, port: int = 0, path: Path | None = None) -> None:
        self.url = ""
        self._port = port
        self._path = path
        self._relay: nostr_sdk.LocalRelay | None = None
        self._released = asyncio.Event()

    async def __aenter__(self) -> "EmbeddedRelay":
        """Raises `ConnectionLost` if the port is taken or the database cannot be opened."""
        import nostr_sdk

        self._port = self._port or _free_port()
        builder = nostr_sdk.LocalRelayBuilder().addr("127.0.0.1").port(self._port)
        builder = builder.rate_limit(
            nostr_sdk.RateLimit(max_reqs=_SUBSCRIPTIONS_MAX, notes_per_minute=_NOTES_PER_MINUTE_MAX)
        )
        try:
            if self._path is not None:
                builder = builder.database(await self._open_database(self._path))
            self._relay = builder.build()
            await self._relay.run()
        except nostr_sdk.NostrSdkError as error:
            raise ConnectionLost(f"the embedded relay cannot start on port {self._port}: {error}") from error
        self.url = f"ws://127.0.0.1:{self._port}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._relay is not None:
            self._relay.shutdown()
            self._relay = None
        if self._path is not None:
            # The library lets go of the database on a thread of its own; a process that ends before that crashes.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._released.wait(), _RELEASE_SECONDS_MAX)
            import nostr_sdk

            nostr_sdk.uniffi_set_event_loop(None)

    async def _open_database(self, path: Path) -> "nostr_sdk.NostrLmdb":
        import nostr_sdk

        # The library calls the database back from threads of its own, which must be told where our loop is.
        loop = asyncio.get_running_loop()
        nostr_sdk.uniffi_set_event_loop(loop)
        database = await nostr_sdk.NostrLmdb.open(str(path))
        weakref.finalize(database, loop.call_soon_threadsafe, self._released.set).atexit = False
        return database


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
