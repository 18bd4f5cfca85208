"""An agent goes over to another key, dies on the way, and is served under both for an hour; receipts and log come along."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dvm import Agent, JobState, Post, Provider, queries_keys
from dvm.errors import RotationRefused
from dvm.reputation.bookkeeper import LOOK_SECONDS
from dvm.reputation.keys import first_leaf, keys_of, next_key
from dvm.reputation.publisher import Publisher
from identity import (
    Event,
    LocalSigner,
    Npub,
    SecretKey,
    make_template,
    read_key_file,
    sign_event,
)
from identity import log as logs
from identity.receipts import ReviewLeaf, write_leaf
from identity.roots import ROOT_NAME, parse_root
from identity.rotation import OVERLAP_SECONDS, ROTATION_NAME, Chain, Passed, read_chain
from tests.dvm.deaths import Dead, Fate, life
from tests.tradepost.lives import eventually, job_is, lose, restore
from tradepost import key_files, rotating
from tradepost.cli.escrow_wishes import _key_of
from tradepost.errors import ConfigError, TradepostError
from tradepost.post import is_of_words, open_post, own_key
from tradepost.rotating import check_current, current_key, retired_keys, rotate
from tradepost.secrets import Key, find_key
from tradepost.testing import ManualClock, Market
from tradepost.testing.relay import connect_by_url
from wallet.escrow import Role
from wallet.queries_escrows import EscrowRow

NAME = "upper"
FALSE = ReviewLeaf(review="ab" * 32, request="cd" * 32, at=1)


def first_key(market: Market, post: str = "agent") -> Key:
    """The agent's own, made of the words and in its file."""
    settings = market.settings(post)
    return Key(NAME, own_key(settings, NAME), str(settings.key_file(NAME)))


def public(key: Key) -> str:
    assert isinstance(key.value, SecretKey)
    return key.value.public_key


def called(market: Market, name: str, by: str = "") -> list[Event]:
    """What the relay has of our application data, the oldest first."""
    found = [event for event in market.relay.events if ("t", name) in event.tags and by in ("", event.pubkey)]
    return sorted(found, key=lambda event: event.created_at)


async def chain_of(market: Market, post: Post, log: str) -> Chain:
    """As a reader has it: by what is published, and the leaves."""
    leaves = await logs.read_leaves(post.db, log, 0)
    return read_chain(log, leaves, called(market, ROTATION_NAME), market.clock.now())


@pytest.mark.parametrize("is_lost", [False, True])
async def test_an_agent_goes_over_and_everybody_can_check_it(market: Market, is_lost: bool) -> None:
    settings = market.settings("agent")
    async with life(market, "agent") as post:
        old = first_key(market)
        if is_lost:  # the log was begun when its key was at hand
            await rotating.begin_log(post, public(old))
            given = Key(NAME, Npub(public(old)), "--lost")
        new = await rotate(settings, post, NAME, given if is_lost else old, None)
        await post.outbox.flush(5)
        found = await chain_of(market, post, public(old))
        assert found.keys == (public(old), new)
        assert found.tenures[1].how is (Passed.RECOVERED if is_lost else Passed.HANDED_ON)
        assert found.tenures[1].committed
        assert not found.contested
        assert await keys_of(post.db, public(old)) == [public(old), new]
        (root,) = called(market, ROOT_NAME, by=new)
        state = parse_root(root)
        frontier = await logs.read_frontier(post.db, public(old))
        assert (state.log, state.head.size, state.head.root) == (public(old), 2, frontier.root.hex())
        assert found.may_sign(new, 2, root.created_at)
        assert not found.may_sign(public(old), 2, root.created_at)
    stored = read_key_file(settings.key_file(NAME))
    assert isinstance(stored, SecretKey)
    assert stored.public_key == new
    assert read_key_file(settings.retired_key_file(public(old))) == old.value
    assert not list(settings.next_key_file("").parent.iterdir())
    assert is_of_words(settings, NAME, new)
    assert not is_of_words(settings, NAME, SecretKey.generate().public_key)


