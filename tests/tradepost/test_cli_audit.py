"""`tradepost audit`, `wallet sweep` and `wallet abandon`, on a mint that can be broken."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer

from tradepost.cli import wallet as wallet_module
from tradepost.testing import MemoryMint

if TYPE_CHECKING:
    from conftest import Cli


@pytest.fixture
def funded(memory_mint: MemoryMint, cli: "Cli", monkeypatch: pytest.MonkeyPatch) -> MemoryMint:
    """The mint, with 1000 sat of the post's own there."""
    say = wallet_module.print_text

    def pay(text: str) -> None:
        memory_mint.pay(text)
        say(text)

    monkeypatch.setattr(wallet_module, "print_text", pay)
    assert cli("wallet", "fund", 1000).code == 0
    return memory_mint


def test_right_books(funded: MemoryMint, cli: "Cli") -> None:
    ran = cli("audit")
    assert ran.code == 0
    assert [line.split() for line in ran.out.splitlines()] == [
        ["sat", "have,", "or", "gone", "came", "from"],
        [f"mint/{funded.url}", "1,000"],
        ["outside", "1,000"],
        ["together", "1,000", "1,000"],
    ]
    assert f"{funded.url}: 1000 sat in hand" in ran.err
    assert "the mint says that they are unspent" in ran.err
    assert "the books are right" in ran.err
    assert cli("audit", "--json").lines == [
        {"account": f"mint/{funded.url}", "msat": 1_000_000},
        {"account": "outside", "msat": -1_000_000},
        {
            "mint": funded.url, "in_hand_sat": 1000, "busy_sat": 0, "booked_msat": 1_000_000, "abandoned_msat": 0,
            "answer": "agrees",
        },
        {"ok": True, "problems": 0, "total_msat": 0},
    ]  # fmt: skip


def test_an_empty_post_has_right_books(home: Path, cli: "Cli") -> None:
    assert cli("audit", "--json").lines == [{"ok": True, "problems": 0, "total_msat": 0}]


def test_offline_asks_nobody(funded: MemoryMint, cli: "Cli") -> None:
    asked = funded.asked.total()
    assert cli("audit", "--offline").code == 0
    assert funded.asked.total() == asked


def test_wrong_books_are_named_and_told_by_the_exit_code(funded: MemoryMint, cli: "Cli", home: Path) -> None:
    with closing(sqlite3.connect(home / "post.sqlite")) as db:
        (y,) = db.execute("SELECT y FROM wallet_proofs WHERE amount = 512").fetchone()
        db.execute("DELETE FROM wallet_proofs WHERE amount = 512")
        db.commit()
    ran = cli("audit")
    assert ran.code == 1
    shown = " ".join(ran.err.split())
    assert f"488 sat in hand at {funded.url}, the books say 1000000 msat" in shown
    assert f"(coins {y[:12]}…)" in shown
    assert "`tradepost restore` its words into a new folder" in shown
    assert "the books are not right" in shown
    ran = cli("audit", "--json")
    assert ran.code == 1
    assert ran.lines[-1] == {"ok": False, "problems": 2, "total_msat": 0}
    assert [line["coins"] for line in ran.lines if "problem" in line] == [[], [y[:12]]]


def test_a_mint_that_is_away_is_at_risk_and_can_be_given_up(
    funded: MemoryMint, cli: "Cli", monkeypatch: pytest.MonkeyPatch
) -> None:
    funded.down = True
    ran = cli("audit")
    assert ran.code == 1
    assert f"`tradepost wallet abandon {funded.url}`" in " ".join(ran.err.split())
    asked: list[str] = []
    monkeypatch.setattr(typer, "confirm", lambda text, **_: asked.append(text))
    assert cli("wallet", "abandon", funded.url).out == (
        f"1000 sat at {funded.url} are written off; `tradepost audit` shows them as lost\n"
    )
    assert asked == [f"Write off all that is at {funded.url}, and use it no more?"]
    assert cli("wallet", "abandon", funded.url, "--yes", "--json").lines == [
        {"mint": funded.url, "lost_sat": 1000}
    ]
    ran = cli("audit")
    assert ran.code == 0
    assert "1000 sat written off" in " ".join(ran.err.split())
    assert "lost" in ran.out
    assert cli("wallet", "balance").out == "0 sat\n"
    funded.down = False
    assert cli("wallet", "send", 10).code == 0  # whatever moves money asks first whether it is back
    assert cli("audit").code == 0


def test_giving_up_is_asked_first(funded: MemoryMint, cli: "Cli", monkeypatch: pytest.MonkeyPatch) -> None:
    def no(_text: str, **_: bool) -> None:
        raise typer.Abort

    funded.down = True
    monkeypatch.setattr(typer, "confirm", no)
    assert cli("wallet", "abandon", funded.url).code == 130
    assert cli("wallet", "balance").out == "1000 sat\n"


def test_the_cap_refuses_and_a_sweep_makes_room(
    funded: MemoryMint, cli: "Cli", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEPOST_MINT_SAT_MAX", "600")
    ran = cli("wallet", "fund", 1, "--json")
    assert ran.code == 1
    assert '"action":"wait"' in ran.err
    assert "its cap of 600 sat" in ran.err
    assert "nowhere to send it" in cli("wallet", "sweep").err
    assert "take one over these" in " ".join(cli("wallet", "sweep", "--to", funded.invoice(401)).err.split())
    (swept,) = cli("wallet", "sweep", "--to", funded.invoice(400), "--json").lines
    assert (swept["mint"], swept["sent_sat"], swept["error"]) == (funded.url, 400, None)
    ran = cli("wallet", "sweep", "--to", funded.invoice(400))
    assert ran.code == 0
    assert "no mint holds so much" in ran.err
    assert cli("audit").code == 0


def test_a_cap_of_one_mint_and_an_address_that_does_not_answer(
    funded: MemoryMint, cli: "Cli", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADEPOST_MINT_SAT_MAX_OF", f'{{"{funded.url}/": 500}}')
    monkeypatch.setenv("TRADEPOST_SWEEP_TO", "me@nowhere.invalid")
    ran = cli("wallet", "sweep")
    assert ran.code == 1
    assert "nothing was sent" in ran.err
    assert cli("wallet", "balance").out == "1000 sat\n"
