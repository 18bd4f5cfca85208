"""What a seed decides: how each party behaves, who cheats and how, when who dies, and the weather."""

import random
from dataclasses import dataclass, field
from typing import Final

from soak.world import DELIVER_SECONDS, NAMES, PRICE_SAT, Weather
from wallet.terms import Method

CHEATS: Final = (
    "customer: one signature will do", "customer: an early locktime", "customer: a key for the arbiter's",
    "customer: one key more", "customer: one sat less", "customer: disputes with other coins",
    "customer: asks back what was delivered", "customer: accepts with a wrong key", "customer: accepts one coin",
    "customer: races the refund", "customer: pays two jobs with one funding",
    "provider: takes the coins alone", "provider: dates its result back", "provider: reports what somebody else signed",
    "provider: takes what it gave back",
    "arbiter: signs for both", "arbiter: signs one coin for the customer", "arbiter: signs one coin for the provider",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """One run. `kills`: party, point of its life, seconds until it is started again."""

    seed: int
    customer: str = "content"  # content, accepts, silent, disputes, leaves
    provider: str = "works"  # works, fails, hangs, late, leaves
    arbiter: str = "rules"  # rules, sleeps, leaves
    cheat: str = ""
    award_sat: int = PRICE_SAT
    works_seconds: float = 0.0
    acts_seconds: float = 0.0
    rules_seconds: float = 0.0
    kills: tuple[tuple[str, int, float], ...] = ()
    weather: Weather = field(default_factory=Weather)
    method: Method = Method.ESCROW

    @property
    def cheater(self) -> str:
        """Who cheats, "" if nobody does."""
        return self.cheat.split(":", maxsplit=1)[0]


def draw_plan(seed: int) -> Plan:
    """The plan of a seed."""
    draw = random.Random(seed)
    customer = draw.choices(("content", "accepts", "silent", "disputes", "leaves"), (3, 2, 2, 4, 1))[0]
    provider = draw.choices(("works", "fails", "hangs", "late", "leaves"), (8, 1, 1, 1, 1))[0]
    arbiter = draw.choices(("rules", "sleeps", "leaves"), (6, 2, 1))[0]
    cheat = draw.choice(CHEATS) if draw.random() < 0.3 else ""
    award_sat = draw.choice(
        (0, PRICE_SAT, draw.randrange(1, PRICE_SAT - 1))
    )  # a coin of one sat is not worth its fee
    if cheat:  # of one cheat at a time it is plain what must come of it
        customer = customer if customer != "leaves" else "silent"
        provider = (
            "hangs" if cheat.startswith("provider: dates") or cheat.startswith("provider: rep") else "works"
        )
        provider = "fails" if cheat == "provider: takes what it gave back" else provider
        arbiter, award_sat = "rules", PRICE_SAT if cheat.startswith("customer") else award_sat
        customer = "content" if cheat.startswith("provider") and customer == "disputes" else customer
    works = draw.uniform(0, 60) if provider != "late" else draw.uniform(DELIVER_SECONDS, 3 * DELIVER_SECONDS)
    kills = tuple(
        (name, draw.randrange(2, 45), draw.choice((0.5, 5.0, 30.0, draw.uniform(60, 800))))
        for name in NAMES
        for _ in range(draw.choices((0, 1, 2), (6, 2, 1))[0])
    )
    if cheat == "provider: dates its result back":  # while its customer is away
        kills = (("customer", draw.randrange(14, 19), draw.uniform(600, 900)),)
    return Plan(
        seed, customer, provider, arbiter, cheat, award_sat, works, draw.uniform(0, 70), draw.uniform(0, 300), kills,
        _draw_weather(draw),
    )  # fmt: skip


def _draw_weather(draw: random.Random) -> Weather:
    skews = {name: draw.randrange(-45, 46) for name in NAMES} if draw.random() < 0.3 else {}
    if draw.random() < 0.3:
        return Weather(skews=skews)
    begins = draw.uniform(0, 900)
    return Weather(
        lost_requests=draw.choice((0, 0.05, 0.2)), lost_answers=draw.choice((0, 0.05, 0.2)),
        lies=draw.choice((0, 0, 0.1)), mint_late_seconds=draw.choice((0, 0.5, 5)),
        lossy_relays=draw.choice((0, 0.2, 0.5)), late_relays_seconds=draw.choice((0, 1, 20)),
        mint_down=(begins, begins + draw.uniform(20, 200)) if draw.random() < 0.15 else None, skews=skews,
    )  # fmt: skip