async def test_it_goes_over_once_an_hour_and_then_again() -> None:
    clock = ManualClock()
    async with Market(clock=clock) as market, life(market, "agent") as post:
        settings, old = market.settings("agent"), first_key(market)
        new = await rotate(settings, post, NAME, old, None)
        assert await rotate(settings, post, NAME, old, None) == new
        assert await rotate(settings, post, NAME, find_key(settings, NAME), None) == new
        await clock.advance(OVERLAP_SECONDS)
        third = await rotate(settings, post, NAME, find_key(settings, NAME), None)
        assert third == next_key(post.seed, public(old), 2).public_key
        lost = Key(NAME, Npub(third), "--lost")  # stolen at once: nobody has to wait for the hour
        fourth = await rotate(settings, post, NAME, lost, None)
        assert (await chain_of(market, post, public(old))).keys == (public(old), new, third, fourth)
        assert await rotate(settings, post, NAME, lost, None) == fourth


async def test_a_key_of_ones_own_may_be_gone_over_to_and_shows_as_not_committed(market: Market) -> None:
    async with life(market, "agent") as post:
        old, mine = first_key(market), SecretKey.generate()
        assert await rotate(market.settings("agent"), post, NAME, old, mine) == mine.public_key
        found = await chain_of(market, post, public(old))
        assert found.current == mine.public_key
        assert not found.tenures[1].committed


async def test_a_thief_that_was_quicker_loses_the_log_again(market: Market) -> None:
    """It hands the stolen key on to itself, in the very log; the owner, who has the words, takes it back."""
    thief = SecretKey.generate()
    async with life(market, "agent") as post, life(market, "thief") as lair:
        old = first_key(market)
        await rotating.begin_log(post, public(old))
        assert isinstance(old.value, SecretKey)
        await Publisher(post, LocalSigner(old.value), public(old), 1).publish()
        await post.outbox.flush(5)
        assert await rotate(market.settings("thief"), lair, NAME, old, thief) == thief.public_key
        assert (await chain_of(market, post, public(old))).current == thief.public_key
        new = await rotate(market.settings("agent"), post, NAME, Key(NAME, Npub(public(old)), ""), None)
        for reader in (post, lair):  # whichever log is shown: both begin with the owner's leaf
            found = await chain_of(market, reader, public(old))
            assert found.keys == (public(old), new)
            assert [event.pubkey for event in found.contested] == [public(old)]
            assert not found.may_sign(thief.public_key, 2, market.clock.now())


async def test_what_a_thief_published_under_the_old_key_is_cut_off(market: Market) -> None:
    """The owner's log goes on from where it was, though the relays know a longer one."""
    settings = market.settings("agent")
    async with life(market, "agent") as post, life(market, "thief") as lair:
        old = first_key(market)
        await rotating.begin_log(post, public(old))
        assert isinstance(old.value, SecretKey)
        mine, its = (Publisher(one, LocalSigner(old.value), public(old), 1) for one in (post, lair))
        await mine.publish()
        await post.outbox.flush(5)
        await its.catch_up()
        async with lair.db.transaction() as tx:
            await logs.append(tx, public(old), [write_leaf(FALSE)] * 4)
        await its.publish()
        await lair.outbox.flush(5)
        new = await rotate(settings, post, NAME, Key(NAME, Npub(public(old)), "--lost"), None)
        key = find_key(settings, NAME).value
        assert isinstance(key, SecretKey)
        await Publisher(post, LocalSigner(key), public(old), 1).catch_up()
        assert (await logs.read_frontier(post.db, public(old))).size == 2
        found = await chain_of(market, post, public(old))
        signed = {
            (event.pubkey, parse_root(event).head.size)
            for event in called(market, ROOT_NAME)
            if found.may_sign(event.pubkey, parse_root(event).head.size, event.created_at)
        }
        assert signed == {(public(old), 1), (new, 2)}
        assert (public(old), 5) in {(e.pubkey, parse_root(e).head.size) for e in called(market, ROOT_NAME)}


