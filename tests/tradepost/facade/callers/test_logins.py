"""Signing in, as browsers and wallets do it over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import lnurl
import pytest
from coincurve import PrivateKey
from structlog.testing import capture_logs

from store import Database
from tests.tradepost.facade.callers.small import SmallDesk, open_small
from tests.tradepost.facade.conftest import Caller
from tradepost.facade.callers.callers import account_of
from tradepost.facade.callers.logins import CLIENT_LOGINS_MAX, LOGIN_SECONDS, WAIT_SECONDS_MAX, WAITERS_MAX
from tradepost.facade.callers.sessions import ACCESS_SECONDS
from tradepost.testing import ManualClock

SECONDS_MAX = 20


@pytest.fixture
async def small(db: Database, clock: ManualClock, free_port: int) -> AsyncIterator[SmallDesk]:
    async with open_small(db, clock, free_port) as small:
        yield small


class LightningWallet:
    """A wallet by the published library."""

    def __init__(self, small: SmallDesk) -> None:
        self._small = small
        self.key = PrivateKey()

    @property
    def id(self) -> str:
        return f"lnurl:{self.key.public_key.format().hex()}"

    def signature(self, k1: str) -> dict[str, str]:
        key, sig = lnurl.lnurlauth_signature(k1, linking_key=self.key.secret)
        return {"key": key, "sig": sig}

    async def sign(self, login: Any, **others: str) -> Any:
        """Follow the LNURL, with everything in the query that was there."""
        url = str(lnurl.decode(login["lnurl"]))
        path = url.removeprefix(self._small.desk.url)
        told = self.signature(k1_of(login)) | others
        answer = await self._small.stranger(
            "GET", path + "".join(f"&{name}={value}" for name, value in told.items())
        )
        assert answer.status == 200
        return answer.json


def k1_of(login: Any) -> str:
    return str(login["url"].partition("k1=")[2].partition("&")[0])


async def begin(who: Caller, action: str = "login") -> Any:
    answer = await who("POST", "/v1/auth/lnurl", {"action": action})
    assert answer.status == 201, answer.text
    return answer.json


async def finish(small: SmallDesk, login: Any, wait: int = 0) -> Any:
    return await small.stranger("POST", f"/v1/auth/lnurl/token?wait={wait}", {"poll": login["poll"]})


async def account(who: Caller) -> Any:
    return (await who("GET", "/v1/account")).json


async def test_a_browser_signs_in_with_a_wallet(small: SmallDesk) -> None:
    login = await begin(small.stranger)
    assert login["domain"] == "127.0.0.1"
    assert login["expires_at"] == small.clock.now() + LOGIN_SECONDS
    assert str(lnurl.decode(login["lnurl"])) == login["url"]
    assert f"/v1/auth/lnurl/{k1_of(login)}?tag=login&k1={k1_of(login)}&action=login" in login["url"]
    assert (await finish(small, login)).json == {"state": "waiting", "tokens": None}
    wallet = LightningWallet(small)
    assert await wallet.sign(login) == {"status": "OK"}
    told = (await finish(small, login)).json
    assert told["state"] == "signed_in"
    mine = await account(small.bearer(told["tokens"]["access"]))
    assert mine["id"] == account_of(wallet.id)
    assert mine["tier"] == "authenticated"
    assert [row["key"] for row in mine["keys"]] == [wallet.id]


@pytest.mark.parametrize("action", ["register", "login", "auth"])
async def test_the_same_wallet_is_the_same_account_whatever_it_was_told(
    small: SmallDesk, action: str
) -> None:
    wallet, ids = LightningWallet(small), set()
    for one in ("login", action):
        login = await begin(small.stranger, one)
        assert f"&action={one}" in login["url"]
        await wallet.sign(login)
        ids.add((await account(small.bearer((await finish(small, login)).json["tokens"]["access"])))["id"])
    assert len(ids) == 1


async def test_a_wallet_that_sends_only_what_it_adds(small: SmallDesk) -> None:
    """As the library of many services does: of the URL it keeps the path alone."""
    login, wallet = await begin(small.stranger), LightningWallet(small)
    told = wallet.signature(k1_of(login))
    answer = await small.stranger("GET", f"/v1/auth/lnurl/{k1_of(login)}?key={told['key']}&sig={told['sig']}")
    assert answer.json == {"status": "OK"}


async def test_what_wallets_add_of_their_own_is_left_alone(small: SmallDesk) -> None:
    login = await begin(small.stranger)
    assert await LightningWallet(small).sign(login, wallet="Phoenix", jwt="true") == {"status": "OK"}


async def test_a_query_that_says_the_same_twice_or_in_capitals(small: SmallDesk) -> None:
    login, wallet = await begin(small.stranger), LightningWallet(small)
    told, k1 = wallet.signature(k1_of(login)), k1_of(login).upper()
    ours = f"key={told['key']}&sig={told['sig']}"
    twice = await small.stranger("GET", f"/v1/auth/lnurl/{k1}?k1={k1}&x=1&x=2&k1={k1}&{ours}&{ours}")
    assert (twice.status, twice.json) == (200, {"status": "OK"})


async def test_a_query_that_contradicts_itself_is_refused_as_wallets_expect_it(small: SmallDesk) -> None:
    login, wallet = await begin(small.stranger), LightningWallet(small)
    for name in ("k1", "key", "sig"):
        answer = await wallet.sign(login, **{"wallet": f"x&{name}={'00' * 32}"})
        assert answer["status"] == "ERROR"
    assert (await wallet.sign(login))["status"] == "OK"


async def test_tokens_come_exactly_once(small: SmallDesk) -> None:
    login = await begin(small.stranger)
    await LightningWallet(small).sign(login)
    told = await asyncio.gather(*(finish(small, login) for _ in range(3)))
    assert sorted(answer.status for answer in told) == [200, 404, 404]
    assert (await finish(small, login)).json["code"] == "not_found"
    assert len(await small.db.all("SELECT * FROM sessions")) == 1


async def test_who_looked_in_time_and_came_too_late_gets_none(
    small: SmallDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = await begin(small.stranger)
    await LightningWallet(small).sign(login)

    async def signed(*_: object) -> bool:
        return False

    monkeypatch.setattr("tradepost.facade.callers.logins._is_waiting", signed)
    assert [(await finish(small, login)).status for _ in range(2)] == [200, 404]


async def test_a_k1_is_good_once(small: SmallDesk) -> None:
    login, first, second = await begin(small.stranger), LightningWallet(small), LightningWallet(small)
    assert (await first.sign(login))["status"] == "OK"
    for wallet in (second, first):
        told = await wallet.sign(login)
        assert told["status"] == "ERROR"
        assert "signed already" in told["reason"]
    tokens = (await finish(small, login)).json["tokens"]
    assert (await account(small.bearer(tokens["access"])))["id"] == account_of(first.id)
    assert (await first.sign(login))["status"] == "ERROR"  # nor when it was fetched


async def test_two_wallets_at_once(small: SmallDesk) -> None:
    login, wallets = await begin(small.stranger), [LightningWallet(small) for _ in range(3)]
    told = await asyncio.gather(*(wallet.sign(login) for wallet in wallets))
    assert sorted(answer["status"] for answer in told) == ["ERROR", "ERROR", "OK"]
    [winner] = [wallet for wallet, answer in zip(wallets, told, strict=True) if answer["status"] == "OK"]
    tokens = (await finish(small, login)).json["tokens"]
    assert (await account(small.bearer(tokens["access"])))["id"] == account_of(winner.id)


async def test_a_wrong_signature_is_refused_and_the_login_stays_open(small: SmallDesk) -> None:
    login, wallet, other = await begin(small.stranger), LightningWallet(small), LightningWallet(small)
    stolen = other.signature("00" * 32)
    for wrong in (
        {"sig": stolen["sig"]},  # of another k1
        {"key": other.key.public_key.format().hex()},  # somebody else's key
        {"sig": ""}, {"key": ""}, {"sig": "zz"}, {"key": "02"}, {"sig": "30" * 200}, {"k1": "00" * 32},
    ):  # fmt: skip
        url = f"/v1/auth/lnurl/{k1_of(login)}?" + "&".join(
            f"{name}={value}" for name, value in (wallet.signature(k1_of(login)) | wrong).items()
        )
        answer = await small.stranger("GET", url)
        assert answer.status == 200
        assert answer.json["status"] == "ERROR", wrong
        assert answer.json["reason"]
    assert (await finish(small, login)).json["state"] == "waiting"
    assert (await wallet.sign(login))["status"] == "OK"


async def test_a_k1_that_is_not_ours_is_refused(small: SmallDesk) -> None:
    wallet = LightningWallet(small)
    login = await begin(small.stranger)
    for k1 in ("00" * 32, k1_of(login).upper(), "x"):
        told = wallet.signature("00" * 32)
        answer = await small.stranger(
            "GET", f"/v1/auth/lnurl/{k1}?k1={k1}&key={told['key']}&sig={told['sig']}"
        )
        assert answer.json["status"] == "ERROR"


async def test_a_login_expires_signed_or_not(small: SmallDesk) -> None:
    signed, unsigned, wallet = (
        await begin(small.stranger),
        await begin(small.stranger),
        LightningWallet(small),
    )
    await wallet.sign(signed)
    await small.clock.advance(LOGIN_SECONDS)
    assert (await wallet.sign(unsigned))["status"] == "ERROR"
    for login in (signed, unsigned):
        assert (await finish(small, login)).status == 404
    await begin(small.stranger)
    assert len(await small.db.all("SELECT * FROM logins")) == 1


async def test_another_browser_gets_nothing(small: SmallDesk) -> None:
    """Who saw the QR code knows the k1, and not the poll secret."""
    login, other = await begin(small.stranger), await begin(small.stranger)
    await LightningWallet(small).sign(login)
    assert (await finish(small, other)).json["state"] == "waiting"
    for guess in (k1_of(login), login["lnurl"][:200], "", login["poll"][:-1]):
        assert (await finish(small, {"poll": guess})).status == 404
    assert (await finish(small, login)).json["state"] == "signed_in"


async def test_no_secret_is_in_the_tables_or_the_log(small: SmallDesk) -> None:
    with capture_logs() as logs:
        login = await begin(small.stranger)
        rows = [tuple(row) for row in await small.db.all("SELECT * FROM logins")]  # type: ignore[call-overload]
        assert login["poll"] not in repr(rows)
        await LightningWallet(small).sign(login)
        tokens = (await finish(small, login)).json["tokens"]
        await small.stranger("POST", "/v1/auth/refresh", {"refresh": tokens["refresh"]})
        await small.stranger("POST", "/v1/auth/refresh", {"refresh": tokens["refresh"]})
    for secret in (login["poll"], k1_of(login), tokens["access"], tokens["refresh"]):
        assert secret not in repr(logs)


async def test_an_answer_waits_for_the_wallet(small: SmallDesk) -> None:
    login = await begin(small.stranger)
    waiting = asyncio.create_task(finish(small, login, WAIT_SECONDS_MAX))
    await LightningWallet(small).sign(login)
    async with asyncio.timeout(SECONDS_MAX):
        while not waiting.done():
            await small.clock.advance(0.1)
            await asyncio.sleep(0)
    assert (await waiting).json["state"] == "signed_in"


async def test_nor_does_it_hold_up_a_desk_that_stops(small: SmallDesk) -> None:
    """On a clock that stands still."""
    login, waiters = await begin(small.stranger), small.desk.waiters
    waiting = asyncio.create_task(finish(small, login, WAIT_SECONDS_MAX))
    async with asyncio.timeout(SECONDS_MAX):
        while not waiters._woken:
            await asyncio.sleep(0.005)
        await waiters.close()
        assert (await waiting).json["state"] == "waiting"
        assert (await finish(small, login, WAIT_SECONDS_MAX)).json["state"] == "waiting"


async def test_and_no_longer_than_it_was_asked_to(small: SmallDesk) -> None:
    login, began = await begin(small.stranger), small.clock.now()
    waiting = asyncio.create_task(finish(small, login, 3))
    async with asyncio.timeout(SECONDS_MAX):
        while not waiting.done():
            await small.clock.advance(0.1)
            await asyncio.sleep(0)
    assert (await waiting).json["state"] == "waiting"
    assert small.clock.now() >= began + 3
    assert (await finish(small, login, WAIT_SECONDS_MAX + 1)).status == 400


async def test_open_logins_are_bounded(small: SmallDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(CLIENT_LOGINS_MAX):
        await begin(small.stranger)
    answer = await small.stranger("POST", "/v1/auth/lnurl", {})
    assert answer.status == 429
    assert answer.json["retry_after"] > 0
    await small.clock.advance(LOGIN_SECONDS)
    monkeypatch.setattr("tradepost.facade.callers.logins.LOGINS_MAX", 1)
    await begin(small.stranger)
    assert (await small.stranger("POST", "/v1/auth/lnurl", {})).status == 429


async def test_only_four_actions(small: SmallDesk) -> None:
    assert (await small.stranger("POST", "/v1/auth/lnurl", {"action": "pay"})).status == 400


# --- linking a wallet -------------------------------------------------------------------------------------------------


async def test_a_wallet_joins_the_account_of_who_asked(small: SmallDesk) -> None:
    caller, wallet = small.caller(), LightningWallet(small)
    login = await begin(caller, "link")
    assert await wallet.sign(login) == {"status": "OK"}
    tokens = (await finish(small, login)).json["tokens"]
    mine = await account(small.bearer(tokens["access"]))
    assert mine["id"] == account_of(caller.id)
    assert {row["key"] for row in mine["keys"]} == {caller.id, wallet.id}
    later = await begin(small.stranger)
    await wallet.sign(later)
    browser = small.bearer((await finish(small, later)).json["tokens"]["access"])
    assert (await account(browser))["id"] == account_of(caller.id)


@pytest.mark.parametrize(
    ("action", "shown"),
    [
        ("link", "action=login"),
        ("link", "action=auth"),
        ("link", "action="),
        ("link", "x=1"),
        ("link", "action=login&action=link"),
        ("link", "action=link&action=login"),
        ("login", "action=link"),
    ],
)
async def test_a_wallet_signs_for_what_it_showed_and_for_nothing_else(
    small: SmallDesk, action: str, shown: str
) -> None:
    """Whoever draws the QR code can write another action into it."""
    who, wallet = small.caller(), LightningWallet(small)
    login = await begin(who, action)
    path = login["url"].removeprefix(small.desk.url).replace(f"action={action}", shown)
    signed = "".join(f"&{name}={value}" for name, value in wallet.signature(k1_of(login)).items())
    answer = (await small.stranger("GET", path + signed)).json
    assert answer["status"] == "ERROR"
    assert "do not use it" in answer["reason"]
    assert [row["key"] for row in (await account(who))["keys"]] == [who.id]
    assert (await finish(small, login)).json["state"] == "waiting"


async def test_a_stranger_links_nothing(small: SmallDesk) -> None:
    assert (await small.stranger("POST", "/v1/auth/lnurl", {"action": "link"})).status == 401


async def test_a_wallet_that_cannot_join_is_told_why_and_another_one_can(small: SmallDesk) -> None:
    caller, wallet = small.caller(), LightningWallet(small)
    async with small.db.transaction() as tx:
        await small.desk.callers.ensure(tx, mine := await small.desk.callers.of_key(wallet.id))
        await tx.execute(
            "INSERT INTO caller_jobs (id, caller, key, wish, reserved_sat, created_at) VALUES ('j', ?, 'k', 'w', 5, 1)",
            mine.id,
        )
    login = await begin(caller, "link")
    told = await wallet.sign(login)
    assert told["status"] == "ERROR"
    assert "another key" in told["reason"]
    assert (await finish(small, login)).json["state"] == "waiting"
    assert (await LightningWallet(small).sign(login))["status"] == "OK"


async def test_a_key_that_was_removed_meanwhile_links_nothing(small: SmallDesk) -> None:
    owner, thief, wallet = small.caller(), small.caller(), LightningWallet(small)
    code = (await owner("POST", "/v1/account/links")).json["code"]
    assert (await thief("POST", "/v1/account/keys", {"code": code})).status == 201
    login = await begin(thief, "link")
    assert (await owner("DELETE", f"/v1/account/keys/{thief.id}")).status == 200
    assert (await wallet.sign(login))["status"] == "ERROR"
    assert [row["key"] for row in (await account(owner))["keys"]] == [owner.id]


async def test_a_dead_token_shuts_no_way_in(small: SmallDesk) -> None:
    """Some clients send one header with all they ask for."""
    wallet = LightningWallet(small)
    tokens = (await small.caller()("POST", "/v1/auth/sessions")).json
    await small.clock.advance(ACCESS_SECONDS)
    dead = small.bearer(tokens["access"])
    assert (await dead("GET", "/v1/account")).status == 401
    assert (await dead("POST", "/v1/auth/refresh", {"refresh": tokens["refresh"]})).status == 200
    login = await begin(dead)
    signed = "&".join(f"{name}={value}" for name, value in wallet.signature(k1_of(login)).items())
    assert (await dead("GET", f"/v1/auth/lnurl/{k1_of(login)}?{signed}")).json == {"status": "OK"}
    assert (await dead("POST", "/v1/auth/lnurl/token", {"poll": login["poll"]})).json["tokens"]
    refused = await dead("POST", "/v1/auth/lnurl", {"action": "link"})
    assert (refused.status, refused.json["code"]) == (401, "unauthorized")


# --- sessions ---------------------------------------------------------------------------------------------------------


async def test_a_session_from_a_signed_request_to_its_end(small: SmallDesk) -> None:
    caller = small.caller()
    answer = await caller("POST", "/v1/auth/sessions")
    assert answer.status == 201
    assert answer.headers["Cache-Control"] == "no-store"
    browser = small.bearer(answer.json["access"])
    assert (await account(browser))["id"] == account_of(caller.id)
    await small.clock.advance(ACCESS_SECONDS)
    assert (await browser("GET", "/v1/account")).status == 401
    answer = await small.stranger("POST", "/v1/auth/refresh", {"refresh": answer.json["refresh"]})
    assert answer.status == 200
    browser = small.bearer(answer.json["access"])
    assert (await browser("DELETE", "/v1/auth/session")).status == 200
    assert (await browser("GET", "/v1/account")).status == 401
    refused = await small.stranger("POST", "/v1/auth/refresh", {"refresh": answer.json["refresh"]})
    assert (refused.status, refused.json["code"]) == (401, "unauthorized")


async def test_a_stolen_refresh_token_over_http(small: SmallDesk) -> None:
    stolen = (await small.caller()("POST", "/v1/auth/sessions")).json
    owner = (await small.stranger("POST", "/v1/auth/refresh", {"refresh": stolen["refresh"]})).json
    assert (await small.bearer(owner["access"])("GET", "/v1/account")).status == 200
    told = await small.stranger("POST", "/v1/auth/refresh", {"refresh": stolen["refresh"]})
    assert told.status == 401
    assert "shown twice" in told.json["message"]
    answer = await small.bearer(owner["access"])("GET", "/v1/account")
    assert answer.status == 401
    assert "shown twice" in answer.json["message"]


async def test_only_a_key_begins_a_session_and_only_a_session_ends_one(small: SmallDesk) -> None:
    caller = small.caller()
    tokens = (await caller("POST", "/v1/auth/sessions")).json
    async with small.db.transaction() as tx:
        ticket, _ = await small.desk.callers.make_ticket(tx)
    for who in (small.bearer(tokens["access"]), small.bearer(ticket)):
        assert (await who("POST", "/v1/auth/sessions")).status == 403
    assert (await small.stranger("POST", "/v1/auth/sessions")).status == 401
    for who in (caller, small.bearer(ticket)):
        assert (await who("DELETE", "/v1/auth/session")).status == 404
    assert (await small.bearer(tokens["access"])("GET", "/v1/account")).status == 200


async def test_who_waits_is_told_at_once_and_few_may_wait(small: SmallDesk) -> None:
    login = await begin(small.stranger)
    waiting = [asyncio.create_task(finish(small, login, WAIT_SECONDS_MAX)) for _ in range(WAITERS_MAX)]
    async with asyncio.timeout(SECONDS_MAX):
        while sum(map(len, small.desk.waiters._woken.values())) < WAITERS_MAX:
            await asyncio.sleep(0.005)
        assert (await finish(small, login, WAIT_SECONDS_MAX)).status == 429
        await LightningWallet(small).sign(login)
        told = await asyncio.gather(*waiting)  # the clock stands still
    assert sorted(one.status for one in told) == [200] + [404] * (WAITERS_MAX - 1)
    assert not small.desk.waiters._woken
