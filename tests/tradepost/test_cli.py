"""The command itself: its help, its exit codes, and what it says to a person who made a mistake."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import typer.main

from identity import SecretKey, encode_nsec
from tradepost import cli as cli_package
from tradepost.cli.lazily import Later

if TYPE_CHECKING:
    from conftest import Cli

NPUB = "npub10xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqpkge6d"


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group, with the words that call it."""
    command = command or typer.main.get_command(cli_package.app)
    command = command.load() if isinstance(command, Later) else command
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, (*path, name))


ALL = dict(commands())


def tradepost(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The real thing, as a process of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([sys.executable, "-m", "tradepost", *map(str, arguments)], **pipes)


# -- help


def test_the_list_of_commands_says_what_the_commands_say_of_themselves() -> None:
    for later in typer.main.get_command(cli_package.app).commands.values():  # type: ignore[attr-defined]
        assert later.help == (later.load().help or "").split("\n")[0]


@pytest.mark.process
def test_help_and_mistakes_load_nothing_that_takes_time(home: Path) -> None:
    code = "import sys; from tradepost.cli import run; run([]); run(['--version']); run(['jbos'])"
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert "Did you mean" in ran.stderr
    loaded = set(ran.stdout.splitlines()[-1].split())
    assert not {"dvm", "wallet", "relay_bridge", "aiohttp", "nostr_sdk"} & loaded


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_fits_a_terminal_and_leaves_nothing_unsaid(path: tuple[str, ...], cli: "Cli") -> None:
    ran = cli(*path, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert max(map(len, ran.out.splitlines())) <= 80
    assert not path or "Example" in ran.out
    assert "..." not in ran.out.split("\n", 1)[1], "a command's first sentence is too long for the list"
    for parameter in ALL[path].params:
        assert parameter.help, parameter.name
    assert cli(*path, "-h").out == ran.out


def test_no_arguments_is_a_question_for_help(cli: "Cli") -> None:
    assert cli() == cli("--help")


def test_the_version(cli: "Cli") -> None:
    assert cli("--version").out.startswith("tradepost")


# -- mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bogus"], "'bogus'"),
        (["jbos"], "Did you mean 'jobs'"),
        (["wallet"], "`tradepost wallet --help`"),
        (["--bogus"], "--bogus"),
        (["ask"], "`tradepost ask --help`"),
        (["ask", NPUB, "text", "--lightning"], "--kind"),
        (["ask", "upper", "text", "--lightning"], "--kind"),
        (["ask", NPUB, "--kind", "5001"], "nothing to work on"),
        (["ask", NPUB, "--kind", "5001", "--input", "report.txt"], "url:https://…, event:ID"),
        (["ask", NPUB, "--kind", "5001", "--input", "url:report.txt"], "a URL begins with https://"),
        (["ask", NPUB, "--kind", "5001", "--input", "event:3f2a"], "64 hex digits"),
        (["ask", NPUB, "--kind", "5001", "--input", "job:report"], "64 hex digits"),
        (
            ["ask", NPUB, "text", "--kind", "5001", "--lightning", "--input", "text:x"],
            "its input is one text",
        ),
        (["ask", NPUB, "text", "--kind", "many"], "no kind of job is called 'many'"),
        (["ask", NPUB, "text", "--kind", "5001", "--max-sat", "-1"], "--max-sat"),
        (["ask", NPUB, "text", "--kind", "1"], "5000–5999"),
        (["ask", NPUB, "text", "--kind", "5128"], "not a job"),
        (["ask", "npub1rubbish", "text", "--kind", "5001"], "npub1…"),
        (["ask", NPUB, "text", "--kind", "5001", "--param", "target"], "name=value"),
        (["ask", NPUB, "@/no/such/file", "--kind", "5001"], "/no/such/file"),
        (["ask", NPUB, "@/dev", "--kind", "5001"], "directory"),
        (["demo", "--input", "/no/such/file"], "--input"),
        (["demo", "--input", "/dev/null"], "empty"),
        (["up", "/no/such/folder"], "tradepost init"),
        (["job", "abc"], "tradepost jobs"),
        (["jobs", "--limit", "0"], "--limit"),
        (["wallet", "fund", "0"], "equal to 1. See `tradepost wallet fund --help`"),
        (["wallet", "fund", "10"], "TRADEPOST_MINTS"),
        (["wallet", "send", "10"], "TRADEPOST_MINTS"),
        (["wallet", "pay", "lnbc1"], "not a Lightning invoice"),
        (["wallet", "receive", "rubbish"], "cashuA"),
        (["key", "show"], "tradepost key new"),
        (["key", "show", "../../../etc/passwd"], "short name"),
        (["key", "new", "Big Shop"], "short name"),
    ],
)
def test_a_mistake_is_told_in_a_sentence_on_stderr(arguments: list[str], said: str, cli: "Cli") -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err.replace("\n", " ")
    assert ran.err.startswith("error: ")
    told = cli(*arguments, "--json")
    if arguments != ["wallet"] and "--bogus" not in arguments:
        assert said in orjson.loads(told.err)["error"]
    assert (told.code, told.out) == (1, "")


