"""How often one may call."""

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from store import Database
from tests.tradepost.facade.callers.small import open_small
from tradepost.facade.callers.callers import Caller, Tier
from tradepost.facade.callers.limits import (
    COSTLY,
    PAYERS,
    SYNC_SECONDS,
    WINDOW_SECONDS,
    Limits,
    open_limits,
    seconds_to_wait,
)
from tradepost.facade.web.addresses import client_of
from tradepost.facade.web.problems import TooManyRequests
from tradepost.settings import RequestLimits, Settings
from tradepost.testing import ManualClock

LIMITS = RequestLimits(anonymous=12, authenticated=20, paying=30, unpaid=100)


def settings(limits: RequestLimits = LIMITS, **given: Any) -> Settings:
    return Settings(http_requests_per_minute=limits, **given)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_700_000_040)  # a minute begins


@pytest.fixture
def limits(db: Database, clock: ManualClock) -> Limits:
    return Limits(settings(), db, clock)


def request(address: str = "9.9.9.9", *forwarded: str) -> Any:
    transport = type("T", (), {"get_extra_info": lambda self, name, default=None: (address, 1)})()
    headers = [("X-Forwarded-For", one) for one in forwarded]
    return make_mocked_request("GET", "/", headers=headers, transport=transport)  # type: ignore[arg-type]


def caller(name: str, tier: Tier = Tier.AUTHENTICATED) -> Caller:
    return Caller(name, f"nostr:{name}", tier)


async def taken(
    limits: Limits, who: Caller | None = None, at: Any = None, *, most: int = 200, costly: bool = False
) -> int:
    """How many requests are taken, of `most` that are sent."""
    for number in range(most):
        try:
            limits.count(who, at or request(), costly=costly)
        except TooManyRequests:
            return number
    return most


async def refusal(limits: Limits, who: Caller | None = None, at: Any = None, **given: Any) -> TooManyRequests:
    with pytest.raises(TooManyRequests) as refused:
        limits.count(who, at or request(), **given)
    return refused.value


# --- by tier ----------------------------------------------------------------------------------------------------------


async def test_each_tier_has_its_limit(limits: Limits) -> None:
    assert await taken(limits) == 12
    assert await taken(limits, caller("a")) == 20
    assert await taken(limits, caller("p", Tier.PAYING)) == 30
    assert await taken(limits, caller("o", Tier.OPERATOR)) == 200


async def test_strangers_are_told_apart_by_address_and_tickets_that_nobody_paid_are_strangers(
    limits: Limits,
) -> None:
    assert await taken(limits) == 12
    assert await taken(limits, caller("t", Tier.ANONYMOUS)) == 0
    assert await taken(limits, caller("t", Tier.ANONYMOUS), request("8.8.8.8"), most=7) == 7
    assert await taken(limits, None, request("8.8.8.8")) == 5


async def test_who_pays_is_one_wherever_they_call_from(limits: Limits) -> None:
    payer = caller("p", Tier.PAYING)
    assert await taken(limits, payer, request("8.8.8.8"), most=20) == 20
    assert await taken(limits, payer, request("9.9.9.9")) == 10


async def test_many_keys_of_one_address_have_no_more_than_one_who_pays(limits: Limits) -> None:
    told = [await taken(limits, caller(name)) for name in "abc"]
    assert told == [20, 10, 0]
    assert await taken(limits, caller("c"), request("8.8.8.8")) == 20
    assert await taken(limits) == 12  # strangers of that house are counted by themselves


async def test_many_payers_of_one_address_have_a_limit_together(limits: Limits) -> None:
    told = [await taken(limits, caller(name, Tier.PAYING)) for name in "pqrstu"]
    assert told == [30] * PAYERS + [0, 0]
    assert await taken(limits, caller("t", Tier.PAYING), request("8.8.8.8")) == 30
    assert "sats here" not in str(await refusal(limits, caller("u", Tier.PAYING)))


async def test_all_who_never_paid_have_a_limit_together_for_what_is_costly(limits: Limits) -> None:
    told = [await taken(limits, None, request(f"9.9.9.{number}"), costly=True) for number in range(10)]
    assert sum(told) == 100 // COSTLY
    newcomer = request("8.8.8.8")
    assert "not paid" in str(await refusal(limits, None, newcomer, costly=True))
    assert await taken(limits, caller("a"), newcomer, costly=True) == 0
    assert await taken(limits, caller("p", Tier.PAYING), costly=True) == 30 // COSTLY
    limits.count(None, newcomer, costly=True, brings_sats=True)
    assert await taken(limits, None, newcomer) == 12 - COSTLY


