"""Agents that tradepost.yaml describes: what becomes of them, and what is said of a wrong file."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dvm import BadRequest, Job
from dvm.nip90 import parse_request
from dvm.runners.sandbox import check_sandbox
from identity import SecretKey, make_template, sign_event
from tradepost.declared import agents_of
from tradepost.errors import ConfigError
from tradepost.settings import Settings

if TYPE_CHECKING:
    from conftest import Cli

AGENTS = """\
agents:
  - name: Shouter
    about: Makes texts loud
    serves:
      - kind: text generation
        price_sat: 10
        about: Capitals
        run: {openai: "http://127.0.0.1:1/v1", model: small, system: Shout., max_tokens: 100}
      - kind: 5001
        run: {http: "http://127.0.0.1:1/work", seconds: 5}
      - kind: 5002
        run: {mcp: translate, argv: [./server.py], arguments: {language: de}}
"""


def agents_in(folder: Path, text: str) -> list[tuple[str, dict[int, int]]]:
    (folder / "tradepost.yaml").write_text(text)
    agents = agents_of(Settings.load(folder), folder)
    return [(a.name, {kind: c.price_sat for kind, c in a.capabilities.items()}) for a in agents]


def test_agents_need_no_python(tmp_path: Path) -> None:
    assert agents_in(tmp_path, AGENTS) == [("Shouter", {5050: 10, 5001: 0, 5002: 0})]
    (agent,) = agents_of(Settings.load(tmp_path), tmp_path)
    assert agent.about == "Makes texts loud"
    assert agent.capabilities[5050].about == "Capitals"


def test_kinds_of_ones_own_have_names_and_parameters(tmp_path: Path) -> None:
    text = (
        "agents: [{name: Bard, serves: [{kind: 5991, name: haiku, strict: true, run: {http: 'http://127.0.0.1:1/'}, params: "
        "{mood: {values: [glad, sad], required: true}, lines: {type: whole, min: 3, max: 9}, heat: {type: number}}}]}]"
    )
    (tmp_path / "tradepost.yaml").write_text(text)
    (agent,) = agents_of(Settings.load(tmp_path), tmp_path)
    capability = agent.capabilities[5991]
    assert capability.name == "haiku"
    good = {"mood": ("sad",), "lines": ("3",), "heat": ("-0.5",)}
    assert capability.schema.read(good) == good
    for name, value, told in (
        ("mood", "angry", "mood is 'angry'; allowed is one of glad, sad"),
        ("lines", "10", "allowed is a whole number from 3 to 9"),
        ("heat", "much", "allowed is a number"),
        ("rhyme", "no", "there is no parameter 'rhyme'; haiku takes mood, lines, heat"),
    ):
        with pytest.raises(BadRequest, match=told):
            capability.schema.read({**good, name: (value,)})
    with pytest.raises(BadRequest, match="the parameter mood is missing"):
        capability.schema.read({})


def test_agents_of_both_kinds_may_be_in_one_project(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(
        'import dvm\nagent = dvm.Agent("Coded")\nagent.serves(5002)(lambda job: "")\n'
    )
    assert [name for name, _ in agents_in(tmp_path, AGENTS)] == ["Coded", "Shouter"]
    with pytest.raises(ConfigError, match="same short name"):
        agents_in(tmp_path, AGENTS.replace("Shouter", "coded"))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("kind: 5001", "kind: 4000", "agents 1 (Shouter): kind 4000 is not in 5000–5999"),
        ("kind: 5001", "kind: shouting", "no kind of job is called 'shouting'"),
        ("kind: 5001", "kind: 5050", "serves kind 5050 already"),
        ("kind: 5001", "price_sat: 1", "agents 1, serves 2, kind: it is missing"),
        ("seconds: 5", "second: 5", "agents 1, serves 2, run.http.second: there is no such setting"),
        ("seconds: 5", "seconds: 0", "agents 1, serves 2, run.http.seconds: Input should be greater than 0"),
        (
            "seconds: 5",
            "command: [ls]",
            "agents 1, serves 2, run: expected exactly one of command, http, openai, mcp",
        ),
        ("http://127.0.0.1:1/work", "ftp://a.example", "an endpoint's address is http://host/"),
        ("argv: [./server.py], ", "", "agents 1 (Shouter): an MCP tool needs its name"),
        ("argv: [./server.py]", "argv: ./server.py", "argv: expected a list, like [one, two]"),
        ("price_sat: 10", "params: [tone]", "agents 1, serves 1, params: expected names and values"),
        (
            "price_sat: 10",
            "params: {tone: {type: loud}}",
            "agents 1, serves 1, params.tone.type: Input should be",
        ),
        (
            "price_sat: 10",
            "params: {n: {type: whole, min: 9, max: 3}}",
            "a min of 9, and that is more than its max",
        ),
        ("seconds: 5", "key: NO_SUCH_KEY", "the environment variable NO_SUCH_KEY is to have the key"),
    ],
)
def test_a_wrong_file_is_told_with_the_place(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        agents_in(tmp_path, AGENTS.replace(old, new))
    assert told in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'tradepost.yaml'}: ")


def test_up_does_not_start_where_the_work_could_not_be_done(home: Path, tmp_path: Path, cli: "Cli") -> None:
    text = "agents: [{name: Shouter, serves: [{kind: 5001, run: {http: 'http://127.0.0.1:1/work'}}]}]\n"
    (tmp_path / "tradepost.yaml").write_text(text)
    ran = cli("up", tmp_path)
    assert (ran.code, ran.out) == (1, "")
    told = ran.err.replace("\n", " ")
    assert "Shouter, summarisation (5001): http://127.0.0.1:1 cannot be reached (Connection refused)" in told
    assert not Settings.load(tmp_path).database.exists()  # nothing was opened


async def test_a_command_is_found_in_the_project(tmp_path: Path, sandbox: None) -> None:
    (tmp_path / "upper.sh").write_text("#!/bin/sh\necho LOUD > output.json\n")
    text = "agents: [{name: Sh, serves: [{kind: 5050, run: {command: [./upper.sh], memory_mb: 64}}]}]\n"
    with pytest.raises(ConfigError, match=r"run `chmod \+x` on it"):
        agents_in(tmp_path, text)
    (tmp_path / "upper.sh").chmod(0o755)
    agents_in(tmp_path, text)
    (agent,) = agents_of(Settings.load(tmp_path), tmp_path)
    request = sign_event(make_template(5050, tags=[("i", "x", "text")], created_at=1), SecretKey.generate())

    async def report(message: str, content: str) -> None: ...

    assert await agent.capabilities[5050].work(Job(parse_request(request), report)) == "LOUD\n"


def test_where_no_sandbox_can_be_had_nothing_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "agents: [{name: Sh, serves: [{kind: 5050, run: {command: [sh]}}]}]\n"
    check_sandbox.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"only in a sandbox, and .* is not installed; run `apt-get install"
    ):
        agents_in(tmp_path, text)
    for name in ("prlimit", "setpriv", "bwrap"):  # one that says no, as where namespaces are forbidden
        (tmp_path / name).write_text(
            "#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2\nexit 1\n"
        )
        (tmp_path / name).chmod(0o755)
    with pytest.raises(
        ConfigError, match=r"without it none is run: bwrap: setting up uid map: Permission denied"
    ):
        agents_in(tmp_path, text)
