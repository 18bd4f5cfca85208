"""An agent's score, 0 … 1, as every reader computes it from the same receipts. Pure; formulas: docs/score.md.

Sums are exact before they are rounded (`math.fsum`), so that the order of the records cannot show in the last digit.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from identity.audit import ANSWER_SECONDS, Audit, Receipt, Verdict
from identity.receipts import RATING_MAX, JobLeaf, Outcome, Review, SpentLock, write_confidence

WEIGHTS: Final[Mapping[str, float]] = {
    "completion": 0.25,
    "quality": 0.25,
    "disputes": 0.15,
    "longevity": 0.10,
    "volume": 0.10,
    "calibration": 0.10,
    "stake": 0.05,
}
HALF_LIFE_SECONDS: Final = 90 * 86_400
PRIOR_WEIGHT: Final = 5.0  # jobs of nobody, that tell of nothing
PRIOR: Final = 0.5
OWN_WORD: Final = 0.25  # of a job that no customer stands behind, or one who may be the agent for nothing
MONTH_SECONDS: Final = 30 * 86_400
MONTHS: Final = 12
CUSTOMERS_FULL: Final = 100
SETTLED_SAT_FULL: Final = 1_000_000
CALIBRATION_JOBS: Final = 100
DIGITS: Final = 4

_COMPLETION: Final = {
    Outcome.PAID: 1.0,
    Outcome.LOST: 1.0,
    Outcome.SPLIT: 0.5,
    Outcome.REFUNDED: 0.0,
    Outcome.RETURNED: 0.0,
    None: 0.0,
}  # not CANCELLED nor SENT_BACK: it was not for the agent to complete


@dataclass(frozen=True)
class Record:
    """A job as it counts. `outcome` is None for one that the agent's log keeps quiet about.

    `at` is in Unix seconds; `rating` is 1 … 5; `confidence`, 0 … 1, is what the agent stated before; `backed` says that
    a customer's review stands behind it whose payment a mint vouches for. A rating without it may be the agent's own.
    """

    at: int
    customer: str
    outcome: Outcome | None
    disputed: bool
    amount_msat: int
    rating: int | None = None
    confidence: float | None = None
    backed: bool = False


@dataclass(frozen=True)
class Factor:
    """One part of a score: its value, 0 … 1, and the numbers that it came from."""

    name: str
    weight: float
    value: float
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Score:
    """The sum of the factors by their weights, of so many jobs, `backed` of them with a customer's review behind it."""

    value: float
    jobs: int
    backed: int
    factors: tuple[Factor, ...]

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON, rounded to `DIGITS` digits: what two readers compare."""
        factors = {
            factor.name: {
                "weight": factor.weight,
                "value": round(factor.value, DIGITS),
                "numbers": {name: round(number, DIGITS) for name, number in factor.numbers.items()},
            }
            for factor in self.factors
        }
        return {
            "score": round(self.value, DIGITS),
            "jobs": self.jobs,
            "backed": self.backed,
            "factors": factors,
        }


def read_records(audit: Audit, now: int) -> list[Record]:
    """What counts of an audit: one record for each job, whoever else wrote reviews of it.

    Left out are jobs of the agent for itself, and reviews that do not count of jobs that the log does not have.
    """
    by_request: dict[str, list[Receipt]] = defaultdict(list)
    for receipt in audit.receipts:
        by_request[receipt.request].append(receipt)
    records = []
    for receipts in by_request.values():
        settled = next((one for one in receipts if one.verdict is Verdict.SETTLED), None)
        job = receipts[0].job
        if settled is not None:
            records.append(_reviewed(settled, is_whole=audit.is_whole, now=now))
        elif job is not None and job.customer not in audit.chain:
            records.append(
                Record(
                    job.at,
                    job.customer,
                    job.outcome,
                    job.disputed,
                    job.amount_msat,
                    confidence=job.confidence,
                )
            )
    return records


def _reviewed(receipt: Receipt, *, is_whole: bool, now: int) -> Record:
    """By the customer's word where it has one: the agent wrote its own when it knew how the job had ended."""
    review, event, job = receipt.review, receipt.review_event, receipt.job
    assert review is not None
    assert event is not None
    outcome: Outcome | None = job.outcome if job else Outcome.PAID
    if job is None and is_whole and now - event.created_at > ANSWER_SECONDS:
        outcome = None
    return Record(
        max(event.created_at, job.at if job else 0), receipt.customer, outcome, job is not None and job.disputed,
        receipt.paid_msat, review.rating, _agreed(review, job), backed=isinstance(review.evidence, SpentLock),
    )  # fmt: skip


