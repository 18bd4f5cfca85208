"""Who a request says it comes from: one credential, made for this very request, used once."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from multidict import CIMultiDict
from nacl.signing import SigningKey

from identity import SecretKey, message_signatures, nip98, sign_event
from store import Database
from tradepost.facade.callers import replays
from tradepost.facade.callers.callers import Caller, Callers, Tier
from tradepost.facade.callers.doors import authenticate
from tradepost.facade.callers.replays import Replays
from tradepost.facade.callers.sessions import Sessions
from tradepost.facade.desk import Desk
from tradepost.facade.web.problems import TooManyRequests, Unauthorized, problem_response
from tradepost.post import all_migrations
from tradepost.settings import Settings
from tradepost.testing import ManualClock

URL = "https://desk.example"
ONION = "https://desk.onion.example"
TARGET = "/v1/jobs?wait=5&q=a%2Fb"
BODY = b'{"kind": 5001}'
ALICE = SecretKey(bytes([1]) * 32)
SEED = bytes([5]) * 32
BOB = SigningKey(SEED).verify_key.encode().hex()

Headers = list[tuple[str, str]]
Sign = Callable[..., Headers]


class Door:
    """A desk as far as its door needs it, asked without a socket."""

    def __init__(self, db: Database, clock: ManualClock, settings: Settings) -> None:
        self.db, self.clock, self.settings = db, clock, settings
        self.callers = Callers(db, clock, ())
        self.sessions = Sessions(db, clock, self.callers)
        self.nonces = 0

    async def restart(self) -> None:
        """A process begins; what another had in memory is gone."""
        post = SimpleNamespace(clock=self.clock)
        self.desk = cast(
            Desk,
            SimpleNamespace(
                url=URL, settings=self.settings, post=post, callers=self.callers, sessions=self.sessions,
                replays=await Replays.load(self.db, self.clock),
            ),
        )  # fmt: skip

    async def ask(
        self, headers: Headers, body: bytes = BODY, *, method: str = "POST", target: str = TARGET
    ) -> Caller | None:
        request = SimpleNamespace(method=method, raw_path=target, headers=CIMultiDict(headers))
        return await authenticate(self.desk, cast(web.Request, request), body)

    def made(self, **given: Any) -> dict[str, Any]:
        self.nonces += 1
        wish = {"url": URL + TARGET, "method": "POST", "body": BODY, "created_at": self.clock.now()}
        return wish | {"nonce": f"n{self.nonces}"} | given

    def nostr(self, **given: Any) -> Headers:
        """Headers as NIP-98 has them."""
        event = sign_event(nip98.make(**self.made(**given)), ALICE)
        return [("Authorization", nip98.header(event))]

    def ed25519(self, **given: Any) -> Headers:
        """Headers as RFC 9421 has them."""
        return list(message_signatures.sign(SEED, **self.made(**given)).items())

    async def token(self) -> str:
        """The access token of a session of Alice's."""
        caller = await self.ask(self.nostr())
        assert caller
        async with self.db.transaction() as tx:
            return (await self.sessions.begin(tx, caller)).access


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    settings = Settings(gateway_url=URL, http_origins=(ONION,))
    async with await Database.open(tmp_path / "desk.sqlite", all_migrations()) as db:
        door = Door(db, ManualClock(), settings)
        await door.restart()
        yield door


@pytest.fixture(params=["nostr", "ed25519"])
def sign(door: Door, request: pytest.FixtureRequest) -> Sign:
    """Either way to sign a request."""
    return cast(Sign, getattr(door, request.param))


def bearer(token: str) -> Headers:
    return [("Authorization", f"Bearer {token}")]


async def test_a_stranger(door: Door) -> None:
    assert await door.ask([("X-Cashu", "cashuB…"), ("Host", "desk.example")]) is None


