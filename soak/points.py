"""Death at every point: after each single write and each single outside call of each party, found by running once.

Nothing here names a point by hand: a scenario is played undisturbed, each party's points are counted, and then there is
one run for each of them in which that party dies there, is started again a second later, and all goes on to the end.
"""

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from soak.plan import FEE_SAT, Plan
from soak.run import Outcome, play
from soak.virtual import quiet
from soak.world import PRICE_SAT, Weather
from wallet.terms import Method


@dataclass(frozen=True)
class Scenario:
    """How it goes undisturbed, and what must come of it however a party dies and comes back.

    `or_else`: another end, as sats of the provider and order, where two parties act at once and one is first.
    """

    plan: Plan
    provider_sat: int
    order: str
    or_else: tuple[int, str] | None = None


def _plan(**options: object) -> Plan:
    return replace(Plan(seed=1, works_seconds=5, acts_seconds=10, rules_seconds=30), **options)  # type: ignore[arg-type]  # as Plan says


def _dispute(award_sat: int, order: str) -> Scenario:
    return Scenario(_plan(customer="disputes", award_sat=award_sat), award_sat, order)


def _crossing(award_sat: int, seed: int) -> Scenario:
    """The customer accepts after all as the arbiter rules: their letters pass each other, and either may be first."""
    plan = _plan(
        customer="relents",
        relents_seconds=33,
        award_sat=award_sat,
        seed=seed,
        weather=Weather(late_relays_seconds=5),
    )
    return Scenario(plan, PRICE_SAT, "done", or_else=(award_sat, "refunded"))


def _late() -> Plan:
    """Relays show the customer the result when its time is over, and there is no arbiter that could have."""
    cut_off = {"customer": (270.0, 500.0)}
    return _plan(
        customer="relents",
        arbiter="leaves",
        works_seconds=280,
        rules_seconds=0,
        weather=Weather(cut_off=cut_off),
    )


def _sale(method: Method, provider_sat: int, order: str, **options: object) -> Scenario:
    return Scenario(_plan(method=method, **options), provider_sat, order)


SCENARIOS: Final = {
    "escrow: accepted at once": Scenario(_plan(), PRICE_SAT, "done"),
    "escrow: accepted later": Scenario(_plan(customer="accepts"), PRICE_SAT, "done"),
    "escrow: the customer is silent": Scenario(_plan(customer="silent"), PRICE_SAT, "done"),
    "escrow: the customer is gone": Scenario(_plan(customer="leaves"), PRICE_SAT, "paid"),
    "escrow: the work fails": Scenario(_plan(provider="fails"), 0, "refunded"),
    "escrow: nothing is delivered": Scenario(_plan(provider="leaves"), 0, "refunded"),
    "escrow: a dispute, nothing for the provider": _dispute(0, "refunded"),
    "escrow: a dispute, all for the provider": _dispute(PRICE_SAT, "done"),
    "escrow: a dispute, some for each": _dispute(3, "refunded"),
    "escrow: a dispute that nobody rules": Scenario(
        _plan(customer="disputes", arbiter="sleeps"), 0, "refunded"
    ),
    "escrow: a dispute that the customer ends": Scenario(
        _plan(customer="relents", relents_seconds=10, award_sat=3), PRICE_SAT, "done"
    ),
    "escrow: a dispute that ends as it is ruled, some for each": _crossing(3, seed=4),
    "escrow: a dispute that ends as it is ruled, nothing for the provider": _crossing(0, seed=7),
    "escrow: a dispute that the agent ends": Scenario(
        _plan(customer="disputes", provider="regrets", relents_seconds=10, award_sat=3), 0, "refunded"
    ),
    "escrow: a dispute that the agent ends as it is ruled": Scenario(
        _plan(
            customer="disputes",
            provider="regrets",
            relents_seconds=33,
            award_sat=3,
            seed=4,
            weather=Weather(late_relays_seconds=5),
        ),
        0,
        "refunded",
        or_else=(3, "refunded"),
    ),
    "escrow: a dispute that is paid for": Scenario(
        _plan(customer="disputes", award_sat=3, fee_sat=FEE_SAT), 3, "refunded"
    ),
    "escrow: what never came cannot be paid for": Scenario(
        _plan(customer="relents", provider="leaves", relents_seconds=2), 0, "refunded"
    ),
    # Who dies may be too late with the work, or with the wish to pay: then the money goes back.
    "escrow: what came too late is paid for": Scenario(_late(), PRICE_SAT, "done", or_else=(0, "refunded")),
    "escrow: the arbiter was cut off": Scenario(
        _plan(customer="disputes", award_sat=3, weather=Weather(cut_off={"arbiter": (10, 400)})),
        3,
        "refunded",
    ),
    "prepaid: done": Scenario(_plan(method=Method.PREPAID), PRICE_SAT, "done"),
    # The provider bears the fee of making coins for the customer.
    "prepaid: the work fails": Scenario(_plan(method=Method.PREPAID, provider="fails"), -1, "refunded"),
    "reveal: sold": _sale(Method.REVEAL, PRICE_SAT, "done"),
    "reveal: sold in private": _sale(Method.REVEAL, PRICE_SAT, "done", private=True),
    "reveal: nobody pays": _sale(Method.REVEAL, 0, "failed", customer="stingy"),
    "reveal: the work fails": _sale(Method.REVEAL, 0, "failed", provider="fails"),
    "reveal: the customer is gone": _sale(Method.REVEAL, PRICE_SAT, "paid", customer="leaves"),
    "reveal: the provider is gone": _sale(Method.REVEAL, 0, "refunded", provider="leaves"),
    "reveal: the seal is false": _sale(
        Method.REVEAL, PRICE_SAT, "lost", cheat="provider: seals something else"
    ),
    "reveal: the key is not told": _sale(
        Method.REVEAL, PRICE_SAT, "done", cheat="provider: keeps the key to itself"
    ),
    "invoice: paid": _sale(Method.INVOICE, PRICE_SAT, "done"),
    "invoice: nobody pays": _sale(Method.INVOICE, 0, "failed", customer="poor"),
    "invoice: the work fails": _sale(Method.INVOICE, -1, "refunded", provider="fails"),
    "invoice: the provider is gone": _sale(Method.INVOICE, PRICE_SAT, "lost", provider="leaves"),
    "invoice: paid twice": _sale(Method.INVOICE, PRICE_SAT - 1, "done", cheat="customer: pays twice"),
    "invoice: on credit": _sale(Method.INVOICE, PRICE_SAT, "done", on_credit=True),
    "invoice: on credit, and not paid": _sale(Method.INVOICE, 0, "done", on_credit=True, customer="poor"),
}


