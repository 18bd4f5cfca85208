"""The checks of `make fuzz`, briefly: on their seeds, on any bytes, and on seeds that were bent a little."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.mutate import mutate
from fuzz.targets import NAMES, load

TARGETS = {name: load(name) for name in NAMES}
CHECKS = [(name, check) for name, target in TARGETS.items() for check in target.checks]


def scrambled(raw: bytes, chance: random.Random) -> bytes:
    """Some bytes replaced, doubled or left out."""
    at = chance.randrange(len(raw) + 1)
    until = min(len(raw), at + chance.choice((0, 1, 1, 4, 40)))
    return raw[:at] + chance.choice((b"", chance.randbytes(until - at), raw[at:until] * 2)) + raw[until:]


@pytest.mark.parametrize("name", NAMES)
def test_seeds_hold(name: str) -> None:
    target = TARGETS[name]
    assert {check for check, _ in target.seeds} == set(target.checks)
    for data in target.corpus():
        target.run(data)


@pytest.mark.parametrize(("name", "check"), CHECKS)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(body=st.binary(max_size=300), chance=st.randoms(use_true_random=False), is_bent=st.integers(0, 3))
def test_checks_hold(name: str, check: str, body: bytes, chance: random.Random, is_bent: int) -> None:
    target = TARGETS[name]
    if is_bent:
        body = chance.choice([seed for seeded, seed in target.seeds if seeded == check])
        for _ in range(is_bent):
            body = mutate(body, chance, target.words, lambda raw: scrambled(raw, chance))
    target.checks[check](body)
