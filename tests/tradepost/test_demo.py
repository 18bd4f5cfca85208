"""The demo: the whole main job with real parts, within seconds, and books that balance."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Cli

pytestmark = pytest.mark.process
WARM_SECONDS_MAX = 30


@pytest.fixture(autouse=True)
def _installed_mint(home: Path, mint_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEPOST_MINT_PYTHON", str(mint_python))


def test_a_person_sees_each_step_and_a_summary(cli: "Cli") -> None:
    started = time.monotonic()
    ran = cli("demo")
    assert time.monotonic() - started < WARM_SECONDS_MAX
    assert ran.code == 0
    steps = [line for line in ran.err.splitlines() if line.startswith("✓")]
    for step, said in zip(
        steps, ("mint's software", "running", "100 sat", "open for business", "publishes a request", "offers", "locks",
                "checked the coins", "reading", "publishes the result", "it is paid", "asks again", "offers it sealed", "that only the key opens",
                "the result is open", "delivers another", "disputes",
                "rules for the customer", "reviews the first job", "a new root of it", "checks root and receipt"), strict=True,
    ):  # fmt: skip
        assert said in step
    summary = dict(line.rstrip().split("  ", 1) for line in ran.out.splitlines() if "  " in line[:15])
    assert len(summary["job"].split()[-1]) == 64  # the whole id, in 80 columns
    assert "by escrow, 21 sat: paid to the agent" in ran.out
    assert "by reveal, 21 sat: paid to the agent for its key" in ran.out
    assert "by escrow, 21 sat: refunded by the arbiter's ruling" in ran.out
    assert "every sat is accounted for" in ran.out
    checks = [line.strip() for line in ran.err.splitlines() if line.startswith("  ok ")]
    assert any("root" in line for line in checks)
    assert any("review" in line for line in checks)
    assert max(map(len, ran.out.splitlines())) <= 80


def test_a_persons_own_text_for_programs(cli: "Cli", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And whatever the person has configured for real plays no part in it."""
    for name, value in (("RELAYS", "wss://real.test"), ("MINTS", "https://real.test"), ("CODE", "mine.py")):
        monkeypatch.setenv(f"TRADEPOST_{name}", value)
    text = tmp_path / "mine.txt"
    text.write_text(
        "The relay carries the request to the agent. " * 30 + "The mint holds the coins of both. " * 30
    )
    ran = cli("demo", "--input", text, "--json")
    assert ran.code == 0, ran.err
    (report,) = ran.lines
    assert report["input_name"] == "mine.txt"
    assert report["result"]
    held = [report[name] for name in ("customer_sat", "agent_sat", "mint_fee_sat")]
    assert sum(map(int, map(str, held))) == report["funded_sat"] == 100


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty"), (b"x" * 48_001, "too large"), (b"\xff", "UTF-8")]
)
def test_a_text_that_will_not_do_is_refused_at_once(
    cli: "Cli", tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "text").write_bytes(content)
    ran = cli("demo", "--input", tmp_path / "text")
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err.replace("\n", " ")
