"""One account, several keys, as callers see it over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from store import Database
from tests.tradepost.facade.callers.small import SmallDesk, open_small
from tests.tradepost.facade.conftest import Answer, Caller
from tradepost.facade.callers import queries_callers as queries
from tradepost.facade.callers.accounts import CODE_SECONDS, KEYS_MAX
from tradepost.facade.callers.callers import account_of
from tradepost.facade.desk import Desk
from tradepost.testing import ManualClock
from wallet.ledger import Cause, Posting, post

HAVE = Callable[[SmallDesk, str], Coroutine[Any, Any, None]]


@pytest.fixture
async def small(db: Database, clock: ManualClock, free_port: int) -> AsyncIterator[SmallDesk]:
    async with open_small(db, clock, free_port) as small:
        yield small


async def code_of(owner: Caller) -> str:
    answer = await owner("POST", "/v1/account/links")
    assert answer.status == 201, answer.text
    return str(answer.json["code"])


async def join(key: Caller, code: str, name: str = "") -> Answer:
    return await key("POST", "/v1/account/keys", {"code": code, "name": name})


async def joined(small: SmallDesk, owner: Caller) -> Caller:
    """Another key of the account of `owner`."""
    key = small.caller()
    assert (await join(key, await code_of(owner))).status == 201
    return key


async def account(caller: Caller) -> Any:
    answer = await caller("GET", "/v1/account")
    assert answer.status == 200, answer.text
    return answer.json


async def ensure(small: SmallDesk, key: str) -> str:
    """An account in which something may be, and its id."""
    async with small.db.transaction() as tx:
        await small.desk.callers.ensure(tx, caller := await small.desk.callers.of_key(key))
    return str(caller.id)


async def credit(small: SmallDesk, key: str) -> None:
    entries = {f"caller/{await ensure(small, key)}": -5000, "outside": 5000}
    async with small.db.transaction() as tx:
        await post(tx, Posting(f"deposit:{key}", Cause.OPERATION, entries, 1))


async def settled_job(small: SmallDesk, key: str) -> None:
    account = await ensure(small, key)
    async with small.db.transaction() as tx:
        await tx.execute(
            "INSERT INTO caller_jobs (id, caller, key, wish, reserved_sat, cost_sat, created_at)"
            " VALUES ('j', ?, ?, 'w', 5, 0, 1)",
            account, key,
        )  # fmt: skip


async def open_job(small: SmallDesk, key: str) -> None:
    await settled_job(small, key)
    async with small.db.transaction() as tx:
        await tx.execute("UPDATE caller_jobs SET cost_sat = NULL")


async def job_of_the_job_store(small: SmallDesk, key: str) -> None:
    """As after the facade's own tables were lost."""
    async with small.db.transaction() as tx:
        await tx.execute(
            "INSERT INTO guarantees (id, customer, state, task, private, max_sat, deadline_at, allowance, created_at,"
            " updated_at) VALUES ('g', 'c', 'done', '{}', 0, 0, 1, ?, 1, 1)",
            f"caller:{account_of(key)}",
        )


async def open_escrow(small: SmallDesk, key: str) -> None:
    """Of a job that was charged: an arbiter may still give sats back."""
    await settled_job(small, key)
    await job_of_the_job_store(small, key)
    async with small.db.transaction() as tx:
        await tx.execute(
            "INSERT INTO orders (id, customer, provider, kind, state, max_sat, lock_nonce, request, deadline_at,"
            " guarantee_id, created_at, updated_at) VALUES ('o', 'c', 'p', 5001, 'done', 5, '', '', 1, 'g', 1, 1)"
        )
        await tx.execute(
            "INSERT INTO escrows (role, party, request_id, stage, terms, request, created_at, updated_at)"
            " VALUES ('customer', 'c', 'o', 'disputed', '{}', '{}', 1, 1)"
        )


async def unpaid_invoice(small: SmallDesk, key: str) -> None:
    account = await ensure(small, key)
    async with small.db.transaction() as tx:
        await tx.execute(
            "INSERT INTO caller_deposits (id, caller, way, op_id, amount_sat, state, created_at)"
            " VALUES ('d', ?, 'lightning', 'o', 5, 'open', 1)",
            account,
        )


