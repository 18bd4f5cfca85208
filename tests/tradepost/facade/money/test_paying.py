"""From a 402 to a result: by ecash in the request, by an invoice, from a balance; and what is wrong with tokens."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import msgspec
import pytest

from dvm import BadRequest
from tests.dvm.conftest import eventually
from tests.tradepost.facade.conftest import KIND, PRICE, Answer, Caller
from tradepost.facade.desk import Desk
from tradepost.facade.jobs import jobs
from tradepost.facade.money import paying
from tradepost.facade.money.balance import TokenWish, WithdrawalShown
from tradepost.facade.money.paying import Payer, Payment, paid_with
from tradepost.facade.web.operations import Call
from tradepost.testing import Market
from wallet import encode_token, parse_request, parse_token
from wallet.invoice import parse_invoice

Tokens = Callable[[int], Awaitable[str]]
Fund = Callable[[Caller, int], Awaitable[None]]
WISH = {"agent": "capitals", "kind": KIND, "input": "hello"}
FEES = 4  # of locking and redeeming 20 coins, at 100 ppk
REDEEM = 2  # of redeeming a token


async def hire(who: Caller, wish: dict[str, Any] = WISH, **headers: str) -> Answer:
    return await who("POST", "/v1/jobs?wait=30", wish, **headers)


def with_ticket(who: Caller, ticket: str) -> Caller:
    return Caller(who.url, who.http, who.clock, token=ticket)


@pytest.fixture(autouse=True)
async def ready(desk: Desk, stranger: Caller) -> None:
    """The desk knows its agent."""

    async def is_known() -> bool:
        return (await stranger("POST", "/v1/jobs/price", WISH)).status == 200

    await eventually(is_known, "the agent")


async def test_402_says_all_that_is_needed(desk: Desk, stranger: Caller, market: Market) -> None:
    told = await hire(stranger)
    assert (told.status, told.json["code"], told.json["action"]) == (402, "payment_required", "fund")
    payment = told.json["payment"]
    assert (payment["price_sat"], payment["amount_sat"]) == (PRICE, PRICE + FEES + REDEEM)
    assert told.headers["X-Cashu"] == payment["cashu"]
    request = parse_request(payment["cashu"])
    assert (request.amount, request.unit, request.mints) == (payment["amount_sat"], "sat", (market.mint.url,))
    assert request.transports == ()
    assert parse_invoice(payment["invoice"]).amount_sat == payment["amount_sat"]
    assert payment["custodial"].startswith("Custodial:")
    assert payment["ticket"].startswith("tpt_")
    verified = await stranger("GET", payment["verify"].removeprefix(stranger.url))
    assert verified.json["settled"] is False


async def test_by_ecash_in_the_request(desk: Desk, stranger: Caller, token_of: Tokens) -> None:
    token = await token_of(100)
    told = await hire(stranger, X_Cashu=token)
    assert (told.status, told.json["result"]) == (201, "HELLO"), told.text
    ticket = told.json["ticket"]
    again = await hire(stranger, X_Cashu=token)  # the answer was lost
    assert (again.status, again.json["id"], again.json["ticket"]) == (200, told.json["id"], ticket)
    spent, change = told.json["cost_sat"], told.json["change"]
    assert PRICE <= spent <= PRICE + FEES
    assert told.headers["X-Cashu"] == change == again.json["change"]
    fee = 99 - spent - sum(proof.amount for proof in parse_token(change).proofs)
    assert 0 < fee <= 2
    owner = with_ticket(stranger, ticket)
    left = await owner("GET", "/v1/balance")
    assert (left.json["balance_sat"], left.json["held_sat"]) == (0, 0)
    assert left.json["custodial"].startswith("Custodial:")
    brought = await owner("POST", "/v1/balance/tokens", {"token": change})
    assert brought.status == 201
    assert (await hire(stranger, X_Cashu=token)).json["change"] is None


async def test_change_stays_with_the_ticket_where_nobody_waits_for_it(
    desk: Desk, stranger: Caller, token_of: Tokens
) -> None:
    told = await stranger("POST", "/v1/jobs", WISH, X_Cashu=await token_of(100))
    assert (told.status, told.json["change"]) == (201, None)
    owner = with_ticket(stranger, told.json["ticket"])
    done = await owner("GET", f"{told.json['links']['self']}?wait=30")
    assert (done.json["state"], done.json["change"]) == ("done", None)
    change = await owner("POST", "/v1/balance/withdrawals", {"way": "ecash"})
    assert change.status == 201
    withdrawal = change.json["withdrawal"]
    assert sum(p.amount for p in parse_token(withdrawal["token"]).proofs) == withdrawal["amount_sat"]
    assert withdrawal["amount_sat"] + withdrawal["fee_sat"] == 99 - done.json["cost_sat"]
    assert change.json["balance_sat"] == 0


async def test_by_an_invoice_and_the_ticket(desk: Desk, stranger: Caller, market: Market) -> None:
    payment = (await hire(stranger)).json["payment"]
    owner = with_ticket(stranger, payment["ticket"])
    unpaid = await hire(owner)
    assert unpaid.status == 402
    assert unpaid.json["payment"]["invoice"] == payment["invoice"]
    market.mint.pay(payment["invoice"])
    told = await hire(owner)
    assert (told.status, told.json["result"]) == (201, "HELLO"), told.text
    verified = await stranger("GET", payment["verify"].removeprefix(stranger.url))
    assert verified.json["settled"] is True


async def test_from_a_balance(desk: Desk, caller: Caller, fund: Fund) -> None:
    await fund(caller, 1000)
    before = (await caller("GET", "/v1/balance")).json["balance_sat"]
    told = await hire(caller)
    assert (told.status, told.json["ticket"]) == (201, None)
    after = (await caller("GET", "/v1/balance")).json
    assert after["balance_sat"] == before - told.json["cost_sat"]


async def test_a_balance_that_is_too_small_says_what_is_missing(
    desk: Desk, caller: Caller, fund: Fund, token_of: Tokens
) -> None:
    await fund(caller, 11)
    told = await hire(caller)
    assert (told.status, told.json["payment"]["amount_sat"]) == (402, PRICE + FEES - 10 + REDEEM)
    assert "10 sat are in your balance" in told.json["money"]
    assert told.json["payment"]["ticket"] is None
    told = await hire(caller, X_Cashu=await token_of(told.json["payment"]["amount_sat"]))
    assert (told.status, told.json["result"]) == (201, "HELLO")


async def test_a_token_that_is_too_small_is_kept_for_its_owner(
    desk: Desk, stranger: Caller, token_of: Tokens
) -> None:
    token = await token_of(11)
    for _ in range(2):
        told = await hire(stranger, X_Cashu=token)
        assert told.status == 402
        assert "10 sat are in your balance" in told.json["money"]
        assert told.json["payment"]["amount_sat"] == PRICE + FEES - 10 + REDEEM
    owner = with_ticket(stranger, told.json["payment"]["ticket"])
    assert (await owner("GET", "/v1/balance")).json["balance_sat"] == 10
    told = await hire(owner, X_Cashu=await token_of(told.json["payment"]["amount_sat"]))
    assert (told.status, told.json["result"]) == (201, "HELLO")


async def test_what_is_wrong_with_a_token(
    desk: Desk, stranger: Caller, other: Caller, token_of: Tokens, market: Market
) -> None:
    token = await token_of(100)
    strange = parse_token(token)
    for text in ("cashuBxyz", "creqAxyz", encode_token(type(strange)("https://other.test", strange.proofs))):
        told = await hire(stranger, X_Cashu=text)
        assert (told.status, told.json["code"]) == (400, "bad_token")
        assert told.headers["X-Reason"]
    assert (await hire(stranger, X_Cashu=token)).status == 201
    for who, wish in ((stranger, WISH | {"input": "other"}), (other, WISH)):  # others' coins, by now
        told = await hire(who, wish, X_Cashu=token)
        assert (told.status, told.json["code"]) == (400, "bad_token")
        assert "another caller" in told.headers["X-Reason"]


async def test_both_versions_of_tokens(desk: Desk, stranger: Caller, token_of: Tokens) -> None:
    for version in (3, 4):
        text = encode_token(parse_token(await token_of(64)), version=version)  # type: ignore[arg-type]
        assert (await hire(stranger, X_Cashu=text)).status == 201


async def test_a_mint_that_is_away_loses_nothing(
    desk: Desk, stranger: Caller, token_of: Tokens, market: Market
) -> None:
    token = await token_of(100)
    real = market.mint.request

    async def request(method: str, path: str, body: dict[str, Any] | None) -> Any:
        answer = await real(method, path, body)
        market.mint.down = market.mint.down or path == "/v1/swap"
        if market.mint.down:
            from wallet import MintUnavailable

            raise MintUnavailable("gone")
        return answer

    market.mint.request = request  # type: ignore[method-assign]
    told = await hire(stranger, X_Cashu=token)
    assert (told.status, told.json["code"], told.json["action"]) == (503, "mint_away", "retry_after")
    owner = with_ticket(stranger, told.json["payment"]["ticket"])
    assert (await owner("GET", "/v1/balance")).json["coming_sat"] == 100
    assert "100 sat are being redeemed" in told.json["money"]
    assert told.headers["Retry-After"] == "5"
    market.mint.request, market.mint.down = real, False  # type: ignore[method-assign]
    told = await hire(stranger, X_Cashu=token)
    assert (told.status, told.json["result"]) == (201, "HELLO")


async def test_a_token_that_was_taken_is_never_without_its_ticket(
    desk: Desk, stranger: Caller, token_of: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was lost, and the same request again does not get so far any more: its price rose, say."""
    token = await token_of(100)
    payer = ticket_of(desk, token, WISH)
    await desk.till.deposits.bring_token(payer.caller, token)
    for step, owner_of_step in (("plan_for", jobs), ("amount_for", desk.till)):
        monkeypatch.setattr(
            owner_of_step, step, AsyncMock(side_effect=BadRequest("it asks more than 21 sat"))
        )
        told = await hire(stranger, X_Cashu=token)
        assert (told.status, told.json["code"]) == (409, "not_begun"), told.text
        assert "it asks more than 21 sat" in told.json["message"]
        assert told.json["payment"] == {"ticket": payer.ticket}
        fresh = await hire(stranger, X_Cashu=await token_of(100))  # nothing was taken of this one
        assert (fresh.status, fresh.json["payment"]) == (400, None)
        monkeypatch.undo()
    owner = with_ticket(stranger, payer.ticket or "")
    assert (await owner("GET", "/v1/balance")).json["balance_sat"] == 99


