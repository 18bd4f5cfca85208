"""The keys of our agents' logs: the next one, which a log is committed to, and the going over to it."""

from typing import Final

from dvm import queries_keys
from dvm.errors import RotationRefused
from dvm.post import Post
from dvm.queries_keys import KeyRow
from dvm.reputation.conduct import log_signed_by
from identity import SecretKey, Signer, encode_npub
from identity import log as logs
from identity.receipts import KeyLeaf, parse_leaf, write_leaf
from identity.roots import APP_DATA, ROOT_NAME, ROOT_REPLACEABLE, Head
from identity.rotation import KEYS_MAX, Rotation, commitment, parse_rotation
from relay_bridge import Filter
from store import Database, Transaction
from wallet import Seed

ROOTS_ASKED: Final = 10
ASK_SECONDS_MAX: Final = 10.0

_PURPOSE: Final = "log-key"

Source = Database | Transaction


def next_key(seed: Seed, log: str, number: int) -> SecretKey:
    """Key number `number` (1, 2, …) of a log, whose key 0 is the one that it is named by. It is in no file before."""
    if number < 1:
        raise ValueError("the first key of a log is the agent's own")
    return seed.job_key(_PURPOSE, log, str(number))


def first_leaf(seed: Seed, log: str, now: int) -> KeyLeaf:
    """The leaf that a log begins with: it commits the log to its next key."""
    return KeyLeaf(key=log, next=commitment(next_key(seed, log, 1).public_key), at=now)


async def log_of(source: Source, key: str) -> str:
    """The name of the log that a key has, or had: its first key, which is itself if it never was handed on."""
    row = await queries_keys.get(source, key)
    return row.log if row else key


async def keys_of(source: Source, log: str) -> list[str]:
    """The keys of a log, the first one first; at least the one that it is named by."""
    return [row.key for row in await queries_keys.of_log(source, log)] or [log]


async def current_key(source: Source, log: str) -> str:
    """The key that signs the roots of a log now."""
    return (await keys_of(source, log))[-1]


async def begin_log(post: Post, key: str) -> None:
    """Write the first leaf of the log of a key, unless it has leaves."""
    async with post.db.transaction() as tx:
        log = await log_of(tx, key)
        if not (await logs.read_frontier(tx, log)).size:
            await logs.append(tx, log, [write_leaf(first_leaf(post.seed, log, post.clock.now()))])


async def sign_rotation(post: Post, old: str, new: Signer, old_signer: Signer | None) -> Rotation:
    """The event by which the log of the key `old` goes over to that of `new`; without `old_signer` it is a recovery.

    Nothing is written. Raises `RotationRefused` if there is nothing to go over from, or the new key has a log already:
    this one before, or another one. Relays are asked for that.
    """
    log = await log_of(post.db, old)
    rows = await queries_keys.of_log(post.db, log)
    keys = [row.key for row in rows] or [log]
    if keys[-1] != old:
        raise RotationRefused(
            f"{encode_npub(old)} was handed on already; its log has {encode_npub(keys[-1])} now"
        )
    if new.public_key in keys:
        raise RotationRefused(f"{encode_npub(new.public_key)} had this log before, and a key has it once")
    if len(keys) == KEYS_MAX:
        raise RotationRefused(f"a log has {KEYS_MAX} keys at most")
    if await _has_other_log(post, new.public_key, log):
        raise RotationRefused(
            f"{encode_npub(new.public_key)} has a log already, and to be a key of two logs is held against an "
            "agent: take a key that was never an agent's, or the next one of this post's words (leave --to out)"
        )
    if old_signer is None and not await _is_committed(post, log):
        raise RotationRefused(
            f"the log of {encode_npub(old)} is not committed to a key of this post's words, so nobody could tell the "
            "new one from a stranger's; restore the words it was begun with, or make an agent with a new key"
        )
    frontier = await logs.read_frontier(post.db, log)
    rotation = Rotation(
        log=log, old=old, new=new.public_key, head=Head(frontier.size, frontier.root.hex()),
        next=commitment(next_key(post.seed, log, len(keys) + 1).public_key),
        at=max(post.clock.now(), rows[-1].since if rows else 0), by_both=old_signer is not None,
    )  # fmt: skip
    event = await new.sign(rotation.to_template())
    if old_signer is not None:
        event = await old_signer.sign(rotation.countersigned(event))
    return parse_rotation(event)


async def _has_other_log(post: Post, key: str, log: str) -> bool:
    """Whether a key has a log besides this one, here or at relays, that it began or was handed on to."""
    if await queries_keys.get(post.db, key) or (await logs.read_frontier(post.db, key)).size:
        return True
    roots = (
        Filter(kinds=(ROOT_REPLACEABLE,), authors=(key,), tags={"d": (ROOT_NAME,)}),
        Filter(kinds=(APP_DATA,), authors=(key,), tags={"t": (ROOT_NAME,)}, limit=ROOTS_ASKED),
    )
    found = await post.pool.query(roots, seconds_max=ASK_SECONDS_MAX)
    return any(log_signed_by(key, event) not in (None, log) for event in found)


async def _is_committed(post: Post, log: str) -> bool:
    """Whether the log was begun with this post's words."""
    leaves = await logs.read_leaves(post.db, log, 0, 1)
    leaf = parse_leaf(leaves[0]) if leaves else None
    return isinstance(leaf, KeyLeaf) and leaf.next == first_leaf(post.seed, log, 0).next


async def record_rotation(post: Post, agent: str, rotation: Rotation) -> None:
    """Go over to the new key: its leaf, the rows of both keys and the event to publish, in one transaction.

    `agent` is the short name of whose log it is. Raises `RotationRefused` if the log has grown, or was handed on,
    since the event was signed; nothing is written then.
    """
    event = rotation.event
    assert event is not None
    leaf = KeyLeaf(key=rotation.new, next=rotation.next, at=rotation.at, rotation=event.to_json().decode())
    async with post.db.transaction() as tx:
        keys = await keys_of(tx, rotation.log)
        frontier = await logs.read_frontier(tx, rotation.log)
        if keys[-1] != rotation.old or rotation.head != Head(frontier.size, frontier.root.hex()):
            raise RotationRefused("the log has changed since the new key was signed for; do it again")
        number = len(keys) - 1
        await queries_keys.put(tx, KeyRow(rotation.old, rotation.log, number, agent, until=rotation.until))
        await queries_keys.put(tx, KeyRow(rotation.new, rotation.log, number + 1, agent, rotation.at))
        await logs.append(tx, rotation.log, [write_leaf(leaf)])
        await post.outbox.add(tx, event)
