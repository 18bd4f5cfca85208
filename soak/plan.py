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


CHEATS_OF_REVEAL: Final = (
    "customer: an early locktime", "customer: another hash", "customer: one sat less", "customer: races the refund",
    "customer: pays two jobs with one funding",
    "provider: seals something else", "provider: seals rubbish", "provider: shows another ciphertext",
    "provider: keeps the key to itself", "provider: takes the coins late",
)  # fmt: skip
CHEATS_OF_INVOICE: Final = ("customer: says that it has paid", "customer: pays twice")
FEE_SAT: Final = 5  # so that it can go back, with what the mint takes on the way
#: By the remainder of a seed: of seven seeds five are escrows.
METHODS: Final = {2: Method.REVEAL, 3: Method.INVOICE}


@dataclass(frozen=True)
class Plan:
    """One run. `kills`: party, point of its life, seconds until it is started again.

    `on_credit`: the provider works first, and its result carries the invoice. `private`: nobody else can read the job.
    `relents_seconds`: how long after its dispute, or when nothing came in time, a customer that relents pays after all;
    how long after a dispute an agent that regrets gives the money back.
    """

    seed: int
    #: content, accepts, silent, disputes, relents, leaves; stingy or poor (not in escrow)
    customer: str = "content"
    provider: str = "works"  # works, fails, hangs, late, leaves, regrets (gives back what is disputed)
    arbiter: str = "rules"  # rules, sleeps, leaves
    cheat: str = ""
    award_sat: int = PRICE_SAT
    works_seconds: float = 0.0
    acts_seconds: float = 0.0
    rules_seconds: float = 0.0
    relents_seconds: float = 0.0
    kills: tuple[tuple[str, int, float], ...] = ()
    weather: Weather = field(default_factory=Weather)
    method: Method = Method.ESCROW
    on_credit: bool = False
    private: bool = False
    fee_sat: int = 0  # what the arbiter asks for hearing a dispute

    @property
    def cheater(self) -> str:
        """Who cheats, "" if nobody does."""
        return self.cheat.split(":", maxsplit=1)[0]


def draw_plan(seed: int) -> Plan:
    """The plan of a seed."""
    draw = random.Random(seed)
    if method := METHODS.get(seed % 7):
        return _draw_sale(seed, method, draw)
    customers = ("content", "accepts", "silent", "disputes", "relents", "leaves")
    customer = draw.choices(customers, (3, 2, 2, 4, 2, 1))[0]
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
        customer = "disputes" if customer == "relents" else customer
    works = draw.uniform(0, 60) if provider != "late" else draw.uniform(DELIVER_SECONDS, 3 * DELIVER_SECONDS)
    kills = _draw_kills(draw)
    if cheat == "provider: dates its result back":  # while its customer is away
        kills = (("customer", draw.randrange(14, 19), draw.uniform(600, 900)),)
    acts, rules = draw.uniform(0, 70), draw.uniform(0, 300)
    weather = _draw_weather(draw)
    for name, share in (("customer", 0.05), ("provider", 0.05), ("arbiter", 0.15)):
        if draw.random() < share:
            begins = draw.uniform(0, 200)
            weather.cut_off[name] = (begins, begins + draw.uniform(30, 600))
    relents = draw.uniform(0, 200)
    relents = draw.choice((rules + relents / 10, relents))  # when the ruling is on its way, perhaps
    if provider == "works" and customer in ("disputes", "relents") and not cheat and draw.random() < 0.25:
        provider = "regrets"
    fee_sat = FEE_SAT if not cheat and arbiter != "leaves" and draw.random() < 0.3 else 0
    return Plan(
        seed, customer, provider, arbiter, cheat, award_sat, works, acts, rules, relents, kills, weather,
        fee_sat=fee_sat,
    )  # fmt: skip


def _draw_sale(seed: int, method: Method, draw: random.Random) -> Plan:
    """Of a sealed result, or by invoice: no arbiter, nothing to review."""
    reveals = method is Method.REVEAL
    customers, shares = ("content", "stingy", "leaves", "poor"), (8, 1, 1, 0 if reveals else 1)
    customer = draw.choices(customers, shares)[0]
    provider = draw.choices(("works", "fails", "hangs", "late", "leaves"), (8, 1, 1, 1, 2))[0]
    cheat = draw.choice(CHEATS_OF_REVEAL if reveals else CHEATS_OF_INVOICE) if draw.random() < 0.3 else ""
    if cheat:
        customer, provider = "content", "works"
    works = draw.uniform(0, 60) if provider != "late" else draw.uniform(DELIVER_SECONDS, 3 * DELIVER_SECONDS)
    kills = _draw_kills(draw)
    if reveals and draw.random() < 0.2:  # just when the coins come, until there is little time left for them
        kills = (("provider", draw.randrange(12, 20), draw.uniform(300, 700)),)
    return Plan(
        seed, customer, provider, "sleeps", cheat, 0, works, draw.uniform(0, 20), kills=kills,
        weather=_draw_weather(draw), method=method, on_credit=not reveals and not cheat and draw.random() < 0.3,
    )  # fmt: skip


def _draw_kills(draw: random.Random) -> tuple[tuple[str, int, float], ...]:
    return tuple(
        (name, draw.randrange(2, 45), draw.choice((0.5, 5.0, 30.0, draw.uniform(60, 800))))
        for name in NAMES
        for _ in range(draw.choices((0, 1, 2), (6, 2, 1))[0])
    )


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
        slow_disks=draw.choice((0, 0, 0.05, 0.5)),
    )  # fmt: skip