@dataclass(frozen=True)
class Point:
    """One party's death in one scenario."""

    scenario: str
    party: str
    number: int
    name: str

    @property
    def plan(self) -> Plan:
        """How it goes with this death, and another life a second later."""
        return replace(SCENARIOS[self.scenario].plan, kills=((self.party, self.number, 1.0),))

    def __str__(self) -> str:
        return f"{self.scenario}: the {self.party} dies at its point {self.number}, {self.name}"


def points() -> Iterator[Point]:
    """All there are."""
    for name in SCENARIOS:
        yield from points_of(name)


def points_of(name: str) -> Iterator[Point]:
    """All of one scenario."""
    for party, passed in _undisturbed(name).points.items():
        for number, what in enumerate(passed):
            yield Point(name, party, number, what)


def not_survived(
    found: Sequence[Point], problems_after: Callable[[Point], list[str]]
) -> dict[str, list[str]]:
    """The points that are not survived, with what is wrong then. On all cores."""
    spawn = multiprocessing.get_context("spawn")  # a fork would take the caller's threads and loops along
    with ProcessPoolExecutor(os.cpu_count(), spawn, initializer=quiet) as pool:
        told = list(pool.map(problems_after, found, chunksize=10))
    return {str(point): problems for point, problems in zip(found, told, strict=True) if problems}


def problems_of(point: Point) -> list[str]:
    """What is not as it must be if a party dies there; empty if it is survived."""
    return problems_with(SCENARIOS[point.scenario], _play(point.plan))


def problems_undisturbed(name: str) -> list[str]:
    """What is not as it must be in a scenario in which nobody dies."""
    return problems_with(SCENARIOS[name], _play(SCENARIOS[name].plan))


@cache
def _undisturbed(name: str) -> Outcome:
    scenario = SCENARIOS[name]
    outcome = _play(scenario.plan)
    if found := problems_with(scenario, outcome):
        raise AssertionError(f"{name}, undisturbed: {found}")
    return outcome


def problems_with(scenario: Scenario, outcome: Outcome) -> list[str]:
    """What came of it otherwise than it must."""
    found = list(outcome.problems)
    ends = [end for end in ((scenario.provider_sat, scenario.order), scenario.or_else) if end is not None]
    if not any(outcome.provider_sat == sat and f"order {order}" in outcome.seen for sat, order in ends):
        found.append(
            f"the provider has {outcome.provider_sat} sat, {sorted(outcome.seen)}; it must be one of {ends}"
        )
    return found


def _play(plan: Plan) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return play(plan, Path(folder))
