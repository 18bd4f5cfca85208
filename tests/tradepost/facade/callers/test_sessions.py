"""Sessions: tokens that last, tokens that turn, and what happens to a stolen one."""

import asyncio

import pytest
from structlog.testing import capture_logs

from store import Database
from tradepost.facade.callers.callers import Caller, Callers, Tier, account_of, ticket_caller
from tradepost.facade.callers.sessions import ACCESS_SECONDS, REFRESH_SECONDS, SESSIONS_MAX, Sessions, Tokens
from tradepost.facade.web.problems import Forbidden, Unauthorized
from tradepost.testing import ManualClock

KEY = "lnurl:02" + "aa" * 32


def life(db: Database, clock: ManualClock) -> Sessions:
    """The sessions of one process."""
    return Sessions(db, clock, Callers(db, clock, []))


@pytest.fixture
def sessions(db: Database, clock: ManualClock) -> Sessions:
    return life(db, clock)


async def begin(db: Database, sessions: Sessions, key: str = KEY) -> Tokens:
    async with db.transaction() as tx:
        return await sessions.begin(tx, Caller(account_of(key), key, Tier.AUTHENTICATED))


async def is_good(sessions: Sessions, access: str) -> bool:
    try:
        await sessions.caller_of(access)
    except Unauthorized:
        return False
    return True


async def test_an_access_token_is_its_key_for_a_quarter_of_an_hour(
    db: Database, sessions: Sessions, clock: ManualClock
) -> None:
    tokens = await begin(db, sessions)
    for one in (sessions, life(db, clock)):  # after a restart, too
        caller = await one.caller_of(tokens.access)
        assert (caller.id, caller.key, caller.tier) == (account_of(KEY), KEY, Tier.AUTHENTICATED)
        assert caller.session
    await clock.advance(ACCESS_SECONDS - 1)
    assert await is_good(sessions, tokens.access)
    await clock.advance(1)
    with pytest.raises(Unauthorized, match="expired: refresh it"):
        await sessions.caller_of(tokens.access)


async def test_neither_the_other_token_nor_a_hash_is_an_access_token(
    db: Database, sessions: Sessions
) -> None:
    tokens = await begin(db, sessions)
    row = await db.one("SELECT access, refresh FROM sessions")
    assert row is not None
    for wrong in (tokens.refresh, row["access"], row["refresh"], "tpa_", ""):
        with pytest.raises(Unauthorized, match="not known"):
            await sessions.caller_of(wrong)
    for wrong in (tokens.access, row["refresh"], ""):
        with pytest.raises(Unauthorized, match="not known"):
            await sessions.refresh(wrong)
    assert await is_good(sessions, tokens.access)


async def test_no_token_is_in_the_tables_or_in_a_repr(db: Database, sessions: Sessions) -> None:
    tokens = await begin(db, sessions)
    new = await sessions.refresh(tokens.refresh)
    rows = [
        tuple(row)  # type: ignore[call-overload]
        for table in ("sessions", "sessions_used", "callers", "caller_keys")
        for row in await db.all(f"SELECT * FROM {table}")
    ]
    for secret in (tokens.access, tokens.refresh, new.access, new.refresh):
        assert secret not in repr(rows)
        assert secret not in repr([tokens, new])


async def test_a_refresh_replaces_both_tokens(db: Database, sessions: Sessions, clock: ManualClock) -> None:
    old = await begin(db, sessions)
    await sessions.caller_of(old.access)
    await clock.advance(ACCESS_SECONDS + 5)
    new = await sessions.refresh(old.refresh)
    assert new.access_expires_at == clock.now() + ACCESS_SECONDS
    assert new.refresh_expires_at == clock.now() + REFRESH_SECONDS
    assert await is_good(sessions, new.access)
    assert not await is_good(sessions, old.access)
    assert (await sessions.refresh(new.refresh)).access != new.access


async def test_a_refresh_ends_an_access_token_that_was_good_still(db: Database, sessions: Sessions) -> None:
    old = await begin(db, sessions)
    assert await is_good(sessions, old.access)
    await sessions.refresh(old.refresh)
    with pytest.raises(Unauthorized, match="replaced"):
        await sessions.caller_of(old.access)


async def test_a_session_that_is_refreshed_in_time_lasts_and_one_that_is_not_ends(
    db: Database, sessions: Sessions, clock: ManualClock
) -> None:
    tokens = await begin(db, sessions)
    for _ in range(3):
        await clock.advance(REFRESH_SECONDS - 1)
        tokens = await sessions.refresh(tokens.refresh)
    await clock.advance(REFRESH_SECONDS)
    with pytest.raises(Unauthorized, match="expired: sign in again"):
        await sessions.refresh(tokens.refresh)


@pytest.mark.parametrize("thief_first", [True, False])
async def test_a_stolen_refresh_token_ends_the_session_for_both(
    db: Database, sessions: Sessions, clock: ManualClock, thief_first: bool
) -> None:
    stolen = await begin(db, sessions)
    bystander = await begin(db, sessions, "nostr:" + "bb" * 32)
    winner = await sessions.refresh(stolen.refresh)  # the thief's, or the owner's
    assert await is_good(sessions, winner.access)
    if thief_first:
        winner = await sessions.refresh(winner.refresh)  # goes on for a while
    with capture_logs() as logs, pytest.raises(Unauthorized, match="shown twice"):
        await sessions.refresh(stolen.refresh)
    assert [entry["event"] for entry in logs] == ["refresh_token_reused"]
    assert "tpr_" not in repr(logs)
    for one in (sessions, life(db, clock)):
        with pytest.raises(Unauthorized, match="shown twice"):
            await one.caller_of(winner.access)
        with pytest.raises(Unauthorized, match="shown twice"):
            await one.refresh(winner.refresh)
        with pytest.raises(Unauthorized, match="shown twice"):
            await one.refresh(stolen.refresh)
        assert await is_good(one, bystander.access)