async def open_withdrawal(small: SmallDesk, key: str) -> None:
    account = await ensure(small, key)
    async with small.db.transaction() as tx:
        await tx.execute(
            "INSERT INTO caller_withdrawals (id, caller, way, wish, amount_sat, held_sat, state, created_at)"
            " VALUES ('w', ?, 'ecash', 'h', 5, 6, 'open', 1)",
            account,
        )


async def test_who_never_left_anything_has_an_account_with_one_key(small: SmallDesk) -> None:
    caller = small.caller()
    told = await account(caller)
    assert told["id"] == account_of(caller.id)
    assert told["tier"] == "authenticated"
    assert told["keys"] == [
        {
            "key": caller.id,
            "name": "",
            "job_sat": None,
            "day_sat": None,
            "added_at": small.clock.now(),
            "this": True,
        }
    ]
    assert await small.db.all("SELECT * FROM callers") == []
    assert (await small.stranger("GET", "/v1/account")).status == 401


async def test_a_key_joins_with_a_code_and_both_are_the_same_caller(small: SmallDesk) -> None:
    owner, key = small.caller(), small.caller()
    code = await code_of(owner)
    await small.clock.advance(1)
    answer = await join(key, code, "the agent in the cellar")
    assert answer.status == 201
    assert [(row["key"], row["name"], row["this"]) for row in answer.json["keys"]] == [
        (owner.id, "", False), (key.id, "the agent in the cellar", True),
    ]  # fmt: skip
    assert (await account(owner))["id"] == (await account(key))["id"] == account_of(owner.id)
    third = await joined(small, key)  # from either of them
    assert (await account(third))["id"] == account_of(owner.id)


async def test_a_code_is_good_once_for_five_minutes_and_only_the_last_one(small: SmallDesk) -> None:
    owner, thief = small.caller(), small.caller()
    earlier, used = await code_of(owner), await code_of(owner)
    assert (await join(thief, earlier)).status == 404
    assert (await join(small.caller(), used)).status == 201
    assert (await join(thief, used)).status == 404
    late = await code_of(owner)
    await small.clock.advance(CODE_SECONDS)
    assert (await join(thief, late)).status == 404
    for guessed in ("", "tpl_", late.upper()):
        assert (await join(thief, guessed)).status == 404
    assert (await account(thief))["id"] == account_of(thief.id)


async def test_two_keys_with_one_code_at_once(small: SmallDesk) -> None:
    owner = small.caller()
    code = await code_of(owner)
    told = await asyncio.gather(*(join(small.caller(), code) for _ in range(2)))
    assert sorted(answer.status for answer in told) == [201, 404]
    assert len((await account(owner))["keys"]) == 2


async def test_a_code_is_kept_as_a_hash(small: SmallDesk) -> None:
    code = await code_of(small.caller())
    assert code not in repr([tuple(row) for row in await small.db.all("SELECT * FROM caller_links")])  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "have", [credit, settled_job, open_job, job_of_the_job_store, unpaid_invoice, open_withdrawal]
)
async def test_a_key_whose_account_holds_anything_does_not_leave_it(small: SmallDesk, have: HAVE) -> None:
    owner, key = small.caller(), small.caller()
    code = await code_of(owner)
    await have(small, key.id)
    answer = await join(key, code)
    assert answer.status == 409
    assert answer.json["code"] == "conflict"
    assert "use another key" in answer.json["message"]
    assert (await account(key))["id"] == account_of(key.id)
    assert (await join(small.caller(), code)).status == 201  # the code was not used up


async def test_an_invoice_that_expired_goes_along_with_its_key(small: SmallDesk) -> None:
    owner, key = small.caller(), small.caller()
    await unpaid_invoice(small, key.id)
    async with small.db.transaction() as tx:
        await tx.execute("UPDATE caller_deposits SET state = 'expired'")
    assert (await join(key, await code_of(owner))).status == 201
    [row] = await small.db.all("SELECT caller FROM caller_deposits")
    assert row["caller"] == account_of(owner.id)


async def test_a_key_that_is_there_already_does_not_join_again(small: SmallDesk) -> None:
    owner = small.caller()
    assert (await join(owner, await code_of(owner))).status == 409