async def test_a_lost_key_without_a_log_or_of_other_words_is_not_given_up(market: Market) -> None:
    settings = market.settings("agent")
    async with life(market, "agent") as post, life(market, "other") as other:
        old = first_key(market)
        lost = Key(NAME, Npub(public(old)), "--lost")
        with pytest.raises(RotationRefused, match="not committed to a key of this post's words"):
            await rotate(settings, post, NAME, lost, None)
        async with other.db.transaction() as tx:
            await logs.append(tx, public(old), [write_leaf(first_leaf(post.seed, public(old), 1))])
        with pytest.raises(RotationRefused, match="not committed"):
            await rotate(market.settings("other"), other, NAME, lost, None)
        assert not called(market, ROTATION_NAME)
        assert await queries_keys.of_post(post.db) == []


async def test_no_key_has_a_log_twice(market: Market) -> None:
    async with life(market, "agent") as post:
        old = first_key(market)
        with pytest.raises(RotationRefused, match="a key has it once"):
            await rotate(market.settings("agent"), post, NAME, old, old.value)  # type: ignore[arg-type] # a SecretKey


async def test_without_a_relay_nothing_is_changed(market: Market) -> None:
    parts = {"connect": connect_by_url({}), "transport": market.mint.transport}
    async with open_post(market.settings("agent"), clock=market.clock, **parts) as post:
        old = first_key(market)
        with pytest.raises(TradepostError, match="nobody would hear"):
            await rotate(market.settings("agent"), post, NAME, old, None)
        assert await queries_keys.of_post(post.db) == []
        assert find_key(market.settings("agent"), NAME).value == old.value


# Dying -----------------------------------------------------------------------------------------------------------


