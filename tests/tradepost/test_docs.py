"""`docs/cli.md` shows what the command really says."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer.main

from tradepost.cli import app
from tradepost.settings import Settings

if TYPE_CHECKING:
    from conftest import Cli

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```console\n\$ tradepost ([^\n]*)\n(.*?)```\n", PAGE, re.DOTALL))
HELP = [command for command in BLOCKS if command.endswith("--help")]


@pytest.mark.parametrize("command", HELP)
def test_the_help_on_the_page_is_the_help_of_the_command(command: str, cli: "Cli") -> None:
    assert cli(*command.split()).out == BLOCKS[command]


def test_every_command_and_setting_is_on_the_page() -> None:
    root = typer.main.get_command(app)
    names = {"--help"}
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        subs = getattr(command.load(), "commands", None)
        names |= {f"{name} {sub} --help" for sub in subs} if subs else {f"{name} --help"}
    assert names == set(HELP)
    for setting in Settings.model_fields:
        assert f"`{setting}`" in PAGE, setting


@pytest.mark.parametrize(
    "command", ["jobs", "wallet balance", "wallet fund 10", "ask npub1rubbish hello --kind 5001"]
)
def test_what_a_newcomer_sees_is_on_the_page(command: str, cli: "Cli") -> None:
    ran = cli(*command.split())
    assert ran.out + ran.err == BLOCKS[command]