async def test_an_account_has_so_many_keys(small: SmallDesk) -> None:
    owner = small.caller()
    for _ in range(KEYS_MAX - 1):
        await joined(small, owner)
    answer = await join(small.caller(), await code_of(owner))
    assert answer.status == 409
    assert str(KEYS_MAX) in answer.json["message"]


async def test_a_key_that_joins_loses_the_sessions_of_the_account_it_left(small: SmallDesk) -> None:
    owner, key = small.caller(), small.caller()
    tokens = (await key("POST", "/v1/auth/sessions")).json
    browser = small.bearer(tokens["access"])
    assert (await account(browser))["id"] == account_of(key.id)
    assert (await join(key, await code_of(owner))).status == 201
    assert (await browser("GET", "/v1/account")).status == 401
    assert (await small.stranger("POST", "/v1/auth/refresh", {"refresh": tokens["refresh"]})).status == 401
    again = (await key("POST", "/v1/auth/sessions")).json
    assert (await account(small.bearer(again["access"])))["id"] == account_of(owner.id)


async def test_a_ticket_makes_codes_and_does_not_join(small: SmallDesk) -> None:
    async with small.db.transaction() as tx:
        ticket, made = await small.desk.callers.make_ticket(tx)
    holder, key = small.bearer(ticket), small.caller()
    assert (await account(holder))["ticket"] is True
    assert (await join(holder, await code_of(key))).status == 403
    assert (await join(key, await code_of(holder))).status == 201
    assert (await account(key))["id"] == made.id


async def test_names_and_budgets(small: SmallDesk) -> None:
    owner = small.caller()
    key = await joined(small, owner)
    path = f"/v1/account/keys/{key.id}"
    answer = await owner("PATCH", path, {"name": "agent", "job_sat": 10, "day_sat": 100})
    assert answer.status == 200, answer.text
    [row] = [row for row in answer.json["keys"] if row["key"] == key.id]
    assert (row["name"], row["job_sat"], row["day_sat"]) == ("agent", 10, 100)
    answer = await owner("PATCH", path, {"job_sat": None})
    [row] = [row for row in answer.json["keys"] if row["key"] == key.id]
    assert (row["name"], row["job_sat"], row["day_sat"]) == ("agent", None, 100)
    for wrong in (
        {"job_sat": -1},
        {"job_sat": 1.5},
        {"name": "x" * 65},
        {"name": "a\nb"},
        {"caller": "x"},
        {"name": None},
    ):
        assert (await owner("PATCH", path, wrong)).status == 400, wrong


async def test_a_code_outlives_the_change_of_a_name(small: SmallDesk) -> None:
    owner = small.caller()
    code = await code_of(owner)
    assert (await owner("PATCH", f"/v1/account/keys/{owner.id}", {"name": "laptop"})).status == 200
    assert (await join(small.caller(), code)).status == 201


async def test_a_key_with_a_budget_cannot_lift_it_nor_let_others_in(small: SmallDesk) -> None:
    owner = small.caller()
    key = await joined(small, owner)
    code = await code_of(key)  # it saw that coming
    assert (await owner("PATCH", f"/v1/account/keys/{key.id}", {"day_sat": 100})).status == 200
    assert (await join(small.caller(), code)).status == 404
    for method, path, body in (
        ("POST", "/v1/account/links", None),
        ("PATCH", f"/v1/account/keys/{key.id}", {"day_sat": None}),
        ("DELETE", f"/v1/account/keys/{owner.id}", None),
        ("POST", "/v1/auth/lnurl", {"action": "link"}),
    ):
        answer = await key(method, path, body)
        assert (answer.status, answer.json["code"]) == (403, "forbidden"), path
    tokens = (await key("POST", "/v1/auth/sessions")).json
    assert (await small.bearer(tokens["access"])("POST", "/v1/account/links")).status == 403
    assert (await key("GET", "/v1/account")).status == 200


