"""HTTP and model endpoints as work, against real servers on loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web

from dvm import Job, JobFailed, JobTimeout
from dvm.errors import RunnerUnusable
from dvm.runners import http, openai

MakeJob = Callable[..., Job]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(handler: Handler, path: str = "/work", method: str = "POST") -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route(method, path, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answering(body: Any, status: int = 200, **more: Any) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, **more)

    return answer


async def test_an_http_api_gets_the_job_and_gives_the_answer(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "hunter2")
    seen: list[Any] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append((request.headers.get("Authorization"), await request.json()))
        return web.json_response({"content": "done"})

    async with serving(answer) as url:
        assert await http(f"{url}/work", key="API_KEY")(make_job("a text", ("param", "x", "1"))) == "done"
    ((authorization, body),) = seen
    assert authorization == "Bearer hunter2"
    assert (body["kind"], body["text"], body["params"]) == (5050, "a text", {"x": ["1"]})


async def test_what_an_endpoint_says_when_it_fails_is_not_told(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_KEY", "hunter2")
    for handler in (
        answering(b"a secret", 500),
        answering(b"a secret", 404),
        answering(b"", 302, headers={"Location": "http://127.0.0.1:1/"}),
    ):
        async with serving(handler) as url:
            with pytest.raises(JobFailed, match="refused or failed") as failure:
                await http(f"{url}/work?token=hunter2", key="API_KEY")(make_job())
        assert "secret" not in str(failure.value)
    with pytest.raises(JobFailed, match="cannot be reached"):
        await http(f"{url}/work", key="API_KEY")(make_job())
    printed = capsys.readouterr()
    assert "HTTP 500" in printed.out
    assert "hunter2" not in printed.out + printed.err


async def test_an_endless_answer_and_a_slow_one_end(make_job: MakeJob) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(bytes(100_000))
        return response

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"a")
        assert request.transport
        while not request.transport.is_closing():
            await asyncio.sleep(0.05)
        return response

    async with serving(endless) as url:
        with pytest.raises(JobFailed, match="longer than"):
            await http(f"{url}/work")(make_job())
    async with serving(drip) as url:
        with pytest.raises(JobTimeout):
            await http(f"{url}/work", seconds=1)(make_job())
    async with serving(answering(b"\x1f\x8b not gzip", headers={"Content-Encoding": "gzip"})) as url:
        with pytest.raises(JobFailed):
            await http(f"{url}/work")(make_job())
    async with serving(answering(b"")) as url:
        with pytest.raises(JobFailed, match="empty"):
            await http(f"{url}/work")(make_job())


def test_what_cannot_be_used_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH", raising=False)
    for url in ("ftp://a.example/", "a.example", "http://[", "https://me:hunter2@a.example/"):
        with pytest.raises(RunnerUnusable) as error:
            http(url)
        assert "hunter2" not in str(error.value)
    with pytest.raises(RunnerUnusable, match="NO_SUCH"):
        http("https://a.example/", key="NO_SUCH")
    with pytest.raises(RunnerUnusable, match="model"):
        openai("https://a.example/v1", "")


async def test_a_model_gets_the_text_and_the_parameters(make_job: MakeJob) -> None:
    seen: list[Any] = []

    async def complete(request: web.Request) -> web.StreamResponse:
        seen.append(await request.json())
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": "Hello"}}]})

    async with serving(complete, "/v1/chat/completions") as url:
        work = openai(f"{url}/v1", "small", system="Be brief.", max_tokens=100)
        tags = (("param", "temperature", "0.5"), ("param", "max_tokens", "9000"), ("param", "model", "dear"))
        assert await work(make_job("Hi", *tags)) == "Hello"
        with pytest.raises(JobFailed, match="temperature is a number"):
            await work(make_job("Hi", ("param", "temperature", "nan")))
    assert seen == [
        {
            "model": "small", "temperature": 0.5, "max_tokens": 100,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    "body", [b"no json", b"{}", b'{"choices":[]}', b'{"choices":[{"message":{"content":null}}]}']
)
async def test_a_model_that_answers_nothing_fails_the_job(make_job: MakeJob, body: bytes) -> None:
    async with serving(answering(body), "/chat/completions") as url:
        with pytest.raises(JobFailed, match="no answer"):
            await openai(url, "small")(make_job())
