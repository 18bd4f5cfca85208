"""What stands between a party and what is outside: lines to the mint and to its Lightning wallet, in all weathers."""

import asyncio
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from soak.life import Life
from tradepost.testing.lightning import MemoryRail
from wallet import MintError, MintUnavailable
from wallet.errors import RailUnavailable
from wallet.rails import Made, Payment, RailLimits, Seen, Sent, Verdict, Wish

if TYPE_CHECKING:
    from soak.world import World

FLIGHT_SECONDS_MAX: Final = 90  # of a Lightning payment that does not arrive at once
ARRIVES: Final = 0.7  # of those
T = TypeVar("T")


@dataclass
class Weather:
    """What goes wrong with mint, Lightning and relays. Shares of requests, seconds."""

    lost_requests: float = 0.0
    lost_answers: float = 0.0
    lies: float = 0.0  # answers of the mint that say no although it was done, or nonsense
    mint_late_seconds: float = 0.0
    lossy_relays: float = 0.0
    late_relays_seconds: float = 0.0
    mint_down: tuple[float, float] | None = None  # from, to
    cut_off: dict[str, tuple[float, float]] = field(default_factory=dict)  # who reaches no relay; from, to
    skews: dict[str, int] = field(default_factory=dict)
    slow_disks: float = (
        0.0  # what a transaction waits for its turn, so that others come between reading and writing
    )


def _digest(body: dict[str, Any] | None) -> str:
    return hashlib.sha256(repr(body).encode()).hexdigest()[:8]


class StormyTransport:
    """One party's line to the mint."""

    def __init__(self, world: "World", life: Life) -> None:
        self._world = world
        self._life = life

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """See `MintTransport.request`."""
        weather, office, life = self._world.weather, self._world.office, self._life
        await asyncio.sleep(office.draw.random() * weather.mint_late_seconds)
        life.check()
        now = asyncio.get_running_loop().time()
        if (
            path == "/v1/info"
        ):  # one answer lost there, and no escrow is begun at all: that would be a dull run
            return await self._world.mint.request(method, path, body)
        if weather.mint_down and weather.mint_down[0] <= now < weather.mint_down[1]:
            raise MintUnavailable("the mint is down")
        if office.chance(weather.lost_requests):
            raise MintUnavailable("the request was lost")
        if life.name == "provider" and _shows_key(path, body):
            self._world.outside.key_shown = True
        try:
            answer = await self._world.mint.request(method, path, body)
        except MintError:
            life.pass_point(f"refused {path[:16]}")
            raise
        self._world.requests += 1
        life.pass_point(f"mint {path[:16]}", _digest(body))
        if office.chance(weather.lost_answers):
            raise MintUnavailable("the answer was lost")
        if method == "POST" and office.chance(weather.lies):
            if office.chance(0.5):
                raise MintError(mint_code=11003, detail="no")
            return {"signatures": "<html>", "states": 7}
        await asyncio.sleep(office.draw.random() * weather.mint_late_seconds)
        return answer

    async def close(self) -> None:
        """Nothing to close."""


def _shows_key(path: str, body: dict[str, Any] | None) -> bool:
    coins = (body or {}).get("inputs", ()) if path == "/v1/swap" else ()
    return any("preimage" in (coin.get("witness") or "") for coin in coins)


class StormyRail:
    """One party's line to its own Lightning wallet, a `Rail`, which is away, or slow, but never lies."""

    def __init__(self, world: "World", life: Life, wallet: MemoryRail) -> None:
        self.name, self.account = wallet.name, wallet.account
        self._world = world
        self._life = life
        self._wallet = wallet

    async def limits(self) -> RailLimits:
        """See `Rail.limits`; it is a thing of the past hour, as a rule."""
        return await self._wallet.limits()

    async def make_invoice(self, wish: Wish) -> Made:
        """See `Rail.make_invoice`."""
        await self._reach()
        return self._hear("make", await self._wallet.make_invoice(wish))

    async def look(self, handle: str) -> Seen:
        """See `Rail.look`."""
        await self._reach()
        return self._hear("look", await self._wallet.look(handle))

    async def pay(self, payment: Payment, *, again: bool) -> Sent:
        """See `Rail.pay`. Some payments are in flight for a while, and then do not arrive."""
        weather, office, wallet = self._world.weather, self._world.office, self._wallet
        try:
            await self._reach()
            wallet.holds = office.chance(weather.lost_answers)
            begun = wallet.paid[payment.payment_hash] > 0
            sent = await wallet.pay(payment, again=again and begun)
            if wallet.holds and not begun:
                flies_seconds = office.draw.random() * FLIGHT_SECONDS_MAX
                paid = office.chance(ARRIVES)
                asyncio.get_running_loop().call_later(flies_seconds, lambda: wallet.finish(paid=paid))
            return self._hear("pay", sent)
        except RailUnavailable as error:
            return Sent(Verdict.UNKNOWN, error=str(error))

    async def balance_msat(self) -> int:
        """See `Rail.balance_msat`."""
        return await self._wallet.balance_msat()

    async def _reach(self) -> None:
        weather, office = self._world.weather, self._world.office
        await asyncio.sleep(office.draw.random() * weather.mint_late_seconds)
        self._life.check()
        if office.chance(weather.lost_requests):
            raise RailUnavailable("the request was lost")

    def _hear(self, what: str, answer: T) -> T:
        self._life.pass_point(f"rail {what}")
        if self._world.office.chance(self._world.weather.lost_answers):
            raise RailUnavailable("the answer was lost")
        return answer
