"""What an agent's log, its published roots and its customers' reviews amount to. Pure: docs/score.md says each rule.

Events are handed in as relays gave them, in any order and with whatever else they gave: the verdict is the same. Their
signatures were verified at the relay door; what is embedded in them is verified here where something rests on it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import islice
from math import inf
from typing import Final

from identity.errors import InvalidEvent
from identity.event import Event
from identity.published import (
    CLOCK_SECONDS,
    PROVEN,
    SHOWN_MAX,
    Book,
    Finding,
    Kind,
    Shown,
    State,
    check_book,
    check_roots,
    of_leaves,
    read_book,
    read_state,
    sort_events,
    together,
)
from identity.receipts import JobLeaf, Leaf, Outcome, Preimage, Review, SpentLock, is_lock_of
from identity.roots import Head
from identity.rotation import Chain

__all__ = [
    "ANSWER_SECONDS",
    "CLOCK_SECONDS",
    "PROVEN",
    "Audit",
    "Finding",
    "Kind",
    "Receipt",
    "Settlement",
    "Verdict",
    "audit",
    "candidates",
]

ANSWER_SECONDS: Final = 86_400  # until a review that the log does not name is held against the agent
LOOKED_AT_MAX: Final = 4  # reviews of one job by one customer
OFFER: Final = 7000
RESULTS: Final = range(6000, 7000)


class Verdict(StrEnum):
    """What one receipt amounts to."""

    SETTLED = "settled"  # the evidence names the job, and a mint was asked or a preimage shown
    UNASKED = "unasked"  # the evidence names the job, but nobody was asked whether it was spent
    NO_PAYMENT = "no_payment"  # no settled payment matches
    SELF_REVIEW = "self_review"  # by a key of the agent itself
    SECOND_REVIEW = "second_review"  # another review of the job counts
    NEVER_PAID = "never_paid"  # by a key that never paid this agent
    SILENT = "silent"  # the agent's own record of a job whose customer said nothing


NOT_KEPT: Final = {
    Outcome.REFUNDED: "the customer has it back",
    Outcome.RETURNED: "it was sent back",
    Outcome.SENT_BACK: "it was sent back before any work",
}


@dataclass(frozen=True)
class Settlement:
    """What the evidence of a review amounts to, by whoever looked at it.

    `marks` are what no review of another job may show: the coins' Ys, or the payment hash. `lock` is the key of the
    coins (33 bytes, hex), `hash` that of the paid invoice. `doubt` says why this is no settled payment, and is empty if
    nothing speaks against it. `offline` names the checks made on the event alone, `asked` who was asked besides.
    """

    marks: frozenset[str]
    amount_msat: int
    lock: str = ""
    hash: str = ""
    doubt: str = ""
    offline: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Receipt:
    """A job as its agent's log tells of it, and one review. `job` is None for one that the log does not have.

    `customer` is the author of the review or, where there is none, whom the log names. `leaf_number` is that of the
    job, `answer_number` that of the agent's answer to this review, `answer` its text. `paid_msat` is what of the
    review's amount was paid, if its verdict is `settled` or `unasked`.
    """

    request: str
    customer: str
    verdict: Verdict
    reason: str
    leaf_number: int | None = None
    job: JobLeaf | None = None
    review: Review | None = None
    review_event: Event | None = None
    answer_number: int | None = None
    answer: str = ""
    settlement: Settlement | None = None
    paid_msat: int = 0


@dataclass(frozen=True)
class Audit:
    """What was found. `head` is the newest state whose leaves are all here, `root` the event that stated it.

    `is_whole`: no published root is known whose leaves are missing; else what was not found may yet be in the log.
    """

    chain: Chain
    head: Head | None
    root: Event | None
    is_whole: bool
    leaves: tuple[Leaf | None, ...]  # None for one that cannot be read
    receipts: tuple[Receipt, ...]  # by number of the job's leaf, then those of jobs without one
    findings: tuple[Finding, ...]


def audit(
    log: str,
    events: Iterable[Event],
    settlements: Mapping[str, Settlement],
    now: int,
    known: Event | None = None,
) -> Audit:
    """Judge a log, named by its first key, and the reviews of its agent.

    `events` are all that relays gave, of any kind and in any order: roots, pages of leaves, rotations, reviews.
    `settlements` are by id of the review's event; `known` is the newest root that the reader has seen before.
    """
    shown = sort_events(log, events)
    state = read_state(log, shown, now, known)
    book = read_book(state.texts)
    told = _read_reviews(shown, book, state.chain, settlements)
    receipts, doubled = _judge_all([one for one in told if not one.is_early(now)], book)
    findings = {
        *check_roots(shown, state, now),
        *check_book(book, state, now),
        *_check_dates(told, now),
        *_check_customers(told),
        *_check_answers(shown, told, book, state),
        *_check_settled(receipts, state, now),
        *_check_lost_offers(told),
        *doubled,
    }
    return Audit(
        state.chain, state.head, state.root, state.is_whole, book.leaves, tuple(receipts),
        tuple(sorted(findings, key=lambda one: (one.kind, one.text, [event.id for event in one.events]))),
    )  # fmt: skip


def candidates(
    log: str, events: Iterable[Event], now: int, known: Event | None = None
) -> list[tuple[Event, Review]]:
    """The reviews whose settlement can matter to `audit`, by their rank: a mint need be asked about no others.

    They show a payment and are by a customer that the agent signed for, `LOOKED_AT_MAX` at most of a customer and job.
    """
    shown = sort_events(log, events)
    state = read_state(log, shown, now, known)
    book = read_book(state.texts)
    found: dict[tuple[str, str], list[tuple[Event, Review]]] = {}
    for one in _read_reviews(shown, book, state.chain, {}):
        is_signed_for = one.is_by_customer or one.lost_offer is not None
        if is_signed_for and one.review.evidence is not None and not one.is_early(now):
            found.setdefault((one.review.request_id, one.event.pubkey), []).append((one.event, one.review))
    return [one for of_job in found.values() for one in of_job[:LOOKED_AT_MAX]]


# Reviews, each by itself -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Told:
    """A review of one of the agent's jobs, and what the agent itself signed of that job.

    `offer` is the agent's, to the author of the review, with a signature that is right; `lost_offer` is one by a key
    that was lost: maybe a thief's. `by_leaf`: the log itself names what the review was paid with.
    """

    event: Event
    review: Review
    settlement: Settlement | None
    number: int | None
    job: JobLeaf | None
    offer: Event | None
    lost_offer: Event | None
    by_leaf: bool
    answer_number: int | None
    answer: str
    is_own: bool

    @property
    def has_paid(self) -> bool:
        """Whether a mint was asked, or a preimage shown, and nothing speaks against it: for whatever it was paid."""
        found = self.settlement
        is_shown = isinstance(self.review.evidence, Preimage)
        return found is not None and not found.doubt and (is_shown or bool(found.asked))

    @property
    def by_offer(self) -> bool:
        """Whether the agent's offer names what the review was paid with."""
        return self.offer is not None and _is_named_by_offer(self.review, self.settlement, self.offer)

    @property
    def paid_msat(self) -> int:
        """What of the review's amount was paid. A hash in the log names no amount: then the log's is the most."""
        paid = min(self.review.amount_msat, self.settlement.amount_msat if self.settlement else 0)
        if isinstance(self.review.evidence, Preimage) and self.job is not None and not self.by_offer:
            return min(paid, self.job.amount_msat)
        return paid

    @property
    def is_by_customer(self) -> bool:
        """Whether the agent signed that the author is the job's customer."""
        by_log = self.job is not None and self.job.customer == self.event.pubkey
        return not self.is_own and (by_log or self.offer is not None)

    def is_early(self, now: int) -> bool:
        """Whether it is dated in the future: it does not count yet."""
        return self.event.created_at > now + CLOCK_SECONDS

    @property
    def contradicts(self) -> bool:
        """Whether the log names another customer than the agent's own offer to the author."""
        return self.job is not None and self.offer is not None and self.job.customer != self.event.pubkey

    @property
    def rank(self) -> tuple[float, str, bool, float, int, str]:
        """Which review of a job comes first: what the log named first, for dates are whatever their author likes."""
        number = inf if self.number is None else self.number
        answered = inf if self.answer_number is None else self.answer_number
        request, event = self.review.request_id, self.event
        return (number, request, not self.contradicts, answered, event.created_at, event.id)


