"""Jobs over HTTP, through a real server: begun once, paid once, found by their owner alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiohttp import web

from dvm import Agent, Job, JobFailed, NoAgentFound, OrderState
from dvm.queries_guarantees import orders_of
from identity import SecretKey
from identity.nip19 import encode_nprofile, encode_npub
from relay_bridge import RelayPool
from store import SystemClock
from tradepost.facade.desk import Desk
from tradepost.facade.jobs.job_views import RESULT_CHARS_MAX
from tradepost.settings import Settings
from tradepost.testing import Market

if TYPE_CHECKING:
    from conftest import Answer, Caller

    Fund = Callable[[Caller, int], Awaitable[None]]

PRICE = 21
FEES = 2  # of locking 21 sat, and of redeeming them
SECONDS_MAX = 60.0
PAID, UNPAID = 5001, 5050
SHOUT, WAIT, FAIL, TALK, FREE = "hello", "wait", "fail", "talk", "FREE"  # what is asked for


@pytest.fixture
def gate() -> asyncio.Event:
    """What the work waits for that is asked to, closed at first."""
    return asyncio.Event()


@pytest.fixture
def worker(gate: asyncio.Event) -> Agent:
    """Does what it is told: the text says it."""
    agent = Agent("worker", about="Works as it is told.")

    @agent.serves(kind=PAID, price_sat=PRICE)
    async def work(job: Job) -> str:
        if job.text == WAIT:
            await job.progress("waiting")
            await gate.wait()
        if job.text == FAIL:
            raise JobFailed("out of ideas")
        return "x" * (RESULT_CHARS_MAX + 1) if job.text == TALK else job.text.upper()

    @agent.serves(kind=UNPAID)
    async def whisper(job: Job) -> str:
        return job.text.lower()

    return agent


@pytest.fixture
async def desk(market: Market, settings: Settings, worker: Agent) -> AsyncIterator[Desk]:
    from tests.tradepost.facade.conftest import open_desk

    async with open_desk(market, settings, [worker]) as desk:
        yield desk


def wish(text: str = SHOUT, **more: Any) -> dict[str, Any]:
    return {"agent": "worker", "kind": UNPAID if text == FREE else PAID, "input": text} | more


async def ask(who: "Caller", text: str = SHOUT, *, wait: int = 60, **headers: str) -> "Answer":
    return await who("POST", f"/v1/jobs?wait={wait}", wish(text), **headers)


async def balance(who: "Caller") -> int:
    return int((await who("GET", "/v1/balance")).json["balance_sat"])


async def until(who: "Caller", path: str, is_so: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(SECONDS_MAX):
        while not is_so(shown := (await who("GET", path)).json):
            await asyncio.sleep(0.05)  # it is counted how often somebody asks
    return shown


# -- one job


async def test_a_job_is_paid_from_the_balance_and_answered_when_it_is_done(
    desk: Desk, caller: "Caller", fund: "Fund"
) -> None:
    await fund(caller, 100)
    had_sat = await balance(caller)
    answer = await ask(caller)
    assert answer.status == 201
    job = answer.json
    assert answer.headers["Location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["step"], job["result"]) == ("done", "ended", "HELLO")
    assert (job["price_sat"], job["max_sat"], job["cost_sat"]) == (PRICE, PRICE, PRICE + FEES)
    assert job["reserved_sat"] >= job["cost_sat"]
    assert await balance(caller) == had_sat - job["cost_sat"]
    (attempt,) = job["attempts"]
    assert attempt["npub"] == encode_npub(desk.providers[0].public_key)
    assert attempt["state"] == "done"
    assert job["escrow"] is None
    assert job["ticket"] is None
    text = await caller("GET", job["links"]["result"])
    assert (text.status, text.text) == (200, "HELLO")
    assert text.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert text.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_job_under_way_is_answered_as_it_stands_and_when_it_has_ended(
    desk: Desk, caller: "Caller", fund: "Fund", gate: asyncio.Event
) -> None:
    await fund(caller, 100)
    answer = await ask(caller, WAIT, wait=0)
    assert answer.status == 201
    path = answer.json["links"]["self"]
    assert answer.json["state"] == "working"
    shown = await until(caller, path, lambda job: job["step"] == "at_work")
    assert shown["cost_sat"] is None
    assert f"{PRICE} sat are locked for the agent" in shown["money"]
    early = await caller("GET", f"{path}/result")
    assert (early.status, early.json["code"], early.json["action"]) == (404, "no_result", "wait")
    assert early.headers["Retry-After"]
    waiting = asyncio.create_task(caller("GET", f"{path}?wait=60"))
    gate.set()
    assert (await waiting).json["result"] == "WAIT"
    for bad in ("61", "-1", "x", "nan"):
        assert (await caller("GET", f"{path}?wait={bad}")).status == 400


async def test_a_job_that_fails_costs_nothing_but_fees_and_says_why(
    desk: Desk, caller: "Caller", fund: "Fund"
) -> None:
    await fund(caller, 100)
    had_sat = await balance(caller)
    answer = await ask(caller, FAIL)
    assert answer.status == 201
    job = await until(caller, answer.json["links"]["self"], lambda job: job["cost_sat"] is not None)
    assert (job["state"], job["step"], job["result"]) == ("failed", "ended", None)
    assert "out of ideas" in job["reason"]
    assert "tradepost" not in job["reason"] + job["money"]
    assert 0 <= had_sat - await balance(caller) == job["cost_sat"] <= 4
    gone = await caller("GET", job["links"]["result"])
    assert (gone.status, gone.json["code"]) == (404, "no_result")


async def test_a_long_result_is_fetched_by_itself(desk: Desk, caller: "Caller", fund: "Fund") -> None:
    await fund(caller, 100)
    job = (await ask(caller, TALK)).json
    assert (job["state"], job["result"]) == ("done", None)
    assert len((await caller("GET", job["links"]["result"])).text) == RESULT_CHARS_MAX + 1


async def test_a_private_job_is_read_by_its_owner(desk: Desk, caller: "Caller", fund: "Fund") -> None:
    await fund(caller, 100)
    answer = await caller("POST", "/v1/jobs?wait=60", wish(private=True))
    assert answer.json["result"] == "HELLO"
    assert (await caller("GET", answer.json["links"]["self"])).json["result"] == "HELLO"
    (order,) = await orders_of(desk.post.db, answer.json["id"])
    assert "HELLO" not in str(order.result)


# -- once


async def test_the_same_request_again_is_the_same_job(
    desk: Desk, caller: "Caller", other: "Caller", fund: "Fund"
) -> None:
    await fund(caller, 100)
    had_sat = await balance(caller)
    answers = await asyncio.gather(*(ask(caller, Idempotency_Key="mine") for _ in range(4)))
    assert {answer.status for answer in answers} <= {200, 201}
    assert len({answer.json["id"] for answer in answers}) == 1
    assert (await ask(caller, Idempotency_Key="mine")).status == 200
    assert had_sat - await balance(caller) == PRICE + FEES
    refused = await ask(caller, WAIT, Idempotency_Key="mine")
    assert (refused.status, refused.json["code"]) == (422, "idempotency_key_reused")
    await fund(other, 100)
    theirs = await ask(other, Idempotency_Key="mine")
    assert theirs.status == 201
    assert theirs.json["id"] != answers[0].json["id"]
    for bad in ("", "x" * 129, "ü"):
        with suppress(UnicodeEncodeError):
            assert (await ask(caller, Idempotency_Key=bad)).status == 400


async def test_a_token_in_the_request_pays_for_it_and_a_lost_answer_is_found_again(
    desk: Desk, stranger: "Caller", token_of: Callable[[int], Awaitable[str]]
) -> None:
    token = await token_of(30)
    first = await ask(stranger, X_Cashu=token)
    assert first.status == 201, first.text
    assert first.json["result"] == "HELLO"
    ticket = first.json["ticket"]
    again = await ask(stranger, X_Cashu=token)
    assert (again.status, again.json["id"], again.json["ticket"]) == (200, first.json["id"], ticket)
    path = first.json["links"]["self"]
    assert (await stranger("GET", path)).status == 401
    stranger.token = ticket
    shown = await stranger("GET", path)
    assert (shown.status, shown.json["ticket"]) == (200, None)
    assert [job["id"] for job in (await stranger("GET", "/v1/jobs")).json["jobs"]] == [first.json["id"]]
    assert await balance(stranger) == 0  # the rest came with the answer


async def test_a_token_is_not_taken_for_a_wish_that_comes_to_nothing(
    desk: Desk, stranger: "Caller", token_of: Callable[[int], Awaitable[str]]
) -> None:
    token = await token_of(30)
    bad = await stranger("POST", "/v1/jobs", {"agent": "nobody", "kind": PAID, "input": "x"}, X_Cashu=token)
    assert (bad.status, bad.json["code"]) == (404, "no_agent_found")
    assert (await ask(stranger, X_Cashu=token)).status == 201


async def test_who_paid_for_what_could_not_begin_is_told_where_the_sats_are(
    desk: Desk,
    stranger: "Caller",
    token_of: Callable[[int], Awaitable[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = await token_of(30)

    async def nobody(*_arguments: object) -> None:
        raise NoAgentFound("they have all gone")

    with monkeypatch.context() as patched:
        patched.setattr(desk.hiring, "_hire", nobody)
        refused = await ask(stranger, X_Cashu=token)
    assert (refused.status, refused.json["code"], refused.json["action"]) == (409, "not_begun", "give_up")
    found = replace(stranger, token=refused.json["payment"]["ticket"])
    assert await balance(found) == 30 - 1
    again = await ask(stranger, X_Cashu=token)
    assert (again.status, again.json["ticket"]) == (201, found.token)


async def test_who_has_too_few_sats_is_told_how_to_pay(
    desk: Desk, stranger: "Caller", caller: "Caller"
) -> None:
    for who in (stranger, caller):
        refused = await ask(who)
        assert (refused.status, refused.json["code"]) == (402, "payment_required")
        assert refused.json["payment"]["price_sat"] == PRICE
        assert refused.headers["X-Cashu"].startswith("creqA")
    assert (await caller("GET", "/v1/jobs")).json["jobs"] == []


async def test_free_work_needs_no_sats_and_a_stranger_a_ticket(desk: Desk, stranger: "Caller") -> None:
    answer = await ask(stranger, FREE)
    assert answer.status == 201, answer.text
    job = answer.json
    assert (job["result"], job["reserved_sat"], job["cost_sat"]) == ("free", 0, 0)
    assert (await stranger("GET", job["links"]["self"])).status == 401
    stranger.token = job["ticket"]
    assert (await stranger("GET", job["links"]["self"])).json["result"] == "free"


# -- whose it is


async def test_nobody_else_sees_or_touches_a_job(
    desk: Desk, caller: "Caller", other: "Caller", stranger: "Caller", fund: "Fund", gate: asyncio.Event
) -> None:
    await fund(caller, 100)
    path = (await ask(caller, WAIT, wait=0)).json["links"]["self"]
    told: list[tuple[str, str, Any]] = [
        ("GET", "", None), ("GET", "/result", None), ("GET", "/events", None), ("GET", "/receipt", None),
        ("GET", "/escrow", None), ("POST", "/cancel", {}), ("POST", "/escrow/accept", {}),
        ("POST", "/escrow/dispute", {"reason": "bad"}), ("POST", "/review", {"rating": 1}),
    ]  # fmt: skip
    for method, more, body in told:
        theirs = await other(method, path + more, body)
        assert (theirs.status, theirs.json["code"]) == (404, "not_found"), more
        assert (await stranger(method, path + more, body)).status == 401
        nothing = await caller(method, f"/v1/jobs/{'0' * 64}{more}", body)
        assert nothing.json == theirs.json | {"message": nothing.json["message"]}
    assert (await other("GET", "/v1/jobs")).json["jobs"] == []
    gate.set()
    assert (await caller("GET", f"{path}?wait=60")).json["state"] == "done"


async def test_jobs_are_listed_page_by_page(desk: Desk, caller: "Caller") -> None:
    ids = [(await ask(caller, FREE)).json["id"] for _ in range(5)]
    found, path = [], "/v1/jobs?limit=2"
    while True:
        page = (await caller("GET", path)).json
        assert len(page["jobs"]) <= 2
        found += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        path = f"/v1/jobs?limit=2&cursor={page['next']}"
    assert sorted(found) == sorted(ids)
    assert len(found) == 5
    for bad in ("limit=0", "limit=101", "cursor=x", "cursor=1.zz", "more=1"):
        assert (await caller("GET", f"/v1/jobs?{bad}")).status == 400


# -- taking it back


async def test_a_job_under_way_is_taken_back_and_its_sats_are_asked_back(
    desk: Desk, caller: "Caller", fund: "Fund", gate: asyncio.Event
) -> None:
    await fund(caller, 100)
    had_sat = await balance(caller)
    path = (await ask(caller, WAIT, wait=0)).json["links"]["self"]
    await until(caller, path, lambda job: job["step"] == "at_work")
    answer = await caller("POST", f"{path}/cancel")
    assert (answer.status, answer.json["state"]) == (200, "cancelled")
    assert (await caller("POST", f"{path}/cancel")).status == 200  # again
    job = await until(caller, path, lambda job: job["step"] == "refunding")
    assert job["attempts"][0]["state"] == OrderState.AWAITING_REFUND
    assert f"{PRICE} sat are asked back" in job["money"]  # the agent has begun, and keeps them
    assert job["cost_sat"] is None
    assert had_sat - await balance(caller) == job["reserved_sat"]


async def test_a_job_that_nobody_took_on_is_taken_back_for_nothing(
    desk: Desk, caller: "Caller", fund: "Fund", market: Market
) -> None:
    await fund(caller, 100)
    had_sat = await balance(caller)
    silent = encode_npub(SecretKey.generate().public_key)
    body = {"agent": silent, "kind": PAID, "input": "x", "max_sat": 30}
    path = (await caller("POST", "/v1/jobs", body)).json["links"]["self"]
    assert (await caller("POST", f"{path}/cancel")).json["state"] == "cancelled"
    job = await until(caller, path, lambda job: job["step"] == "ended")
    assert (job["cost_sat"], await balance(caller)) == (0, had_sat)


async def test_what_has_ended_is_not_taken_back(desk: Desk, caller: "Caller") -> None:
    path = (await ask(caller, FREE)).json["links"]["self"]
    answer = await caller("POST", f"{path}/cancel")
    assert (answer.status, answer.json["code"]) == (409, "conflict")


# -- following it


async def test_its_owner_follows_a_job(
    desk: Desk, caller: "Caller", fund: "Fund", gate: asyncio.Event
) -> None:
    await fund(caller, 100)
    path = (await ask(caller, WAIT, wait=0)).json["links"]["self"]
    following = asyncio.create_task(caller("GET", f"{path}/events"))
    await until(caller, path, lambda job: job["step"] == "at_work")
    async with asyncio.timeout(SECONDS_MAX):
        while not desk.watching.listeners:
            await asyncio.sleep(0.005)
    gate.set()
    stream = await following
    assert stream.headers["Content-Type"] == "text/event-stream"
    events = [block.split("\n") for block in stream.text.strip().split("\n\n")]
    names = [block[0].removeprefix("event: ") for block in events]
    assert (names[0], names[-2:]) == ("job", ["job", "end"])
    last = msgspec.json.decode(events[-2][2].removeprefix("data: "))
    assert (last["state"], last["result"]) == ("done", "WAIT")
    assert last == (await caller("GET", path)).json


async def test_what_it_came_with_is_over_before_the_job_is(
    desk: Desk, caller: "Caller", fund: "Fund", gate: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams end without a word of the result, and waited answers are refused."""
    waits, ended = asyncio.Event(), desk.hiring.ended

    async def wait(job_id: str, seconds: float) -> None:
        waits.set()
        await ended(job_id, seconds)

    monkeypatch.setattr(desk.hiring, "ended", wait)
    await fund(caller, 100)
    token = (await caller("POST", "/v1/auth/sessions")).json["access"]
    browser = replace(caller, key=None, token=token)
    path = (await ask(browser, WAIT, wait=0)).json["links"]["self"]
    following = asyncio.create_task(browser("GET", f"{path}/events"))
    waiting = asyncio.create_task(browser("GET", f"{path}?wait=60"))
    async with asyncio.timeout(SECONDS_MAX):
        await waits.wait()
        while not desk.watching.listeners:
            await asyncio.sleep(0.005)
    assert (await browser("DELETE", "/v1/auth/session")).status == 200
    gate.set()
    stream, answer = await asyncio.gather(following, waiting)
    assert "event: end" not in stream.text
    assert "WAIT" not in stream.text + answer.text
    assert (answer.status, answer.json["code"]) == (401, "unauthorized")
    await until(caller, path, lambda job: job["result"] == "WAIT")


