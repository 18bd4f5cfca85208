"""Agents that `tradepost.yaml` describes, without Python: their names, what they serve, and what does the work.

Only what may be written there; `tradepost.declared` makes agents of it.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

AGENTS_MAX: Final = 100
PARAMS_MAX: Final = 100
Positive = Annotated[int, Field(gt=0, le=10**6)]
Text = Annotated[str, Field(min_length=1, max_length=10_000)]
Words = Annotated[tuple[Text, ...], Field(min_length=1, max_length=1000)]
Names = Annotated[tuple[Text, ...], Field(max_length=1000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunCommand(_Part):
    """A program in a sandbox; the defaults are `dvm.runners.SandboxLimits`."""

    command: Words
    files: Names = ()
    environment: Names = ()
    network: Names = ()
    seconds: Positive | None = None
    cpu_seconds: Positive | None = None
    memory_mb: Positive | None = None
    processes: Positive | None = None
    disk_mb: Positive | None = None


class RunHttp(_Part):
    """An HTTP API. `key` names the environment variable with its bearer key, here and below."""

    http: Text
    key: Text | None = None
    seconds: Positive = 60


class RunOpenai(_Part):
    """A model endpoint: its address up to /v1."""

    openai: Text
    model: Text
    key: Text | None = None
    system: str = ""
    max_tokens: Positive = 2048
    seconds: Positive = 120


class RunMcp(_Part):
    """A tool of an MCP server, at `url` or started by `argv`; the job's text is its argument `text`."""

    mcp: Text
    url: str = ""
    argv: Names = ()
    key: Text | None = None
    environment: Names = ()
    text: str = ""
    arguments: dict[str, Any] = {}
    seconds: Positive = 60


_RUNNERS: Final = {"command": RunCommand, "http": RunHttp, "openai": RunOpenai, "mcp": RunMcp}


def _runner(value: Any) -> str | None:
    """Which of them is meant: the one whose name is among the keys."""
    keys = value if isinstance(value, dict) else getattr(type(value), "model_fields", {})
    named = [name for name in _RUNNERS if name in keys]
    return named[0] if len(named) == 1 else None


Run = Annotated[
    Annotated[RunCommand, Tag("command")]
    | Annotated[RunHttp, Tag("http")]
    | Annotated[RunOpenai, Tag("openai")]
    | Annotated[RunMcp, Tag("mcp")],
    Discriminator(
        _runner,
        custom_error_type="runner",
        custom_error_message=f"expected exactly one of {', '.join(_RUNNERS)}",
    ),
]


class DeclaredParam(_Part):
    """A parameter of a job: `values` are all that are allowed, or it is a `text`, a `number` or a `whole` one."""

    about: str = ""
    values: Names = ()
    type: Literal["text", "number", "whole"] = "text"
    min: int | None = None
    max: int | None = None
    required: bool = False
    count_max: Positive = 1


class DeclaredCapability(_Part):
    """One kind of job: its number, or what it is called (`kind: translation`), or will be (`name`).

    `params` are parameters by name; `strict` refuses requests with others.
    """

    kind: int | str
    name: str = ""
    price_sat: Annotated[int, Field(ge=0)] = 0
    about: str = ""
    params: Annotated[dict[str, DeclaredParam], Field(max_length=PARAMS_MAX)] = {}
    strict: bool = False
    run: Run


class DeclaredAgent(_Part):
    """One agent, with a key of its own."""

    name: Text
    about: str = ""
    picture: str = ""
    nip05: str = ""
    serves: Annotated[tuple[DeclaredCapability, ...], Field(min_length=1)]