async def test_a_nostr_key(door: Door) -> None:
    caller = await door.ask(door.nostr())
    assert caller
    assert (caller.key, caller.tier, caller.session) == (
        f"nostr:{ALICE.public_key}",
        Tier.AUTHENTICATED,
        None,
    )


async def test_an_ed25519_key(door: Door) -> None:
    caller = await door.ask(door.ed25519())
    assert caller
    assert caller.key == f"ed25519:{BOB}"


async def test_a_session(door: Door) -> None:
    caller = await door.ask(bearer(await door.token()))
    assert caller
    assert caller.key == f"nostr:{ALICE.public_key}"
    assert caller.session


async def test_a_ticket(door: Door) -> None:
    async with door.db.transaction() as tx:
        ticket, owner = await door.callers.make_ticket(tx)
    assert await door.ask(bearer(ticket)) == owner


@pytest.mark.parametrize("scheme", ["nostr", "NOSTR", "Nostr "])
async def test_schemes_in_any_case(door: Door, scheme: str) -> None:
    ((_, value),) = door.nostr()
    assert await door.ask([("authorization", value.replace("Nostr", scheme))])


async def test_a_signature_counts_once(door: Door, sign: Sign) -> None:
    headers = sign()
    assert await door.ask(headers)
    for _ in range(2):
        with pytest.raises(Unauthorized, match="used before") as told:
            await door.ask(headers)
        assert told.value.retry_after == 1
    assert await door.ask(sign())


async def test_a_signature_counts_once_until_it_is_stale(door: Door, sign: Sign) -> None:
    headers = sign(created_at=door.clock.now() + 60)
    assert await door.ask(headers)
    for seconds in (1, 59, 30, 30):
        await door.clock.advance(seconds)
        with pytest.raises(Unauthorized, match="used before"):
            await door.ask(headers)
    await door.clock.advance(1)
    with pytest.raises(Unauthorized, match="signed 61 s ago"):
        await door.ask(headers)


async def test_a_nonce_counts_once_whatever_else_is_signed(door: Door) -> None:
    assert await door.ask(door.ed25519(nonce="same"))
    await door.clock.advance(5)
    with pytest.raises(Unauthorized, match="used before"):
        await door.ask(door.ed25519(nonce="same"))
    await door.clock.advance(60)
    assert await door.ask(door.ed25519(nonce="same"))


async def test_what_was_refused_is_not_used_up(door: Door, sign: Sign) -> None:
    headers = sign()
    with pytest.raises(Unauthorized):
        await door.ask(headers, target="/v1/other")
    assert await door.ask(headers)


