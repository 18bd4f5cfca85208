"""Callers who left nothing are forgotten, and nobody who left anything."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from identity import SecretKey
from store import Database
from tests.tradepost.facade.callers.small import SmallDesk, open_small
from tests.tradepost.facade.conftest import Caller
from tradepost.facade.callers import pruning
from tradepost.facade.callers.callers import account_of
from tradepost.facade.callers.pruning import KEEP_SECONDS, Pruner
from tradepost.facade.callers.sessions import REFRESH_SECONDS
from tradepost.testing import ManualClock

TABLES = ("callers", "caller_keys", "caller_links", "logins", "sessions", "sessions_used")


@pytest.fixture
async def small(db: Database, clock: ManualClock, free_port: int) -> AsyncIterator[SmallDesk]:
    async with open_small(db, clock, free_port) as small:
        yield small


@pytest.fixture
def pruner(small: SmallDesk) -> Pruner:
    return Pruner(small.db, small.clock, small.desk.callers)


async def counts(small: SmallDesk) -> list[int]:
    found = []
    for table in TABLES:
        row = await small.db.one(f"SELECT COUNT(*) AS n FROM {table}")
        assert row
        found.append(int(row["n"]))
    return found


async def session(who: Caller, small: SmallDesk) -> Caller:
    return small.bearer((await who("POST", "/v1/auth/sessions")).json["access"])


async def begun_and_ended(small: SmallDesk) -> Caller:
    """Somebody who signed in and out, whose row is there."""
    who = small.caller()
    assert (await (await session(who, small))("DELETE", "/v1/auth/session")).status == 200
    return who


async def ids(small: SmallDesk) -> set[str]:
    return {row["id"] for row in await small.db.all("SELECT id FROM callers")}


async def test_who_left_nothing_is_forgotten_after_a_day_and_comes_back(
    small: SmallDesk, pruner: Pruner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "PAGE_CALLERS", 2)
    callers = [await begun_and_ended(small) for _ in range(5)]
    async with small.db.transaction() as tx:
        ticket, _ = await small.desk.callers.make_ticket(tx)
    assert (await small.bearer(ticket)("GET", "/v1/account")).status == 200
    for _ in range(2):
        await pruner.prune()
        assert (await counts(small))[0] == 6
        await small.clock.advance(KEEP_SECONDS / 2 + 1)
    await pruner.prune()
    assert await counts(small) == [0] * len(TABLES)
    assert (await small.bearer(ticket)("GET", "/v1/account")).status == 401
    again = (await (await session(callers[0], small))("GET", "/v1/account")).json
    assert again["id"] == account_of(callers[0].id)


async def test_a_round_is_bounded_and_the_next_one_goes_on(
    small: SmallDesk, pruner: Pruner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "PAGE_CALLERS", 2)
    monkeypatch.setattr(pruning, "PAGES_MAX", 1)
    for _ in range(5):
        await begun_and_ended(small)
    await small.clock.advance(KEEP_SECONDS + 1)
    left = []
    for _ in range(3):
        await pruner.prune()
        left.append(len(await ids(small)))
    assert left == [3, 1, 0]


Leave = Callable[[SmallDesk, Caller, str], Awaitable[object]]


async def by_session(small: SmallDesk, who: Caller, _: str) -> None:
    await session(who, small)


async def by_name(small: SmallDesk, who: Caller, _: str) -> None:
    assert (await who("PATCH", f"/v1/account/keys/{who.id}", {"name": "laptop"})).status == 200


async def by_key(small: SmallDesk, who: Caller, _: str) -> None:
    code = (await who("POST", "/v1/account/links")).json["code"]
    assert (await small.caller()("POST", "/v1/account/keys", {"code": code})).status == 201


def row(sql: str) -> Leave:
    async def leave(small: SmallDesk, _: Caller, account: str) -> None:
        async with small.db.transaction() as tx:
            await tx.execute(sql, account)

    return leave


@pytest.mark.parametrize(
    "leave",
    [
        by_session,
        by_name,
        by_key,
        row("INSERT INTO accounts (account, balance_msat) VALUES ('caller/' || ?, 0)"),
        row(
            "INSERT INTO caller_jobs (id, caller, key, wish, reserved_sat, cost_sat, created_at)"
            " VALUES ('j', ?, 'k', 'w', 5, 5, 1)"
        ),
        row(
            "INSERT INTO caller_deposits (id, caller, way, op_id, amount_sat, state, created_at)"
            " VALUES ('d', ?, 'ecash', 'o', 1, 'expired', 1)"
        ),
        row(
            "INSERT INTO caller_withdrawals (id, caller, way, wish, amount_sat, held_sat, state, created_at)"
            " VALUES ('w', ?, 'ecash', 'w', 1, 1, 'failed', 1)"
        ),
    ],
)
async def test_who_left_anything_stays(small: SmallDesk, pruner: Pruner, leave: Leave) -> None:
    who = await begun_and_ended(small)
    await leave(small, who, account_of(who.id))
    await small.clock.advance(KEEP_SECONDS + 1)
    await pruner.prune()
    assert await ids(small) == {account_of(who.id)}


async def test_a_key_that_was_removed_does_not_come_back_by_being_forgotten(
    small: SmallDesk, pruner: Pruner
) -> None:
    """Its first account is another's by now."""
    first, second = small.caller(), small.caller()
    code = (await first("POST", "/v1/account/links")).json["code"]
    assert (await second("POST", "/v1/account/keys", {"code": code})).status == 201
    assert (await second("DELETE", f"/v1/account/keys/{first.id}")).status == 200
    await small.clock.advance(KEEP_SECONDS + 1)
    await pruner.prune()
    owners = {(await who("GET", "/v1/account")).json["id"] for who in (first, second)}
    assert len(owners) == 2
    assert [key["key"] for key in (await second("GET", "/v1/account")).json["keys"]] == [second.id]


async def test_what_is_open_for_minutes_is_waited_for(small: SmallDesk, pruner: Pruner) -> None:
    who = await begun_and_ended(small)
    await small.clock.advance(KEEP_SECONDS + 1)
    assert (await who("POST", "/v1/account/links")).status == 201
    await pruner.prune()
    assert await ids(small) == {account_of(who.id)}
    await small.clock.advance(301)
    assert (await who("POST", "/v1/auth/lnurl", {"action": "link"})).status == 201
    await pruner.prune()
    assert await ids(small) == {account_of(who.id)}
    await small.clock.advance(301)
    await pruner.prune()
    assert await counts(small) == [0] * len(TABLES)


async def test_sessions_that_nobody_ended_go_once_they_cannot_be_refreshed(
    small: SmallDesk, pruner: Pruner
) -> None:
    tokens = (await small.caller(SecretKey(secrets.token_bytes(32)))("POST", "/v1/auth/sessions")).json
    assert (await small.stranger("POST", "/v1/auth/refresh", {"refresh": tokens["refresh"]})).status == 200
    await small.clock.advance(REFRESH_SECONDS - 1)
    await pruner.prune()
    assert (await counts(small))[4:] == [1, 1]
    await small.clock.advance(1)
    await pruner.prune()
    assert await counts(small) == [0] * len(TABLES)
