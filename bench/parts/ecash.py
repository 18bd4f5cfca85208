"""Parts of the ecash figure: coins made in one go, swap requests built ahead, a client that replays them."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from store import Database, SystemClock, load_migrations
from wallet import SAT, HttpTransport, MintTransport, Proof, Seed, Token, Wallet
from wallet.crypto import blind, unblind

COIN_SAT = 64


async def fresh_coins(mint: str, count: int, coin_sat: int = COIN_SAT) -> list[Token]:
    """So many tokens of one coin each, which no wallet has: one quote, paid by FakeWallet, and one issue."""
    transport = HttpTransport(mint)
    try:
        quote = await transport.request(
            "POST", "/v1/mint/quote/bolt11", {"amount": count * coin_sat, "unit": SAT}
        )
        keysets = (await transport.request("GET", "/v1/keys"))["keysets"]
        keyset = next(keyset for keyset in keysets if keyset["unit"] == SAT)
        made = [(secrets.token_hex(32), random_scalar()) for _ in range(count)]
        outputs = [{"amount": coin_sat, "id": keyset["id"], "B_": blind(secret, r)} for secret, r in made]
        state = f"/v1/mint/quote/bolt11/{quote['quote']}"
        while (await transport.request("GET", state))["state"] != "PAID":  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(0.05)
        issued = await transport.request(
            "POST", "/v1/mint/bolt11", {"quote": quote["quote"], "outputs": outputs}
        )
        key = keyset["keys"][str(coin_sat)]
        return [
            Token(mint, (Proof(coin_sat, keyset["id"], secret, unblind(signature["C_"], r, key)),))
            for (secret, r), signature in zip(made, issued["signatures"], strict=True)
        ]
    finally:
        await transport.close()


def random_scalar() -> bytes:
    """A blinding factor."""
    return secrets.token_bytes(31).rjust(32, b"\1")  # always below the group's order


class Held(Exception):  # noqa: N818 - nothing went wrong
    """The request was kept instead of sent."""


class HoldingTransport(HttpTransport):
    """Keeps swap requests from the moment `holds` is set, instead of sending them."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.holds = False
        self.held: list[bytes] = []

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        if self.holds and path == "/v1/swap":
            self.held.append(orjson.dumps(body))
            raise Held
        return await super().request(method, path, body)


@asynccontextmanager
async def new_wallet(
    mint: str, folder: Path, transport: Callable[[str], MintTransport] = HttpTransport
) -> AsyncIterator[Wallet]:
    """A wallet without coins."""
    async with (
        await Database.open(folder / f"{secrets.token_hex(8)}.sqlite", load_migrations("wallet")) as db,
        Wallet.open(db, Seed.generate(), clock=SystemClock(), mints=[mint], transport=transport) as wallet,
    ):
        yield wallet


async def all_of(steps: Iterable[Callable[[], Awaitable[object]]], parallel: int) -> None:
    """Take all steps, `parallel` of them at a time. Those that end in `Held` have done what they should."""
    waiting = iter(steps)

    async def work() -> None:
        for step in waiting:
            try:
                await step()
            except Held:
                continue

    async with asyncio.TaskGroup() as workers:
        for _ in range(parallel):
            workers.create_task(work())


async def replay(mint: str, bodies: Sequence[bytes], parallel: int) -> list[bytes]:
    """Send prebuilt swap requests until each is answered with signatures; returns the answers, in the same order.

    Nutshell refuses some swaps for the lock of its own database; as our wallet does, these are asked for again.
    """
    answers: dict[int, bytes] = {}
    async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:

        async def swap(number: int) -> None:
            while number not in answers:
                async with session.post(f"{mint}/v1/swap", data=bodies[number]) as response:
                    answer = await response.read()
                if response.status == 200:
                    answers[number] = answer
                else:
                    assert b"database lock" in answer, answer

        await all_of((partial(swap, number) for number in range(len(bodies))), parallel)
    return [answers[number] for number in range(len(bodies))]