def _read_reviews(
    shown: Shown, book: Book, chain: Chain, settlements: Mapping[str, Settlement]
) -> list[_Told]:
    """The reviews of this agent's jobs, by their rank."""
    told = []
    for event, review in shown.reviews:
        if review.provider not in chain:
            continue
        number, job = book.jobs.get(review.request_id, (None, None))
        answer_number, answer = book.answers.get(event.id, (None, None))
        if answer is not None and answer.request != review.request_id:
            answer_number, answer = None, None
        settlement = settlements.get(event.id)
        by_leaf = (
            job is not None
            and job.customer == event.pubkey
            and _is_named_by_leaf(review, settlement, job, chain)
        )
        offer, lost_offer = _offer_in(event, review, chain), None
        if offer is not None and _is_lost(chain, offer.pubkey):
            offer, lost_offer = None, offer
        told.append(
            _Told(
                event, review, settlement, number, job, offer, lost_offer, by_leaf, answer_number,
                answer.answer if answer else "", is_own=event.pubkey in chain,
            )
        )  # fmt: skip
    return sorted(told, key=lambda one: one.rank)


def _offer_in(event: Event, review: Review, chain: Chain) -> Event | None:
    """The agent's signed offer or result for this request and this customer, if it is in the review."""
    offer = review.offer
    if offer is None or (offer.kind != OFFER and offer.kind not in RESULTS):
        return None
    if not chain.counts(offer.pubkey, offer.created_at):
        return None
    if offer.tag("e") != review.request_id or offer.tag("p") != event.pubkey:
        return None
    try:
        offer.verify()
    except InvalidEvent:
        return None
    return offer