async def test_at_the_same_time_a_signature_counts_once(door: Door, sign: Sign) -> None:
    headers = sign()
    told = await asyncio.gather(*(door.ask(headers) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(one, Caller) for one in told) == 1


@pytest.mark.parametrize("ahead", [0, 1, 60])
async def test_a_signature_counts_once_over_a_restart(door: Door, sign: Sign, ahead: int) -> None:
    headers = sign(created_at=door.clock.now() + ahead)
    assert await door.ask(headers)
    await door.restart()
    with pytest.raises(Unauthorized, match="before this desk last began") as told:
        await door.ask(headers)
    seconds = told.value.retry_after
    assert seconds
    assert 1 <= seconds <= ahead + replays.MARK_SECONDS + 1
    await door.clock.advance(seconds)
    assert await door.ask(sign())
    with pytest.raises(Unauthorized):
        await door.ask(headers)


async def test_a_desk_that_took_nothing_refuses_nothing(door: Door, sign: Sign) -> None:
    headers = sign()
    await door.restart()
    assert await door.ask(headers)


async def test_the_mark_is_written_once_in_some_seconds(door: Door, sign: Sign) -> None:
    began = door.clock.now()
    for seconds, until in ((0, 5), (0, 5), (4, 5), (1, 5), (1, 11), (5, 11), (30, 46)):
        await door.clock.advance(seconds)
        assert await door.ask(sign())
        row = await door.db.one("SELECT until FROM signatures_taken")
        assert row
        assert row["until"] == began + until


async def test_a_clock_that_goes_back_opens_nothing(door: Door, sign: Sign) -> None:
    headers = sign()
    assert await door.ask(headers)
    await door.clock.advance(61)
    assert await door.ask(sign())
    door.clock._now -= 61
    with pytest.raises(Unauthorized, match="before this desk last began"):
        await door.ask(headers)


async def test_a_clock_that_was_far_ahead_closes_the_desk_for_a_minute_only(door: Door, sign: Sign) -> None:
    await door.clock.advance(400 * 86_400)
    assert await door.ask(sign())
    door.clock._now -= 400 * 86_400
    for restart in (False, True):
        if restart:
            await door.restart()
        with pytest.raises(Unauthorized, match="before this desk last began") as told:
            await door.ask(sign())
        assert told.value.retry_after
        assert told.value.retry_after <= 66
    await door.clock.advance(66)
    assert await door.ask(sign())


async def test_no_signature_is_forgotten_for_want_of_room(
    door: Door, sign: Sign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "REMEMBERED_MAX", 2)
    first = sign()
    for headers in (first, sign()):
        assert await door.ask(headers)
    with pytest.raises(TooManyRequests) as told:
        await door.ask(sign())
    assert told.value.retry_after == 1
    with pytest.raises(Unauthorized, match="used before"):
        await door.ask(first)
    await door.clock.advance(61)
    assert await door.ask(sign())


async def test_other_addresses_that_the_operator_named(door: Door, sign: Sign) -> None:
    assert await door.ask(sign(url=ONION + TARGET))


async def test_another_url(door: Door, sign: Sign) -> None:
    for url in (
        f"http://desk.example{TARGET}", f"https://other.example{TARGET}", f"https://desk.example:444{TARGET}",
        f"{URL}/v1/jobs/?wait=5&q=a%2Fb", f"{URL}/v1/jobs", f"{URL}/v1/jobs?wait=6&q=a%2Fb", f"{URL}/v1/jobs?wait=5&q=a/b",
        f"{URL}/v1/jobs?wait=5&q=a%2fb", f"{URL}/v1/../v1/jobs?wait=5&q=a%2Fb", TARGET, f"{URL}{TARGET}&",
    ):  # fmt: skip
        with pytest.raises(Unauthorized) as told:
            await door.ask(sign(url=url))
        assert URL + TARGET in str(told.value)
        assert ONION + TARGET in str(told.value)


async def test_a_signature_for_something_else_is_no_credential(door: Door, sign: Sign) -> None:
    """Some agents and proxies sign all they send, by Web Bot Auth."""
    bot = [
        ("Signature-Input", 'b=("@authority");created=1;keyid="k_1";tag="web-bot-auth"'),
        ("Signature", "b=:aGk=:"),
    ]
    assert await door.ask(bot) is None
    for headers in ([*sign(), *bot], [*bot, *sign()]):
        assert await door.ask(headers)
    untagged = [(name, value.replace(';tag="web-bot-auth"', "")) for name, value in bot]
    with pytest.raises(Unauthorized):
        await door.ask(untagged)


async def test_no_header_says_what_the_url_is(door: Door, sign: Sign) -> None:
    for name in ("Host", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "X-Original-URL"):
        with pytest.raises(Unauthorized):
            await door.ask([*sign(url=f"https://other.example{TARGET}"), (name, "other.example")])
        assert await door.ask([*sign(), (name, "other.example")])


@pytest.mark.parametrize(
    "target", [TARGET, "/", "/v1/%6Aobs/..%2f?", "/v1/jobs?q=a+b%20&q&=%C3%A9", "//x/./y"]
)
async def test_the_url_is_the_one_of_the_first_line(door: Door, sign: Sign, target: str) -> None:
    """Through a real server: nothing on the way decodes, orders or joins."""
    heard: list[Caller | None] = []

    async def answer(request: web.Request) -> web.Response:
        heard.append(await authenticate(door.desk, request, await request.read()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/{tail:.*}", answer)
    async with TestServer(app) as server:
        lines = [
            f"POST {target} HTTP/1.1",
            "Host: other.example",
            f"Content-Length: {len(BODY)}",
            "Connection: close",
        ]
        lines += [f"{name}: {value}" for name, value in sign(url=URL + target)]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write("\r\n".join([*lines, "", ""]).encode() + BODY)
        said = await reader.read()
        writer.close()
    assert b" 200 " in said, said
    assert heard != [None]


async def test_a_first_line_with_a_whole_url(door: Door, sign: Sign) -> None:
    with pytest.raises(Unauthorized, match="path alone"):
        await door.ask(sign(), target=URL + TARGET)


async def test_another_method_or_body(door: Door, sign: Sign) -> None:
    for headers in (sign(method="GET"), sign(body=BODY + b" "), sign(body=b"")):
        with pytest.raises(Unauthorized):
            await door.ask(headers)


@pytest.mark.parametrize(("age", "said"), [(61, "61 s ago"), (-61, "61 s in the future")])
async def test_another_time(door: Door, sign: Sign, age: int, said: str) -> None:
    with pytest.raises(Unauthorized, match=said):
        await door.ask(sign(created_at=door.clock.now() - age))


async def test_two_credentials(door: Door) -> None:
    nostr, ed25519, session = door.nostr(), door.ed25519(), bearer(await door.token())
    for headers in (
        nostr + ed25519, nostr + session, session + nostr, session + ed25519, nostr + nostr, session + session,
        session + ed25519[1:2], session + ed25519[2:], [*nostr, ("Signature", "")],
    ):  # fmt: skip
        with pytest.raises(Unauthorized, match="more than one credential"):
            await door.ask(headers)
    for headers in (nostr, ed25519, session):
        assert await door.ask(headers)


async def test_a_field_that_came_twice_is_signed_as_one(door: Door) -> None:
    headers = door.ed25519()
    for name in ("Signature", "Signature-Input", "Content-Digest"):
        ((_, value),) = [pair for pair in headers if pair[0] == name]
        if name != "Content-Digest":
            with pytest.raises(Unauthorized):
                await door.ask([*headers, (name, value)])
        with pytest.raises(Unauthorized):
            await door.ask([*headers, (name, "x=:AAAA:")])
    assert await door.ask(headers)


async def test_what_is_no_credential(door: Door) -> None:
    for value in (
        "", " ", "Nostr", "Nostr ", "Nostr !", "Nostr e30=", "Nostr e30=, Nostr e30=", "Bearer", "Bearer ", "Bearer tpt_",
        "Bearer tpt_secret", "Bearer tpa_secret", "Bearer é", "Bearer " + "a" * 8000, "Basic dTpw", "Nostrx e30=", "e30=",
        "Bearer tpt_\udcff", "Nostr \udcff", "Nostr " + b64encode(b'{"kind":' * 700).decode(), "Token x", "\udcff",
    ):  # fmt: skip
        with pytest.raises(Unauthorized) as told:
            await door.ask([("Authorization", value)])
        assert "secret" not in str(told.value)


@pytest.mark.parametrize("names", [("Signature",), ("Signature-Input",), ("Signature", "Content-Digest")])
async def test_half_a_signature(door: Door, names: tuple[str, ...]) -> None:
    with pytest.raises(Unauthorized):
        await door.ask([pair for pair in door.ed25519() if pair[0] in names])


async def test_a_refusal_says_how_to_sign(door: Door) -> None:
    with pytest.raises(Unauthorized) as told:
        await door.ask([("Authorization", "Basic dTpw")])
    response: web.Response = problem_response(told.value)
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == "Nostr, Bearer"
    assert '"@target-uri"' in response.headers["Accept-Signature"]
