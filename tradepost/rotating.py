"""An agent goes over to another key: what is signed and recorded, and the files of its keys.

The new key waits in `keys/next/` before anything is recorded, so that no recorded key is lost; what is recorded decides
then. Whatever dies on the way, `complete_rotation` brings the files to what the database says.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise

import dvm
from dvm import Post, queries_keys
from dvm.errors import RotationRefused
from dvm.jobs.retiring import has_open_work
from dvm.reputation.keys import begin_log, keys_of, log_of, next_key, record_rotation, sign_rotation
from dvm.reputation.publisher import LogConflict, Publisher
from identity import (
    EncryptedKey,
    KeyFileError,
    Npub,
    SecretKey,
    Signer,
    StoredKey,
    encode_npub,
    read_key_file,
)
from identity import log as logs
from store import Database
from tradepost.errors import ConfigError, TradepostError
from tradepost.key_files import keep_next, put_in_place
from tradepost.passwords import unlock
from tradepost.post import FLUSH_SECONDS_MAX, reach
from tradepost.restore import keep_record
from tradepost.secrets import Key, find_key, open_signer
from tradepost.settings import Settings


async def rotate(settings: Settings, post: Post, name: str, old: Key, to: StoredKey | None) -> str:
    """Let the agent of that short name go over from its key `old` to `to` (None: the next one of this post's words).

    `old` is an `Npub` if it is lost or was stolen: then the new key signs alone. Returns the public key that the agent
    has now; that is recorded, and on relays or on its way. Killed anywhere it may be called again, and goes over once:
    nothing is done for a key that was handed on already, or came by that less than an hour ago.
    Raises `RotationRefused`, `ConfigError` if the lost key is not that agent's, `TradepostError` if no relay can be
    reached; nothing is changed then.
    """
    await complete_rotation(settings, post.db, name)
    async with AsyncExitStack() as stack:
        signer = None
        if isinstance(old.value, Npub):
            public_key = old.value.public_key
            await _check_whose(settings, post.db, name, public_key)
        else:
            signer = await stack.enter_async_context(open_signer(settings, old))
            public_key = signer.public_key
        if done := await _is_done(post, public_key, is_lost=signer is None):
            return done
        if unreachable := await reach(post.pool):
            raise TradepostError(f"{unreachable}: nobody would hear of the new key, so nothing was changed")
        log = await log_of(post.db, public_key)
        stored = to or next_key(post.seed, log, len(await keys_of(post.db, log)))
        opened = unlock(stored, f"the new key of {name}") if isinstance(stored, EncryptedKey) else stored
        new = await stack.enter_async_context(open_signer(settings, Key(name, opened, "the new key")))
        publisher = Publisher(post, new, log, settings.root_seconds)
        await _make_ready(post, publisher, public_key, is_lost=signer is None)
        rotation = await sign_rotation(post, public_key, new, signer)
        keep_next(settings, new.public_key, stored)
        await record_rotation(post, name, rotation)
        await publisher.publish()
        await keep_record(settings, post)
        await post.outbox.flush(FLUSH_SECONDS_MAX)
        await complete_rotation(settings, post.db, name)
    return new.public_key


async def _is_done(post: Post, public_key: str, *, is_lost: bool) -> str | None:
    """The key that a log was handed on to from this one, or is handed on to in this hour; None if it is not so."""
    rows = await queries_keys.of_log(post.db, await log_of(post.db, public_key))
    for old, new in pairwise(rows):
        is_fresh = not is_lost and new.key == public_key and (old.until or 0) > post.clock.now()
        if new.until is None and (is_fresh or old.key == public_key):
            return new.key
    return None


async def _check_whose(settings: Settings, db: Database, name: str, lost: str) -> None:
    """Raise `ConfigError` if the lost key is not that agent's, as far as its log and bare key files tell: the new one
    would come into the place of another's.
    """
    log = await log_of(db, lost)
    rows, keys = await queries_keys.of_log(db, log), await keys_of(db, log)
    path = settings.key_file(name)
    bare: dict[str, str] = {}
    for file in path.parent.glob(f"*{path.suffix}"):
        with suppress(KeyFileError):  # it is of no agent, or told of when it is used
            if isinstance(stored := read_key_file(file), SecretKey):
                bare[file.stem] = stored.public_key
    agents = {rows[-1].agent} if rows else {agent for agent, key in bare.items() if key in keys}
    if agents and name not in agents:
        agent = min(agents)
        raise ConfigError(
            f"{encode_npub(lost)} is a key of {agent}, not of {name}: `tradepost key rotate {agent} --lost …`"
        )
    if bare.get(name, lost) not in keys:
        raise ConfigError(
            f"the key of {name} ({path}) is {encode_npub(bare[name])}, and not of the log of {encode_npub(lost)}: name "
            "the agent whose key was lost, or move that file away first"
        )


async def _make_ready(post: Post, publisher: Publisher, key: str, *, is_lost: bool) -> None:
    """Have the log whole, its first leaf at least. What was published under a lost key may be a thief's, and is not
    looked at unless there is nothing here.
    """
    is_empty = not (await logs.read_frontier(post.db, await log_of(post.db, key))).size
    if is_empty or not is_lost:
        try:
            await publisher.catch_up()
        except LogConflict as error:
            raise RotationRefused(str(error)) from None
    if not is_lost:
        await begin_log(post, key)


# Files -----------------------------------------------------------------------------------------------------------


async def complete_rotation(settings: Settings, db: Database, name: str) -> bool:
    """Put the key that the agent of that short name has gone over to into its place; False if it is there.

    The file that was there is kept among the retired ones.
    """
    return any(
        put_in_place(settings, name, old=old.key, new=new.key)
        for old, new in pairwise(await queries_keys.of_agent(db, name))
        if new.log == old.log and new.until is None
    )


# What `up` serves ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Retired:
    """A key that an agent was handed on from and that has still something to do, until then and beyond."""

    agent: dvm.Agent
    key: Key
    until: int


async def current_key(settings: Settings, db: Database, key: Key) -> Key:
    """The key after every rotation that was recorded, and perhaps killed before its files were in place."""
    is_from_file = key.source == str(settings.key_file(key.name))
    if is_from_file and await complete_rotation(settings, db, key.name):
        return find_key(settings, key.name)
    return key


async def check_current(db: Database, name: str, signer: Signer) -> None:
    """Raise `ConfigError` if the agent of that name is to run under a key that was handed on."""
    row = await queries_keys.get(db, signer.public_key)
    if row is not None and row.until is not None:
        now = (await keys_of(db, row.log))[-1]
        raise ConfigError(
            f"{name} was handed on from {encode_npub(row.key)} to {encode_npub(now)}: put that key into its place, or "
            f"go back to one of your own with `tradepost key import {name}`"
        )


async def retired_keys(settings: Settings, post: Post, agents: Sequence[dvm.Agent]) -> list[Retired]:
    """The keys under which these agents are served besides their own: for the overlap, and while something is open."""
    found: list[Retired] = []
    for agent in agents:
        for row in await queries_keys.of_agent(post.db, agent.slug):
            path = settings.retired_key_file(row.key)
            if row.until is None or not path.exists():
                continue
            if post.clock.now() < row.until or await has_open_work(post.db, row.key):
                stored = read_key_file(path)
                if isinstance(stored, SecretKey) and stored.public_key != row.key:
                    continue  # something else was in the agent's file when its lost key was given up
                value = (
                    unlock(stored, f"the key of {agent.slug} ({path})")
                    if isinstance(stored, EncryptedKey)
                    else stored
                )
                found.append(Retired(agent, Key(agent.slug, value, str(path)), row.until))
    return found
