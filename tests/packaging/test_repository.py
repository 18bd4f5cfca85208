"""What must not be in the repository: registry addresses, paths of somebody's machine, secrets; and what pins are."""

import fnmatch
import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IGNORED = [line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split()]

REGISTRY = re.compile(
    r"files\.pythonhosted\.org|pypi\.org/simple|registry\.npmjs\.org|registry\.yarnpkg\.com|npmmirror|index-url|"
    r"[\w.-]*(?:artifactory|nexus|devpi|verdaccio)[\w.-]*\.\w+/|find-links"
)
MACHINE_PATH = re.compile(r"(?<![\w.$}~-])/(?:root|home|Users|work|mnt|opt|var/folders)/[\w.-]+")
SECRET_NAME = re.compile(
    r".*\.(nsec|pem|p12|key|db|sqlite3?|sqlite3-wal)|\.env|id_(rsa|ed25519)|.*seed.*\.txt"
)
SECRET_TEXT = re.compile(r"nsec1[02-9ac-hj-np-z]{58}|-----BEGIN [A-Z ]*PRIVATE KEY-----")


def committed() -> Iterator[Path]:
    """Every file that is or would be committed. Told by .gitignore, as a machine that only builds may have no git."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name != ".git" and not _ignored(name)]
        yield from (Path(folder, name) for name in files if not _ignored(name))


def _ignored(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in IGNORED)


def texts() -> Iterator[tuple[str, str]]:
    """Each committed text with its path, except this file, which names what it looks for."""
    for path in committed():
        if path != Path(__file__):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8", errors="replace")


def test_no_registry_address_is_committed() -> None:
    found = {name: sorted(set(REGISTRY.findall(text))) for name, text in texts()}
    assert {name: hits for name, hits in found.items() if hits} == {}
    assert not [
        path for path in committed() if path.name in ("uv.lock", "poetry.lock", "Pipfile.lock", "pdm.lock")
    ]


def test_no_path_of_a_machine_is_committed() -> None:
    found = {name: sorted(set(MACHINE_PATH.findall(text))) for name, text in texts()}
    assert {name: hits for name, hits in found.items() if hits} == {}


def test_no_secret_is_committed() -> None:
    assert [path.name for path in committed() if SECRET_NAME.fullmatch(path.name)] == []
    # Test vectors hold published keys; anywhere else a secret key is a mistake.
    assert [
        name for name, text in texts() if not name.startswith("tests/") and SECRET_TEXT.search(text)
    ] == []


@pytest.mark.parametrize("name", ["constraints.txt", "tradepost/data/mint-requirements.txt"])
def test_pins_are_exact(name: str) -> None:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+(; .+)?", line)] == []


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [
        name for extra in project["optional-dependencies"].values() for name in extra
    ]
    pinned = {_normal(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {_normal(re.split(r"[^\w.-]", name)[0]) for name in wanted} <= pinned


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_node_packages_are_pinned_without_an_address() -> None:
    folder = ROOT / "tests" / "interop"
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    assert [version for version in wanted.values() if not re.fullmatch(r"\d+\.\d+\.\d+", version)] == []
    locked = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert [name for name, package in locked.items() if "resolved" in package] == []
    assert [name for name, package in locked.items() if name and "integrity" not in package] == []