def _is_lost(chain: Chain, key: str) -> bool:
    """Whether a key was recovered from: it may be a thief's, who dates as it likes, so its word alone is nobody's."""
    tenure = chain.tenure(key)
    return tenure is not None and tenure.lost


def _is_named_by_leaf(review: Review, settlement: Settlement | None, job: JobLeaf, chain: Chain) -> bool:
    """Whether the log says that this is what the job was paid with. A lock must say so too: it may be another's."""
    match review.evidence:
        case SpentLock():
            if settlement is None or settlement.lock != job.lock:
                return False
            return any(is_lock_of(job.lock, job.lock_sig, key, job.request) for key in chain.keys)
        case Preimage(_, preimage):
            return job.hash == sha256(bytes.fromhex(preimage)).hexdigest()
        case None:
            return False


def _is_named_by_offer(review: Review, settlement: Settlement | None, offer: Event) -> bool:
    if settlement is None:
        return False
    match review.evidence:
        case SpentLock():
            lock, signature = next((tag[1:3] for tag in offer.tags_named("lock") if len(tag) > 2), ("", ""))
            return lock == settlement.lock and is_lock_of(lock, signature, offer.pubkey, review.request_id)
        case Preimage(bolt11, preimage):
            invoices = [tag[2].lower() for tag in offer.tags_named("amount") if len(tag) > 2]
            is_paid = settlement.hash == sha256(bytes.fromhex(preimage)).hexdigest()
            return is_paid and bolt11.lower() in invoices
        case None:
            return False