async def test_two_refreshes_at_once_end_the_session(db: Database, sessions: Sessions) -> None:
    tokens = await begin(db, sessions)
    told = await asyncio.gather(*(sessions.refresh(tokens.refresh) for _ in range(2)), return_exceptions=True)
    [winner] = [one for one in told if isinstance(one, Tokens)]
    assert [type(one) for one in told].count(Unauthorized) == 1  # type: ignore[comparison-overlap]
    assert not await is_good(sessions, winner.access)


async def test_an_answer_that_was_lost_looks_like_theft(
    db: Database, sessions: Sessions, clock: ManualClock
) -> None:
    tokens = await begin(db, sessions)
    await sessions.refresh(tokens.refresh)  # the process dies here, or the network does
    with pytest.raises(Unauthorized, match="sign in again"):
        await life(db, clock).refresh(tokens.refresh)


async def test_a_refresh_that_is_undone_leaves_the_old_tokens_good(
    db: Database, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = await begin(db, sessions)

    async def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("tradepost.facade.callers.queries_sessions.rotate", full)
        with pytest.raises(OSError, match="no space"):
            await sessions.refresh(tokens.refresh)
    assert await is_good(sessions, tokens.access)
    assert await is_good(sessions, (await sessions.refresh(tokens.refresh)).access)


async def test_an_ended_session_is_over_at_once(db: Database, sessions: Sessions) -> None:
    tokens, other = await begin(db, sessions), await begin(db, sessions)
    session = (await sessions.caller_of(tokens.access)).session
    assert session is not None
    async with db.transaction() as tx:
        await sessions.end(tx, session)
    with pytest.raises(Unauthorized, match="was ended"):
        await sessions.caller_of(tokens.access)
    with pytest.raises(Unauthorized, match="was ended"):
        await sessions.refresh(tokens.refresh)
    assert await is_good(sessions, other.access)


async def test_a_used_token_of_an_ended_session_does_not_change_why_it_ended(
    db: Database, sessions: Sessions
) -> None:
    tokens = await begin(db, sessions)
    new = await sessions.refresh(tokens.refresh)
    async with db.transaction() as tx:
        await sessions.end(tx, (await sessions.caller_of(new.access)).session or "")
    with pytest.raises(Unauthorized, match="was ended"):
        await sessions.refresh(tokens.refresh)


async def test_a_key_that_goes_takes_its_sessions_along(db: Database, sessions: Sessions) -> None:
    tokens, other = await begin(db, sessions), await begin(db, sessions, "nostr:" + "bb" * 32)
    assert await is_good(sessions, tokens.access)
    async with db.transaction() as tx:
        await sessions.end_of_key(tx, account_of(KEY), KEY)
    with pytest.raises(Unauthorized, match="removed"):
        await sessions.caller_of(tokens.access)
    assert await is_good(sessions, other.access)


async def test_the_oldest_session_gives_way(db: Database, sessions: Sessions, clock: ManualClock) -> None:
    begun = []
    for _ in range(SESSIONS_MAX + 1):
        begun.append(await begin(db, sessions))
        await clock.advance(1)
    good = [await is_good(sessions, tokens.access) for tokens in begun]
    assert good == [False] + [True] * SESSIONS_MAX
    with pytest.raises(Unauthorized, match="gave way"):
        await sessions.refresh(begun[0].refresh)


async def test_a_session_that_is_refreshed_without_end_is_over(
    db: Database, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tradepost.facade.callers.sessions.USED_MAX", 3)
    tokens = await begin(db, sessions)
    for _ in range(3):
        tokens = await sessions.refresh(tokens.refresh)
    for _ in range(2):
        with pytest.raises(Unauthorized, match="less often"):
            await sessions.refresh(tokens.refresh)
    assert not await is_good(sessions, tokens.access)


async def test_what_has_expired_is_forgotten(db: Database, sessions: Sessions, clock: ManualClock) -> None:
    tokens = await begin(db, sessions)
    for _ in range(2):
        tokens = await sessions.refresh(tokens.refresh)
    await clock.advance(REFRESH_SECONDS)
    await begin(db, sessions, "nostr:" + "bb" * 32)
    assert len(await db.all("SELECT * FROM sessions")) == 1
    assert await db.all("SELECT * FROM sessions_used") == []
    with pytest.raises(Unauthorized, match="not known"):
        await sessions.refresh(tokens.refresh)


async def test_tokens_begin_no_session(db: Database, sessions: Sessions) -> None:
    tokens = await begin(db, sessions)
    for token in (ticket_caller("tpt_x"), await sessions.caller_of(tokens.access)):
        with pytest.raises(Forbidden, match="signed request"):
            async with db.transaction() as tx:
                await sessions.begin(tx, token)


async def test_many_sessions_take_bounded_room(
    db: Database, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tradepost.facade.callers.sessions.KNOWN_MAX", 3)
    begun = [await begin(db, sessions) for _ in range(7)]
    for tokens in begun:
        assert await is_good(sessions, tokens.access)
        assert len(sessions._known) <= 3
