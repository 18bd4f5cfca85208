"""The escrow of a job over HTTP: looked at, accepted, disputed; and what a dispute costs its caller."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from dvm import Agent, Job, Provider, ProviderLimits
from dvm.escrow.arbiter import Arbiter
from dvm.escrow.messages import Wishes
from identity import encode_npub
from tests.tradepost.facade.conftest import PRICE
from tradepost.facade.desk import Desk
from tradepost.facade.money.solvency import solvency
from tradepost.settings import Settings
from tradepost.testing import Market
from wallet.escrow import Stage

if TYPE_CHECKING:
    from conftest import Caller

    Fund = Callable[[Caller, int], Awaitable[None]]

FEE = 5
SECONDS_MAX = 60.0
KIND = 5050


@pytest.fixture
async def arbiter(market: Market) -> Arbiter:
    return await market.arbiter(fee_sat=FEE)


@pytest.fixture
def settings(settings: Settings, arbiter: Arbiter) -> Settings:
    """The post trusts the arbiter."""
    return settings.model_copy(update={"arbiters": (arbiter.public_key,)})


@pytest.fixture
async def worker(market: Market, arbiter: Arbiter) -> Provider:
    """An agent elsewhere that works in escrow."""
    agent = Agent("elsewhere")

    @agent.serves(kind=KIND, price_sat=PRICE)
    async def work(job: Job) -> str:
        return f"{job.text} is done"

    limits = ProviderLimits(arbiters=(arbiter.public_key,), dispute_seconds=1200)
    provider = await market.open(agent, name="elsewhere", limits=limits)
    await provider._post.outbox.flush(5)
    return provider


def wish(worker: Provider, **more: Any) -> dict[str, Any]:
    return {"agent": encode_npub(worker.public_key), "input": "it", "max_sat": PRICE} | more


async def begin(who: "Caller", worker: Provider, **more: Any) -> str:
    """A job that has its result, by its path."""
    answer = await who("POST", "/v1/jobs?wait=60", wish(worker, **more))
    assert (answer.status, answer.json["state"], answer.json["result"]) == (201, "done", "it is done"), (
        answer.text
    )
    return str(answer.json["links"]["self"])


async def until(who: "Caller", path: str, is_so: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(SECONDS_MAX):
        while not is_so(shown := (await who("GET", path)).json):
            await asyncio.sleep(0.05)
    return shown


async def balance(who: "Caller") -> int:
    return int((await who("GET", "/v1/balance")).json["balance_sat"])


async def test_others_are_paid_by_escrow_and_a_result_may_wait_to_be_looked_at(
    desk: Desk, caller: "Caller", fund: "Fund", worker: Provider, arbiter: Arbiter
) -> None:
    await fund(caller, 100)
    path = await begin(caller, worker, review=True)
    job = (await caller("GET", path)).json
    assert job["step"] == "review"
    assert job["escrow"]["can"] == ["accept", "dispute"]
    assert f"{PRICE} sat are in escrow" in job["money"]
    shown = (await caller("GET", f"{path}/escrow")).json
    assert (shown["stage"], shown["price_sat"], shown["arbiter_fee_sat"]) == ("delivered", PRICE, FEE)
    assert shown["arbiter"]["npub"] == encode_npub(arbiter.public_key)
    accept, dispute = shown["can"]
    assert (accept["action"], accept["cost_sat"]) == ("accept", 0)
    assert dispute["cost_sat"] >= FEE
    assert accept["until"] == dispute["until"] == shown["review_until"]
    early = await caller("POST", f"{path}/review", {"rating": 5})
    assert (early.status, early.json["code"]) == (409, "conflict")
    for _ in range(2):
        accepted = await caller("POST", f"{path}/escrow/accept")
        assert (accepted.status, accepted.json["stage"], accepted.json["can"]) == (200, "released", [])
    late = await caller("POST", f"{path}/escrow/dispute", {"reason": "no", "fee_max_sat": FEE})
    assert (late.status, late.json["code"]) == (409, "conflict")
    assert (await caller("GET", path)).json["step"] == "ended"


async def test_without_review_it_is_paid_when_it_comes(
    desk: Desk, caller: "Caller", fund: "Fund", worker: Provider
) -> None:
    await fund(caller, 100)
    path = await begin(caller, worker)
    assert (await until(caller, f"{path}/escrow", lambda shown: not shown["can"]))["stage"] == "released"


async def test_a_dispute_costs_its_caller_the_fee_and_the_award_comes_back(
    desk: Desk, caller: "Caller", fund: "Fund", worker: Provider, arbiter: Arbiter
) -> None:
    await fund(caller, 100)
    path = await begin(caller, worker, review=True)
    request = (await caller("GET", path)).json["attempts"][0]["request"]
    had_sat = await balance(caller)
    for_free = await caller("POST", f"{path}/escrow/dispute", {"reason": "it is not done"})
    assert (for_free.status, for_free.json["code"]) == (400, "not_valid")
    assert f"{FEE} sat" in for_free.json["message"]
    told = {"reason": "it is not done", "fee_max_sat": FEE}
    for _ in range(2):
        disputed = await caller("POST", f"{path}/escrow/dispute", told)
        assert (disputed.status, disputed.json["stage"]) == (200, "disputed")
    assert disputed.json["statements"] == [{"by": "customer", "text": "it is not done"}]
    assert FEE <= had_sat - await balance(caller) <= FEE + 4
    await until(caller, f"{path}/escrow", lambda shown: shown["fee_state"] in ("paid", "done"))
    assert (await solvency(desk.post.db)).finding is None
    async with asyncio.timeout(SECONDS_MAX):
        while (case := await arbiter.get(request)) is None or case.stage is not Stage.DISPUTED:
            await asyncio.sleep(0.01)
    await arbiter.wish(request, Wishes("rule", provider_sat=1))
    shown = await until(caller, f"{path}/escrow", lambda shown: shown["stage"] == "refunded")
    assert shown["awarded"] == {"agent_sat": 1, "customer_sat": PRICE - 1}
    await desk.till.settle_all()
    assert had_sat - FEE - 4 < await balance(caller) - shown["received_sat"] <= had_sat - FEE
    job = (await caller("GET", path)).json
    assert (job["state"], job["step"], job["result"]) == ("done", "ended", "it is done")


async def test_while_the_mint_is_away_a_result_is_disputed_and_accepted_all_the_same(
    desk: Desk, caller: "Caller", fund: "Fund", worker: Provider, market: Market
) -> None:
    await fund(caller, 200)
    bad, good = [await begin(caller, worker, review=True) for _ in range(2)]
    desk.post.wallet._desk.keyring._refreshed_at.clear()  # as after an hour, or a restart
    market.mint.down = True
    assert (await caller("GET", f"{bad}/escrow")).json["can"]
    told = {"reason": "it is not done", "fee_max_sat": FEE}
    disputed = await caller("POST", f"{bad}/escrow/dispute", told)
    assert (disputed.status, disputed.json["stage"]) == (200, "disputed")
    assert (await caller("POST", f"{good}/escrow/accept")).status == 200
    market.mint.down = False
    await until(caller, f"{good}/escrow", lambda shown: shown["stage"] == "released")


async def test_who_cannot_pay_the_fee_disputes_nothing(
    desk: Desk, caller: "Caller", fund: "Fund", worker: Provider
) -> None:
    await fund(caller, PRICE + 6)
    path = await begin(caller, worker, review=True)
    refused = await caller("POST", f"{path}/escrow/dispute", {"reason": "no", "fee_max_sat": FEE})
    assert (refused.status, refused.json["code"]) == (402, "balance_too_low")
    assert (await caller("GET", f"{path}/escrow")).json["stage"] == "delivered"


async def test_a_job_paid_in_advance_has_no_escrow(desk: Desk, caller: "Caller", fund: "Fund") -> None:
    await fund(caller, 100)
    answer = await caller("POST", "/v1/jobs?wait=60", {"agent": "capitals", "input": "x"})
    gone = await caller("GET", f"{answer.json['links']['self']}/escrow")
    assert (gone.status, gone.json["code"]) == (404, "not_found")
