"""Agent projects on disk: making a new one, and finding the agents in its code."""

import importlib.util
import json
import re
import sys
import traceback
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Final

import dvm
from tradepost.api import agents_are_loading
from tradepost.errors import ConfigError, TradepostError
from tradepost.settings import DATA, FILE, PUBLIC_RELAYS

_MANIFEST: Final = """\
# The post that `tradepost up` runs in this folder. The environment wins over this file: TRADEPOST_RELAYS=…

# The file that makes the agent.
code: agent.py

# Where customers find it.
relays:
{relays}

# Mints whose ecash it takes. They hold its sats, so name only those you trust; without one it works for nothing.
mints: []
"""

_CODE: Final = '''\
"""An agent that does work for sats."""

from tradepost import Agent, Job

agent = Agent({name}, about="Counts the words of a text")


# Other kinds of jobs: 5002 translation, 5050 text generation, … A price needs a mint in tradepost.yaml.
@agent.serves(kind=5001, price_sat=0)
async def work(job: Job) -> str:
    await job.progress("counting")
    return f"{{len(job.text.split())}} words"


if __name__ == "__main__":
    agent.run()
'''

_IGNORE: Final = f"""\
# Keys, coins and the database: whoever has them is the agent.
{DATA}/
*.nsec
__pycache__/
"""


def make_project(folder: Path) -> list[Path]:
    """Write a manifest, code and a `.gitignore` into `folder`; returns the files.

    Raises `TradepostError` if one of them is there already; nothing is written then.
    """
    name = folder.absolute().name
    if not re.search("[A-Za-z0-9]", name):  # what an agent's short name is made of
        name = "agent"
    relays = "\n".join(f"  - {url}" for url in PUBLIC_RELAYS)
    files = {
        folder / FILE: _MANIFEST.format(relays=relays),
        folder / "agent.py": _CODE.format(name=json.dumps(name, ensure_ascii=False)),
        folder / ".gitignore": _IGNORE,
    }
    if taken := [path.name for path in files if path.exists()]:
        raise TradepostError(f"{folder} already has {', '.join(taken)}; choose a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise TradepostError(
            f"{error.filename} cannot be written: {error.strerror}; choose a new folder"
        ) from None
    return list(files)


def load_agents(path: Path) -> list[dvm.Agent]:
    """Run the Python file and return the agents it makes, in order; an `agent.run()` in it does nothing meanwhile.

    Raises `ConfigError` if there are none, or with the file and line at which the code fails.
    """
    if not path.is_file():
        raise ConfigError(
            f"there is no {path}; make a project with `tradepost init DIR`, or name its file as `code:`"
        )
    module = _run(path)
    agents = list(dict.fromkeys(value for value in vars(module).values() if isinstance(value, dvm.Agent)))
    if not agents:
        raise ConfigError(f'{path} makes no agent; write agent = Agent("name")')
    check_agents(agents, path)
    return agents


def check_agents(agents: Sequence[dvm.Agent], path: Path) -> None:
    """Raise `ConfigError` naming `path`, their file, if one of them serves nothing or two have one short name."""
    for agent in agents:
        if not agent.capabilities:
            raise ConfigError(
                f"{path}: {agent.name} serves nothing; decorate a function with @agent.serves(kind=…)"
            )
    slugs = [agent.slug for agent in agents]
    if len(set(slugs)) < len(slugs):
        raise ConfigError(f"{path}: two agents have the same short name; each needs a key of its own")


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_loader(
        "tradepost_project", SourceFileLoader("tradepost_project", str(path))
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # so that the code finds its own neighbours, as a script does
    sys.modules[spec.name] = module
    loading = agents_are_loading.set(True)
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except SyntaxError as error:
        place = f"{error.filename or path}, line {error.lineno}" if error.lineno else path
        raise ConfigError(f"{place}: {error.msg}") from error
    except BaseException as error:  # whatever the code does, sys.exit() included
        raise ConfigError(f"{_place(path, error)}: {type(error).__name__}: {error}") from error
    finally:
        agents_are_loading.reset(loading)
    return module


def _place(path: Path, error: BaseException) -> str:
    """The file and the last of its lines that led to `error`."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return f"{path}, line {lines[-1]}" if lines else str(path)
