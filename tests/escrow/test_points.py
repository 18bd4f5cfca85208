"""Each party dies after each of its writes and outside calls, comes back, and the money is where it would be anyway."""

from collections import Counter

from soak.points import SCENARIOS, Point, not_survived, points

POINTS_MIN = 600


def test_every_point_of_death_is_survived() -> None:
    found: list[Point] = list(points())
    counts = Counter((point.scenario.split(":")[0], point.party) for point in found)
    print(f"{len(found)} points of death in {len(SCENARIOS)} scenarios: {dict(counts)}")
    assert len(found) >= POINTS_MIN
    assert all(
        counts[method, party] for method in ("escrow", "prepaid") for party in ("customer", "provider")
    )
    assert counts["escrow", "arbiter"]
    lost = not_survived(found)
    assert not lost, "\n".join(f"{point}: {'; '.join(told)}" for point, told in lost.items())
