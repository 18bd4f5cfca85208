"""Opening a post: alone, with a seed and keys that are drawn once and are for its owner's eyes only."""

import asyncio
import multiprocessing
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from relay_bridge import RelayPool
from store import SystemClock
from tradepost.errors import ConfigError, PostBusy
from tradepost.post import open_database, open_post, open_wallet, own_key, reach, read_seed, wallet_on
from tradepost.settings import Settings
from tradepost.testing import ManualClock, Market, MemoryMint, MemoryRelay
from wallet import Wallet


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(relays=("ws://relay.test",), mints=("https://mint.test",), data=home)


def test_the_seed_is_drawn_once_and_for_its_owner_only(settings: Settings) -> None:
    words = read_seed(settings).words
    assert settings.seed_file.read_text() == words + "\n"
    assert settings.seed_file.stat().st_mode & 0o777 == 0o600
    assert settings.data.stat().st_mode & 0o777 == 0o700
    assert read_seed(settings).words == words
    assert [path.name for path in settings.data.iterdir()] == ["seed"]


def test_a_crash_while_the_seed_is_written_leaves_none(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_descriptor: int) -> None:
        raise OSError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        with pytest.raises(OSError, match="power"):
            read_seed(settings)
    assert not settings.seed_file.exists()
    assert read_seed(settings).words == read_seed(settings).words


def _words(data: Path) -> str:
    return read_seed(Settings(data=data)).words


def test_processes_that_draw_at_the_same_time_agree(settings: Settings) -> None:
    """`wallet balance` does not wait for the post, so it may be there first, or at the same time."""
    with multiprocessing.get_context("spawn").Pool(4) as processes:
        assert len(set(processes.map(_words, [settings.data] * 8))) == 1


@pytest.mark.parametrize(("text", "said"), [("twelve words\n", "words"), ("\udcff", "words")])
def test_a_seed_that_is_none_is_never_replaced(settings: Settings, text: str, said: str) -> None:
    settings.data.mkdir()
    settings.seed_file.write_bytes(text.encode(errors="surrogateescape"))
    settings.seed_file.chmod(0o600)
    with pytest.raises(ConfigError, match=said) as error:
        read_seed(settings)
    assert str(settings.seed_file) in str(error.value)
    assert "twelve" not in str(error.value)
    assert settings.seed_file.read_bytes() == text.encode(errors="surrogateescape")


def test_a_seed_that_others_can_read_is_refused(settings: Settings) -> None:
    read_seed(settings)
    settings.seed_file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_seed(settings)


def test_a_key_is_drawn_once(settings: Settings) -> None:
    key = own_key(settings, "shop")
    assert own_key(settings, "shop").public_key == key.public_key
    assert settings.key_file("shop").stat().st_mode & 0o777 == 0o600
    assert own_key(settings, "other").public_key != key.public_key


def test_no_folder_is_open_to_others_whatever_is_made_first(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "share" / "post")
    own_key(settings, "shop")
    made = (settings.data.parent, settings.data, settings.data / "keys")
    assert [folder.stat().st_mode & 0o777 for folder in made] == [0o700] * 3


async def test_a_post_is_open_once_and_says_who_has_it(home: Path) -> None:
    async with Market(folder=home) as market:
        await market.post("shop")
        with pytest.raises(PostBusy, match=f"pid {os.getpid()}"):
            await market.post("shop")
        with pytest.raises(PostBusy):
            async with open_wallet(market.settings("shop")):
                pass
        settings = market.settings("shop")
        async with await open_database(settings) as db, wallet_on(settings, db) as wallet:
            assert await wallet.balance() == {}  # to look is allowed
    async with Market(folder=home) as market:
        await market.post("shop")  # it was closed


HOLDER = """
import sys
from pathlib import Path
from tradepost.post import _only_process
with _only_process(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.process
async def test_another_process_keeps_us_out_until_it_dies(settings: Settings) -> None:
    holder = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HOLDER,
        str(settings.data),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"open\n"
    with pytest.raises(PostBusy, match=f"pid {holder.pid}"):
        async with open_wallet(settings):
            pass
    holder.kill()
    await holder.wait()
    async with open_wallet(settings) as wallet:
        assert wallet.mints == ("https://mint.test",)


async def test_a_post_needs_a_relay(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="TRADEPOST_RELAYS"):
        async with open_post(settings.model_copy(update={"relays": ()})):
            pass


async def test_one_relay_is_enough_to_be_reached() -> None:
    clock, good, bad = SystemClock(), MemoryRelay(), MemoryRelay()
    bad.switches.down = True
    for relays, said in ((("a", "b"), ""), (("b", "b2"), "cannot connect")):
        connects = {"a": good.connect, "b": bad.connect, "b2": bad.connect}
        urls = [f"ws://{name}.test" for name in relays]
        async with RelayPool(urls, clock=clock, connect=lambda url: connects[url[5:-5]](url)) as pool:  # noqa: B023
            reason = await reach(pool)
            assert said in reason
            assert bool(reason) == bool(said)
            assert all(url in reason for url in urls) or not said


async def test_recovery_goes_on_after_whatever_stopped_it_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, say: money that an earlier process left under way is looked after once there is room again."""
    recover, again = Wallet.recover, asyncio.Event()
    errors = [sqlite3.OperationalError("database or disk is full")]

    async def once_in_vain(wallet: Wallet) -> list[str]:
        if errors:
            raise errors.pop()
        again.set()
        return await recover(wallet)

    monkeypatch.setattr(Wallet, "recover", once_in_vain)
    clock, relay = ManualClock(), MemoryRelay()
    async with open_post(settings, clock=clock, connect=relay.connect, transport=MemoryMint().transport):
        await clock.advance(61)
        await asyncio.wait_for(again.wait(), 10)
