"""How soon answers come: after a relay was away, and beside slow work."""

import asyncio
import secrets
import time
from statistics import median
from typing import TYPE_CHECKING

import pytest

from dvm import Customer

if TYPE_CHECKING:
    from conftest import Post, Relay, Witness

    from identity import Event

pytestmark = pytest.mark.process

BACK_SECONDS_MAX = 5.0


@pytest.mark.parametrize("asked_while_away", [False, True])
async def test_work_goes_on_soon_after_a_relay_is_back(
    relay: "Relay", agent: "Post", customer: Customer, asked_while_away: bool
) -> None:
    await agent.start()
    async with asyncio.timeout(30):
        assert await (await customer.ask(agent.npub, "before", kind=5002)).result() == "BEFORE"
        await relay.kill()
        order = await customer.ask(agent.npub, "meanwhile", kind=5002) if asked_while_away else None
        while customer._post.pool.health()[relay.url].failures < 6:  # away long enough for several attempts
            await asyncio.sleep(0.01)
        await relay.start()
        back = time.monotonic()
        order = order or await customer.ask(agent.npub, "meanwhile", kind=5002)
        assert await order.result() == "MEANWHILE"
        assert time.monotonic() - back < BACK_SECONDS_MAX


async def seconds_for(witness: "Witness", kind: int, count: int) -> float:
    """The median time from request to result, one job after the other."""
    times = []
    for _ in range(count):
        request = witness.request(kind, secrets.token_hex(8))
        began = time.monotonic()
        await witness.publish(request)
        await witness.answered(request)
        times.append(time.monotonic() - began)
    return median(times)


async def begin(witness: "Witness", kind: int, count: int) -> "list[Event]":
    """Post slow jobs and wait until the agent is at work on all."""
    requests = [witness.request(kind, f"slow {number}") for number in range(count)]
    before = len(witness.told(7000, "processing"))
    await witness.publish(*requests)
    await witness.until(
        lambda: len(witness.told(7000, "processing")) == before + count, "the slow work to begin"
    )
    return requests


@pytest.mark.parametrize("slow_jobs", [1, 12])
@pytest.mark.parametrize(("quick", "slow"), [(5002, 5004), (5003, 5005)], ids=["coroutines", "threads"])
async def test_a_quick_job_does_not_wait_for_slow_ones(
    witness: "Witness", agent: "Post", quick: int, slow: int, slow_jobs: int
) -> None:
    await agent.start()
    alone = await seconds_for(witness, quick, 7)
    requests = await begin(witness, slow, slow_jobs)
    beside = await seconds_for(witness, quick, 7)
    assert witness.results(*requests) == []
    assert beside < 3 * alone + 0.25
    await witness.answered(*requests)


async def test_a_paid_job_does_not_wait_for_slow_threads(
    witness: "Witness", agent: "Post", customer: Customer
) -> None:
    await agent.start()
    requests = await begin(witness, 5005, 12)
    async with asyncio.timeout(30):
        assert await (await customer.ask(agent.npub, "paid", kind=5007, max_sat=25)).result() == "PAID"
    assert witness.results(*requests) == []
