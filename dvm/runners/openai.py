"""A model endpoint as an agent's work: the OpenAI chat completions API, which most model servers speak."""

import math
from typing import Any, Final

import msgspec

from dvm.agent import Job, Runner
from dvm.errors import JobFailed, RunnerUnusable
from dvm.runners.endpoint import endpoint
from dvm.schemas import Form, Others, Param, number

#: What a customer may set, by the API's name, and the values it takes.
_NUMBERS: Final = {
    "temperature": (0.0, 2.0), "top_p": (0.0, 1.0), "frequency_penalty": (-2.0, 2.0), "presence_penalty": (-2.0, 2.0),
}  # fmt: skip
_PARAMS: Final = (
    *(Param(name, form=number(least, most)) for name, (least, most) in _NUMBERS.items()),
    Param(
        "max_tokens",
        "how long the answer gets at most",
        form=Form("a whole number, 1 or more", number(1, 10**9).fits),
    ),
)


class _Message(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice]


def openai(
    url: str,
    model: str,
    *,
    key: str | None = None,
    system: str = "",
    max_tokens: int = 2048,
    seconds: int = 120,
) -> Runner:
    """Make a runner of `model` at `url` (up to /v1); `key` names the environment variable with the API key.

    The model gets `system`, if there is one, and the job's text; the customer may set sampling parameters, and fewer
    tokens than `max_tokens`. Raises `RunnerUnusable` for what cannot be used.
    """
    if not model or max_tokens < 1:
        raise RunnerUnusable("a model endpoint needs the name of a model, and at least one token")
    target = endpoint(f"{url.rstrip('/')}/chat/completions", key, seconds)
    instructions = [{"role": "system", "content": system}] if system else []

    async def work(job: Job) -> str:
        body: dict[str, Any] = {
            "model": model,
            "messages": [*instructions, {"role": "user", "content": job.text}],
            **chosen_parameters(job, max_tokens),
        }
        answer = await target.post(msgspec.json.encode(body), job.id)
        try:
            text = msgspec.json.decode(answer, type=_Completion).choices[0].message.content
        except (msgspec.DecodeError, IndexError):
            raise JobFailed("the agent's model gave no answer that can be read") from None
        if not text.strip():
            raise JobFailed("the agent's model gave an empty answer")
        return text

    async def check() -> tuple[()]:
        await target.check("GET", target.url.parent.parent / "models")
        return ()

    return Runner(
        work, what=f"model {model} at {target.where}", check=check, params=_PARAMS, others=Others.IGNORED
    )


def chosen_parameters(job: Job, max_tokens: int) -> dict[str, float | int]:
    """The request's parameters for the API. Raises `JobFailed` for values it does not take."""
    chosen: dict[str, float | int] = {"max_tokens": max_tokens}
    for name, (least, most) in _NUMBERS.items():
        if text := job.param(name):
            chosen[name] = _number(name, text, least, most)
    if tokens := job.param("max_tokens"):
        chosen["max_tokens"] = min(max_tokens, int(_number("max_tokens", tokens, 1, 10**9)))
    return chosen


def _number(name: str, text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise JobFailed(f"the parameter {name} is a number from {least} to {most}")
    return value
