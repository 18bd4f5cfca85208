"""Two thousand seeds of storms, deaths, silence and fraud; and bugs that are planted, to see that they would be found."""

from itertools import chain

import pytest

from soak.__main__ import run_seed, run_seeds, run_side_by_side
from soak.plants import PLANTS, Plant
from soak.points import problems_undisturbed

pytestmark = [pytest.mark.no_cover, pytest.mark.usefixtures("without_logs")]

RUNS, RUNS_AT_A_TIME = 2_000, 100
EVENTFUL_MIN = 0.2
METHODS, METHOD_MIN = ("escrow", "reveal", "invoice"), 0.1
SECONDS_MAX = 200.0  # of a part of them: it takes 6


@pytest.mark.parametrize("first", range(0, RUNS, RUNS_AT_A_TIME))
def test_no_seed_loses_a_sat(first: int) -> None:
    told = run_seeds(first, RUNS_AT_A_TIME, SECONDS_MAX)
    print(told)
    assert told["bad"] == [], "replay one with: python -m soak --seed SEED"
    assert told["runs"] == RUNS_AT_A_TIME
    assert told["seen"]["eventful"] >= EVENTFUL_MIN * told["runs"]
    assert all(told["seen"][f"method {method}"] >= METHOD_MIN * told["runs"] for method in METHODS)


def test_several_cores_share_the_seeds() -> None:
    alone, shared = run_seeds(0, 8, SECONDS_MAX), run_side_by_side(0, 8, SECONDS_MAX, 2)
    assert shared == alone


@pytest.mark.parametrize("seed", [2, 3, 14, 159])
def test_a_seed_replays_exactly(seed: int) -> None:
    assert run_seed(seed).digest == run_seed(seed).digest


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_a_planted_bug_is_found(plant: Plant) -> None:
    assert not run_seed(plant.seed).problems
    with plant.planted():
        if plant.scenario:
            assert problems_undisturbed(plant.scenario)
            return
        for seed in chain([plant.seed], range(RUNS)):  # where it showed last, or wherever it shows now
            if run_seed(seed).problems:
                return
    pytest.fail("no seed finds it")