async def test_a_key_with_a_budget_does_not_see_what_was_withdrawn(
    desk: Desk, caller: Caller, other: Caller, fund: Callable[[Caller, int], Coroutine[Any, Any, None]]
) -> None:
    await fund(caller, 100)
    assert (await join(other, await code_of(caller))).status == 201
    assert (await caller("PATCH", f"/v1/account/keys/{other.id}", {"day_sat": 1})).status == 200
    taken = await caller(
        "POST", "/v1/balance/withdrawals", {"way": "ecash", "amount_sat": 50}, Idempotency_Key="1"
    )
    assert taken.json["withdrawal"]["token"]
    path = f"/v1/balance/withdrawals/{taken.json['withdrawal']['id']}"
    assert (await caller("GET", path)).json["withdrawal"]["token"]
    for method, where, body in (
        ("GET", path, None), ("POST", "/v1/balance/withdrawals", {"way": "ecash", "amount_sat": 1}),
    ):  # fmt: skip
        answer = await other(method, where, body, Idempotency_Key="2")
        assert (answer.status, answer.json["code"]) == (403, "forbidden")
    assert "cashu" not in (await other("GET", "/v1/balance/withdrawals")).text


async def test_one_key_is_always_without_a_budget(small: SmallDesk) -> None:
    owner = small.caller()
    key = await joined(small, owner)
    assert (await owner("PATCH", f"/v1/account/keys/{key.id}", {"day_sat": 100})).status == 200
    for answer in (
        await owner("PATCH", f"/v1/account/keys/{owner.id}", {"job_sat": 1}),
        await owner("DELETE", f"/v1/account/keys/{owner.id}"),
    ):
        assert answer.status == 409
        assert "without a budget" in answer.json["message"]
    assert {row["key"]: row["day_sat"] for row in (await account(owner))["keys"]} == {
        owner.id: None,
        key.id: 100,
    }


async def test_another_accounts_key_is_not_there(small: SmallDesk) -> None:
    owner, other = small.caller(), small.caller()
    await code_of(other)  # so that there is a row
    for key in (other.id, "nostr:" + "00" * 32, "x"):
        assert (await owner("DELETE", f"/v1/account/keys/{key}")).status == 404
        assert (await owner("PATCH", f"/v1/account/keys/{key}", {"name": "mine"})).status == 404
    assert (await account(other))["keys"][0]["name"] == ""


async def test_a_removed_key_is_out_with_its_sessions_and_codes_and_begins_anew(small: SmallDesk) -> None:
    first = small.caller()
    second = await joined(small, first)
    tokens = (await first("POST", "/v1/auth/sessions")).json
    browser, code = small.bearer(tokens["access"]), await code_of(first)
    assert (await account(browser))["id"] == account_of(first.id)
    answer = await second("DELETE", f"/v1/account/keys/{first.id}")
    assert answer.status == 200
    assert [row["key"] for row in answer.json["keys"]] == [second.id]
    assert (await browser("GET", "/v1/account")).status == 401
    assert (await join(small.caller(), code)).status == 404
    # The account's id follows from the key that made it: that key is of another one now all the same.
    told = await account(first)
    assert told["id"] not in (account_of(first.id), account_of(second.id))
    assert [row["key"] for row in told["keys"]] == [first.id]
    assert (await account(second))["id"] == account_of(first.id)
    assert (await first("PATCH", f"/v1/account/keys/{second.id}", {"name": "mine"})).status == 404


@pytest.mark.parametrize("have", [credit, open_job, open_escrow, unpaid_invoice, open_withdrawal])
async def test_the_last_key_stays_while_there_are_sats(small: SmallDesk, have: HAVE) -> None:
    owner = small.caller()
    await have(small, owner.id)
    answer = await owner("DELETE", f"/v1/account/keys/{owner.id}")
    assert answer.status == 409
    assert "withdraw" in answer.json["message"]
    assert answer.json["money"]
    assert (await account(owner))["id"] == account_of(owner.id)
    await joined(small, owner)
    assert (await owner("DELETE", f"/v1/account/keys/{owner.id}")).status == 200


async def test_the_last_key_of_an_account_without_sats_can_go(small: SmallDesk) -> None:
    owner = small.caller()
    await settled_job(small, owner.id)
    assert (await owner("DELETE", f"/v1/account/keys/{owner.id}")).status == 200
    assert (await account(owner))["id"] != account_of(owner.id)


async def test_a_join_that_fails_at_its_last_line_changes_nothing(
    small: SmallDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, key = small.caller(), small.caller()
    code = await code_of(owner)

    async def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(queries, "put_key", full)
        assert (await join(key, code)).status == 500
    assert (await account(key))["id"] == account_of(key.id)
    assert (await join(key, code)).status == 201
