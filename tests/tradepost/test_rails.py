"""Lightning by configuration: where the connection to a wallet is kept, and the commands that use the rails."""

from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from identity import SecretKey
from store import Database, SystemClock, load_migrations
from tradepost.doctor.finding import Level
from tradepost.doctor.probes import MintFacts
from tradepost.doctor.rails import judge_mint_rail
from tradepost.errors import ConfigError
from tradepost.rails import SalesRail, find_connection, open_lightning
from tradepost.settings import FILE, Settings
from tradepost.testing import MemoryMint
from wallet import MintUnavailable, Seed, Wallet
from wallet.mint import MintInfo
from wallet.rails import Wish

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli

SECRET = "5f" * 32
URI = (
    f"nostr+walletconnect://{SecretKey.generate().public_key}?relay=ws%3A%2F%2F127.0.0.1%3A1&secret={SECRET}"
)


def test_the_connection_is_kept_for_its_owner_alone(home: Path, cli: "Cli") -> None:
    with pytest.raises(ConfigError, match="no wallet is connected"):
        find_connection(Settings.load())
    ran = cli("wallet", "connect", URI)
    assert (ran.code, ran.out) == (0, "")
    assert SECRET not in ran.err
    assert "rails: [nwc]" in ran.err
    assert (home / "nwc").stat().st_mode & 0o777 == 0o600
    assert find_connection(Settings.load()).secret.to_bytes().hex() == SECRET
    (home / "nwc").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        find_connection(Settings.load())


def test_a_connection_that_is_none_is_refused_and_never_repeated(home: Path, cli: "Cli") -> None:
    ran = cli("wallet", "connect", URI.replace("walletconnect", "wallet"))
    assert ran.code == 1
    assert SECRET not in ran.err
    assert not (home / "nwc").exists()


def test_a_connection_in_the_file_that_is_shown_around_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_text(f"rails: [nwc]\nnwc: {URI}\n")
    settings = Settings.load(tmp_path)
    assert SECRET not in repr(settings)
    with pytest.raises(ConfigError, match="shown around") as refusal:
        find_connection(settings)
    assert SECRET not in str(refusal.value)
    monkeypatch.setenv("TRADEPOST_NWC", URI)
    assert find_connection(Settings.load(tmp_path)).relays == ("ws://127.0.0.1:1",)


def test_rails_are_named_in_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().rails == ("mint",)
    monkeypatch.setenv("TRADEPOST_RAILS", "nwc, mint nwc")
    assert Settings.load().rails == ("nwc", "mint")
    monkeypatch.setenv("TRADEPOST_RAILS", "lnd")
    with pytest.raises(ConfigError, match="there are mint and nwc"):
        Settings.load()


async def test_what_the_first_rail_cannot_do_the_second_does(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wallet that is down (nothing listens there) is not waited for where the mint can."""
    monkeypatch.setenv("TRADEPOST_NWC", URI)
    mint, clock = MemoryMint(), SystemClock()
    settings = Settings(mints=(mint.url,), data=tmp_path, rails=("nwc", "mint"))
    async with (
        await Database.open(tmp_path / "r.db", load_migrations("wallet")) as db,
        Wallet.open(db, Seed.generate(), clock=clock, mints=[mint.url], transport=mint.transport) as wallet,
        open_lightning(settings, db, wallet, clock) as lightning,
    ):
        assert [rail.name for rail in lightning.rails] == ["nwc", "mint"]
        assert (await lightning.make_invoice("a", Wish(21_000))).rail == "mint"


@pytest.mark.parametrize("for_play", [False, True])
async def test_a_mint_that_pays_its_own_invoices_makes_none_beside_coins(
    tmp_path: Path, for_play: bool
) -> None:
    mint, clock = MemoryMint(), SystemClock()
    mint.pays_itself = for_play
    async with (
        await Database.open(tmp_path / "r.db", load_migrations("wallet")) as db,
        Wallet.open(db, Seed.generate(), clock=clock, mints=[mint.url], transport=mint.transport) as wallet,
    ):
        rail = SalesRail(wallet, clock)
        mint.lose_answer("/v1/mint/quote")
        with pytest.raises(MintUnavailable):  # it is not known yet
            await rail.limits()
        for _ in range(2):
            limits = await rail.limits()
            assert (limits.makes, limits.pays, limits.pays_itself) == (True, True, for_play)
        assert limits.obstacle_to_make(Wish(21_000)) == ""
        beside = limits.obstacle_to_make(Wish(21_000, beside_coins=True))
        assert bool(beside) is for_play
        assert mint.asked["/v1/mint/quote/bolt11"] == 2
        await wallet.recover()
        assert await wallet.balance() == {}  # what it was tried with is nobody's


async def test_an_invoice_is_made_and_paid_from_the_terminal(configured: str, cli_beside: "AsyncCli") -> None:
    made = await cli_beside("wallet", "invoice", 40, "--text", "work", "--json")
    assert made.code == 0
    assert (made.lines[0]["rail"], made.lines[1]) == ("mint", {"state": "done", "amount_sat": 40})
    bill = MemoryMint(f"https://{uuid4()}.test").invoice(5)
    limited = await cli_beside("wallet", "pay", bill, "--fee-max", 0)
    assert limited.code == 1
    assert "nothing was paid" in limited.err
    paid = await cli_beside("wallet", "pay", bill, "--json")
    assert (paid.code, paid.lines[0]["amount_sat"], paid.lines[0]["rail"]) == (0, 5, "mint")
    again = await cli_beside("wallet", "pay", bill)
    assert again.code == 1
    assert "paid already" in again.err.replace("\n", " ")


def test_the_doctor_tells_what_a_mint_can_do_as_a_gateway() -> None:
    info = MintInfo(nuts={"4": {"disabled": False}, "5": {"disabled": True}})
    [finding] = judge_mint_rail([MintFacts("https://mint.test", info=info)])
    assert finding.level is Level.WARN
    assert "it makes invoices, without fractions of a sat" in finding.said
    assert judge_mint_rail([]) == judge_mint_rail([MintFacts("https://mint.test", error="away")]) == []
