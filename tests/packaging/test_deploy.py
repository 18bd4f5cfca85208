"""The files that run a post name what there is: settings, commands, files, metrics, limits."""

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import typer.main
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from tradepost.cli import app
from tradepost.facade.running.metrics import Metrics
from tradepost.facade.web import sockets
from tradepost.facade.web.app import BODY_BYTES_MAX
from tradepost.facade.web.sockets import SocketLimits
from tradepost.settings import Settings
from tradepost.testing import Market

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
GUIDE = (ROOT / "docs" / "operating.md").read_text()
TEXTS = {path.name: path.read_text() for path in sorted(DEPLOY.iterdir()) if path.is_file()} | {
    "operating.md": GUIDE
}
#: What the environment may say besides settings, and what only the proxy reads.
OTHERS = {"LOG", "LOG_FORMAT", "DATA", "KEY", "NWC", "BACKUP_PASSWORD", "HOST", "UPSTREAM"}


def compose() -> dict[str, Any]:
    return dict(YAML(typ="safe").load(TEXTS["compose.yaml"]))


def unit() -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign] # names of directives have capitals
    parser.read_string(TEXTS["tradepost.service"])
    return parser


def steps(word: str) -> list[str]:
    """The arguments of one kind of instruction of the Containerfile."""
    text = TEXTS["Containerfile"].replace("\\\n", " ")
    return [
        line.removeprefix(f"{word} ").strip() for line in text.splitlines() if line.startswith(f"{word} ")
    ]


@pytest.mark.parametrize("name", TEXTS)
def test_every_variable_is_one_that_is_read(name: str) -> None:
    named = set(re.findall(r"TRADEPOST_([A-Z_]+)", TEXTS[name]))
    assert {variable for variable in named - OTHERS if variable.lower() not in Settings.model_fields} == set()


def test_every_setting_of_the_guide_is_one() -> None:
    manifest = re.search(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert manifest
    values = YAML(typ="safe").load(manifest[1])
    assert values.keys() <= Settings.model_fields.keys()
    Settings(**{name: value for name, value in values.items() if name != "operators"})
    tables = re.findall(r"\| `([a-z_]+)`(?:, `([a-z_]+)`)? \|$", GUIDE, re.MULTILINE)
    assert {name for row in tables for name in row if name} <= Settings.model_fields.keys() | {"fixed"}


def test_every_command_is_one() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    named = set(re.findall(r"(?:^|[ `/])tradepost ((?:[a-z]+)(?: [a-z]+)?)", GUIDE, re.MULTILINE))
    for words in named:
        first, *rest = words.split()
        assert first in commands, words
        subs = getattr(commands[first].load(), "commands", None)
        assert not (subs and rest) or rest[0] in subs, words
    assert unit()["Service"]["ExecStart"].split()[1:] == ["up", "--json"] == json.loads(steps("CMD")[-1])


def test_the_unit_gives_what_a_post_needs() -> None:
    service = unit()["Service"]
    assert service["KillSignal"] == "SIGTERM"
    assert int(service["LimitNOFILE"]) >= 2 * Settings().gateway_connections_max
    assert service["WorkingDirectory"].endswith(service["StateDirectory"])
    assert service["ProtectSystem"] == "strict"


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / "tradepost.service"
    copy.write_text(TEXTS["tradepost.service"].replace(unit()["Service"]["ExecStart"], "/bin/true"))
    ran = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, [line for line in ran.stderr.splitlines() if "tradepost" in line]) == (0, [])


def test_the_image_has_every_file_that_the_wheel_is_made_of() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *(Path(name).parts[0] for name in wheel["force-include"])}
    needed |= {
        "pyproject.toml",
        "constraints.txt",
        project["project"]["readme"],
        *project["project"]["license-files"],
    }
    copied = {
        Path(word).name for line in steps("COPY") if "--from" not in line for word in shlex.split(line)[:-1]
    }
    assert copied == needed
    low, high = re.findall(r"3\.(\d+)", project["project"]["requires-python"])
    for image in steps("FROM"):
        version = re.match(r"python:3\.(\d+)-slim", image)
        assert version
        assert int(low) <= int(version[1]) < int(high)
    assert steps("USER") == ["tradepost"]
    assert steps("EXPOSE") == [str(Settings().gateway_port)]


def test_the_parts_of_the_composition_fit() -> None:
    services = compose()["services"]
    post, proxy = services["tradepost"], services["proxy"]
    build = post["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Containerfile"
    environment = {
        name.removeprefix("TRADEPOST_").lower(): value for name, value in post["environment"].items()
    }
    Settings(**environment | {"gateway_url": "https://post.example"})
    assert environment["gateway_behind_proxy"] == "true"
    assert post["ports"] == [f"127.0.0.1:{environment['metrics_port']}:{environment['metrics_port']}"]
    assert proxy["environment"]["TRADEPOST_UPSTREAM"] == f"tradepost:{Settings().gateway_port}"
    assert post["volumes"] == ["./post:/post"]
    for mount in proxy["volumes"]:
        source = mount.split(":")[0]
        assert (DEPLOY / source).exists() or source in compose()["volumes"]


def test_the_proxy_lets_through_what_the_post_takes_and_holds_no_event_back() -> None:
    text = TEXTS["Caddyfile"]
    assert re.search(r"^\s*flush_interval -1$", text, re.MULTILINE)
    assert "encode" not in text
    sizes = {name: 1000 * int(kilobytes) for name, kilobytes in re.findall(r"max_(\w*size) (\d+)KB", text)}
    assert sizes["size"] >= BODY_BYTES_MAX
    assert sizes["header_size"] >= sockets.LINE_BYTES_MAX
    keepalive = re.search(r"keepalive (\d+)s", text)
    assert keepalive
    assert int(keepalive[1]) < SocketLimits().idle_seconds_max


def test_the_guide_tells_the_limits_as_they_are() -> None:
    limits = SocketLimits()
    told = (
        f"a head: {sockets.HEADERS_MAX} headers, 8 KB each, {limits.head_seconds_max:g} seconds; a body: "
        f"{BODY_BYTES_MAX // 1024} KB, {limits.body_seconds_max:g} seconds; silence: {limits.idle_seconds_max:g} seconds"
    )
    assert told in GUIDE


async def test_the_guide_has_every_metric_and_no_other() -> None:
    async with Market() as market:
        metrics = Metrics(await market.post("p"))
        metrics.answered("live", 200, 0.1)
        metrics.refused("too_many")
        _, page = await metrics.read()
    families = {family.name: family for family in text_string_to_metric_families(page.decode())}
    ours = {
        f"{name}_total" if family.type == "counter" else name: family
        for name, family in families.items()
        if name.startswith("tradepost_") and not name.endswith("_created")
    }
    rows = re.findall(r"^\| `(tradepost_\w+)` \| ([\w, ]*)\|", GUIDE, re.MULTILINE)
    assert {name for name, _ in rows} == ours.keys()
    for name, labels in rows:
        found = {label for sample in ours[name].samples for label in sample.labels} - {"le"}
        assert not found or found == set(labels.replace(",", " ").split()), name
    for name in set(re.findall(r"tradepost_[a-z_]+", GUIDE)) - ours.keys():
        assert name in ("tradepost_",), name