def _judge(told: _Told, payers: frozenset[str]) -> tuple[Verdict, str]:
    """The verdict on a review by itself: whether another one of the same job counts is not looked at."""
    review, settlement, author = told.review, told.settlement, told.event.pubkey
    if told.is_own or author == review.provider:
        return Verdict.SELF_REVIEW, "written by a key of the agent itself"
    if not told.is_by_customer:
        if author in payers:
            return Verdict.NO_PAYMENT, "its author paid for other jobs, and is not the customer of this one"
        return Verdict.NEVER_PAID, "its author never paid this agent, as far as the agent signed it"
    if review.evidence is None:
        return Verdict.NO_PAYMENT, "the review shows no payment"
    if settlement is None:
        return Verdict.NO_PAYMENT, "nobody has looked at the payment that the review shows"
    if settlement.doubt:
        return Verdict.NO_PAYMENT, settlement.doubt
    if not told.by_leaf and not told.by_offer:
        return (
            Verdict.NO_PAYMENT,
            "it paid for something else: no such key or invoice was signed for this job",
        )
    if settlement.amount_msat < review.amount_msat:
        paid = settlement.amount_msat
        return Verdict.NO_PAYMENT, f"{review.amount_msat} msat are claimed, and {paid} msat were paid"
    if told.job is not None and not _is_of(review, told.job) and not told.by_offer:
        return Verdict.NO_PAYMENT, "it is of another kind or result than the job in the log"
    if told.job is not None and told.job.outcome in NOT_KEPT:
        kept = NOT_KEPT[told.job.outcome]
        return Verdict.NO_PAYMENT, f"the agent does not have the money, says its log: {kept}"
    if not told.has_paid:
        return Verdict.UNASKED, "the payment names this job; no mint was asked whether it was made"
    return Verdict.SETTLED, "paid, by evidence that names this job"


def _is_of(review: Review, job: JobLeaf) -> bool:
    """Whether a review says of the job what the leaf does."""
    return review.kind == job.kind and review.result_id in {None, job.result}


# Reviews together ------------------------------------------------------------------------------------------------


HOLDS: Final = (Verdict.SETTLED, Verdict.UNASKED)  # what was settled comes first


def _judge_all(told: Sequence[_Told], book: Book) -> tuple[list[Receipt], list[Finding]]:
    """A receipt for each review, and for each job whose customer said nothing; and what was paid only once."""
    payers = frozenset(job.customer for _, job in book.jobs.values())
    judged = {one.event.id: _judge(one, payers) for one in told}
    firsts: dict[tuple[str, str], _Told] = {}
    for one in told:
        if judged[one.event.id][0] in HOLDS:
            job = (one.review.request_id, one.event.pubkey)
            if firsts.setdefault(job, one) is not one:
                judged[one.event.id] = Verdict.SECOND_REVIEW, "an earlier review of the same job counts"
    findings = _settle_conflicts(firsts.values(), judged)
    receipts = [_receipt(one, *judged[one.event.id]) for one in told]
    spoken = {one.review.request_id for one in told if one.is_by_customer}
    receipts += [_silence(number, job) for number, job in book.jobs.values() if job.request not in spoken]
    receipts.sort(key=lambda one: (inf if one.leaf_number is None else one.leaf_number, one.request))
    return receipts, findings


def _settle_conflicts(rivals: Iterable[_Told], judged: dict[str, tuple[Verdict, str]]) -> list[Finding]:
    """Leave each payment to one job, and each job to one customer, and mark the others in `judged`.

    Only an agent that signed for both can bring this about: the lowest rating counts, so that it gains nothing by it.
    """
    findings = []
    used: dict[str, _Told] = {}
    jobs: set[str] = set()
    for one in sorted(
        rivals, key=lambda one: (HOLDS.index(judged[one.event.id][0]), one.review.rating, one.rank)
    ):
        request, marks = one.review.request_id, one.settlement.marks if one.settlement else ()
        others = [used[mark] for mark in marks if mark in used and used[mark].review.request_id != request]
        if others:
            reason = "the same payment is in the review of another job"
            judged[one.event.id] = Verdict.NO_PAYMENT, reason
            first, second = sorted([min(others, key=lambda other: other.rank), one], key=lambda it: it.rank)
            findings.append(Finding(Kind.DOUBLE_PAYMENT, reason, (first.event, second.event)))
        elif request in jobs:
            judged[one.event.id] = Verdict.SECOND_REVIEW, "another customer's review of the same job counts"
        else:
            jobs.add(request)
            used |= dict.fromkeys(marks, one)
    return findings