def mortal(fate: Fate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of the files is a point to die at, before it and after."""

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            fate.pass_point(f"before {real.__name__}")
            done = real(*arguments, **named)
            fate.pass_point(f"after {real.__name__}")
            return done

        return step

    for module, name in (
        (key_files, "replace_key_file"),
        (key_files, "sync_folder"),
        (os, "link"),
        (Path, "replace"),
    ):
        monkeypatch.setattr(module, name, wrap(getattr(module, name)))


@asynccontextmanager
async def short_life(market: Market, name: str, fate: Fate) -> AsyncIterator[Post]:
    """A process that may die: then it waits for nothing any more."""
    parts = {"connect": fate.connect(market), "transport": fate.transport(market)}
    async with open_post(market.settings(name), clock=market.clock, **parts) as post:
        fate.haunt(post)
        yield post


async def until_death(fate: Fate, work: Coroutine[Any, Any, object]) -> None:
    """Raises `Dead` as soon as it is so, whatever the work waits for."""
    working, dying = asyncio.create_task(work), asyncio.create_task(fate.died.wait())
    await asyncio.wait([working, dying], return_when=asyncio.FIRST_COMPLETED)
    for task in (working, dying):
        task.cancel()
    await asyncio.wait([working, dying])
    fate.check()
    await working


async def test_whatever_dies_on_the_way_it_goes_over_once(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points come in pairs, before and after a step: after one the command is run again, after the other `up`."""
    points: set[str] = set()
    for dies_at in count():
        name, fate = f"agent-{dies_at}", Fate(dies_at)
        settings = market.settings(name)
        old = first_key(market, name)
        with monkeypatch.context() as patch, suppress(Dead):
            mortal(fate, patch)
            async with short_life(market, name, fate) as post:
                await until_death(fate, rotate(settings, post, NAME, old, None))
        points |= set(fate.points)
        await check_repaired(market, name, old, by_up=dies_at % 2 == 0)
        if not fate.died.is_set():
            break
    assert {"commit", "before link", "after replace", "before replace_key_file"} <= points


async def check_repaired(market: Market, name: str, old: Key, *, by_up: bool) -> None:
    """The key in the file, the one recorded and the one published are one, whatever died before."""
    settings = market.settings(name)
    async with life(market, name) as post:
        if not by_up:
            now = await rotate(settings, post, NAME, find_key(settings, NAME), None)
            assert now != public(old)
        key = await current_key(settings, post.db, find_key(settings, NAME))
        await post.outbox.flush(5)
        keys = await keys_of(post.db, public(old))
        assert keys[-1] == public(key)
        assert len(keys) <= 2
        assert (await chain_of(market, post, public(old))).keys == tuple(keys)
        assert (await logs.read_frontier(post.db, public(old))).size in (0, 1, len(keys))
        await check_current(post.db, NAME, LocalSigner(key.value))  # type: ignore[arg-type] # a SecretKey
        if len(keys) == 2:
            assert read_key_file(settings.retired_key_file(public(old))) == old.value
            assert len([e for e in called(market, ROTATION_NAME) if ("log", public(old)) in e.tags]) == 1


# Serving under both keys -----------------------------------------------------------------------------------------


@asynccontextmanager
async def served(market: Market, agent: Agent) -> AsyncIterator[list[Provider]]:
    """As `tradepost up` serves it: the current key, then those that were handed on and have something to do."""
    settings = market.settings("agent")
    async with life(market, "agent") as post:
        key = await current_key(settings, post.db, find_key(settings, agent.slug))
        found = [(key, None), *((old.key, old.until) for old in await retired_keys(settings, post, [agent]))]
        providers = [
            Provider(agent, LocalSigner(one.value), post, retires_at=until)  # type: ignore[arg-type] # a SecretKey
            for one, until in found
        ]
        for provider in providers:
            await provider.start()
        yield providers
        for provider in providers:
            await provider.stop(0)


async def handed_on(market: Market) -> tuple[str, str]:
    """The old and the new public key."""
    async with life(market, "agent") as post:
        old = first_key(market)
        return public(old), await rotate(market.settings("agent"), post, NAME, old, None)


def announced_by(market: Market) -> set[str]:
    return {event.pubkey for event in market.relay.events if event.kind == 31990}


async def leaves_are(provider: Provider, log: str, size: int) -> bool:
    return await leaves_of(provider, log) == size


async def leaves_of(provider: Provider, log: str) -> int:
    return (await logs.read_frontier(provider._post.db, log)).size


async def test_for_an_hour_both_keys_are_served_and_the_log_is_one(agent: Agent) -> None:
    clock = ManualClock()
    async with Market(clock=clock) as market:
        customer = await market.customer(sat=200)
        old, new = await handed_on(market)
        async with served(market, agent) as providers:
            assert [provider.public_key for provider in providers] == [new, old]
            orders = {key: await customer.ask(key, "loud", kind=5001, max_sat=50) for key in (old, new)}
            for key, order in orders.items():
                assert await order.result() == "LOUD"
                assert [event.pubkey for event in results(market, order.id)] == [key]
            await eventually(lambda: is_so(announced_by(market) == {old, new}))
            anybody = sign_event(
                make_template(5002, tags=[("i", "QUIET", "text")], created_at=clock.now()),
                SecretKey.generate(),
            )
            market.relay.insert(anybody)
            await eventually(lambda: is_so(bool(results(market, anybody.id))))
            await clock.advance(OVERLAP_SECONDS)
            await eventually(lambda: is_so(announced_by(market) == {new}))
            assert [event.pubkey for event in results(market, anybody.id)] == [new]
            late = await customer.ask(old, "too late", kind=5002)
            other = await customer.ask(new, "IN TIME", kind=5002)
            assert await other.result() == "in time"
            assert not [event for event in market.relay.events if event.tag("e") == late.id]
            assert providers[1].is_retired
        async with served(market, agent) as providers:
            assert [provider.public_key for provider in providers] == [new]
            assert await leaves_of(providers[0], old) == 4  # both keys' leaves, and a job of each
            assert await leaves_of(providers[0], new) == 0
            await customer.review(orders[old].id, 5)  # of a job under the key that is not served any more

            async def is_answered() -> bool:
                await clock.advance(LOOK_SECONDS)
                return await leaves_are(providers[0], old, 5)

            await eventually(is_answered)


def results(market: Market, request_id: str) -> list[Event]:
    return [e for e in market.relay.events if 6000 <= e.kind < 7000 and e.tag("e") == request_id]


async def is_so(found: bool) -> bool:
    return found


async def test_what_a_key_has_open_is_ended_under_it(agent: Agent, gate: asyncio.Event) -> None:
    """A job paid under the old key, and a process that is started long after the hour."""
    clock = ManualClock()
    gate.clear()
    async with Market(clock=clock) as market:
        customer = await market.customer(sat=100)
        async with served(market, agent) as (provider,):
            order = await customer.ask(provider.public_key, "loud", kind=5001, max_sat=50)
            await job_is(provider, order.id, JobState.RUNNING)
        old, new = await handed_on(market)
        await clock.advance(2 * OVERLAP_SECONDS)
        async with served(market, agent) as providers:
            assert [provider.public_key for provider in providers] == [new, old]
            assert providers[1].is_retired
            await job_is(providers[1], order.id, JobState.RETURNED)  # nobody waits for the work any more
            await clock.advance(LOOK_SECONDS)
            await eventually(lambda: leaves_are(providers[1], old, 3))
            assert announced_by(market) == {new}
        async with served(market, agent) as providers:
            assert [provider.public_key for provider in providers] == [new]


async def test_an_agent_does_not_run_under_a_key_that_was_handed_on(market: Market) -> None:
    old, _ = await handed_on(market)
    settings = market.settings("agent")
    async with life(market, "agent") as post:
        signer = LocalSigner(read_key_file(settings.retired_key_file(old)))  # type: ignore[arg-type] # a SecretKey
        with pytest.raises(ConfigError, match="was handed on from"):
            await check_current(post.db, NAME, signer)


async def test_the_words_bring_back_the_key_that_was_handed_on_to(market: Market) -> None:
    old, new = await handed_on(market)
    report = await restore(market, "agent", lose(market, "agent"))
    settings = market.settings("agent")
    assert [(key.public_key, key.trouble) for key in report.keys if key.name == NAME] == [(new, "")]
    async with life(market, "agent") as post:
        assert await keys_of(post.db, old) == [old, new]
        stored = find_key(settings, NAME).value
        assert isinstance(stored, SecretKey)
        assert stored.public_key == new
        await check_current(post.db, NAME, LocalSigner(stored))


async def test_an_old_copy_of_the_folder_learns_of_the_key_since(market: Market, tmp_path: Path) -> None:
    settings = market.settings("agent")
    async with life(market, "agent"):
        old = public(first_key(market))
    shutil.copytree(settings.data, tmp_path / "copy")
    _, new = await handed_on(market)
    shutil.rmtree(settings.data)
    shutil.copytree(tmp_path / "copy", settings.data)
    assert not (await restore(market, "agent", None)).troubles
    assert {path.stem for path in settings.retired_key_file("").parent.iterdir()} == {old}
    async with life(market, "agent") as post:
        key = find_key(settings, NAME)
        assert public(key) == new
        assert await current_key(settings, post.db, key) == key
        assert await keys_of(post.db, old) == [old, new]


async def test_escrows_under_a_key_that_was_handed_on_are_still_spoken_for(market: Market) -> None:
    old, _ = await handed_on(market)
    row = cast(EscrowRow, SimpleNamespace(party=old, role=Role.PROVIDER))
    assert public(_key_of(market.settings("agent"), row)) == old