def test_a_secret_key_given_for_a_public_one_is_not_repeated(cli: "Cli") -> None:
    nsec = encode_nsec(SecretKey.generate())
    ran = cli("ask", nsec, "text", "--kind", "5001")
    assert ran.code == 1
    assert "keep it to yourself" in ran.err
    assert nsec[5:] not in ran.err.replace("\n", "")


def test_markup_and_control_characters_are_shown_and_do_nothing(cli: "Cli") -> None:
    ran = cli("job", "[red]\x1b[2J")
    assert "[red]" in ran.err
    assert "\x1b" not in ran.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("relays: [wss://relay.test", "line 2"),
        ("relayz: []", "no such setting; did you mean relays?"),
        ("1: 2", "no such setting; there are relays, mints"),
        ("just words", "names and values"),
        ("relays: [https://relay.test]", "wss://"),
        ("mints: [mint.test]", "http(s)://"),
        ("relays: 7", "relays"),
        ("locktime_seconds: 10", "greater than 300"),
        ("job_seconds_max: soon", "job_seconds_max"),
    ],
)
def test_a_bad_configuration_is_named_with_its_file(text: str, said: str, cli: "Cli") -> None:
    Path("tradepost.yaml").write_text(text + "\n")
    ran = cli("jobs")
    assert ran.code == 1
    flat = ran.err.replace("\n", "")
    assert said.replace(" ", "") in flat.replace(" ", "")
    assert "tradepost.yaml" in flat


def test_a_folder_that_is_not_ours_is_an_error_like_others(
    cli: "Cli", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEPOST_HOME", "/proc/nowhere")
    ran = cli("settle")
    assert ran.code == 1
    assert "/proc/nowhere" in ran.err.replace("\n", "")


def test_no_relay_is_told_before_anything_is_asked(
    cli: "Cli", monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("TRADEPOST_RELAYS", f"ws://127.0.0.1:{free_port}")
    ran = cli("ask", NPUB, "text", "--kind", "5001")
    assert ran.code == 1
    assert "nothing was asked" in ran.err.replace("\n", " ")
    assert "TRADEPOST_RELAYS" in ran.err
    assert cli("jobs").out == ""


def test_an_unknown_log_level_is_refused(cli: "Cli", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEPOST_LOG", "loud")
    assert "debug, info, warning, error" in cli("jobs").err


# -- keys


def test_a_key_is_drawn_once_and_shown(cli: "Cli", home: Path) -> None:
    drawn = cli("key", "new", "shop", "--json")
    path = home / "keys" / "shop.nsec"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.name in drawn.err
    again = cli("key", "new", "shop")
    assert (again.code, again.out) == (1, "")
    assert "never overwritten" in again.err.replace("\n", " ")
    (key,) = drawn.lines
    assert cli("key", "show", "shop").out == f"{key['npub']}\n"
    assert cli("key", "show", "shop", "--json").lines == [key]
    secret = cli("key", "show", "shop", "--secret").out
    assert secret == path.read_text()
    assert cli("key", "show", "shop", "--secret", "--json").lines == [{**key, "nsec": secret.strip()}]


def test_a_key_that_others_can_read_is_refused(cli: "Cli", home: Path) -> None:
    cli("key", "new")
    (home / "keys" / "customer.nsec").chmod(0o644)
    ran = cli("key", "show")
    assert ran.code == 1
    assert "chmod 600" in ran.err.replace("\n", " ")


# -- as a process


@pytest.mark.process
def test_module_and_exit_codes(home: Path) -> None:
    with tradepost("key", "new", "--json") as process:
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert orjson.loads(out)["name"] == "customer"
        assert err.startswith("stored in ")
        assert err.count("\n") == 1  # a file is not a terminal: nothing is wrapped
    with tradepost("ask") as process:
        assert process.communicate(timeout=30)[0] == ""
        assert process.returncode == 1


@pytest.mark.process
def test_a_reader_that_leaves_early_is_no_error_to_shout_about(home: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with tradepost("key", "new", stdout=writer) as process:
        os.close(writer)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert (home / "keys" / "customer.nsec").exists()
