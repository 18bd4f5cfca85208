"""What a person gets from `pip install tradepost`: the wheel, in an environment that has nothing else."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = {"store", "identity", "relay_bridge", "wallet", "storefront", "dvm", "tradepost"}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without this checkout on any path; returns what it printed."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
    run(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT, cwd=folder)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def empty_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new environment with the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        folder / "venv" / "bin" / "python",
    )
    run(*pip, "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel, cwd=folder)
    return folder / "venv" / "bin"


def test_the_wheel_holds_our_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES
    assert not [name for name in names if "test_" in name or "conftest" in name or "__pycache__" in name]
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)


def test_the_wheel_holds_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    migrations = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/migrations/*.sql")}
    assert migrations
    assert migrations <= names
    examples = {
        "struggle-for-existence.txt",
        "summariser/agent.py",
        "summariser/tradepost.yaml",
        "verify_receipt.py",
    }
    assert {f"tradepost/examples/{name}" for name in examples} == {
        name for name in names if name.startswith("tradepost/examples/")
    }
    assert "tradepost/data/mint-requirements.txt" in names


def test_the_command_runs_outside_of_the_checkout(empty_environment: Path, tmp_path: Path) -> None:
    command = empty_environment / "tradepost"
    assert PROJECT["version"] in run(command, "--version", cwd=tmp_path)
    help_text = run(command, "--help", cwd=tmp_path)
    for name in ("demo", "init", "up", "ask", "jobs", "job", "wallet", "key"):
        assert name in help_text
    assert list(tmp_path.iterdir()) == []


def test_a_project_can_be_begun_with_the_wheel_alone(empty_environment: Path, tmp_path: Path) -> None:
    run(empty_environment / "tradepost", "init", "shop", cwd=tmp_path)
    assert (tmp_path / "shop" / "tradepost.yaml").exists()


def test_no_other_distribution_owns_our_names(empty_environment: Path, tmp_path: Path) -> None:
    program = (
        "import importlib.metadata, json; print(json.dumps(importlib.metadata.packages_distributions()))"
    )
    owners = json.loads(run(empty_environment / "python", "-c", program, cwd=tmp_path))
    assert {name: owners[name] for name in PACKAGES} == {name: ["tradepost"] for name in PACKAGES}
    here = metadata.packages_distributions()  # with the tools for tests and checks beside it
    assert {owner for name in PACKAGES for owner in here.get(name, [])} <= {"tradepost"}
