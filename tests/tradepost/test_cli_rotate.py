"""`tradepost key rotate`: what it prints, what it refuses, and that agents and readers go by it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from identity import SecretKey, encode_npub, encode_nsec, nip49, read_key_file, write_key_file
from identity.rotation import ROTATION_NAME, parse_rotation
from relay_bridge import Filter, RelayPool
from store import SystemClock
from tradepost.post import open_post
from tradepost.settings import Settings

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli


@pytest.fixture
def on_relay(home: Path, relay_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TRADEPOST_RELAYS", relay_url)
    return relay_url


async def rotations(url: str) -> list[Any]:
    async with RelayPool([url], clock=SystemClock()) as pool:
        found = await pool.query([Filter(kinds=(78,), tags={"t": (ROTATION_NAME,)})], seconds_max=10)
    return [parse_rotation(event) for event in found]


async def test_a_key_is_handed_on_to_the_next_one_of_the_words(
    on_relay: str, home: Path, cli_beside: "AsyncCli"
) -> None:
    old = (await cli_beside("key", "new", "shop", "--json")).lines[0]["pubkey"]
    ran = await cli_beside("key", "rotate", "shop", "--json")
    assert ran.code == 0, ran.err
    assert ran.lines[0]["name"] == "shop"
    assert ran.lines[0]["kept"] == "bare"
    new = ran.lines[0]["pubkey"]
    (found,) = await rotations(on_relay)
    assert (found.old, found.new, found.log, found.by_both) == (old, new, old, True)
    shown = await cli_beside("key", "show", "shop")
    assert (shown.out.strip(), "not made of this post's words" in shown.err) == (encode_npub(str(new)), False)
    assert oct((home / "keys" / "retired" / f"{old}.nsec").stat().st_mode)[-3:] == "600"
    again = await cli_beside("key", "rotate", "shop", "--json")
    assert again.lines[0]["pubkey"] == new
    assert "less than an hour ago: nothing was done" in " ".join(again.err.split())
    assert len(await rotations(on_relay)) == 1


async def test_a_stolen_key_is_given_up_by_the_words_alone(
    on_relay: str, home: Path, cli_beside: "AsyncCli"
) -> None:
    first = await cli_beside("key", "new", "shop", "--json")
    await cli_beside("key", "rotate", "shop")
    stolen = (await cli_beside("key", "show", "shop", "--json")).lines[0]
    (home / "keys" / "shop.nsec").unlink()
    ran = await cli_beside("key", "rotate", "shop", "--lost", stolen["npub"], "--json")
    assert ran.code == 0, ran.err
    last = max(await rotations(on_relay), key=lambda found: found.head.size)
    assert (last.old, last.new, last.by_both) == (stolen["pubkey"], ran.lines[0]["pubkey"], False)
    assert last.log == first.lines[0]["pubkey"]


async def test_a_lost_key_is_not_given_up_in_the_name_of_another_agent(
    on_relay: str, home: Path, tmp_path: Path, cli_beside: "AsyncCli"
) -> None:
    """The new key would come into that one's place."""
    shop = (await cli_beside("key", "new", "shop", "--json")).lines[0]["npub"]
    await cli_beside("key", "new", "other")
    before = read_key_file(home / "keys" / "other.nsec")

    async def refused(name: str, lost: str) -> str:
        ran = await cli_beside("key", "rotate", name, "--lost", lost)
        assert (ran.code, ran.out) == (1, "")
        return " ".join(ran.err.split())

    for name in ("other", "shpo"):
        assert "is a key of shop" in await refused(name, shop)
    stranger = encode_npub(SecretKey.generate().public_key)
    assert "or move that file away first" in await refused("other", stranger)
    rotated = (await cli_beside("key", "rotate", "shop", "--json")).lines[0]["npub"]
    (home / "keys" / "shop.nsec").unlink()
    assert "`tradepost key rotate shop --lost" in await refused("other", rotated)
    assert read_key_file(home / "keys" / "other.nsec") == before
    assert not (home / "keys" / "shpo.nsec").exists()
    assert len(await rotations(on_relay)) == 1


