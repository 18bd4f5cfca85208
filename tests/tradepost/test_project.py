"""Projects: `init` writes one that works and overwrites nothing, `up` finds its agents or says what is wrong."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pathspec
import pytest

import tradepost
from tradepost.errors import ConfigError, TradepostError
from tradepost.post import open_database
from tradepost.project import load_agents, make_project
from tradepost.settings import Settings

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A project's folder joins `sys.path` for good; here it leaves with the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def written(folder: Path, code: str) -> Path:
    path = folder / "agent.py"
    path.write_text(code)
    return path


def test_a_new_project_is_complete(home: Path, tmp_path: Path, cli: "Cli") -> None:
    ran = cli("init", tmp_path / "My Shop")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        str(tmp_path / "My Shop" / name) for name in ("tradepost.yaml", "agent.py", ".gitignore")
    ]
    assert f"`tradepost up '{tmp_path / 'My Shop'}'`" in ran.err  # to be copied as it is
    settings = Settings.load(tmp_path / "My Shop")
    (agent,) = load_agents(Path(settings.code))
    assert (agent.name, agent.slug) == ("My Shop", "my-shop")
    assert list(agent.capabilities) == [5001]
    assert cli("init", tmp_path / "two", "--json").lines == [
        {"folder": str(tmp_path / "two"), "files": ["tradepost.yaml", "agent.py", ".gitignore"]}
    ]


@pytest.mark.parametrize("name", ['say "hi"', "back\\slash", "店", "{name}", "…"])
def test_any_name_of_a_folder_makes_code_that_runs(home: Path, tmp_path: Path, name: str) -> None:
    make_project(tmp_path / name)
    (agent,) = load_agents(tmp_path / name / "agent.py")
    assert agent.slug


@pytest.mark.parametrize("name", ["tradepost.yaml", "agent.py", ".gitignore"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(TradepostError, match=f"already has {name}"):
        make_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, cli: "Cli") -> None:
    (tmp_path / "file").touch()
    ran = cli("init", tmp_path / "file")
    assert ran.code == 1
    assert "choose a new folder" in ran.err.replace("\n", " ")


async def test_git_never_sees_a_key(
    home: Path, tmp_path: Path, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    await cli_beside("init", tmp_path / "shop")
    monkeypatch.chdir(tmp_path / "shop")
    await cli_beside("key", "new", "shop")
    async with await open_database(Settings.load()):
        pass
    Path("backup.nsec").touch()
    files = {str(path) for path in Path().rglob("*") if path.is_file()}
    assert {Path(name).name for name in files} >= {"seed", "post.sqlite", "shop.nsec"}
    ignored = pathspec.GitIgnoreSpec.from_lines(Path(".gitignore").read_text().splitlines())
    seen = {name for name in files if not ignored.match_file(name)}
    assert seen == {".gitignore", "agent.py", "tradepost.yaml"}


def test_agents_are_found_in_order_and_once(home: Path, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("def reply(job): return 'hi'\n")
    path = written(
        tmp_path,
        "from neighbour import reply\n"
        "from tradepost import Agent\n"
        "one = Agent('One'); one.serves(5000)(reply)\n"
        "two = same = Agent('Two'); two.serves(5001)(reply)\n",
    )
    assert [agent.name for agent in load_agents(path)] == ["One", "Two"]


def test_an_agent_that_runs_itself_at_the_end_is_found_too(home: Path, tmp_path: Path) -> None:
    """As in the documentation: `agent.run()  # also: tradepost up`."""
    path = written(
        tmp_path,
        "from tradepost import Agent, Job\n"
        "agent = Agent('Shop')\n"
        "@agent.serves(kind=5001)\n"
        "async def work(job: Job) -> str: return job.text\n"
        "agent.run()\n",
    )
    assert [agent.name for agent in load_agents(path)] == ["Shop"]
    assert not tradepost.api.agents_are_loading.get()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def work(:\n    pass\n", "agent.py, line 1: invalid syntax"),
        (
            "import tradepost\n\n\ndef f():\n    1 / 0\n\n\nf()\n",
            "agent.py, line 5: ZeroDivisionError: division by zero",
        ),
        (
            "import no_such_module\n",
            "agent.py, line 1: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("import broken_neighbour\n", "broken_neighbour.py, line 2: "),
        ("raise SystemExit(3)\n", "agent.py, line 1: SystemExit: 3"),
        ("x = '\0'\n", "agent.py"),
        ("from tradepost import Agent\nAgent('!')\n", "agent.py, line 2: ValueError: an agent's name needs"),
        (
            "from tradepost import Agent\na = Agent('A')\na.serves(kind=1)\n",
            "agent.py, line 3: ValueError: kind 1 ",
        ),
        ("x = 1\n", 'agent.py makes no agent; write agent = Agent("name")'),
        ("from tradepost import Agent\na = Agent('A')\n", "A serves nothing"),
        (
            "from tradepost import Agent\na, b = Agent('A'), Agent('a')\na.serves(5001)(len)\nb.serves(5001)(len)\n",
            "same short name",
        ),
    ],
)
def test_code_that_makes_no_agents_is_told_with_file_and_line(
    home: Path, tmp_path: Path, cli: "Cli", code: str, said: str
) -> None:
    (tmp_path / "broken_neighbour.py").write_text("x = 1\ny = = 2\n")
    written(tmp_path, code)
    ran = cli("up", tmp_path, "--json")
    assert ran.code == 1
    assert said in ran.err.replace('\\"', '"')
    with pytest.raises(ConfigError):
        load_agents(tmp_path / "agent.py")


def test_a_price_without_a_mint_is_refused_before_opening(home: Path, tmp_path: Path, cli: "Cli") -> None:
    written(tmp_path, "from tradepost import Agent\na = Agent('A')\na.serves(5001, price_sat=1)(len)\n")
    ran = cli("up", tmp_path)
    assert ran.code == 1
    assert "knows no mint" in ran.err.replace("\n", " ")
    assert not home.exists()
