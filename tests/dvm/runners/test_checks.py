"""What is to do an agent's work, tried before anybody pays for it; and which parameters it turns out to take."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from dvm import Agent, BadRequest, Job, OrderFailed, Param
from dvm.agent import Runner
from dvm.errors import RunnerUnusable
from dvm.runners import command, http, mcp, openai
from dvm.runners.mcp_arguments import choose_arguments, parameters
from dvm.schemas import schema_of
from tests.dvm.runners.test_endpoints import answering, serving
from tradepost.doctor.agents import check_runners
from tradepost.doctor.finding import Level
from tradepost.testing import Market

ARGV = (sys.executable, str(Path(__file__).parent / "mcp_server.py"))


def agent_of(runner: Runner, kind: int = 5050, price_sat: int = 0, **more: object) -> Agent:
    agent = Agent("Tried")
    agent.serves(kind, price_sat, **more)(runner)  # type: ignore[arg-type]
    return agent


async def test_an_endpoint_that_answers_anything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(answering(b"")) as url:  # which is for POST alone
        await agent_of(http(f"{url}/work")).check()
        await agent_of(openai(f"{url}/v1", "small")).check()
        [finding] = await check_runners(agent_of(http(f"{url}/work?token=hunter2")))
    assert (finding.level, finding.said) == (
        Level.OK,
        f"Tried, text generation (5050): HTTP at {url} is there",
    )
    for runner in (http(f"{url}/work?token=hunter2"), openai(f"{url}/v1", "small")):
        with pytest.raises(
            RunnerUnusable,
            match=rf"^Tried, text generation \(5050\): {url} cannot be reached \(Connection refused\)",
        ) as told:
            await agent_of(runner).check()
        assert "hunter2" not in str(told.value)
    [finding] = await check_runners(agent_of(http(f"{url}/work")))
    assert finding.level is Level.FAIL
    assert "tradepost up" in finding.mend


async def test_a_key_that_a_model_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "hunter2")
    seen: list[str | None] = []

    async def models(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.Response(status=401)

    async with serving(models, "/v1/models", "GET") as url:
        with pytest.raises(RunnerUnusable, match="refuses the key"):
            await openai(f"{url}/v1", "small", key="API_KEY").check()
        with pytest.raises(RunnerUnusable, match="refuses work without a key: name the variable"):
            await openai(f"{url}/v1", "small").check()
    assert seen == ["Bearer hunter2", None]


async def test_an_mcp_tool_says_what_it_takes(capfd: pytest.CaptureFixture[str]) -> None:
    agent = agent_of(mcp("repeat", argv=ARGV), params=[Param("times", values=["2", "3"])])
    await agent.check()
    schema = agent.capabilities[5050].schema
    with pytest.raises(BadRequest, match="allowed is one of 2, 3"):  # the owner knows better
        schema.read({"times": ("4",)})
    assert schema.ignored({"tone": ("dry",)})
    for runner, told in (
        (
            mcp("repaet", argv=ARGV),
            "has no tool 'repaet', but environment, fail, much, repeat, sleep, two",
        ),
        (mcp("repeat", argv=["/no/such/program"]), r"cannot be reached \(.*No such file"),
        (
            mcp("repeat", argv=[sys.executable, "-c", "raise RuntimeError('no network')"]),
            "RuntimeError: no network",
        ),
        (mcp("repeat", url="http://127.0.0.1:1/mcp"), r"of http://127.0.0.1:1 cannot be reached"),
    ):
        with pytest.raises(RunnerUnusable, match=told):
            await runner.check()
    assert capfd.readouterr().err == ""  # no traceback of somebody else's program


def test_arguments_as_parameters() -> None:
    schema = {
        "required": ["text", "mood", "tags"],
        "properties": {
            "text": {"type": "string"}, "mood": {"type": "string", "enum": ["glad", "sad"], "description": "How"},
            "heat": {"type": "number"}, "loud": {"type": "boolean"}, "tags": {"type": "array"}, "any": True,
        },
    }  # fmt: skip
    found = parameters(schema, "text", {"tags": []})
    assert [(param.name, param.allowed.what, param.required) for param in found] == [
        ("any", "text", False), ("heat", "a number", False), ("loud", "one of true, false", False),
        ("mood", "one of glad, sad", True),
    ]  # fmt: skip
    with pytest.raises(
        RunnerUnusable, match="the tool needs tags, which no request can give: set it in `arguments`"
    ):
        parameters(schema, "text", {})
    with pytest.raises(
        RunnerUnusable, match="say which argument gets the job's text, as `text`: any, heat, loud"
    ):
        parameters(schema, "", {})
    with pytest.raises(BadRequest, match="allowed is a whole number"):
        parameters({"properties": {"times": {"type": "integer"}}}, "text", {})[0].check(["two"])


@pytest.mark.parametrize(
    ("wanted", "value", "fits"),
    [
        ("integer", "1700000000000", True), ("integer", "3.0", False), ("integer", "1" * 41, False),
        ("number", "512.0", True), ("number", ".5", True), ("number", "1e-3", True), ("number", "inf", False),
        ("number", "1e999", False), ("number", "nan", False), ("boolean", "True", True), ("boolean", "1", False),
    ],
)  # fmt: skip
def test_an_argument_is_checked_as_the_tool_gets_it(
    make_job: Callable[..., Job], wanted: str, value: str, fits: bool
) -> None:
    schema = {"required": ["text"], "properties": {"text": {"type": "string"}, "x": {"type": wanted}}}
    (param,) = parameters(schema, "", {})
    if not fits:
        with pytest.raises(BadRequest, match="the parameter x is"):
            param.check([value])
        return
    param.check([value])
    assert "x" in choose_arguments(schema, make_job("", ("param", "x", value)), "")


def test_arguments_that_differ_in_spelling_only_do_not_stop_an_agent() -> None:
    names = {"top_k": {"type": "integer"}, "topK": {"type": "integer"}}
    schema = {"required": ["text"], "properties": {"text": {"type": "string"}, **names}}
    found = schema_of(5050).with_params(parameters(schema, "", {}))
    assert found.read({"top_k": ("1",), "topK": ("2",)}) == {"top_k": ("1",), "topK": ("2",)}


def test_programs_that_are_not_there(sandbox: None) -> None:
    for program in ("no-such-program", "/usr/bin/no-such-program"):
        with pytest.raises(RunnerUnusable, match=f"there is no .*{program}"):
            command(program)


async def test_wrong_parameters_are_refused_before_an_offer_and_unknown_ones_told(market: Market) -> None:
    async with serving(
        answering(b'{"choices":[{"message":{"content":"Hello"}}]}'), "/v1/chat/completions"
    ) as url:
        agent = agent_of(openai(f"{url}/v1", "small"), kind=5001, price_sat=10)
        provider, customer = await market.open(agent), await market.customer(sat=50)
        wrong = await customer.ask(
            provider.public_key, "x", kind=5001, max_sat=10, params={"temperature": "hot"}
        )
        with pytest.raises(OrderFailed, match="temperature is 'hot'; allowed is a number from 0 to 2"):
            await wrong.result()
        assert [update.step async for update in wrong] == ["error"]
        good = await customer.ask(
            provider.public_key, "x", kind=5001, max_sat=10, params={"tone": "dry", "top-p": "1"}
        )
        assert await good.result() == "Hello"
        told = [update.message async for update in good if update.step == "working"]
    assert any(
        "ignored, as nothing here reads it: the parameter 'tone'; summarisation takes" in one for one in told
    )