def _agreed(review: Review, job: JobLeaf | None) -> float | None:
    """The confidence that agent and customer say was stated: either of them, alone, could make it up afterwards."""
    if job is None or job.confidence is None or review.confidence is None:
        return None
    is_same = write_confidence(job.confidence) == write_confidence(review.confidence)
    return review.confidence if is_same else None


# The factors -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Weighed:
    """A record, how much of it time has left, and how much it counts: its customer's other jobs make it count less."""

    record: Record
    decay: float
    weight: float


def score(records: Sequence[Record], now: int) -> Score:
    """The score at `now`, in Unix seconds. The order of the records does not matter."""
    weighed = _weigh(records, now)
    factors = (
        _completion(weighed), _quality(weighed), _disputes(weighed), _longevity(records, now), _volume(weighed),
        _calibration(weighed), Factor("stake", WEIGHTS["stake"], 0.0, {"stake_msat": 0}),
    )  # fmt: skip
    return Score(
        math.fsum(factor.weight * factor.value for factor in factors),
        len(records), sum(record.backed for record in records), factors,
    )  # fmt: skip


def _weigh(records: Iterable[Record], now: int) -> list[_Weighed]:
    """The jobs of one customer count together as the square root of their number."""
    decayed = [(record, 0.5 ** (max(0, now - record.at) / HALF_LIFE_SECONDS)) for record in records]
    of_customer: dict[str, list[float]] = defaultdict(list)
    for record, decay in decayed:
        of_customer[record.customer].append(decay)
    shares = {customer: 1 / math.sqrt(max(1.0, math.fsum(found))) for customer, found in of_customer.items()}
    return [_Weighed(record, decay, decay * shares[record.customer]) for record, decay in decayed]


def _mean(found: Iterable[tuple[float, float]], prior: float) -> tuple[float, float]:
    """The mean of values by their weights, with `PRIOR_WEIGHT` jobs of the prior among them; and the weights' sum."""
    pairs = list(found)
    weight = math.fsum(weight for _, weight in pairs)
    total = math.fsum([*(value * weight for value, weight in pairs), prior * PRIOR_WEIGHT])
    return total / (weight + PRIOR_WEIGHT), weight


def _told(found: Iterable[tuple[float, _Weighed]]) -> list[tuple[float, float]]:
    """Values and weights. The agent's word alone, and a rating that may be, counts whole and as all bad for what went
    badly. For what went well it counts less, and all of it together no more than what customers stand behind; else not.
    """
    pairs = list(found)
    backed = math.fsum(one.weight for _, one in pairs if one.record.backed)
    own = OWN_WORD * math.fsum(one.weight for value, one in pairs if value == 1 and not one.record.backed)
    well = OWN_WORD * min(1.0, backed / own) if own else 0.0
    told = []
    for value, one in pairs:
        if one.record.backed:
            told.append((value, one.weight))
        elif value < PRIOR:
            told.append((0.0, one.weight))
        elif value == 1:
            told.append((1.0, well * one.weight))
    return told


def _completion(weighed: Iterable[_Weighed]) -> Factor:
    found = [(_COMPLETION[one.record.outcome], one) for one in weighed if one.record.outcome in _COMPLETION]
    value, weight = _mean(_told(found), PRIOR)
    numbers = {
        "completed": sum(value == 1 for value, _ in found), "half": sum(value == 0.5 for value, _ in found),
        "failed": sum(value == 0 for value, _ in found), "weight": weight,
    }  # fmt: skip
    return Factor("completion", WEIGHTS["completion"], value, numbers)


