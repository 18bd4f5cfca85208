"""The HTTP transport against a server that misbehaves, and the client against answers that are none."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from tradepost.testing.mint import MemoryMint
from wallet import mint as mint_module
from wallet.errors import MintError, MintUnavailable, UnknownMint
from wallet.mint import REQUESTS_AT_ONCE_MAX, BlindedMessage, HttpTransport, MintClient, normalise_mint_url

Serve = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[str]]
OUTPUT = BlindedMessage(amount=1, id="00" * 8, B_="02" + "11" * 32)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(handler)`: the URL of a server that answers everything by `handler`."""
    runners: list[web.AppRunner] = []

    async def start(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


async def ask(url: str, method: str = "GET", body: dict[str, Any] | None = None) -> Any:
    transport = HttpTransport(url)
    try:
        return await transport.request(method, "/v1/info", body)
    finally:
        await transport.close()


async def test_http_carries_json_both_ways(serve: Serve) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response(
            {"method": request.method, "path": request.path, "body": await request.json()}
        )

    answer = await ask(await serve(echo), "POST", {"a": [1]})
    assert answer == {"method": "POST", "path": "/v1/info", "body": {"a": [1]}}


async def test_a_mint_is_asked_a_few_things_at_once_and_a_payment_waits_for_none_of_them(
    serve: Serve,
) -> None:
    at_once = 0
    full, go_on = asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        nonlocal at_once
        if not request.path.endswith("melt/bolt11"):
            at_once += 1
            if at_once == REQUESTS_AT_ONCE_MAX:
                full.set()
            assert at_once <= REQUESTS_AT_ONCE_MAX
            await go_on.wait()
            at_once -= 1
        return web.json_response({})

    transport = HttpTransport(await serve(handler))
    async with asyncio.timeout(10):
        asking = [
            asyncio.ensure_future(transport.request("GET", "/v1/info"))
            for _ in range(2 * REQUESTS_AT_ONCE_MAX)
        ]
        await full.wait()
        assert await transport.request("POST", "/v1/melt/bolt11", {}) == {}
        go_on.set()
        assert await asyncio.gather(*asking) == [{}] * len(asking)
    await transport.close()


@pytest.mark.parametrize("status", [301, 408, 429, 500, 502, 503])
async def test_http_other_statuses_are_no_answer(serve: Serve, status: int) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.json_response({"detail": "x", "code": 1}, status=status, headers={"Location": "/v1/keys"})

    with pytest.raises(MintUnavailable, match=str(status)):
        await ask(await serve(handler))


@pytest.mark.parametrize("status", [200, 400, 404])
async def test_http_without_json_is_no_answer(serve: Serve, status: int) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(text="<html>", status=status)

    with pytest.raises(MintUnavailable, match="without JSON"):
        await ask(await serve(handler))


async def test_http_refusals_keep_no_secret(serve: Serve) -> None:
    secret = "ab" * 32

    async def handler(_request: web.Request) -> web.Response:
        return web.json_response({"detail": f"proof {secret} is spent", "code": 11001}, status=400)

    with pytest.raises(MintError) as caught:
        await ask(await serve(handler))
    assert caught.value.mint_code == 11001
    assert secret not in str(caught.value)
    assert "is spent" in str(caught.value)


@pytest.mark.parametrize("body", [{"detail": [{"input": "secret"}], "code": "x"}, {"detail": {"a": 1}}])
async def test_http_odd_refusals(serve: Serve, body: dict[str, Any]) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.json_response(body, status=422)

    with pytest.raises(MintError) as caught:
        await ask(await serve(handler))
    assert (caught.value.mint_code, caught.value.detail) == (0, "no reason given")


async def test_http_answers_are_limited(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mint_module, "ANSWER_BYTES_MAX", 1000)

    async def handler(_request: web.Request) -> web.Response:
        return web.json_response("x" * 2000)

    with pytest.raises(MintUnavailable, match="larger"):
        await ask(await serve(handler))


async def test_http_waits_no_longer_than_it_may(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mint_module, "REQUEST_SECONDS_MAX", 0.05)
    forever = asyncio.Event()

    async def handler(_request: web.Request) -> web.Response:
        await forever.wait()
        return web.Response()

    with pytest.raises(MintUnavailable, match=r"0\.05 s went by"):
        await ask(await serve(handler))
    forever.set()


async def test_http_nobody_there(free_port: int) -> None:
    with pytest.raises(MintUnavailable, match=r"no answer .* Connection refused; try again"):
        await ask(f"http://127.0.0.1:{free_port}")


async def test_http_connection_cut(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    with pytest.raises(MintUnavailable, match="no answer"):
        await ask(await serve(handler))


class Fixed:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return self.answer

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "answer",
    [None, 7, [], {}, "text", {"signatures": None}, {"signatures": [{}]}, {"signatures": []},
     {"signatures": [{"id": 1, "amount": "1", "C_": 2}]}],
)  # fmt: skip
async def test_rubbish_for_signatures(answer: Any) -> None:
    client = MintClient("https://m.test", Fixed(answer))
    for attempt in (client.swap([], [OUTPUT]), client.mint("q", [OUTPUT], "")):
        with pytest.raises(MintUnavailable, match="rubbish"):
            await attempt


@pytest.mark.parametrize(
    "answer",
    [
        {}, {"states": [], "outputs": [{"B_": OUTPUT.B_}], "signatures": []},
        {"states": [{"Y": "other", "state": "UNSPENT"}], "outputs": [{"B_": "other"}],
         "signatures": [{"id": "", "amount": 1, "C_": ""}]},
        {"states": [{"Y": "y", "state": "MAYBE"}], "outputs": [{}], "signatures": [{}]},
    ],
)  # fmt: skip
async def test_rubbish_for_states_and_restores(answer: Any) -> None:
    client = MintClient("https://m.test", Fixed(answer))
    with pytest.raises(MintUnavailable, match="rubbish"):
        await client.check_state(["y"])
    with pytest.raises(MintUnavailable, match="rubbish"):
        await client.restore([OUTPUT])


@pytest.mark.parametrize(
    "change",
    [{"quote": "../../v1/swap"}, {"quote": "a?b"}, {"quote": ""}, {"quote": 7}, {"amount": 99}, {"amount": -5},
     {"fee_reserve": -1}, {"state": "SOON"}],
)  # fmt: skip
async def test_rubbish_for_quotes(change: dict[str, Any]) -> None:
    good = {"quote": "q", "request": "lnbc", "amount": 10, "fee_reserve": 1, "state": "UNPAID"}
    client = MintClient("https://m.test", Fixed(good | change))
    if change.keys() & {"fee_reserve"} or change == {"amount": -5}:
        with pytest.raises(MintUnavailable, match="rubbish"):
            await client.melt_quote("lnbc")
    else:
        with pytest.raises(MintUnavailable, match="rubbish"):
            await client.mint_quote(10, "02")


@pytest.mark.parametrize(
    ("change", "ask"),
    [
        ({"expiry": 2**64 - 1}, lambda client: client.mint_quote(10, "02")),
        ({"expiry": -1}, lambda client: client.mint_quote_state("q")),
        ({"amount": 2**63}, lambda client: client.melt_quote("lnbc")),
        ({"change": [{"id": "a", "amount": 2**63, "C_": "02"}]}, lambda client: client.melt("q", [], [])),
    ],
)
async def test_numbers_that_the_database_cannot_hold_are_rubbish(
    change: dict[str, Any], ask: Callable[[MintClient], Awaitable[Any]]
) -> None:
    good = {"quote": "q", "request": "lnbc", "amount": 10, "fee_reserve": 1, "state": "UNPAID"}
    assert await ask(MintClient("https://m.test", Fixed(good)))
    with pytest.raises(MintUnavailable, match="rubbish"):
        await ask(MintClient("https://m.test", Fixed(good | change)))


async def test_answers_about_another_quote() -> None:
    good = {"quote": "other", "request": "lnbc", "amount": 10, "fee_reserve": 1, "state": "PAID"}
    client = MintClient("https://m.test", Fixed(good))
    for attempt in (client.mint_quote_state("q"), client.melt_quote_state("q"), client.melt("q", [], [])):
        with pytest.raises(MintUnavailable, match="another quote"):
            await attempt


@pytest.mark.parametrize("keys", [None, {}, {"1": "02"}, {"x": "02" + "11" * 32}])
async def test_rubbish_for_keys(keys: Any) -> None:
    client = MintClient("https://m.test", Fixed({"keysets": [{"id": "a", "keys": keys}]}))
    with pytest.raises(MintUnavailable, match="rubbish"):
        await client.keys("a")
    with pytest.raises(MintUnavailable, match="another keyset"):
        await client.keys("b")


async def test_many_coins_are_asked_for_in_batches(mint: MemoryMint) -> None:
    client = MintClient(mint.url, mint.transport(mint.url))
    ys = [f"{n:066x}" for n in range(250)]
    assert (await client.check_state(ys)).keys() == set(ys)
    assert mint.asked["/v1/checkstate"] == 3
    assert await client.check_state([]) == {}


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("https://Mint.Test/", "https://mint.test"),
        ("HTTPS://mint.test:443//", "https://mint.test"),
        ("http://127.0.0.1:3338", "http://127.0.0.1:3338"),
        ("http://mint.test:80/Bitcoin/", "http://mint.test/Bitcoin"),
        (" https://[::1]:99/ ", "https://[::1]:99"),
    ],
)
def test_normalised_urls(url: str, normal: str) -> None:
    assert normalise_mint_url(url) == normal
    assert normalise_mint_url(normal) == normal


@pytest.mark.parametrize(
    "url",
    ["", "mint.test", "ftp://mint.test", "https://", "https://u:p@mint.test", "https://mint.test?x=1",
     "https://mint.test#x", "https://mint.test:notaport", "https://[::1", "javascript:alert(1)", "https://mint.test/a b", "https://mint.test/\x0b/",
     "https://mint\t.test", "https://mint.test\\@other.test", "https://mint.test/\u2028x"],
)  # fmt: skip
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(UnknownMint):
        normalise_mint_url(url)