async def test_an_encrypted_key_is_handed_on_and_the_new_one_is_told_to_be_bare(
    on_relay: str, home: Path, cli_beside: "AsyncCli", monkeypatch: pytest.MonkeyPatch
) -> None:
    real = nip49.encrypt
    monkeypatch.setattr(
        nip49, "encrypt", lambda key, password, **named: real(key, password, log_n=4, **named)
    )
    monkeypatch.setenv("TRADEPOST_PASSWORD", "open sesame")
    await cli_beside("key", "new", "shop", "--encrypt")
    ran = await cli_beside("key", "rotate", "shop")
    assert ran.code == 0, ran.err
    assert "it was encrypted and is bare now: `tradepost key encrypt shop`" in " ".join(ran.err.split())


async def test_a_key_from_a_file_is_gone_over_to(
    on_relay: str, home: Path, tmp_path: Path, cli_beside: "AsyncCli"
) -> None:
    mine = SecretKey.generate()
    write_key_file(tmp_path / "mine.nsec", mine)
    await cli_beside("key", "new", "shop")
    ran = await cli_beside("key", "rotate", "shop", "--to", tmp_path / "mine.nsec")
    assert (ran.code, ran.out.strip()) == (0, encode_npub(mine.public_key))
    assert read_key_file(home / "keys" / "shop.nsec") == mine
    assert "another key than its log named" in " ".join(ran.err.split())


async def test_while_up_runs_it_says_so(on_relay: str, cli_beside: "AsyncCli") -> None:
    await cli_beside("key", "new", "shop")
    async with open_post(Settings.load()):
        ran = await cli_beside("key", "rotate", "shop")
    assert ran.code == 1
    assert "is open in another process" in ran.err
    assert "stop that one first" in " ".join(ran.err.split())


def test_what_cannot_be_handed_on_is_refused(cli: "Cli", home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> str:
        ran = cli("key", "rotate", *arguments)
        assert (ran.code, ran.out) == (1, "")
        return " ".join(ran.err.split())

    assert "there is no key 'shop'" in refused("shop")
    assert not (home / "keys").exists()
    for name in ("customer", "arbiter"):
        assert f"the key of the {name} has no log" in refused(name)
    assert "is no short name" in refused("Shop")
    assert "npub" in refused("shop", "--lost", "nonsense")
    cli("key", "new", "shop")
    assert "no key file" in refused("shop", "--to", home / "nothing")
    monkeypatch.setenv("NOSTR_SECRET_KEY", encode_nsec(SecretKey.generate()))
    assert "signs with the key in NOSTR_SECRET_KEY" in refused("shop")


@pytest.mark.process
async def test_a_killed_rotation_is_ended_by_the_next(
    on_relay: str, home: Path, cli_beside: "AsyncCli", process: Callable[..., Any]
) -> None:
    """A real process, killed as soon as the new key waits in its file."""
    await cli_beside("key", "new", "shop")
    old = read_key_file(home / "keys" / "shop.nsec")
    running = process("-m", "tradepost", "key", "rotate", "shop", "--json")
    starting = asyncio.create_task(running.start())
    async with asyncio.timeout(30):
        while not list((home / "keys").glob("next/*.nsec")) and not starting.done():
            await asyncio.sleep(0)
    running._process.kill()
    await asyncio.gather(starting, return_exceptions=True)
    ran = await cli_beside("key", "rotate", "shop", "--json")
    assert ran.code == 0, ran.err
    now = read_key_file(home / "keys" / "shop.nsec")
    assert isinstance(now, SecretKey)
    assert now != old
    assert now.public_key == ran.lines[0]["pubkey"]
    assert [found.new for found in await rotations(on_relay)] == [now.public_key]
