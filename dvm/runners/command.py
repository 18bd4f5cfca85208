"""A program as an agent's work: /task/input.json in, /task/output.json out, in a sandbox and nowhere else."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from dvm.agent import Job, Runner
from dvm.errors import JobFailed, RunnerUnusable
from dvm.runners.proxy import read_hosts
from dvm.runners.sandbox import PATH, Sandbox, SandboxLimits, check_sandbox
from dvm.runners.task import ANSWER_BYTES_MAX, read_answer, task_json

log = structlog.get_logger(__name__)

APP: Final = "/app"  # where the sandbox has the files of the project's folder
# What a post's keys and coins are in: no command sees it.
DATA: Final = ".tradepost"
DATABASE: Final = "post.sqlite"


def command(
    *argv: str,
    folder: Path | str = ".",
    files: Sequence[str] = (),
    environment: Sequence[str] = (),
    network: Sequence[str] = (),
    limits: SandboxLimits | None = None,
) -> Runner:
    """Make a runner of a program and its arguments.

    A program with a slash is a file below `folder`, any other one of the system. It sees that file, and those (or
    folders) that `files` names, read-only: below /app, or where they are if named by an absolute path. `environment`
    names the variables that it gets of ours, for instance an API key. `network` lists the hosts that it may reach, by
    the proxy that its environment names; without any it has no network.

    Raises `RunnerUnusable` if it cannot work: no sandbox here, no such program, file or variable.
    """
    if not argv or not argv[0]:
        raise RunnerUnusable("a command needs a program")
    base = Path(folder).resolve()
    binds = dict(_bind(base, name) for name in files)
    program = argv[0]
    if "/" in program and not program.startswith("/"):
        inner, outer = _bind(base, program)
        if not (outer.is_file() and os.access(outer, os.X_OK)):
            raise RunnerUnusable(f"{outer} is no program; run `chmod +x` on it if it is a script")
        if not any(Path(inner).is_relative_to(known) for known in binds):
            binds[inner] = outer
        program = inner
    elif "/" not in program and shutil.which(program, path=PATH) is None:
        raise RunnerUnusable(
            f"there is no program {program} in {PATH}, where a sandbox looks; install it, or write ./{program} for "
            "a file of the project"
        )
    elif program.startswith("/") and not (program.startswith(f"{APP}/") or Path(program).exists()):
        raise RunnerUnusable(f"there is no {program}")
    if missing := [name for name in environment if name not in os.environ]:
        raise RunnerUnusable(f"the environment variable {missing[0]}, which {argv[0]} is to get, is not set")
    hosts = read_hosts(network)
    check_sandbox()
    sandbox = Sandbox(
        argv=(program, *argv[1:]),
        limits=limits or SandboxLimits(),
        binds=binds,
        environment={name: os.environ[name] for name in environment},
        network=hosts,
        output_bytes_max=ANSWER_BYTES_MAX,
    )

    async def work(job: Job) -> str:
        outcome = await sandbox.run(task_json(job))
        if outcome.code:
            # What it said may hold what is for nobody else's eyes if the customer sent it encrypted.
            said = "" if job.private else outcome.last_line
            log.error("command_failed", job=job.id, program=argv[0], code=outcome.code, said=said)
            raise JobFailed("the agent failed on this job")
        return read_answer(outcome.output)

    async def check() -> tuple[()]:
        return ()  # all that can be told without a job was told

    return Runner(work, what=f"the command {argv[0]}", check=check)


def _bind(base: Path, name: str) -> tuple[str, Path]:
    """Where the sandbox has the file that `name` is, and the file. Raises `RunnerUnusable`."""
    given = Path(name)
    outer = (base / given).resolve()
    if not outer.exists():
        raise RunnerUnusable(f"there is no {base / given}")
    if not given.is_absolute() and (outer == base or not outer.is_relative_to(base)):
        raise RunnerUnusable(f"{name} is not below {base}; name it by its absolute path")
    if DATA in outer.parts or outer == Path("/") or _holds_post(outer):
        raise RunnerUnusable(f"{outer} holds the keys and coins of a post; name what the command needs of it")
    inner = given if given.is_absolute() else Path(APP) / os.path.normpath(given)
    return str(inner), outer


def _holds_post(folder: Path) -> bool:
    """Whether a post has its data in it, wherever."""
    return any(DATA in folders or DATABASE in files for _, folders, files in os.walk(folder))