def _receipt(told: _Told, verdict: Verdict, reason: str) -> Receipt:
    return Receipt(
        told.review.request_id, told.event.pubkey, verdict, reason, told.number, told.job, told.review,
        told.event, told.answer_number, told.answer, told.settlement,
        told.paid_msat if verdict in HOLDS else 0,
    )  # fmt: skip


def _silence(number: int, job: JobLeaf) -> Receipt:
    reason = f"its customer said nothing; the agent's log says: {job.outcome}"
    return Receipt(job.request, job.customer, Verdict.SILENT, reason, number, job)


# What is wrong with them -----------------------------------------------------------------------------------------


def _check_dates(told: Sequence[_Told], now: int) -> Iterator[Finding]:
    future = [one.event for one in told if one.is_early(now)]
    yield from together(Kind.FUTURE, "reviews dated in the future: they do not count yet", future)
    early = [
        one.event for one in told
        if one.job is not None and one.is_by_customer and one.event.created_at + ANSWER_SECONDS < one.job.at
    ]  # fmt: skip
    yield from together(Kind.FUTURE, "reviews dated more than a day before their job ended", early)


def _check_customers(told: Iterable[_Told]) -> Iterator[Finding]:
    for one in told:
        if one.contradicts and one.offer is not None:
            text = f"leaf {one.number} names another customer than the agent's own offer"
            yield Finding(Kind.CONTRADICTION, text, (one.offer, one.event))


def _check_answers(shown: Shown, told: Iterable[_Told], book: Book, state: State) -> Iterator[Finding]:
    """Each leaf for a review is of one, by the customer of the very job that the leaf names."""
    requests = {one.event.id: one.review.request_id for one in told if one.is_by_customer}
    others = {event.id: event for event in (*shown.malformed, *(event for event, _ in shown.reviews))}
    missing = []
    for number, leaf in book.answers.values():
        if leaf.review not in others:
            missing.append(number)
        elif requests.get(leaf.review) != leaf.request:
            text = f"leaf {number} answers what is no review of its job by the customer of that job"
            events = (others[leaf.review], *filter(None, (state.root,)))
            yield Finding(Kind.FALSE_ANSWER, text, events)
    yield from of_leaves(Kind.MISSING, "reviews that the log names are not shown", missing, ())


def _check_lost_offers(told: Iterable[_Told]) -> Iterator[Finding]:
    """Paid jobs that only a lost key signed for: its owner may want to be rid of them, or a thief made them up."""
    found = [
        one.event for one in told
        if one.lost_offer is not None and not one.is_by_customer and not one.is_own and one.has_paid
        and _is_named_by_offer(one.review, one.settlement, one.lost_offer)
    ]  # fmt: skip
    text = "paid jobs for which only a lost key signed: its owner dropped them, or a thief made them up"
    yield from together(Kind.DROPPED, text, found)


def _check_settled(receipts: Iterable[Receipt], state: State, now: int) -> Iterator[Finding]:
    """Settled reviews that an agent keeps quiet about, for longer than it may not have heard of them."""
    if not state.is_whole:
        return  # they may be in what is missing
    unanswered: dict[int, Event] = {}
    for receipt in receipts:
        event, job = receipt.review_event, receipt.job
        if event is None or receipt.verdict is not Verdict.SETTLED or receipt.answer_number is not None:
            continue
        if now - max(event.created_at, job.at if job else 0) <= ANSWER_SECONDS:
            continue
        if receipt.leaf_number is None:
            yield Finding(
                Kind.DROPPED, f"the log does not have the job {receipt.request}, which was paid", (event,)
            )
        else:
            unanswered[receipt.leaf_number] = event
    events = tuple(islice(unanswered.values(), SHOWN_MAX))
    yield from of_leaves(
        Kind.UNANSWERED, "settled reviews are not named in the log", list(unanswered), events
    )
