"""Swaps of our wallet at a real mint (nutshell), against the same requests, built ahead and replayed by a bare client.

Half of the swaps receive a token, half send one. Ours has everything in it: checks, derivation, coins, operations and
ledger on disk before and after; the questions of a wallet's first swap alone (keysets, counters) are asked before. The
other sends bytes and reads status codes; what it reaches is what the mint allows.
"""

import asyncio
import time
from functools import partial
from pathlib import Path

from bench.measure import ROUNDS, Bar, Figure, Pair, folder, line
from bench.parts.ecash import HoldingTransport, all_of, fresh_coins, new_wallet, replay
from bench.plot import bars
from tradepost.mint_process import MintProcess
from tradepost.mint_venv import mint_python
from wallet import Token, Wallet

SWAPS, PARALLEL = 200, 4  # with more at once nutshell waits for its own database, and slows
SEND_SAT = 30
ROUNDS_MAX = 5


def measure(rounds: int = ROUNDS, swaps: int = SWAPS) -> Figure:
    """So many swaps on each side of a round. A new wallet for each, and by turns: the mint slows as its books grow."""
    pairs = asyncio.run(_measure(min(rounds, ROUNDS_MAX), swaps // 2))
    ours, other = zip(*pairs, strict=True)
    return Figure(
        "ecash",
        "Swaps, against what the mint allows",
        (line(f"swaps per second, {PARALLEL} at once", "/s", pairs, Bar(0.9, at_least=True)),),
        {
            "ecash.svg": bars(
                "Swaps at one nutshell mint",
                "swaps per second",
                {f"{PARALLEL} at once": {"our wallet": ours, "prebuilt requests, replayed": other}},
            )
        },
    )


async def _measure(rounds: int, half: int) -> list[Pair]:
    with folder() as data:
        async with MintProcess(await mint_python(), data / "mint") as mint:
            pairs, sides = [], [_ours, _replayed]
            for _ in range(rounds + 1):
                rates = {side: await side(mint.url, data, half) for side in sides}
                pairs.append((rates[_ours], rates[_replayed]))
                sides.reverse()  # or the books would always be larger for the same one
            return pairs[1:]  # the first round warmed up


async def _ours(mint: str, data: Path, half: int) -> float:
    tokens = await fresh_coins(mint, half + 1)
    async with new_wallet(mint, data) as wallet:
        await wallet.receive(tokens.pop())
        started = time.perf_counter()
        await _receive(wallet, tokens)
        await _send(wallet, mint, half)
        return 2 * half / (time.perf_counter() - started)


async def _replayed(mint: str, data: Path, half: int) -> float:
    tokens = await fresh_coins(mint, 2 * half)
    transport = HoldingTransport(mint)
    async with new_wallet(mint, data, lambda _: transport) as wallet:
        await _receive(wallet, tokens[:half])  # coins to send
        transport.holds = True
        await _receive(wallet, tokens[half:])
        await _send(wallet, mint, half)
    assert len(transport.held) == 2 * half, len(transport.held)
    started = time.perf_counter()
    await replay(mint, transport.held[:half], PARALLEL)
    await replay(mint, transport.held[half:], PARALLEL)
    return 2 * half / (time.perf_counter() - started)


async def _receive(wallet: Wallet, tokens: list[Token]) -> None:
    await all_of((partial(wallet.receive, token) for token in tokens), PARALLEL)


async def _send(wallet: Wallet, mint: str, count: int) -> None:
    await all_of((partial(wallet.send, mint, SEND_SAT) for _ in range(count)), PARALLEL)
