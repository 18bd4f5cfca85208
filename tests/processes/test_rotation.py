"""Real processes, a real relay and a real mint: an agent is asked under both its keys, and its log stays one."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from identity import encode_npub
from identity import log as logs
from identity.receipts import JobLeaf, KeyLeaf, parse_leaf
from identity.roots import ROOT_NAME, Head, parse_root
from identity.rotation import ROTATION_NAME, read_chain
from relay_bridge import Filter, RelayPool
from store import SystemClock
from tradepost.api import Customer
from tradepost.post import open_database

if TYPE_CHECKING:
    from conftest import Gate, MakePost, Post

pytestmark = pytest.mark.process


@pytest.fixture
def agent(make_post: "MakePost", gate: "Gate") -> "Post":
    """It brings into its log at once what has ended."""
    command = ("-m", "tradepost", "up", Path(__file__).parent / "project", "--json")
    return make_post(*command, name="agent", GATE=str(gate.folder), TRADEPOST_ROOT_SECONDS="1")


async def has_leaves(post: "Post", log: str, size: int) -> None:
    async with asyncio.timeout(30), await open_database(post.settings) as db:
        while (await logs.read_frontier(db, log)).size < size:
            await asyncio.sleep(0.05)


async def test_an_agent_is_served_under_both_keys_and_keeps_its_log(
    agent: "Post", customer: Customer, process: Callable[..., Any]
) -> None:
    async def buy(key: str, text: str) -> str:
        return await (await customer.ask(key, text, kind=5007, max_sat=50)).result()

    await agent.start()
    old = agent.key
    assert await buy(old, "before") == "BEFORE"
    await has_leaves(agent, old, 2)
    assert await agent.stop() == 0
    settings = agent.settings
    rotating = process(
        "-m", "tradepost", "key", "rotate", "acceptance", "--json", TRADEPOST_DATA=str(settings.data),
        TRADEPOST_RELAYS=settings.relays[0], TRADEPOST_MINTS=settings.mints[0],
    )  # fmt: skip
    new = json.loads(await rotating.start())["pubkey"]
    assert await rotating.ended() == 0
    await agent.start()
    assert (agent.key, agent.npub) == (new, encode_npub(new))
    assert await buy(old, "under the old key") == "UNDER THE OLD KEY"
    assert await buy(new, "under the new key") == "UNDER THE NEW KEY"
    await has_leaves(agent, old, 5)
    assert await agent.stop() == 0

    async with await open_database(settings) as db:
        leaves = await logs.read_leaves(db, old, 0)
        head = Head(len(leaves), (await logs.read_frontier(db, old)).root.hex())
        assert (await logs.read_frontier(db, new)).size == 0
    assert [type(parse_leaf(leaf)) for leaf in leaves] == [KeyLeaf, JobLeaf, KeyLeaf, JobLeaf, JobLeaf]
    ours = Filter(kinds=(78,), authors=(old, new))
    async with RelayPool(settings.relays, clock=SystemClock()) as pool:
        events = await pool.query([ours], seconds_max=10)
    found = read_chain(
        old, leaves, [e for e in events if ("t", ROTATION_NAME) in e.tags], SystemClock().now()
    )
    assert found.keys == (old, new)
    roots = {parse_root(event).head: event for event in events if ("t", ROOT_NAME) in event.tags}
    assert roots[head].pubkey == new
    assert all(
        found.may_sign(event.pubkey, root.size, event.created_at) and parse_root(event).is_consistent
        for root, event in roots.items()
    )
