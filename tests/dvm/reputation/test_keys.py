"""The keys of a log of ours: each is known before it is used, and recorded with its leaf and its event, or not at all."""

from collections.abc import AsyncIterator

import pytest

from dvm import Post, queries_keys
from dvm.errors import RotationRefused
from dvm.queries_keys import KeyRow
from dvm.reputation import keys
from identity import LocalSigner, SecretKey, sign_event
from identity import log as logs
from identity.receipts import KeyLeaf, parse_leaf
from identity.roots import Head, Root
from identity.rotation import KEYS_MAX, commitment
from tradepost.testing import Market
from wallet import Seed

WORDS = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"
OLD, NEW, OTHER = (SecretKey(bytes([number]) * 32) for number in (1, 2, 3))
LOG = OLD.public_key
NEXT = "78c3d64087036b72548a10eed4ff1736897913d6a80ea94ee3e4de49fb7f119c"  # of these words: what a log is committed to may never change


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    async with Market() as market:
        yield await market.post("agent")


def test_the_next_key_is_the_same_for_ever_and_another_for_each_log_number_and_seed() -> None:
    seed = Seed.from_words(WORDS)
    found = {
        keys.next_key(one, log, number).public_key
        for one in (seed, Seed.generate())
        for log in (LOG, NEW.public_key)
        for number in (1, 2)
    }
    assert len(found) == 8
    assert keys.next_key(seed, LOG, 1).public_key == NEXT
    for number in (0, -1):
        with pytest.raises(ValueError, match="the agent's own"):
            keys.next_key(seed, LOG, number)
    assert keys.first_leaf(seed, LOG, 7) == KeyLeaf(key=LOG, next=commitment(NEXT), at=7)


async def test_a_key_that_was_never_handed_on_has_a_log_of_its_own(post: Post) -> None:
    assert await keys.log_of(post.db, LOG) == LOG
    assert await keys.keys_of(post.db, LOG) == [LOG]
    assert await keys.current_key(post.db, LOG) == LOG


async def test_a_log_is_begun_once(post: Post) -> None:
    for _ in range(2):
        await keys.begin_log(post, LOG)
    (leaf,) = await logs.read_leaves(post.db, LOG, 0)
    assert parse_leaf(leaf) == keys.first_leaf(post.seed, LOG, parse_leaf(leaf).at)


async def test_after_a_rotation_all_its_keys_lead_to_the_log(post: Post) -> None:
    await keys.begin_log(post, LOG)
    rotation = await keys.sign_rotation(post, LOG, LocalSigner(NEW), LocalSigner(OLD))
    assert await queries_keys.of_post(post.db) == []
    await keys.record_rotation(post, "shop", rotation)
    for key in (LOG, NEW.public_key):
        assert await keys.log_of(post.db, key) == LOG
    assert await keys.keys_of(post.db, LOG) == [LOG, NEW.public_key]
    assert await keys.current_key(post.db, LOG) == NEW.public_key
    assert await queries_keys.of_agent(post.db, "shop") == [
        KeyRow(LOG, LOG, 0, "shop", until=rotation.until),
        KeyRow(NEW.public_key, LOG, 1, "shop", rotation.at),
    ]  # fmt: skip
    with pytest.raises(RotationRefused, match="handed on already"):
        await keys.sign_rotation(post, LOG, LocalSigner(OTHER), LocalSigner(OLD))


async def test_a_clock_that_is_put_back_dates_no_rotation_before_the_last(post: Post) -> None:
    await keys.begin_log(post, LOG)
    await keys.record_rotation(
        post, "shop", await keys.sign_rotation(post, LOG, LocalSigner(NEW), LocalSigner(OLD))
    )
    late = post.clock.now() + 500
    async with post.db.transaction() as tx:
        await tx.execute("UPDATE agent_keys SET since = ? WHERE number = 1", late)
    assert (await keys.sign_rotation(post, NEW.public_key, LocalSigner(OTHER), None)).at == late


async def test_of_two_rotations_of_one_log_one_is_recorded(post: Post) -> None:
    await keys.begin_log(post, LOG)
    first, second = [
        await keys.sign_rotation(post, LOG, LocalSigner(new), LocalSigner(OLD)) for new in (NEW, OTHER)
    ]
    await keys.record_rotation(post, "shop", first)
    with pytest.raises(RotationRefused, match="has changed"):
        await keys.record_rotation(post, "shop", second)
    assert await keys.keys_of(post.db, LOG) == [LOG, NEW.public_key]
    assert (await logs.read_frontier(post.db, LOG)).size == 2


async def test_a_log_that_has_grown_meanwhile_is_not_handed_on(post: Post) -> None:
    await keys.begin_log(post, LOG)
    rotation = await keys.sign_rotation(post, LOG, LocalSigner(NEW), LocalSigner(OLD))
    async with post.db.transaction() as tx:
        await logs.append(tx, LOG, ["{}"])
    with pytest.raises(RotationRefused, match="has changed"):
        await keys.record_rotation(post, "shop", rotation)
    assert await queries_keys.of_post(post.db) == []


async def test_a_log_has_so_many_keys_at_most(post: Post) -> None:
    async with post.db.transaction() as tx:
        for number in range(KEYS_MAX):
            await queries_keys.put(tx, KeyRow(SecretKey.generate().public_key, LOG, number, "shop"))
    last = (await keys.keys_of(post.db, LOG))[-1]
    with pytest.raises(RotationRefused, match="at most"):
        await keys.sign_rotation(post, last, LocalSigner(NEW), LocalSigner(OLD))


async def test_a_key_that_has_a_log_of_its_own_is_not_gone_over_to(post: Post) -> None:
    """Here, as one of another log here, or as relays know it: else its reputation would be left behind with it."""
    await keys.begin_log(post, LOG)
    here, handed_on, elsewhere = (SecretKey(bytes([number]) * 32) for number in (4, 5, 6))
    await keys.begin_log(post, here.public_key)
    async with post.db.transaction() as tx:
        await queries_keys.put(tx, KeyRow(handed_on.public_key, OTHER.public_key, 1, "other"))
    root = Root(elsewhere.public_key, Head(1, "ab" * 32), None, (), ())
    for template in root.to_templates(post.clock.now()):
        await post.pool.publish(sign_event(template, elsewhere))
    for key in (here, handed_on, elsewhere):
        with pytest.raises(RotationRefused, match="has a log already"):
            await keys.sign_rotation(post, LOG, LocalSigner(key), LocalSigner(OLD))
    assert (await keys.sign_rotation(post, LOG, LocalSigner(NEW), LocalSigner(OLD))).new == NEW.public_key
