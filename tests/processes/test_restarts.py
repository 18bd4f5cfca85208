"""What is killed and started again: nothing is forgotten, nothing is done twice, and no sat is lost."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from identity.receipts import JobLeaf, Outcome, parse_leaf
from identity.roots import LEAVES_NAME, ROOT_NAME, find_contradictions, find_leaves, parse_page, parse_root
from wallet import Wallet, encode_token

if TYPE_CHECKING:
    from conftest import Gate, Post, Relay, Witness

pytestmark = pytest.mark.process

FUNDED_SAT = 5000
JOBS = 100
PRICE_SAT = 21
SLOTS = 24  # of 32 that the agent has, what one customer may hold: it leaves some for others
FREE_SLOTS = 13  # what one stranger may hold for free jobs, which leave some for paid ones and for customers


@pytest.mark.parametrize("is_new", [True, False], ids=["a new agent", "an agent that was here before"])
async def test_jobs_posted_while_the_agent_is_down_are_answered(
    relay: "Relay", witness_of: "type[Witness]", agent: "Post", is_new: bool
) -> None:
    if not is_new:
        await agent.start()
        await agent.stop()
    async with witness_of(relay.url) as witness:
        requests = [witness.request(5002, f"job {number}") for number in range(20)]
        await witness.publish(*requests)
    await relay.kill()
    await relay.start()
    async with witness_of(relay.url) as witness:
        await agent.start()
        await witness.answered(*requests)
        await agent.stop()
        results = witness.results(*requests)
        assert {event.tag("e"): event.content for event in results} == {
            request.id: f"JOB {number}" for number, request in enumerate(requests)
        }
        assert len({event.id for event in results}) == 20


async def killed_in_the_middle(
    agent: "Post", witness: "Witness", gate: "Gate", moments: random.Random
) -> Counter[str]:
    """Kill the agent twice at random moments of the work and let it end the third time; what it was doing meanwhile.

    The gate holds back the others while some jobs end, so that these run, and more wait for them.
    """
    gate.open(passing := moments.randrange(10, 20))
    begun = moments.randrange(4, 12)
    await witness.until(lambda: len(witness.told(7000, "processing")) >= begun, "the work to begin")
    await agent.kill()
    doing = await agent.count("jobs")
    gate.open(3 * passing)
    await agent.start()
    ended = passing + moments.randrange(passing)
    await witness.until(lambda: len(witness.told(6001)) >= ended, "some to be done")
    # Those that ran before the kill count as running although they may wait for a slot again.
    await agent.until(lambda jobs: jobs["running"] >= SLOTS and jobs["queued"] > 0)
    await agent.kill()
    doing += await agent.count("jobs")
    gate.open(JOBS)
    await agent.start()
    return doing


async def check_results(relay: "Relay", witness_of: "type[Witness]", requests: list[str]) -> None:
    """Each request has one result that fits to it, and nobody was told of an error."""
    async with witness_of(relay.url, kinds=(6001,)) as witness:
        assert Counter(event.tag("e") for event in witness.events) == Counter(requests)
        assert all(f'"{e.content.split()[0]}"' in (e.tag("request") or "") for e in witness.events)


async def check_log(agent: "Post", relay: "Relay", witness_of: "type[Witness]", requests: list[str]) -> None:
    """The agent's published log has each job once, and no root of it contradicts another.

    What an agent had no time to publish before it was stopped, it publishes in its next life.
    """
    async with asyncio.timeout(60):
        while len(jobs := await published_jobs(relay, witness_of)) < len(requests):
            await agent.start()
            await agent.stop()
    assert Counter(leaf.request for leaf in jobs) == Counter(requests)
    assert {leaf.outcome for leaf in jobs} == {Outcome.PAID}


async def published_jobs(relay: "Relay", witness_of: "type[Witness]") -> list[JobLeaf]:
    """The jobs in the newest published log; none if there is no root yet."""
    async with witness_of(relay.url, kinds=(78, 30078)) as witness:
        pages = [event for event in witness.events if event.tag("t") == LEAVES_NAME]
        signed = [event for event in witness.events if ROOT_NAME in (event.tag("t"), event.tag("d"))]
    roots = [(event, parse_root(event)) for event in signed]
    assert find_contradictions(roots) == []
    assert all(root.is_consistent for _, root in roots)
    newest = max((root for _, root in roots), key=lambda root: root.head.size, default=None)
    if newest is None:
        return []
    leaves = find_leaves(map(parse_page, pages), newest.head, frozenset())
    assert leaves is not None
    return [leaf for leaf in map(parse_leaf, leaves) if isinstance(leaf, JobLeaf)]


async def test_jobs_paid_by_cashu_tags_are_answered_once_whenever_the_agent_is_killed(
    relay: "Relay",
    witness_of: "type[Witness]",
    witness: "Witness",
    agent: "Post",
    gate: "Gate",
    purse: Wallet,
) -> None:
    mint = purse.mints[0]
    tokens = await asyncio.gather(*(purse.send(mint, PRICE_SAT, include_fees=True) for _ in range(JOBS)))
    requests = [
        witness.request(5001, number, ("cashu", encode_token(token))) for number, token in enumerate(tokens)
    ]
    await agent.start()
    await witness.publish(*requests)
    doing = await killed_in_the_middle(agent, witness, gate, random.Random(1))
    assert doing["offered"] + doing["paying"] > 0
    assert min(doing[state] for state in ("queued", "running", "done")) > 0
    await witness.answered(*requests)
    await agent.stop()
    await check_results(relay, witness_of, [request.id for request in requests])
    await check_log(agent, relay, witness_of, [request.id for request in requests])
    assert witness.told(7000, "error") == []
    assert await agent.count("jobs") == {"done": JOBS}
    assert await agent.count("payments") == {"redeemed": JOBS}
    earned_sat, agent_fees_sat = await agent.books()
    assert earned_sat == JOBS * PRICE_SAT
    assert earned_sat + agent_fees_sat == sum(token.amount for token in tokens)


@pytest.mark.parametrize("is_killed", [False, True], ids=["the agent is killed", "and the customer too"])
async def test_jobs_paid_by_our_customer_are_answered_once_whoever_is_killed(
    relay: "Relay",
    witness_of: "type[Witness]",
    witness: "Witness",
    agent: "Post",
    make_buyer: "Callable[[int], Post]",
    gate: "Gate",
    fund: Callable[[Path], Awaitable[None]],
    is_killed: bool,
) -> None:
    moments = random.Random(2)
    await agent.start()
    customer = make_buyer(JOBS)
    await fund(customer.settings.data)
    await customer.start()
    for fewest in (0, 40) if is_killed else ():
        paid = fewest + moments.randrange(40)
        await witness.until(lambda paid=paid: len(witness.told(1059)) >= paid, "some to be paid")
        await customer.kill()
        await customer.start()
    doing = await killed_in_the_middle(agent, witness, gate, moments)
    assert min(doing[state] for state in ("queued", "running", "done")) > 0
    await customer.ended()
    await agent.stop()
    assert await customer.count("orders") == {"done": JOBS}
    assert await agent.count("jobs") == {"done": JOBS}
    assert await agent.count("payments") == {"redeemed": JOBS}
    await check_results(relay, witness_of, await customer.ids("orders"))
    assert witness.told(7000, "error") == []
    (left_sat, customer_fees_sat), (earned_sat, agent_fees_sat) = await customer.books(), await agent.books()
    assert earned_sat == JOBS * PRICE_SAT
    assert left_sat + customer_fees_sat + earned_sat + agent_fees_sat == FUNDED_SAT


async def test_a_stopped_agent_takes_its_announcement_back_and_does_the_work_when_it_is_back(
    witness: "Witness", agent: "Post", gate: "Gate"
) -> None:
    await agent.start()
    requests = [witness.request(5006, 0), witness.request(5008, 0)]  # a coroutine, a thread
    await witness.publish(*requests)
    await witness.until(lambda: len(witness.told(7000, "processing")) == 2, "the work to begin")
    assert len(witness.told(31990)) == 1
    assert await agent.stop() == 0
    deletion = witness.told(5)[0]
    assert deletion.pubkey == agent.key
    assert f"31990:{agent.key}:acceptance" in [tag[1] for tag in deletion.tags_named("a")]
    assert witness.results(*requests) == []
    gate.open(JOBS)
    await agent.start()
    await witness.answered(*requests)
    assert await agent.stop() == 0


async def test_a_stopped_agent_ends_the_work_it_has_begun_and_begins_no_more(
    witness: "Witness", agent: "Post", gate: "Gate"
) -> None:
    await agent.start()
    requests = [witness.request(5006, number) for number in range(30)]
    await witness.publish(*requests)
    await witness.until(lambda: len(witness.told(7000, "processing")) == FREE_SLOTS, "the work to begin")
    # A request that is still on its way stays with the relay, and would be counted by nobody here.
    await agent.until(lambda counts: counts.total() == len(requests))
    agent.terminate()
    await witness.until(lambda: len(witness.told(5)) == 1, "the announcement to be taken back")
    gate.open(JOBS)
    assert await agent.ended() == 0
    assert await agent.count("jobs") == {"done": FREE_SLOTS, "queued": 30 - FREE_SLOTS}
    assert len(witness.results(*requests)) == FREE_SLOTS
