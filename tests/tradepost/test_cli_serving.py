"""`tradepost relay` and `tradepost mint`: up until they are told to end, and the same again from the same folder."""

import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from identity import SecretKey, make_template, sign_event
from relay_bridge import Filter, RelayPool
from store import SystemClock
from tradepost.ports import choose_port

if TYPE_CHECKING:
    from conftest import AsyncCli, Cli

pytestmark = pytest.mark.process


@pytest.fixture
def serve(home: Path, process: Callable[..., Any], mint_python: Path) -> Callable[..., Any]:
    """A command as a process of its own that says one JSON line when it is ready."""
    return lambda *arguments: process(
        "-m", "tradepost", *map(str, arguments), "--json", TRADEPOST_MINT_PYTHON=str(mint_python)
    )


async def end(running: Any, number: signal.Signals) -> None:
    running._process.send_signal(number)
    assert await running.ended() == 0
    assert running.log.read_text() == ""


async def test_a_relay_keeps_its_events_and_its_port_in_a_folder(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    running = serve("relay", "--data", tmp_path / "events")
    url = json.loads(await running.start())["relay"]
    event = sign_event(make_template(1, content="kept", created_at=int(time.time())), SecretKey.generate())
    async with RelayPool([url], clock=SystemClock()) as pool:
        assert (await pool.publish(event))[url].accepted
    await end(running, signal.SIGINT)
    assert json.loads(await running.start())["relay"] == url
    async with RelayPool([url], clock=SystemClock()) as pool:
        assert await pool.query([Filter(ids=(event.id,))]) == [event]
    await end(running, signal.SIGTERM)


async def test_a_relay_in_memory_on_a_given_port(
    serve: Callable[..., Any], free_port: int, cli_beside: "AsyncCli"
) -> None:
    running = serve("relay", "--port", free_port)
    assert json.loads(await running.start()) == {"relay": f"ws://127.0.0.1:{free_port}", "data": None}
    taken = await cli_beside("relay", "--port", free_port)
    assert (taken.code, taken.out) == (1, "")
    assert f"port {free_port} is taken" in taken.err
    await end(running, signal.SIGTERM)


async def test_a_play_mint_says_so_and_its_ecash_is_good_after_a_restart(
    home: Path, process: Callable[..., Any], serve: Callable[..., Any], cli_beside: "AsyncCli", tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, mint_python: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("TRADEPOST_MINT_PYTHON", str(mint_python))
    running = process("-m", "tradepost", "mint", "--data", tmp_path / "mint")
    url = (await running.start()).strip()
    assert running.log.read_text().startswith("PLAY MONEY")
    monkeypatch.setenv("TRADEPOST_MINTS", url)
    assert (await cli_beside("wallet", "fund", 50)).code == 0
    token = (await cli_beside("wallet", "send", 20)).out.strip()
    running._process.send_signal(signal.SIGINT)
    assert await running.ended() == 0
    again = serve("mint", "--data", tmp_path / "mint")
    assert json.loads(await again.start()) == {
        "mint": url,
        "data": str(tmp_path / "mint"),
        "play_money": True,
    }
    assert (await cli_beside("wallet", "receive", token)).code == 0
    assert (
        f"port {url.rpartition(':')[2]} is taken"
        in (await cli_beside("mint", "--data", tmp_path / "mint")).err
    )
    await end(again, signal.SIGTERM)


def test_a_mint_that_cannot_start_is_told(cli: "Cli", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRADEPOST_MINT_PYTHON", "/no/such/python")
    ran = cli("mint")
    assert (ran.code, ran.out) == (1, "")
    assert "/no/such/python" in ran.err


# -- ports


def test_a_folder_remembers_its_port(tmp_path: Path) -> None:
    port = choose_port(folder=tmp_path / "new")
    assert choose_port(folder=tmp_path / "new") == port
    for rubbish in ("", "no port", "0", "65536", "9" * 99, "٣"):
        (tmp_path / "new" / "port").write_text(rubbish)
        assert choose_port(folder=tmp_path / "new") > 1024


def test_a_taken_port_and_one_that_is_not_ours(tmp_path: Path) -> None:
    from tradepost.errors import TradepostError

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        (tmp_path / "port").write_text(str(listener.getsockname()[1]))
        with pytest.raises(TradepostError, match="is taken"):
            choose_port(folder=tmp_path)