# -- what it would cost


async def test_the_price_is_known_before(desk: Desk, stranger: "Caller") -> None:
    price = await stranger("POST", "/v1/jobs/price", wish())
    assert price.status == 200
    told = price.json
    assert (told["price_sat"], told["max_sat"], told["own"], told["settle"]) == (
        PRICE,
        PRICE,
        True,
        ["prepaid"],
    )
    assert told["amount_sat"] == PRICE + told["fees_sat"]
    assert told["public_key"] == desk.providers[0].public_key
    free = (await stranger("POST", "/v1/jobs/price", wish(FREE))).json
    assert (free["price_sat"], free["amount_sat"]) == (0, 0)


# -- nothing of a caller's input leads this desk anywhere


async def test_no_url_of_a_caller_is_visited(desk: Desk, caller: "Caller", fund: "Fund") -> None:
    visits: list[str] = []

    async def visited(request: web.BaseRequest) -> web.Response:
        visits.append(request.path)
        return web.Response(text="secret")

    runner = web.ServerRunner(web.Server(visited), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    place = f"127.0.0.1:{runner.addresses[0][1]}"
    own = desk.providers[0].public_key
    inputs = [{"data": f"http://{place}/x", "type": "url", "relay": f"ws://{place}"}]
    target = encode_nprofile(own, [f"ws://{place}/relay"])
    await fund(caller, 200)
    answer = await caller("POST", "/v1/jobs?wait=60", {"agent": target, "kind": PAID, "inputs": inputs})
    assert (answer.status, answer.json["state"]) == (201, "failed")
    assert "secret" not in answer.text.lower()
    await caller("POST", "/v1/jobs/price", {"agent": target, "kind": PAID, "input": "x"})
    for url in ("file:///etc/passwd", "gopher://x", "javascript:1"):
        bad = await caller("POST", "/v1/jobs", wish(input=None, inputs=[{"data": url, "type": "url"}]))
        assert bad.status == 400
    assert visits == []
    await runner.cleanup()


async def test_relays_that_an_nprofile_names_are_not_visited_if_they_are_private() -> None:
    visits: list[str] = []

    async def visited(request: web.BaseRequest) -> web.Response:
        visits.append(request.path)
        return web.Response(status=400)

    runner = web.ServerRunner(web.Server(visited), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    private = [
        f"ws://127.0.0.1:{port}",
        f"ws://localhost:{port}",
        f"ws://[::1]:{port}",
        f"ws://0.0.0.0:{port}",
    ]
    async with RelayPool([], clock=SystemClock()) as pool:
        chosen = pool.choose(private, 8)
        assert await pool.relay(chosen[0]).tried() is False
        assert [await pool.relay(url).tried() for url in chosen[1:]] == [False] * (len(chosen) - 1)
    assert visits == []
    await runner.cleanup()


async def test_a_wish_for_an_agent_that_nobody_knows(desk: Desk, caller: "Caller") -> None:
    unknown = encode_npub(SecretKey.generate().public_key)
    answer = await caller("POST", "/v1/jobs", {"agent": unknown, "input": "x"})
    assert (answer.status, answer.json["code"]) == (400, "not_valid")
    answer = await caller("POST", "/v1/jobs", {"agent": unknown, "kind": PAID, "input": "x"})
    assert "max_sat" in answer.json["message"]