def _quality(weighed: Iterable[_Weighed]) -> Factor:
    rated = [(one.record.rating, one) for one in weighed if one.record.rating is not None]
    value, weight = _mean(_told((_share(rating), one) for rating, one in rated), PRIOR)
    mean = sum(rating for rating, _ in rated) / len(rated) if rated else 0
    return Factor(
        "quality", WEIGHTS["quality"], value, {"ratings": len(rated), "mean_rating": mean, "weight": weight}
    )


def _share(rating: int) -> float:
    return (rating - 1) / (RATING_MAX - 1)


def _disputes(weighed: Sequence[_Weighed]) -> Factor:
    found = [(_peace(one.record), one) for one in weighed]
    value, weight = _mean(_told(found), PRIOR)
    numbers = {
        "undisputed": sum(value == 1 for value, _ in found), "won": sum(value == 0.5 for value, _ in found),
        "lost": sum(value == 0 for value, _ in found), "weight": weight,
    }  # fmt: skip
    return Factor("disputes", WEIGHTS["disputes"], value, numbers)


def _peace(record: Record) -> float:
    """Who keeps quiet about a job is taken to have lost it."""
    if record.outcome is None:
        return 0.0
    if not record.disputed:
        return 1.0
    return 0.5 if record.outcome is Outcome.PAID else 0.0


def _longevity(records: Iterable[Record], now: int) -> Factor:
    months = {max(0, now - record.at) // MONTH_SECONDS for record in records if record.backed}
    active = sum(month < MONTHS for month in months)
    return Factor(
        "longevity", WEIGHTS["longevity"], active / MONTHS, {"active_months": active, "of_months": MONTHS}
    )


def _volume(weighed: Iterable[_Weighed]) -> Factor:
    """A customer counts once, however many jobs it pays for; both halves are logarithms, as money is cheap to move."""
    of_customer: dict[str, list[float]] = defaultdict(list)
    settled = []
    for one in weighed:
        if one.record.backed:
            of_customer[one.record.customer].append(one.decay)
            settled.append(one.weight * one.record.amount_msat / 1000)
    customers = math.fsum(min(1.0, math.fsum(found)) for found in of_customer.values())
    settled_sat = math.fsum(settled)
    value = (_log_share(customers, CUSTOMERS_FULL) + _log_share(settled_sat, SETTLED_SAT_FULL)) / 2
    numbers = {"customers": len(of_customer), "customers_now": customers, "settled_sat_now": settled_sat}
    return Factor("volume", WEIGHTS["volume"], value, numbers)


def _log_share(amount: float, full: int) -> float:
    return min(1.0, math.log1p(amount) / math.log1p(full))


def _calibration(weighed: Iterable[_Weighed]) -> Factor:
    """Brier's score of what was stated, less that of saying 0.5 each time: see docs/score.md."""
    known = [
        (one.record.at, one.record.customer, confidence, outcome, one.weight)
        for one in weighed
        if (confidence := one.record.confidence) is not None and (outcome := _outcome(one.record)) is not None
    ]
    known.sort(
        key=lambda one: (-one[0], *one[1:])
    )  # of equal ones the worse first: the order in must not matter
    last = [
        (max(0.5, confidence), outcome, weight)
        for _, _, confidence, outcome, weight in known[:CALIBRATION_JOBS]
    ]
    gains = [((2 * c - 1) * (4 * outcome - 2 * c - 1), weight) for c, outcome, weight in last]
    value, weight = _mean(gains, 0.0)
    numbers = {
        "jobs": len(last), "weight": weight,
        "mean_confidence": math.fsum(c for c, _, _ in last) / len(last) if last else 0,
        "mean_outcome": math.fsum(outcome for _, outcome, _ in last) / len(last) if last else 0,
        "brier": math.fsum((c - outcome) ** 2 for c, outcome, _ in last) / len(last) if last else 0,
    }  # fmt: skip
    return Factor("calibration", WEIGHTS["calibration"], min(1.0, max(0.0, value)), numbers)


def _outcome(record: Record) -> float | None:
    """How well a job went, 0 … 1, by its customer; without one behind it, only that it went badly is to be believed."""
    rated = None if record.rating is None else _share(record.rating)
    if record.backed and rated is not None:
        return rated
    went_badly = _COMPLETION.get(record.outcome) == 0 or (rated is not None and rated < PRIOR)
    return 0.0 if went_badly else None
