"""Each party dies after each of its writes and outside calls, comes back, and the money is where it would be anyway."""

import os
import random
import time
from collections import Counter

import pytest

from soak.points import SCENARIOS, Point, not_survived, points, points_of, problems_of
from soak.sigkill import problems_after_sigkill

pytestmark = [pytest.mark.no_cover, pytest.mark.usefixtures("without_logs")]

POINTS_MIN = 1_800
SIGKILLS = 30


@pytest.fixture(scope="module")
def found() -> list[Point]:
    return list(points())


def test_points_of_death_are_found(found: list[Point]) -> None:
    counts = Counter((point.scenario.split(":")[0], point.party) for point in found)
    print(f"{len(found)} points of death in {len(SCENARIOS)} scenarios: {dict(counts)}")
    assert len(found) >= POINTS_MIN
    assert all(
        counts[method, party]
        for method in ("escrow", "prepaid", "reveal", "invoice")
        for party in ("customer", "provider")
    )
    assert counts["escrow", "arbiter"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_point_of_death_is_survived(scenario: str) -> None:
    lost = {str(point): told for point in points_of(scenario) if (told := problems_of(point))}
    assert not lost, "\n".join(f"{point}: {'; '.join(told)}" for point, told in lost.items())


def test_sigkill_at_a_point_is_survived(found: list[Point]) -> None:
    """At all points with TRADEPOST_KILLS=all, else at some, by a seed; test_kill.py has a real mint and a real relay."""
    chosen = found
    if os.environ.get("TRADEPOST_KILLS") != "all":
        seed = int(os.environ.get("TRADEPOST_KILL_SEED", time.time()))
        print(f"TRADEPOST_KILL_SEED={seed}")
        chosen = random.Random(seed).sample(found, SIGKILLS)
    begun = time.monotonic()
    lost = not_survived(chosen, problems_after_sigkill)
    print(f"{len(chosen)} processes killed in {time.monotonic() - begun:.0f} s")
    assert not lost, "\n".join(f"{point}: {'; '.join(told)}" for point, told in lost.items())