async def test_so_many_strangers_that_memory_would_fill_are_counted_together(
    limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tradepost.facade.callers.limits.BUCKETS_MAX", 50)
    told = [await taken(limits, None, request(f"9.9.{number}.9"), most=1) for number in range(200)]
    assert sum(told) == 50 + 100
    assert await taken(limits, caller("p", Tier.PAYING)) == 30


async def test_a_costly_request_counts_for_several(limits: Limits) -> None:
    assert await taken(limits, costly=True) == 12 // COSTLY
    assert await taken(limits, caller("a"), costly=True) == 20 // COSTLY
    assert await taken(limits, caller("a")) == 20 % COSTLY


async def test_a_limit_below_what_is_costly_lets_one_through(db: Database, clock: ManualClock) -> None:
    small = Limits(settings(RequestLimits(anonymous=3)), db, clock)
    assert await taken(small, costly=True) == 1
    await clock.advance((await refusal(small)).retry_after or 0)
    assert await taken(small) > 0


# --- the window -------------------------------------------------------------------------------------------------------


async def test_the_window_slides(limits: Limits, clock: ManualClock) -> None:
    assert await taken(limits) == 12
    await clock.advance(WINDOW_SECONDS)
    assert await taken(limits) == 0  # all of the last minute is within the last 60 s
    await clock.advance(WINDOW_SECONDS // 2)
    assert await taken(limits) == 6
    await clock.advance(WINDOW_SECONDS)
    assert await taken(limits) == 9


async def test_when_a_refusal_says_so_there_is_room_and_not_before(
    limits: Limits, clock: ManualClock
) -> None:
    for second in (0, 7, 13, 55):
        await clock.advance(second)
        await taken(limits)
        wait = (await refusal(limits)).retry_after
        assert wait is not None
        await clock.advance(wait - 1)
        assert (await refusal(limits)).retry_after == 1
        await clock.advance(1)
        limits.count(None, request())


@given(
    before=st.integers(0, 40), now=st.integers(0, 40), second=st.integers(0, 59),
    weight=st.integers(1, 6), limit=st.integers(6, 20),
)  # fmt: skip
def test_the_wait_is_exact(before: int, now: int, second: int, weight: int, limit: int) -> None:
    def fits(after: int) -> bool:
        minutes, at = divmod(second + after, WINDOW_SECONDS)
        last, this = [(before, now), (now, 0), (0, 0)][min(minutes, 2)]
        return last * (WINDOW_SECONDS - at) + WINDOW_SECONDS * (this + weight) <= WINDOW_SECONDS * limit

    wait = seconds_to_wait(before, now, second, weight=weight, limit=limit)
    assert wait == next(after for after in range(3 * WINDOW_SECONDS) if fits(after))


async def test_what_was_refused_does_not_count(limits: Limits, clock: ManualClock) -> None:
    await taken(limits)
    for _ in range(100):
        await refusal(limits)
    await clock.advance((await refusal(limits)).retry_after or 0)
    limits.count(None, request())


async def test_a_refusal_says_what_the_limit_is_in_words_and_headers(
    limits: Limits, clock: ManualClock
) -> None:
    await taken(limits)
    refused = await refusal(limits)
    wait = refused.retry_after
    assert f"try again in {wait} s" in str(refused)
    assert refused.headers == {
        "RateLimit-Policy": '"anonymous";q=12;w=60', "RateLimit": f'"anonymous";r=0;t={wait}',
    }  # fmt: skip
    assert "sats here" in str(refused)  # what would help
    await taken(limits, payer := caller("p", Tier.PAYING))
    assert "sats here" not in str(await refusal(limits, payer))
    # Of two limits, the one that lasts longer.
    await clock.advance(2 * WINDOW_SECONDS)
    await taken(limits, caller("a"))
    await taken(limits, caller("b"))
    await clock.advance(WINDOW_SECONDS)
    waits = {name: (await refusal(limits, caller(name))).retry_after for name in "ab"}
    assert waits["b"] == (await refusal(limits, caller("c"))).retry_after  # of the address
    assert "9.9.9.9" not in str(refused)


# --- in the store -----------------------------------------------------------------------------------------------------


async def test_two_machines_share_one_limit(db: Database, clock: ManualClock) -> None:
    one, two = Limits(settings(), db, clock), Limits(settings(), db, clock)
    assert await taken(one, most=8) == 8
    assert await taken(two, most=2) == 2
    for _ in range(2):
        for limits in (one, two, one):
            await limits.sync()
    assert await taken(one, most=1) == 1
    await one.sync()
    await two.sync()
    assert await taken(two) == 1
    assert await taken(one, caller("p", Tier.PAYING), most=25) == 25
    await one.sync()
    await two.sync()
    assert await taken(two, caller("p", Tier.PAYING)) == 5


async def test_a_restart_does_not_reset_the_window(db: Database, clock: ManualClock) -> None:
    async with open_limits(settings(), db, clock) as limits:
        assert await taken(limits) == 12
    async with open_limits(settings(), db, clock) as limits:
        assert await taken(limits) == 0
        await clock.advance(WINDOW_SECONDS + 30)
        assert await taken(limits) == 6


async def test_nor_does_a_kill_a_second_later(db: Database, clock: ManualClock) -> None:
    async with open_limits(settings(), db, clock) as killed:
        await taken(killed)
        await clock.advance(SYNC_SECONDS)
        async with open_limits(settings(), db, clock) as next_life:
            assert await taken(next_life) == 0


async def test_counting_writes_nothing_and_reads_nothing(
    db: Database, clock: ManualClock, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(db, "transaction", None)
        patched.setattr(db, "all", None)
        assert await taken(limits) == 12


async def test_a_second_without_requests_writes_nothing(
    db: Database, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    await taken(limits)
    await limits.sync()
    with monkeypatch.context() as patched:
        patched.setattr(db, "transaction", None)
        await limits.sync()


async def test_what_is_old_is_forgotten(db: Database, clock: ManualClock, limits: Limits) -> None:
    for _ in range(5):
        await taken(limits, None, request(), most=3)
        await taken(limits, caller("a"), most=3)
        await limits.sync()
        await clock.advance(WINDOW_SECONDS)
    periods = {row["period"] for row in await db.all("SELECT period FROM request_counts")}
    assert len(periods) == 2
    assert len(limits._own) <= 2
    assert not limits._unsaved


async def test_a_full_disk_is_told_and_what_was_counted_is_saved_later(
    db: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_limits(settings(), db, clock) as limits:
        await taken(limits)

        async def full(*_: object) -> None:
            raise OSError("no space left")

        with capture_logs() as logs, monkeypatch.context() as patched:
            patched.setattr("tradepost.facade.callers.queries_callers.add_counts", full)
            await clock.advance(3 * SYNC_SECONDS)
            assert await taken(limits) == 0
        assert {entry["event"] for entry in logs} == {"request_counts_not_saved"}
        await clock.advance(SYNC_SECONDS)
        async with open_limits(settings(), db, clock) as next_life:
            assert await taken(next_life) == 0


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("9.9.9.9", "9.9.9.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:9.9.9.9", "9.9.9.9"),
        ("", "unknown"),
        ("nobody", "unknown"),
        ("9.9.9.9:80", "unknown"),
    ],
)
def test_who_is_counted_as_one(address: str, client: str) -> None:
    assert client_of(address) == client


def test_behind_a_proxy_only_its_own_word_counts(db: Database, clock: ManualClock) -> None:
    proxied = Limits(settings(gateway_behind_proxy=True), db, clock)
    direct = Limits(settings(), db, clock)
    for forwarded in (["1.1.1.1, 8.8.8.8"], ["1.1.1.1", "8.8.8.8"], ["1.1.1.1, 2.2.2.2", "3.3.3.3,8.8.8.8 "]):
        assert proxied.client_of(request("127.0.0.1", *forwarded)) == "8.8.8.8"
        assert direct.client_of(request("127.0.0.1", *forwarded)) == "127.0.0.1"
    assert proxied.client_of(request("9.9.9.9")) == "unknown"


# --- over HTTP --------------------------------------------------------------------------------------------------------


async def test_over_http_a_refusal_says_when_to_come_back(
    db: Database, clock: ManualClock, free_port: int
) -> None:
    async with open_small(db, clock, free_port, http_requests_per_minute=LIMITS) as small:
        for _ in range(12):
            assert (await small.stranger("GET", "/v1/account")).status == 401
        answer = await small.stranger("GET", "/v1/account")
        assert (answer.status, answer.json["code"], answer.json["action"]) == (
            429,
            "too_many_requests",
            "retry_after",
        )
        assert answer.headers["Retry-After"] == str(answer.json["retry_after"])
        assert answer.headers["RateLimit-Policy"] == '"anonymous";q=12;w=60'
        assert (await small.caller()("GET", "/v1/account")).status == 200


async def test_guessing_tokens_is_limited_too(db: Database, clock: ManualClock, free_port: int) -> None:
    async with open_small(db, clock, free_port, http_requests_per_minute=LIMITS) as small:
        told = [(await small.bearer(f"tpa_{number}")("GET", "/v1/account")).status for number in range(14)]
        assert told == [401] * 12 + [429] * 2


async def test_a_wallet_over_the_limit_is_told_in_its_own_words(
    db: Database, clock: ManualClock, free_port: int
) -> None:
    async with open_small(db, clock, free_port, http_requests_per_minute=LIMITS) as small:
        for _ in range(13):
            answer = await small.stranger("GET", "/v1/auth/lnurl/" + "ab" * 32)
        assert (answer.status, answer.json["status"]) == (200, "ERROR")
        assert "12 requests within a minute" in answer.json["reason"]
