"""Makes the agents of a project: those that its code makes, and those that its `tradepost.yaml` describes."""

from pathlib import Path
from typing import Final, assert_never

import dvm
from dvm.agent import Runner
from dvm.errors import RunnerUnusable
from dvm.runners import SandboxLimits, command, http, mcp, openai
from dvm.schemas import NUMBER, TEXT, WHOLE, Param, number, whole
from tradepost.errors import ConfigError
from tradepost.manifest import DeclaredAgent, DeclaredParam, Run, RunCommand, RunHttp, RunMcp, RunOpenai
from tradepost.project import check_agents, load_agents
from tradepost.settings import FILE, Settings

_FAR: Final = 10**12  # a bound that nobody set


def agents_of(settings: Settings, folder: Path) -> list[dvm.Agent]:
    """All agents of the project in `folder`; its code may be missing if the file describes some.

    Raises `ConfigError` naming what to mend, and where.
    """
    code = Path(settings.code)
    coded = load_agents(code) if code.exists() or not settings.agents else []
    agents = coded + [_agent(number, told, folder) for number, told in enumerate(settings.agents, 1)]
    check_agents(agents, folder / FILE)
    return agents


def _agent(number: int, told: DeclaredAgent, folder: Path) -> dvm.Agent:
    try:
        agent = dvm.Agent(told.name, about=told.about, picture=told.picture, nip05=told.nip05)
        for capability in told.serves:
            work = work_of(capability.run, folder)
            work.__doc__ = capability.about
            params = [_param(name, param) for name, param in capability.params.items()]
            agent.serves(
                capability.kind,
                capability.price_sat,
                name=capability.name,
                params=params,
                strict=capability.strict,
            )(work)
    except (ValueError, RunnerUnusable) as error:
        raise ConfigError(f"{folder / FILE}: agents {number} ({told.name}): {error}") from None
    return agent


def _param(name: str, told: DeclaredParam) -> Param:
    low = -_FAR if told.min is None else told.min
    high = _FAR if told.max is None else told.max
    if low > high:
        raise ValueError(f"the parameter {name} has a min of {low}, and that is more than its max, {high}")
    match told.type:
        case "text":
            form = TEXT
        case "whole":
            form = WHOLE if told.min is told.max is None else whole(low, high)
        case "number":
            form = NUMBER if told.min is told.max is None else number(low, high)
    return Param(name, told.about, told.values, form, required=told.required, count_max=told.count_max)


def work_of(run: Run, folder: Path) -> Runner:
    """What `run` describes, with the project in `folder`. Raises `RunnerUnusable`."""
    match run:
        case RunCommand():
            limits = run.model_dump(include=set(SandboxLimits.__dataclass_fields__), exclude_none=True)
            return command(
                *run.command,
                folder=folder, files=run.files, environment=run.environment,
                network=run.network, limits=SandboxLimits(**limits),
            )  # fmt: skip
        case RunHttp():
            return http(run.http, key=run.key, seconds=run.seconds)
        case RunOpenai():
            return openai(
                run.openai, run.model,
                key=run.key, system=run.system, max_tokens=run.max_tokens, seconds=run.seconds,
            )  # fmt: skip
        case RunMcp():
            return mcp(
                run.mcp,
                url=run.url, argv=run.argv, folder=folder, key=run.key, environment=run.environment,
                text=run.text, arguments=run.arguments, seconds=run.seconds,
            )  # fmt: skip
        case _:
            assert_never(run)
