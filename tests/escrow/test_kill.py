"""Real processes that are killed by SIGKILL right after a write or an outside call, with a real relay and a real mint.

Each party lives a chain of lives: it dies at a point that a seed draws, is started again, takes up what it left, dies at
another. In the end all jobs have ended, and the books of all three and of the mint agree on every sat.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tradepost.post import open_database, own_key, wallet_on
from tradepost.settings import Settings

pytestmark = pytest.mark.process

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PARTIES = ("customer", "provider", "arbiter")
FUNDED_SAT = 5000
POINTS = {"customer": 60, "provider": 60, "arbiter": 30}  # of a life: later ones are like earlier ones
DEATHS = {"customer": 10, "provider": 12, "arbiter": 8}
SECONDS_MAX = float(os.environ.get("TRADEPOST_KILL_SECONDS", "210"))


def drawn_deaths() -> dict[str, list[int]]:
    """At which points each party's lives end: all there are with TRADEPOST_KILLS=all, else some, by a seed."""
    if os.environ.get("TRADEPOST_KILLS") == "all":
        return {name: list(range(POINTS[name])) for name in PARTIES}
    seed = int(os.environ.get("TRADEPOST_KILL_SEED", time.time()))
    print(f"TRADEPOST_KILL_SEED={seed}")
    draw = random.Random(seed)
    return {name: draw.sample(range(POINTS[name]), DEATHS[name]) for name in PARTIES}


async def test_every_sat_is_there_after_many_a_sigkill(
    process: Any, free_port: int, mint_url: str, fund: Callable[[Path], Awaitable[None]], tmp_path: Path
) -> None:
    relay = process(HERE.parent / "processes" / "relay.py", str(free_port), tmp_path / "relay")
    await relay.start()
    await fund(tmp_path / "customer")
    await fund(tmp_path / "provider")  # so that it can probe the mint, and send back what it owes
    url = f"ws://127.0.0.1:{free_port}"
    settings = {name: Settings(relays=(url,), mints=(mint_url,), data=tmp_path / name) for name in PARTIES}
    keys = json.dumps({name: own_key(settings[name], name).public_key for name in PARTIES})
    stop, deaths = tmp_path / "stop", drawn_deaths()

    async def begin(name: str, dies_at: int) -> asyncio.subprocess.Process:
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "TRADEPOST_DATA": str(settings[name].data), "TRADEPOST_RELAYS": url,
            "TRADEPOST_MINTS": mint_url, "KEYS": keys, "DIE_AT": str(dies_at),
        }  # fmt: skip
        with (tmp_path / f"{name}.log").open("ab") as log:
            begun = await asyncio.create_subprocess_exec(
                sys.executable,
                str(HERE / "party.py"),
                name,
                str(stop),
                env=environment,
                stdout=log,
                stderr=log,
            )
        alive.append(begun)
        return begun

    async def lives(name: str) -> asyncio.subprocess.Process:
        for dies_at in deaths[name]:
            code = await (await begin(name, dies_at)).wait()
            assert code == -signal.SIGKILL, (
                f"{name}, at {dies_at}: {(tmp_path / f'{name}.log').read_text()[-2000:]}"
            )
        return await begin(name, -1)

    alive: list[asyncio.subprocess.Process] = []
    try:
        async with asyncio.timeout(SECONDS_MAX):
            customer, _, _ = await asyncio.gather(*map(lives, PARTIES))
            stop.touch()
            assert await customer.wait() == 0, (tmp_path / "customer.log").read_text()[-2000:]
    finally:
        for one in alive:
            if one.returncode is None:
                one.kill()
                await one.wait()

    has, fees = 0, 0
    for name in PARTIES:
        async with await open_database(settings[name]) as db, wallet_on(settings[name], db) as wallet:
            report = await wallet.audit(ask_mints=True)
            assert report.ok, report.problems
            has += sum((await wallet.balance()).values())
            fees += report.accounts.get("fees/mint", 0) // 1000
            assert not await db.all("SELECT 1 FROM wallet_operations WHERE state = 'open'")
            stages = await db.all(
                "SELECT terms ->> 'method' AS method, stage, COUNT(*) AS n FROM escrows WHERE role = ? GROUP BY 1, 2",
                name,
            )
            print(name, *(f"{row['method']}: {row['n']} {row['stage']}" for row in stages), sep=", ")
    assert has + fees == 2 * FUNDED_SAT
