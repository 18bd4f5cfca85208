"""What hears by one REQ: filters put together, events told apart."""

import itertools
import random

from relay_bridge import Filter
from relay_bridge.ears import Bundle, Room
from relay_bridge.filters import matches_any

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


class Listener:
    lasting = shares = True

    def __init__(self, *filters: Filter, ignoring: bool = False) -> None:
        self._filters = filters
        self._ignoring = ignoring

    def filters(self):
        return self._filters

    def ignores(self, event) -> bool:
        return self._ignoring


def bundle_of(*listeners: Listener) -> Bundle:
    bundle = Bundle()
    assert all(bundle.add(listener, Room()) for listener in listeners)
    return bundle


def test_filters_that_differ_in_the_values_of_one_condition_are_one():
    wraps = [
        Filter(kinds=(1059,), tags={"p": (key,)}, since=since) for key, since in ((A, 30), (B, 10), (A, 20))
    ]
    kinds = [Filter(kinds=(kind,), since=5) for kind in (5001, 5002)]
    deletions = Filter(kinds=(5,), tags={"p": (A,)}), Filter(kinds=(5,), tags={"k": ("5001",)}, limit=7)
    bundle = bundle_of(*map(Listener, (*wraps, *kinds)), Listener(*deletions))
    assert bundle.filters == (
        Filter(kinds=(1059,), tags={"p": (A, B)}, since=10, limit=1),
        Filter(kinds=(5001, 5002), since=5, limit=1),
        Filter(kinds=(5,), tags={"p": (A,)}, limit=1),
        Filter(kinds=(5,), tags={"k": ("5001",)}, limit=1),
    )


def test_each_hears_what_its_own_filters_match(make):
    generator = random.Random(5)

    def some(values, size):
        return tuple(generator.sample(values, size)) if generator.random() < 0.6 else None

    listeners = []
    for _ in range(60):
        tags = {letter: some((A, B, C), 1) for letter in ("p", "k")}
        one = Filter(
            kinds=some((1, 2, 3), 2), authors=some((A, make().pubkey), 1),
            tags={letter: values for letter, values in tags.items() if values},
        )  # fmt: skip
        listeners.append(Listener(one.between(generator.choice((None, 100, 200)))))
    bundle = Bundle()
    assert all(bundle.add(listener, Room(1000, 100_000)) for listener in listeners)
    heard = 0
    for kind, p, k, at in itertools.product((1, 2, 3, 4), (A, B, C), (A, "x"), (50, 150, 250)):
        event = make(kind=kind, tags=[["p", p], ["k", k], ["lonely"]], at=at)
        right = {one for one in listeners if matches_any(one.filters(), event)}
        assert set(bundle.hears(event) or ()) == right
        assert not right or matches_any(bundle.filters, event)
        heard += len(right)
    assert heard > 100


def test_what_does_not_fit_stays_out(make):
    bundle = Bundle()
    fitting = [Listener(Filter(kinds=(1,), until=number)) for number in range(12)]
    assert [bundle.add(listener, Room()) for listener in fitting] == [True] * 10 + [False] * 2
    bundle = Bundle()
    keys = [Listener(Filter(tags={"p": (f"{number:064x}",)})) for number in range(300)]
    assert 200 < sum(bundle.add(key, Room()) for key in keys) < 300
    assert keys[-1] not in bundle.feeds


def test_who_ignores_or_has_left_hears_nothing_and_the_relay_is_not_to_blame(make):
    leaving, deaf = Listener(Filter(kinds=(1,))), Listener(Filter(kinds=(2,)), ignoring=True)
    bundle = bundle_of(leaving, deaf)
    assert list(bundle.hears(make(kind=1)) or ()) == [leaving]
    del bundle.feeds[leaving]
    assert bundle.hears(make(kind=1)) == []
    assert bundle.hears(make(kind=2)) == []
    assert bundle.hears(make(kind=3)) is None
