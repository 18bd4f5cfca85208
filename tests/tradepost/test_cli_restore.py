"""`tradepost restore`: where its words come from, and what it shows."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from identity import encode_npub
from wallet import Seed


def test_the_command_reads_words_from_stdin_and_a_file_and_never_shows_them(
    cli: Any, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRADEPOST_RELAYS", "ws://127.0.0.1:9")
    seed = Seed.generate()
    file = tmp_path / "words"
    file.write_text(seed.words.upper() + "\n")
    ran = cli("restore", "--words", file)
    assert ran.code == 0
    assert f"key customer: {encode_npub(seed.identity('customer').public_key)}" in ran.out
    assert "0 sat can be spent" in ran.out
    assert "--mint URL" in ran.err.replace("\n", " ")
    said = " ".join((ran.out + ran.err).split())
    assert not any(f"{one} {other}" in said for one, other in pairwise(seed.words.split()))
    assert (home / "seed").read_text().strip() == seed.words
    (told,) = cli("restore", "--agent", "shop", "--json").lines
    assert told["keys"][1]["public_key"] == seed.identity("shop").public_key  # type: ignore[index]
    assert "no short name" in cli("restore", "--agent", "Big Shop").err
    wrong = cli("restore", "--words", tmp_path / "none")
    assert (wrong.code, "--words" in wrong.err) == (1, True)
    file.write_text("one two three")
    assert "BIP-39" in cli("restore", "--words", file).err


def test_words_come_from_stdin_and_without_a_terminal_only_so(home: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "TRADEPOST_RELAYS": "ws://127.0.0.1:9"}
    seed = Seed.generate()

    def run(*options: str, words: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tradepost", "restore", *options], input=words, env=environment, text=True,
            capture_output=True, timeout=60, start_new_session=True, check=False,
        )  # fmt: skip

    asked = run()
    assert (asked.returncode, "--words -" in asked.stderr.replace("\n", " ")) == (1, True)
    ran = run("--words", "-", words=seed.words)
    assert ran.returncode == 0, ran.stderr
    assert (home / "seed").read_text().strip() == seed.words
