"""Connections to remote signers, and what is kept of them so that the signer's consent outlives the process.

For each agent (or the customer) and signer one file under `bunkers/` in the post's folder: our key for talking to that
signer, whose key it signs with, and where it wants to be asked. Losing it costs nothing but a new consent.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from identity import BunkerUrl, InvalidKey, LocalSigner, SecretKey, parse_secret_key
from identity.keyfile import written_aside
from identity.keys import check_public_key
from identity.nip19 import encode_nsec
from identity.nip46 import make_invitation
from relay_bridge import RelayPool, normalise_relay_url
from relay_bridge.bunker import PERMISSIONS, BunkerSigner, await_invited, connect_bunker, follow_relays
from relay_bridge.bunker_line import BunkerLine, Visit
from store import Clock
from tradepost.errors import ConfigError
from tradepost.settings import Settings, make_private

_INVITATION_SECONDS: Final = 600.0


class _File(msgspec.Struct):
    """The file's JSON."""

    client: str  # nsec
    public_key: str = ""
    relays: tuple[str, ...] = ()


class BunkerMemory:
    """What is kept of one connection; on disk (mode 0600) after every change, whole after a crash."""

    def __init__(self, path: Path) -> None:
        """Read it, or begin it with a new client key. Raises `ConfigError`, `OSError`."""
        self._path = path
        self.client_key = SecretKey.generate()
        #: The user's key, "" before the first connection.
        self.public_key = ""
        self.relays: tuple[str, ...] = ()
        if path.exists():
            self._read()

    def keep(self, *, public_key: str = "", relays: Sequence[str] = ()) -> None:
        """Remember what the signer said."""
        self.public_key = public_key or self.public_key
        self.relays = tuple(relays) or self.relays
        kept = _File(encode_nsec(self.client_key), self.public_key, self.relays)
        make_private(self._path.parent)
        with written_aside(self._path, msgspec.json.encode(kept).decode() + "\n") as aside:
            aside.replace(self._path)

    def _read(self) -> None:
        try:
            kept = msgspec.json.decode(self._path.read_bytes(), type=_File)
            self.client_key = parse_secret_key(kept.client)
            self.public_key = kept.public_key and check_public_key(kept.public_key)
        except (msgspec.MsgspecError, InvalidKey):
            raise ConfigError(
                f"{self._path} is damaged; remove it, and connect to the signer anew with a fresh bunker:// URL"
            ) from None
        self.relays = kept.relays


def memory_of(settings: Settings, name: str, remote_key: str) -> BunkerMemory:
    """What is kept of the connection of this agent (or the customer) to that signer."""
    return BunkerMemory(settings.data / "bunkers" / f"{name}-{remote_key}.json")


@asynccontextmanager
async def open_bunker(
    settings: Settings, name: str, url: BunkerUrl, *, clock: Clock, on_visit: Visit
) -> AsyncIterator[BunkerSigner]:
    """A connected remote signer for `name`. Raises `BunkerError`, `InvalidRelayUrl`, `ConfigError`."""
    memory = memory_of(settings, name, url.remote_key)
    memory.keep()  # before the signer hears of this client key: its consent is bound to it
    relays = tuple(dict.fromkeys([*memory.relays, *map(normalise_relay_url, url.relays)]))
    async with (
        RelayPool(url.relays, clock=clock, allow_private=settings.allow_private_relays) as pool,
        BunkerLine(
            pool,
            clock,
            client_key=memory.client_key,
            remote_key=url.remote_key,
            relays=relays,
            on_visit=on_visit,
        ) as line,
    ):
        pool.add_signer(
            LocalSigner(memory.client_key)
        )  # for relays that serve only those who prove who they are
        signer = await connect_bunker(line, secret=url.secret, known_key=memory.public_key)
        memory.keep(public_key=signer.public_key)
        moving = asyncio.create_task(follow_relays(line, lambda moved: memory.keep(relays=moved)))
        try:
            yield signer
        finally:
            moving.cancel()
            await asyncio.wait([moving])


async def invite_bunker(
    settings: Settings, name: str, relays: Sequence[str], *, clock: Clock, on_url: Callable[[str], None]
) -> BunkerUrl:
    """Wait for a signer to accept the nostrconnect:// URL that `on_url` is given; returns where it is.

    Its consent is kept, so that `open_bunker` finds it. Raises `BunkerSilent`.
    """
    client_key, secret = SecretKey.generate(), secrets.token_hex(16)
    async with RelayPool(relays, clock=clock) as pool:
        pool.add_signer(LocalSigner(client_key))
        on_url(
            make_invitation(
                client_key.public_key, relays=pool.urls, secret=secret, permissions=PERMISSIONS, name="tradepost"
            )
        )  # fmt: skip
        remote_key = await await_invited(
            pool, clock, client_key=client_key, secret=secret, seconds_max=_INVITATION_SECONDS
        )
        memory = memory_of(settings, name, remote_key)
        memory.client_key = client_key
        memory.keep()
        return BunkerUrl(remote_key, pool.urls)
