"""The two examples of the documentation, run as they are written: an agent's file, and a customer's script."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from dvm import BadRequest
from tradepost import Customer
from tradepost.errors import ConfigError
from tradepost.settings import Settings

pytestmark = pytest.mark.process

AGENT = """
from tradepost import Agent, Job

agent = Agent("summariser", about="Shortens a text to its key sentences")

@agent.serves(kind=5001, price_sat=21)
async def summarise(job: Job) -> str:
    await job.progress("reading")
    return job.text.split(".")[0]

agent.run()          # also: tradepost up
"""

CUSTOMER = """
import asyncio, sys
from tradepost import Customer

async def main():
    async with Customer.open() as customer:
        order = await customer.ask(sys.argv[1], "A long text. And more.", kind=5001, max_sat=50)
        async for update in order:      # offer, paid, working, partial, result
            print(update)
        print(await order.result())

asyncio.run(main())
"""


async def start(script: Path, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, str(script), *arguments, cwd=script.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )  # fmt: skip


async def is_announced(relay_url: str) -> str:
    """Wait until an agent is announced on the relay; returns its key."""
    from relay_bridge import Filter, RelayPool
    from store import SystemClock

    found: asyncio.Queue[str] = asyncio.Queue()
    async with RelayPool([relay_url], clock=SystemClock()) as pool:
        await pool.subscribe([Filter(kinds=(31990,))], lambda event, _relay: found.put_nowait(event.pubkey))
        return await asyncio.wait_for(found.get(), 20)


@pytest.mark.parametrize("command", ["python agent.py", "tradepost up"])
async def test_the_examples_of_the_documentation(
    configured: str, relay_url: str, tmp_path: Path, command: str
) -> None:
    shop, home = tmp_path / "shop", tmp_path / "buyer"
    shop.mkdir()
    (shop / "agent.py").write_text(AGENT)
    (shop / "tradepost.yaml").write_text("code: agent.py\n")
    (tmp_path / "customer.py").write_text(CUSTOMER)
    up = tmp_path / "up.py"
    up.write_text(f"from tradepost.cli import run\nraise SystemExit(run(['up', {str(shop)!r}, '--json']))\n")
    funds = Settings(data=home, mints=(configured,))
    from tradepost.post import open_wallet

    async with open_wallet(funds) as wallet:
        quote = await wallet.mint_quote(configured, 100)
        while await wallet.claim(quote.id) is None:
            await asyncio.sleep(0.01)
    agent = await start(up if command == "tradepost up" else shop / "agent.py")
    try:
        provider = await is_announced(relay_url)
        customer = await start(tmp_path / "customer.py", provider, TRADEPOST_HOME=str(home))
        out, err = await asyncio.wait_for(customer.communicate(), 30)
        assert out.decode().splitlines() == [
            "offer: 21 sat", "paid: 21 sat", "working", "working: reading", "result: A long text", "A long text"
        ]  # fmt: skip
        assert (customer.returncode, err) == (0, b"")
    finally:
        agent.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(agent.communicate(), 30)
    assert agent.returncode == 0
    assert err == b""
    assert (out == b"") == (command != "tradepost up")
    assert (shop / ".tradepost" / "keys" / "summariser.nsec").exists()


async def test_an_agent_that_cannot_run_says_why(home: Path, tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    agent = await start(tmp_path / "agent.py")
    out, err = await asyncio.wait_for(agent.communicate(), 30)
    assert (agent.returncode, out) == (1, b"")
    assert err.startswith(b"error: the agent asks for money but knows no mint: name the mints")
    assert b"Traceback" not in err


async def test_a_library_writes_no_logs_to_stdout(
    configured: str, capsys: pytest.CaptureFixture[str]
) -> None:
    structlog.reset_defaults()  # as an application has it that configured nothing
    async with Customer.open() as customer:
        structlog.get_logger("dvm").warning("something_odd")
        with pytest.raises(BadRequest):
            await customer.ask("ab" * 32, "text", kind=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "something_odd" in err


async def test_customer_open_takes_a_folder_and_says_what_is_wrong_with_it(
    configured: str, tmp_path: Path
) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "tradepost.yaml").write_text("code: agent.py\n")
    async with Customer.open(shop):
        assert (shop / ".tradepost" / "keys" / "customer.nsec").exists()
    (shop / "tradepost.yaml").write_text("colour: red\n")
    with pytest.raises(ConfigError, match="no such setting"):
        async with Customer.open(shop):
            pass
