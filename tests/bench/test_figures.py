"""Every figure runs: the measuring must not rot between two full runs. What it finds with so few rounds says nothing."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bench.figures import (
    FIGURES,
    agents,
    audit,
    commits,
    ecash,
    encryption,
    escrow,
    growth,
    http,
    ingestion,
    jobs,
    ledger,
    memory,
    receipts,
    relays,
)
from bench.measure import Figure
from bench.parts.escrow_swaps import LOCKED, PRICE_SAT
from wallet.selection import split_amount

ROOT = Path(__file__).parent.parent.parent


def check(figure: Figure, name: str, bars: int) -> None:
    assert figure.name == name
    assert FIGURES[name].__module__ == f"bench.figures.{name}"
    assert all(value > 0 for line in figure.lines for value in (*line.ours, *line.other, *line.ratios))
    assert sum(line.bar is not None for line in figure.lines) == bars


@pytest.mark.process
def test_jobs() -> None:
    # A job or ten cost less than one tick of the clock that counts CPU, so the lines about it may be zero.
    figure = jobs.measure(1, alone=60, many=60, window=30)
    check(figure, "jobs", bars=4)
    assert sorted(figure.plots) == ["jobs-cpu.svg", "jobs-latency.svg", "jobs-rate.svg"]


@pytest.mark.process
def test_ingestion() -> None:
    check(ingestion.measure(1, events=200), "ingestion", bars=2)


@pytest.mark.process
def test_memory() -> None:
    check(memory.measure(1, jobs=30, warm=10, step=10), "memory", bars=2)


@pytest.mark.process
def test_growth() -> None:
    figure = growth.measure(1, sizes=(200,), alone=60, many=60, idle_seconds=0)
    check(figure, "growth", bars=2)
    assert figure.notes[0].startswith("200 finished jobs")


@pytest.mark.process
def test_relays() -> None:
    figure = relays.measure(1, counts=(1, 3), alone=10, many=60, window=30, events=100)
    assert len(figure.lines) == 4
    assert sorted(figure.plots) == ["relays-events.svg", "relays-jobs.svg"]
    check(figure, "relays", bars=1)


@pytest.mark.process
def test_agents() -> None:
    figure = agents.measure(1, counts=(1, 3), alone=60, many=60, window=30)
    assert [line.what.partition(":")[0] for line in figure.lines] == ["3 agents"] * 3
    assert sorted(figure.plots) == ["agents-latency.svg", "agents-rate.svg"]
    check(figure, "agents", bars=0)


@pytest.mark.process
def test_ecash(mint_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEPOST_MINT_PYTHON", str(mint_python))
    check(ecash.measure(1, swaps=8), "ecash", bars=1)


@pytest.mark.process
def test_escrow(mint_python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEPOST_MINT_PYTHON", str(mint_python))
    figure = escrow.measure(1, jobs=3, warm_jobs=1)
    check(figure, "escrow", bars=1)
    # Both sides are compared for the same swaps; a mint that is slow may have refused one, which is then asked again.
    lock, redeem = len(LOCKED), len(split_amount(PRICE_SAT))
    assert f"swap 1 → {lock}: " in figure.notes[0]
    assert f"swap {lock} → {redeem}: " in figure.notes[0]
    assert figure.notes[0].count("swap ") == 2


def test_encryption() -> None:
    check(encryption.measure(1, count=8), "encryption", bars=0)


def test_commits() -> None:
    check(commits.measure(1, callers=8), "commits", bars=0)


def test_ledger() -> None:
    check(ledger.measure(1, postings=400), "ledger", bars=0)


def test_audit() -> None:
    check(audit.measure(1, jobs=50), "audit", bars=1)


@pytest.mark.process
def test_receipts() -> None:
    figure = receipts.measure(1, sizes=(1_000, 4_000))
    check(figure, "receipts", bars=9)
    assert sorted(figure.plots) == [
        f"receipts-{what}.svg" for what in ("appends", "proofs-disk", "proofs-memory")
    ]


def test_what_we_ship_does_without_pymerkle() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert not [name for name in project["project"]["dependencies"] if "pymerkle" in name]
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    files = [path for package in [*packages, "examples"] for path in (ROOT / package).rglob("*.py")]
    assert files
    assert not [path for path in files if "pymerkle" in path.read_text()]


@pytest.mark.process
def test_an_unknown_name_is_answered_with_the_names() -> None:
    environment = {**os.environ, "ONLY": "jbos"}
    ended = subprocess.run(
        [sys.executable, "-m", "bench"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.strip() == f"there is no figure 'jbos'; there are {', '.join(FIGURES)}"


@pytest.mark.process
def test_http() -> None:
    figure = http.measure(1, gets=40, listeners=20, events=2, stored=40, templates=2, asks=5, orders=1)
    check(figure, "http", bars=6)
