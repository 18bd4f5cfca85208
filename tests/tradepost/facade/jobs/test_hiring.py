"""Whose a job is stands in the job store alone: what the desk keeps besides may be lost, all of it."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import tradepost
from dvm import Agent, Job, JobFailed, ProviderLimits
from dvm.queries_guarantees import get_guarantee
from tests.tradepost.facade.conftest import PRICE, capitals, open_desk
from tradepost.facade.callers.callers import Caller as Account
from tradepost.facade.desk import Desk
from tradepost.facade.jobs.hiring import whose
from tradepost.facade.jobs.wishes import JobWish, Plan, plan_for
from tradepost.facade.money.purses import BalanceTooLow
from tradepost.facade.web.problems import IdempotencyKeyReused, NotFound
from tradepost.settings import Settings
from tradepost.testing import Market

if TYPE_CHECKING:
    from conftest import Caller

    Fund = Callable[[Caller, int], Awaitable[None]]

SECONDS_MAX = 60.0
#: What the desk keeps that is an account, or money; all else of `0001_facade.sql` may go.
KEPT = {
    "callers", "caller_keys", "sessions", "sessions_used", "caller_deposits", "caller_withdrawals", "caller_jobs",
}  # fmt: skip


async def account(desk: Desk, caller: "Caller") -> Account:
    return await desk.callers.of_key(caller.id)


async def planned(desk: Desk, **wish: Any) -> Plan:
    told = {"agent": "capitals", "kind": 5001, "input": "hello"} | wish
    return await plan_for(JobWish(**told), desk.catalogue, desk.settings.arbiters)


async def test_a_job_and_what_is_kept_for_it_begin_together(
    desk: Desk, caller: "Caller", fund: "Fund"
) -> None:
    await fund(caller, 100)
    who, plan = await account(desk, caller), await planned(desk)
    job = await desk.hiring.begin(who, plan, "wish", "key:a")
    assert job.row.allowance == whose(who.id)
    assert job.row.job_id == caller.id == who.key
    assert (await desk.till.balance(who.id)).held_sat == await desk.till.amount_for(PRICE)
    await desk.hiring.ended(job.id, SECONDS_MAX)
    async with asyncio.timeout(SECONDS_MAX):  # charged though nobody looks
        while (await desk.till.balance(who.id)).held_sat:
            await asyncio.sleep(0.005)


async def test_agents_that_fail_cost_their_caller_the_fees_and_the_post_nothing(
    market: Market, settings: Settings, caller: "Caller", fund: "Fund"
) -> None:
    async with open_desk(market, settings) as desk:
        await fund(caller, 100)
        for name in ("one", "two", "three"):
            agent = Agent(name)

            @agent.serves(kind=5001, price_sat=4)
            async def fail(job: Job) -> str:
                raise JobFailed("no")

            await (await market.open(agent, name=name))._post.outbox.flush(5)
        had_sat = sum((await desk.post.wallet.balance()).values())
        wish = {"kind": 5001, "input": "x", "max_sat": 4, "others": True}
        job = (await caller("POST", "/v1/jobs?wait=60", wish)).json
        async with asyncio.timeout(SECONDS_MAX):
            while job["cost_sat"] is None:
                await asyncio.sleep(0.1)
                job = (await caller("GET", job["links"]["self"])).json
        lost_sat = had_sat - sum((await desk.post.wallet.balance()).values())
        assert job["state"] == "failed"
        assert 0 < job["cost_sat"] == lost_sat <= job["reserved_sat"]


async def test_without_sats_there_is_no_job(desk: Desk, caller: "Caller") -> None:
    who = await account(desk, caller)
    with pytest.raises(BalanceTooLow):
        await desk.hiring.begin(who, await planned(desk), "wish", "key:a")
    job_id = desk.customer.guarantee_id(f"{whose(who.id)}:key:a")
    assert await get_guarantee(desk.post.db, job_id) is None
    assert await desk.hiring.named(who, "key:a", "wish") is None


async def test_a_name_is_one_job_for_one_wish_of_one_caller(
    desk: Desk, caller: "Caller", other: "Caller", fund: "Fund"
) -> None:
    await fund(caller, 100)
    who, plan = await account(desk, caller), await planned(desk)
    job = await desk.hiring.begin(who, plan, "wish", "key:a")
    assert (await desk.hiring.begin(who, plan, "wish", "key:a")).id == job.id
    found = await desk.hiring.named(who, "key:a", "wish")
    assert found is not None
    assert found.id == job.id
    with pytest.raises(IdempotencyKeyReused):
        await desk.hiring.named(who, "key:a", "another wish")
    stranger = await account(desk, other)
    assert await desk.hiring.named(stranger, "key:a", "wish") is None
    with pytest.raises(NotFound):
        await desk.hiring.find(stranger, job.id)
    assert await desk.hiring.newest(stranger, (2**53, ""), 10) == []
    assert (await desk.till.balance(who.id)).held_sat <= await desk.till.amount_for(PRICE)


async def test_a_job_of_an_agent_is_no_callers(desk: Desk, caller: "Caller") -> None:
    bought = await desk.customer.hire(desk.providers[0].public_key, "x", kind=5001, max_sat=PRICE)
    with pytest.raises(NotFound):
        await desk.hiring.find(await account(desk, caller), bought.id)


# -- no second truth


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def outside(market: Market, gate: asyncio.Event) -> tuple[str, str]:
    """An agent elsewhere that works in escrow, and its arbiter, by their keys; kind 5100 waits for `gate`."""
    arbiter = await market.arbiter()
    agent = Agent("outside")

    @agent.serves(kind=5050, price_sat=PRICE)
    async def work(job: Job) -> str:
        return f"{job.text} is done"

    @agent.serves(kind=5100, price_sat=PRICE)
    async def wait(job: Job) -> str:
        await gate.wait()
        return f"{job.text} is done"

    provider = await market.open(agent, name="outside", limits=ProviderLimits(arbiters=(arbiter.public_key,)))
    await provider._post.outbox.flush(5)
    return provider.public_key, arbiter.public_key


async def test_all_is_there_again_when_what_the_desk_keeps_is_deleted(
    market: Market, settings: Settings, caller: "Caller", other: "Caller", fund: "Fund", outside: tuple[str, str],
    gate: asyncio.Event,
) -> None:  # fmt: skip
    agent, arbiter = outside
    terms = {"agent": agent, "input": "it", "max_sat": PRICE, "settle": "escrow", "arbiters": [arbiter]}
    async with open_desk(market, settings, [capitals()]) as desk:
        for who in (caller, other):
            await fund(who, 300)
        own = {"agent": "capitals", "kind": 5001, "input": "hello"}
        paths = [
            (await caller("POST", "/v1/jobs?wait=60", own)).json["links"]["self"],
            (await caller("POST", "/v1/jobs?wait=60", terms | {"kind": 5050, "review": True})).json["links"][
                "self"
            ],
            (await caller("POST", "/v1/jobs", terms | {"kind": 5100})).json["links"]["self"],
            (await other("POST", "/v1/jobs?wait=60", own, Idempotency_Key="once")).json["links"]["self"],
        ]
        async with asyncio.timeout(SECONDS_MAX):
            while (await caller("GET", paths[2])).json["step"] not in ("paid", "at_work"):
                await asyncio.sleep(0.1)
        await caller("POST", f"{paths[0]}/review", {"rating": 5})
        before = await pictures(caller, paths[:3])
        theirs = await pictures(other, paths[3:])
        async with desk.post.db.transaction() as tx:
            rows = await tx.all("SELECT name FROM sqlite_master WHERE type = 'table'")
            ours = {row["name"] for row in rows} & tables_of_the_facade()
            assert ours >= KEPT
            for table in ours - KEPT:
                await tx.execute(f"DELETE FROM {table}")
    async with open_desk(market, settings, [capitals()]):
        assert await pictures(caller, paths[:3]) == before
        assert await pictures(other, paths[3:]) == theirs
        for path in paths[:3]:
            assert (await other("GET", path)).status == 404
        assert (await caller("GET", paths[3])).status == 404
        again = await other("POST", "/v1/jobs", own, Idempotency_Key="once")
        assert (again.status, again.json["links"]["self"]) == (200, paths[3])
        accepted = await caller("POST", f"{paths[1]}/escrow/accept")
        assert (accepted.status, accepted.json["stage"]) == (200, "released")
        gate.set()
        assert (await caller("GET", f"{paths[2]}?wait=60")).json["result"] == "it is done"


async def pictures(who: "Caller", paths: list[str]) -> list[Any]:
    """All that a caller is told of jobs, their escrows and receipts, and of the balance."""
    told: list[Any] = [(await who("GET", path)).json for path in ("/v1/jobs", "/v1/balance")]
    for path in paths:
        job, escrow = (await who("GET", path)).json, (await who("GET", f"{path}/escrow")).json
        receipt = (await who("GET", f"{path}/receipt")).json | {"proof": None, "missing": None}
        told += [job, escrow, receipt, (await who("GET", f"{path}/result")).text]
    return told


def tables_of_the_facade() -> set[str]:
    """What tradepost's own migrations make."""
    told = "".join(
        path.read_text() for path in (Path(tradepost.__file__).parent / "migrations").glob("*.sql")
    )
    return set(re.findall(r"CREATE TABLE (\w+)", told))