def ticket_of(desk: Desk, token: str, wish: dict[str, Any]) -> Payer:
    """Whose a token is that somebody unknown sends with that wish."""
    asked = SimpleNamespace(headers={"X-Cashu": token})
    raw = msgspec.json.encode(wish)
    payer = paid_with(
        cast(Call, SimpleNamespace(request=asked, caller=None, idempotency_key=None, raw=raw, desk=desk))
    )
    assert payer is not None
    return payer


async def test_a_402_leaves_room_for_its_own_payment(desk: Desk, caller: Caller, token_of: Tokens) -> None:
    big = WISH | {"max_sat": desk.settings.custodial_sat_max * 3 // 5}
    told = await hire(caller, big)
    assert told.status == 402
    assert told.json["payment"]["invoice"]
    assert (await hire(caller, big, X_Cashu=await token_of(told.json["payment"]["amount_sat"]))).status == 201


async def test_the_rest_is_paid_as_bearer_of_the_ticket(
    desk: Desk, stranger: Caller, token_of: Tokens
) -> None:
    told = await hire(stranger, X_Cashu=await token_of(11))
    assert "send the same request again, as bearer of the ticket in `payment`" in told.json["message"]
    owner = with_ticket(stranger, told.json["payment"]["ticket"])
    told = await hire(owner, X_Cashu=await token_of(told.json["payment"]["amount_sat"]))
    assert (told.status, told.json["result"]) == (201, "HELLO")


async def test_who_has_enough_does_not_wait_for_a_mint(
    desk: Desk, caller: Caller, fund: Fund, market: Market
) -> None:
    await fund(caller, 500)
    assert (await caller("POST", "/v1/balance/invoices", {"amount_sat": 10})).status == 201
    before = dict(market.mint.asked)
    assert (await hire(caller)).status == 201
    asked = {path for path, times in market.mint.asked.items() if times > before.get(path, 0)}
    assert not [path for path in asked if path.startswith("/v1/mint/quote")]


async def test_change_holds_no_job_back(
    desk: Desk, stranger: Caller, token_of: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, gate = await token_of(100), asyncio.Event()
    monkeypatch.setattr(paying, "CHANGE_SECONDS", 0.05)
    real = desk.post.wallet.plan_send

    async def plan_send(*args: Any, purpose: str, **more: Any) -> Any:
        if purpose == "a caller's withdrawal":
            await gate.wait()
        return await real(*args, purpose=purpose, **more)

    monkeypatch.setattr(desk.post.wallet, "plan_send", plan_send)
    told = await hire(stranger, X_Cashu=token)
    assert (told.status, told.json["result"], told.json["change"]) == (201, "HELLO", None)
    gate.set()
    monkeypatch.setattr(paying, "CHANGE_SECONDS", 30)
    assert (await hire(stranger, X_Cashu=token)).json["change"]


async def test_a_callers_key_is_none_of_the_posts(desk: Desk, stranger: Caller, token_of: Tokens) -> None:
    token = await token_of(100)
    told = await hire(stranger, X_Cashu=token)
    owner = with_ticket(stranger, told.json["ticket"])
    await owner("POST", "/v1/balance/tokens", {"token": told.json["change"]})
    wish, key = {"way": "ecash", "amount_sat": 5}, f"change:{told.json['id']}"
    assert (await owner("POST", "/v1/balance/withdrawals", wish, Idempotency_Key=key)).status == 201


async def test_the_same_token_many_times_at_once_pays_for_one_job(
    desk: Desk, stranger: Caller, token_of: Tokens
) -> None:
    token = await token_of(100)
    answers = await asyncio.gather(*(hire(stranger, X_Cashu=token) for _ in range(5)))
    assert {answer.json["id"] for answer in answers} == {answers[0].json["id"]}
    assert len(await desk.post.db.all("SELECT 1 FROM caller_jobs")) == 1


async def test_more_than_the_post_holds_for_anybody(desk: Desk, stranger: Caller) -> None:
    told = await hire(stranger, WISH | {"max_sat": desk.settings.custodial_sat_max})
    assert (told.status, told.json["code"]) == (403, "custody_full")


async def test_an_invoice_cannot_be_made_and_ecash_will_do(
    desk: Desk, stranger: Caller, market: Market
) -> None:
    for _ in range(3):
        market.mint.refuse("/v1/mint/quote", detail="no Lightning today")
    told = await hire(stranger)
    assert told.status == 402
    assert (told.json["payment"]["invoice"], told.json["payment"]["ticket"]) == (None, None)
    assert told.json["payment"]["cashu"].startswith("creqA")


async def test_nobody_elses_money(desk: Desk, caller: Caller, other: Caller, fund: Fund) -> None:
    await fund(caller, 500)
    mine = (await caller("POST", "/v1/balance/invoices", {"amount_sat": 100})).json
    taken = (await caller("POST", "/v1/balance/withdrawals", {"way": "ecash", "amount_sat": 10})).json
    for path in (
        f"/v1/balance/deposits/{mine['id']}",
        f"/v1/balance/withdrawals/{taken['withdrawal']['id']}",
    ):
        assert (await caller("GET", path)).status == 200
        assert (await other("GET", path)).status == 404
    assert (await other("GET", "/v1/balance")).json["balance_sat"] == 0
    assert (await other("GET", "/v1/balance/withdrawals")).json["withdrawals"] == []
    assert (await other("POST", "/v1/balance/withdrawals", {"way": "ecash"})).status == 402


async def test_sats_through_every_door(desk: Desk, caller: Caller, market: Market) -> None:
    """In by an invoice, out by an LNURL that the gateway of this very desk pays."""
    asked = await caller("POST", "/v1/balance/invoices", {"amount_sat": 1000})
    assert (asked.status, asked.json["state"], asked.json["balance_sat"]) == (201, "open", 0)
    assert (await caller("GET", "/v1/balance")).json["coming_sat"] == 1000
    market.mint.pay(asked.json["invoice"])
    got = await caller("GET", f"/v1/balance/deposits/{asked.json['id']}")
    assert (got.json["state"], got.json["credited_sat"], got.json["balance_sat"]) == ("done", 1000, 1000)
    key = {"Idempotency_Key": "one"}
    wish = {"way": "lnurl", "amount_sat": 300}
    taken = await caller("POST", "/v1/balance/withdrawals", wish, **key)
    lnurl = taken.json["withdrawal"]["lnurl"]
    assert lnurl.startswith("LNURL1")
    assert (await caller("POST", "/v1/balance/withdrawals", wish, **key)).json == taken.json
    reused = await caller("POST", "/v1/balance/withdrawals", {"way": "ecash"}, **key)
    assert (reused.status, reused.json["code"]) == (422, "idempotency_key_reused")
    row = await desk.post.db.one("SELECT k1 FROM caller_withdrawals")
    assert row is not None
    paid = await caller("GET", f"/lnurl/payout?k1={row['k1']}&pr={market.mint.invoice(300)}")
    assert paid.json == {"status": "OK"}

    async def is_done() -> bool:
        path = f"/v1/balance/withdrawals/{taken.json['withdrawal']['id']}"
        return bool((await caller("GET", path)).json["withdrawal"]["state"] == "done")

    await eventually(is_done, "the payout")
    listed = (await caller("GET", "/v1/balance/withdrawals")).json
    assert [one["state"] for one in listed["withdrawals"]] == ["done"]
    assert listed["balance_sat"] == 1000 - 300 - listed["withdrawals"][0]["fee_sat"]
    assert (await desk.post.wallet.audit(ask_mints=True)).ok


async def test_what_is_as_good_as_sats_shows_in_no_repr(
    desk: Desk, stranger: Caller, token_of: Tokens
) -> None:
    payment = msgspec.convert((await hire(stranger)).json["payment"], Payment)
    assert payment.ticket is not None
    assert payment.ticket not in repr(payment)
    token = await token_of(64)
    assert token not in repr(TokenWish(token))
    owner = with_ticket(stranger, payment.ticket)
    await owner("POST", "/v1/balance/tokens", {"token": token})
    taken = (await owner("POST", "/v1/balance/withdrawals", {"way": "ecash"})).json["withdrawal"]
    assert taken["token"] not in repr(msgspec.convert(taken, WithdrawalShown))
