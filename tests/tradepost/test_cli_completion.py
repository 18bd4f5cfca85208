"""Tab: the script each shell gets, and what it is answered."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dvm import OrderState, queries
from dvm.queries import OrderRow
from identity import SecretKey, encode_npub, make_template, sign_event
from tradepost.post import open_database, own_key
from tradepost.settings import Settings

if TYPE_CHECKING:
    from conftest import Cli

Complete = Callable[..., list[str]]


@pytest.fixture
def ask(cli: "Cli", monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What the command answers a shell that asks by these variables; it says nothing else."""

    def answer(**variables: str) -> str:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            ran = cli()
        assert ran.err == ""
        return ran.out

    return answer


@pytest.fixture(params=["bash", "zsh", "fish"])
def complete(request: pytest.FixtureRequest, ask: Callable[..., str]) -> Complete:
    """The values offered for the last word, as the shell would ask for them and read them."""

    def bash(*words: str) -> list[str]:
        typed = " ".join(("tradepost", *words))
        return ask(_TRADEPOST_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(words))).split()

    def zsh(*words: str) -> list[str]:
        answer = ask(_TRADEPOST_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=" ".join(("tradepost", *words)))
        return [line.split('"')[1].replace("\\\\:", ":") for line in answer.splitlines() if '"' in line]

    def fish(*words: str) -> list[str]:
        typed = {
            "_TYPER_COMPLETE_ARGS": " ".join(("tradepost", *words)),
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }
        answer = ask(_TRADEPOST_COMPLETE="complete_fish", **typed)
        return [line.split("\t")[0] for line in answer.splitlines() if line]

    return {"bash": bash, "zsh": zsh, "fish": fish}[request.param]


async def order(agent: str) -> str:
    """An order in this post's database; returns its id."""
    now = int(time.time())
    event = sign_event(make_template(5001, created_at=now), SecretKey.generate())
    async with await open_database(Settings.load()) as db, db.transaction() as tx:
        row = OrderRow(
            id=event.id, customer=event.pubkey, provider=agent, kind=5001, state=OrderState.REQUESTED, max_sat=0,
            price_sat=0, mint=None, lock_nonce="00", locktime=None, op_id=None, refund_op_id=None, request=event,
            offer=None, result=None, reason="", deadline_at=now, version=0, created_at=now, updated_at=now,
        )  # fmt: skip
        await queries.insert_order(tx, row)
    return event.id


def test_commands_kinds_agents_jobs_mints_and_keys(
    complete: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = SecretKey.generate().public_key
    job_id = asyncio.run(order(agent))
    monkeypatch.setenv("TRADEPOST_MINTS", "https://mint.test")
    assert {"job", "jobs"} <= set(complete("jo"))
    assert complete("wallet", "ba") == ["balance"]
    assert complete("find", "summ") == ["summarisation"]
    assert complete("ask", "npub1") == [encode_npub(agent)]
    assert complete("ask", "x", "--kind", "590") == ["5900", "5901", "5905"]
    assert complete("job", "show", job_id[:2]) == [job_id[:12]]
    assert complete("wallet", "fund", "--mint", "h") == ["https://mint.test"]
    own_key(Settings.load(), "shop")
    assert complete("key", "show", "sh") == ["shop"]


def test_what_cannot_be_read_offers_nothing_and_says_nothing(complete: Complete, home: Path) -> None:
    Path("tradepost.yaml").write_text("relayz: [\n")
    assert complete("job", "show", "a") == []
    assert complete("wallet", "fund", "--mint", "h") == []
    assert complete("key", "show", "a") == []
    Path("tradepost.yaml").unlink()
    home.mkdir()
    (home / "post.sqlite").write_text("no database")
    assert complete("job", "show", "a") == []


def test_looking_makes_nothing(complete: Complete, home: Path) -> None:
    complete("job", "show", "a")
    complete("ask", "np")
    complete("key", "show", "a")
    assert not home.exists()


@pytest.mark.process
def test_bash_itself(home: Path, tmp_path: Path) -> None:
    """The script as installed, and a Tab pressed after `tradepost wall`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "tradepost").write_text(f'#!/bin/sh\nexec {sys.executable} -m tradepost "$@"\n')
    (folder / "tradepost").chmod(0o755)
    script = "source <(tradepost --show-completion); COMP_WORDS=(tradepost wall); COMP_CWORD=1; "
    script += '_tradepost_completion tradepost; echo "${COMPREPLY[@]}"; complete -p tradepost'
    path = f"{folder}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", script], check=False, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert (ran.stderr, ran.stdout.splitlines()[0]) == ("", "wallet")
    assert "-F _tradepost_completion tradepost" in ran.stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_are_well_formed(
    shell: str, ask: Callable[..., str], tmp_path: Path
) -> None:
    script = ask(_TRADEPOST_COMPLETE=f"source_{shell}")
    assert f"_TRADEPOST_COMPLETE=complete_{shell}" in script
    if shutil.which(shell):
        path = tmp_path / "script"
        path.write_text(script)
        assert subprocess.run([shell, "-n", path], capture_output=True, text=True, check=True).stderr == ""
