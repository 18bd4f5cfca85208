"""The score: within its bounds, the same for all who have the same receipts, and not to be had for nothing."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.audit import Settlement
from identity.receipts import Outcome
from identity.scores import WEIGHTS, Factor, Record, Score, read_records, score
from tests.identity.receipts_made import (
    AGENT,
    DAY,
    NOW,
    STRANGER,
    World,
    customer,
    honest,
    job,
    offer,
    payment_hash,
    preimage,
    review,
    settled,
)

DOC = Path(__file__).parents[2] / "docs" / "score.md"
brief = settings(max_examples=50, deadline=None)  # four thousand of each were tried once
NEW = 0.25 * 0.5 + 0.25 * 0.5 + 0.15 * 0.5  # of whom nobody knows anything


def record(who: str = "a", days: float = 1, **other: object) -> Record:
    """A job that went well, with a review behind it."""
    well = Record(int(NOW - days * DAY), who, Outcome.PAID, False, 21_000, rating=5, backed=True)
    return replace(well, **other)  # type: ignore[arg-type]  # the names are the tests' own


def silent(who: str = "a", days: float = 1, **other: object) -> Record:
    """A job that only the agent tells of, or one with a rating that nobody need have paid for."""
    return record(who, days, **({"rating": None, "backed": False} | other))


def factor(found: Score, name: str) -> Factor:
    """One of its factors."""
    return next(factor for factor in found.factors if factor.name == name)


records = st.builds(
    Record,
    at=st.integers(NOW - 800 * DAY, NOW + DAY),
    customer=st.sampled_from("abcde"),
    outcome=st.sampled_from([*Outcome, None]),
    disputed=st.booleans(),
    amount_msat=st.integers(0, 10**9),
    rating=st.none() | st.integers(1, 5),
    confidence=st.none() | st.floats(0, 1),
    backed=st.booleans(),
)
many = st.lists(records, max_size=12)


# -- what a score is


def test_the_weights_are_those_published() -> None:
    assert dict(WEIGHTS) == {
        "completion": 0.25, "quality": 0.25, "disputes": 0.15, "longevity": 0.10, "volume": 0.10,
        "calibration": 0.10, "stake": 0.05,
    }  # fmt: skip
    assert sum(WEIGHTS.values()) == pytest.approx(1)
    assert [factor.name for factor in score([], NOW).factors] == list(WEIGHTS)


def test_who_has_no_jobs_is_neither_good_nor_bad() -> None:
    found = score([], NOW)
    assert found.value == pytest.approx(NEW)
    assert factor(found, "stake").numbers == {"stake_msat": 0}


@brief
@given(many)
def test_scores_are_from_0_to_1(given_records: Sequence[Record]) -> None:
    found = score(given_records, NOW)
    assert 0 <= found.value <= 1 - WEIGHTS["stake"] + 1e-9
    assert all(0 <= factor.value <= 1 for factor in found.factors)
    json.dumps(found.to_dict(), allow_nan=False)


@brief
@given(many.flatmap(lambda some: st.tuples(st.just(some), st.permutations(some))))
def test_the_order_of_records_shows_in_no_digit(orders: tuple[list[Record], list[Record]]) -> None:
    assert score(orders[0], NOW) == score(orders[1], NOW)


def test_what_is_shown_is_rounded() -> None:
    shown = score([record("a"), record("b", rating=4)], NOW).to_dict()
    assert all(len(number) <= 4 for number in re.findall(r"\.(\d+)", json.dumps(shown)))


# -- never the better for what went worse


@brief
@given(many, records, st.integers(1, 5))
def test_a_worse_rating_never_raises_a_score(rest: list[Record], one: Record, other: int) -> None:
    better, worse = sorted((one.rating or 3, other), reverse=True)
    high = score([*rest, replace(one, rating=better)], NOW)
    low = score([*rest, replace(one, rating=worse)], NOW)
    assert low.value <= high.value + 1e-12


@brief
@given(many, records)
def test_a_dispute_never_raises_a_score(rest: list[Record], one: Record) -> None:
    disputed = score([*rest, replace(one, disputed=True)], NOW).value
    assert disputed <= score([*rest, replace(one, disputed=False)], NOW).value + 1e-12


@brief
@given(many, records, st.sampled_from([Outcome.REFUNDED, Outcome.RETURNED, None]))
def test_a_failure_never_raises_a_score(rest: list[Record], one: Record, failure: Outcome | None) -> None:
    one = replace(one, confidence=None, outcome=Outcome.PAID)
    assert score([*rest, replace(one, outcome=failure)], NOW).value <= score([*rest, one], NOW).value + 1e-12


@brief
@given(many)
def test_a_good_job_for_a_new_customer_never_lowers_a_score(rest: list[Record]) -> None:
    assert score([*rest, record("new")], NOW).value >= score(rest, NOW).value - 1e-12


@brief
@given(many)
def test_own_word_of_success_never_lowers_and_of_failure_never_raises(rest: list[Record]) -> None:
    before = score(rest, NOW).value
    assert score([*rest, silent("new")], NOW).value >= before - 1e-12
    failed = silent("new", outcome=Outcome.REFUNDED, disputed=True)
    assert score([*rest, failed], NOW).value <= before + 1e-12


# -- not to be had for nothing


def test_one_job_of_five_stars_is_little_known() -> None:
    one = score([record()], NOW)
    assert 0.5 < factor(one, "quality").value < 0.6
    hundred = score([record(str(number)) for number in range(100)], NOW)
    assert factor(hundred, "quality").value > 0.95
    assert (one.jobs, one.backed) == (1, 1)


def test_many_jobs_of_one_customer_count_as_few() -> None:
    same = score([record("a") for _ in range(100)], NOW)
    assert factor(same, "quality").numbers["weight"] == pytest.approx(10, rel=0.01)
    assert factor(same, "volume").numbers["customers_now"] == 1
    others = score([record(str(number)) for number in range(100)], NOW)
    assert others.value > same.value + 0.1


def test_jobs_that_only_the_agent_tells_of_raise_nothing_without_customers() -> None:
    told = score([silent(str(number)) for number in range(1000)], NOW)
    assert told.value == pytest.approx(NEW)
    ten = [record(str(number)) for number in range(10)]
    known = score(ten, NOW)
    boasting = score([*ten, *(silent(f"s{number}") for number in range(1000))], NOW)
    assert (
        factor(boasting, "completion").numbers["weight"]
        <= 2 * factor(known, "completion").numbers["weight"] + 1e-9
    )
    assert boasting.value - known.value < 0.06
    for name in ("quality", "longevity", "volume", "calibration"):
        assert factor(boasting, name).value == factor(known, name).value


def test_a_failure_counts_though_no_customer_says_so() -> None:
    good = [record(str(number)) for number in range(10)]
    told = score([*good, silent("x", outcome=Outcome.REFUNDED)], NOW)
    assert factor(told, "completion").value == pytest.approx((10 + 2.5) / (11 + 5), abs=0.01)


def test_a_job_that_the_log_keeps_quiet_about_is_a_failure_and_a_lost_dispute() -> None:
    found = score([record(outcome=None)], NOW)
    assert factor(found, "completion").numbers["failed"] == 1
    assert factor(found, "disputes").numbers["lost"] == 1
    assert factor(found, "quality").numbers["ratings"] == 1


def test_jobs_that_customers_cancelled_are_nobodys_failure() -> None:
    found = score([record(outcome=Outcome.CANCELLED)], NOW)
    assert factor(found, "completion").value == 0.5


def test_time_halves_what_a_job_counts() -> None:
    now, then = score([record(days=0)], NOW), score([record(days=90)], NOW)
    assert factor(then, "quality").numbers["weight"] == factor(now, "quality").numbers["weight"] / 2
    assert score([record(days=-5)], NOW).value == now.value  # no more for who is ahead of the clock


def test_longevity_is_months_with_a_customer() -> None:
    months = [record(days=30 * month + 1) for month in range(12)]
    assert factor(score(months, NOW), "longevity").value == 1
    assert factor(score([months[0], months[0], months[7]], NOW), "longevity").value == pytest.approx(2 / 12)
    assert factor(score([record(days=361), silent(days=31)], NOW), "longevity").value == 0


# -- calibration


def stated(confidence: float, ratings: Sequence[int]) -> float:
    """What stating that each time is worth, before so many jobs."""
    jobs = [record(str(n), 0, confidence=confidence, rating=rating) for n, rating in enumerate(ratings)]
    return factor(score(jobs, NOW), "calibration").value


@pytest.mark.parametrize("ratings", [[5] * 50, [1] * 50, [3] * 50, [1, 5] * 25])
def test_always_saying_a_half_earns_nothing(ratings: list[int]) -> None:
    assert stated(0.5, ratings) == 0
    assert stated(0.0, ratings) == 0
    assert stated(1.0, []) == 0


def test_what_comes_true_earns_and_nothing_earns_more_than_the_truth() -> None:
    assert stated(1.0, [5] * 50) == pytest.approx(50 / 55)
    ratings = [5] * 45 + [1] * 5
    worth = {percent: stated(percent / 100, ratings) for percent in range(50, 101)}
    assert max(worth, key=lambda percent: worth[percent]) == 90
    assert stated(1.0, [1] * 50) == 0


def test_who_tells_good_jobs_from_bad_ones_earns_more_than_who_says_the_mean() -> None:
    good = [record(f"g{n}", 0, confidence=1.0) for n in range(40)]
    bad = [record(f"b{n}", 0, confidence=0.5, rating=1) for n in range(10)]
    told = factor(score([*good, *bad], NOW), "calibration").value
    assert told > stated(0.8, [5] * 40 + [1] * 10)


def test_calibration_is_of_the_last_hundred() -> None:
    old = [record(f"o{n}", 20, confidence=1.0, rating=1) for n in range(100)]
    new = [record(f"n{n}", 10, confidence=1.0) for n in range(100)]
    found = factor(score([*old, *new], NOW), "calibration")
    assert found == factor(score(new, NOW), "calibration")
    assert found.numbers["jobs"] == 100


def test_of_more_than_a_hundred_at_once_the_same_count_in_any_order() -> None:
    jobs = [record(str(n), 1, confidence=1.0, rating=1 if n < 10 else 5) for n in range(110)]
    assert score(jobs, NOW) == score(jobs[::-1], NOW)


def test_good_ratings_that_cost_nothing_are_worth_no_more_than_an_agents_own_word() -> None:
    own = [silent(str(number), 30 * (number % 12) + 1, rating=5, confidence=1.0) for number in range(1000)]
    assert score(own, NOW).value == pytest.approx(NEW)
    ten = [record(f"x{number}") for number in range(10)]
    known, boasting = score(ten, NOW), score([*ten, *own], NOW)
    assert factor(boasting, "quality").numbers["weight"] <= 20
    for name in ("longevity", "volume", "calibration"):
        assert factor(boasting, name).value == factor(known, name).value


@pytest.mark.parametrize("rating", [1, 2])
def test_bad_ratings_that_cost_nothing_count_whole(rating: int) -> None:
    ten = [record(f"x{number}") for number in range(10)]
    told = [*ten, silent(rating=rating, confidence=1.0)]
    assert factor(score(told, NOW), "quality").value == pytest.approx(12.5 / 16, abs=0.01)
    for name in ("quality", "calibration"):
        confident = [replace(one, confidence=1.0) for one in ten]
        bad = factor(score([*confident, told[-1]], NOW), name).value
        assert bad < factor(score(confident, NOW), name).value


def test_nobody_mends_a_bad_name_by_ratings_that_cost_nothing() -> None:
    bad = [record(f"x{number}", rating=1) for number in range(10)]
    for rating in (2, 3, 4):
        made_up = [silent(str(number), rating=rating) for number in range(100)]
        assert (
            factor(score([*bad, *made_up], NOW), "quality").value <= factor(score(bad, NOW), "quality").value
        )


def test_own_success_says_nothing_of_confidence_and_own_failure_does() -> None:
    told = [silent("a", confidence=1.0), silent("b", confidence=1.0, outcome=Outcome.REFUNDED)]
    assert factor(score(told, NOW), "calibration").numbers["jobs"] == 1


# -- from an audit


def test_records_of_an_audit() -> None:
    world = honest(3)
    found = read_records(world.judge(), NOW)
    assert [(one.backed, one.rating, one.outcome) for one in found] == [
        (True, 5, Outcome.PAID), (True, 5, Outcome.PAID), (False, None, Outcome.PAID),
    ]  # fmt: skip
    assert found[0].customer == customer(0).public_key
    assert found[0].at == NOW - 9 * DAY  # of the customer's word, which is later


def test_a_record_is_of_the_time_when_both_had_spoken() -> None:
    world = World()
    world.log(job(0, at=NOW - 3 * DAY))
    world.publish(NOW - 2 * DAY)
    world.tell(review(0, at=NOW - 200 * DAY), settled(0))
    [found] = read_records(world.judge(), NOW)
    assert found.at == NOW - 3 * DAY


def test_strangers_second_reviews_and_the_agent_itself_make_no_records() -> None:
    world = honest(3)
    before = read_records(world.judge(), NOW)
    world.tell(review(2, by=STRANGER, rating=1), settled(2))
    world.tell(review(0, rating=1), settled(0))
    world.tell(review(1, by=AGENT, rating=1), settled(1))
    world.tell(review(9, rating=1), settled(9))
    world.log(job(4, customer=AGENT.public_key))
    world.publish()
    assert read_records(world.judge(), NOW) == before


def test_a_review_that_nobody_asked_about_leaves_the_agents_own_record() -> None:
    world = honest(1)
    world.tell(review(0, rating=1), settled(0, asked=()))
    [found] = read_records(world.judge(), NOW)
    assert (found.backed, found.rating) == (False, None)


def test_a_confidence_counts_that_agent_and_customer_agree_on() -> None:
    world = World()
    stated = (0.854, None, 0.0, 0.9)
    world.log(*(job(number, confidence=one) for number, one in enumerate(stated)), job(4, confidence=0.25))
    world.publish()
    for number, told in enumerate((0.85, 0.99, 0.99, None)):
        world.tell(review(number, rating=1, confidence=told), settled(number))
    assert [one.confidence for one in read_records(world.judge(), NOW)] == [0.85, None, None, None, 0.25]


def test_a_preimage_backs_nothing_and_brings_its_rating() -> None:
    world = World()
    world.log(job(0, lock="", hash=payment_hash(0), confidence=0.9))
    world.publish()
    shown = Settlement(frozenset({payment_hash(0)}), 9000, hash=payment_hash(0))
    world.tell(review(0, rating=2, evidence=preimage(0), amount_msat=9000, confidence=0.9), shown)
    [found] = read_records(world.judge(), NOW)
    assert (found.backed, found.rating, found.amount_msat, found.confidence) == (False, 2, 5000, 0.9)


def test_a_dropped_job_counts_against_the_agent_once_it_is_old() -> None:
    world = honest(1)
    event = world.tell(review(7, rating=1, offer=offer(7)), settled(7))
    now = event.created_at + DAY
    assert read_records(world.judge(now), now)[1].outcome is Outcome.PAID
    assert read_records(world.judge(now + 1), now + 1)[1].outcome is None
    world.lose_pages()
    assert read_records(world.judge(), NOW)[-1].outcome is Outcome.PAID  # it may be in what is missing


def test_readers_with_the_same_receipts_compute_the_same() -> None:
    world = honest(4)
    mine = score(read_records(world.judge(), NOW), NOW)
    world.events.reverse()
    assert score(read_records(world.judge(), NOW), NOW) == mine


# -- the document


def test_the_worked_example_in_the_document() -> None:
    example, table = re.findall(r"```json\n(.*?)```", DOC.read_text(), re.DOTALL)
    now = json.loads(example)["now"]
    found = score([
        Record(**(one | {"outcome": Outcome(one["outcome"])})) for one in json.loads(example)["records"]
    ], now)  # fmt: skip
    assert found.to_dict() == json.loads(table)


def test_the_document_has_the_weights() -> None:
    said = dict(re.findall(r"^\| \*\*(\w+)\*\* \| ([\d.]+) \|", DOC.read_text(), re.MULTILINE))
    assert {name: float(weight) for name, weight in said.items()} == WEIGHTS
