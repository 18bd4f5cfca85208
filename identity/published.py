"""What an agent published of its log, as relays show it: roots, leaves and keys, and what does not go together. Pure.

Dates play no part in which root is newer, nor the order in which events came: whoever signs an event dates it.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate, islice
from typing import Final

from identity import merkle
from identity.errors import InvalidReceipt
from identity.event import Event
from identity.receipts import NAMESPACE, REVIEW, JobLeaf, Leaf, Review, ReviewLeaf, parse_leaf, parse_review
from identity.roots import (
    APP_DATA,
    LEAVES_NAME,
    ROOT_NAME,
    ROOT_REPLACEABLE,
    Head,
    Page,
    Root,
    find_contradictions,
    find_leaves,
    parse_page,
    parse_root,
)
from identity.rotation import ROTATION_NAME, Chain, read_chain

CLOCK_SECONDS: Final = 900  # clocks differ
HEADS_TRIED_MAX: Final = 16
KEY_ROUNDS_MAX: Final = 8
SHOWN_MAX: Final = 20  # of what one finding tells of

Stated = tuple[Event, Root]


class Kind(StrEnum):
    """What an audit finds. `PROVEN` are those that the agent's own signatures prove."""

    FORK = "fork"  # published states that no single log has
    DOUBLE_JOB = "double_job"  # a job is in the log twice
    DOUBLE_LOCK = "double_lock"  # one payment's key or hash is in the log for two jobs
    DOUBLE_ANSWER = "double_answer"  # a review is in the log twice
    FALSE_ANSWER = "false_answer"  # the log answers what is no review of its job by the job's customer
    SELF_DEALING = "self_dealing"  # a job of the agent for itself
    CONTRADICTION = "contradiction"  # the log names another customer than the agent's signed offer
    TWO_LOGS = "two_logs"  # a key of the log signed for another one, too: dvm.reputation.conduct finds it
    DELETED = "deleted"  # a key of the log asked relays to delete roots, leaves or rotations: as above
    MALFORMED = "malformed"  # a root, a page or a leaf that cannot be read
    FUTURE = "future"  # dated later than it can be, or earlier
    FOREIGN_KEY = "foreign_key"  # roots by a key that may not sign them: they are ignored
    HIDDEN_ROOT = "hidden_root"  # a newer root is known of than is shown, or only one of its two forms
    MISSING = "missing"  # leaves of a published root, or reviews that the log names, were not to be found
    DROPPED = "dropped"  # a settled review of a job that the log does not have
    UNANSWERED = "unanswered"  # a settled review that the log does not name
    DOUBLE_PAYMENT = "double_payment"  # one payment in the reviews of two jobs


PROVEN: Final = frozenset({
    Kind.FORK, Kind.DOUBLE_JOB, Kind.DOUBLE_LOCK, Kind.DOUBLE_ANSWER, Kind.FALSE_ANSWER, Kind.SELF_DEALING,
    Kind.CONTRADICTION, Kind.TWO_LOGS, Kind.DELETED,
})  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be, in a sentence, with the events that show it."""

    kind: Kind
    text: str
    events: tuple[Event, ...] = ()

    @property
    def is_proven(self) -> bool:
        """Whether the agent's signatures prove it; otherwise a relay, a customer or a clock may be the cause."""
        return self.kind in PROVEN


@dataclass(frozen=True)
class Shown:
    """Events by what they are, of one log; `malformed` are those that say they are something, and are not."""

    roots: tuple[Stated, ...]
    pages: tuple[tuple[Event, Page], ...]
    rotations: tuple[Event, ...]
    reviews: tuple[tuple[Event, Review], ...]
    malformed: tuple[Event, ...]


def sort_events(log: str, events: Iterable[Event]) -> Shown:
    """Tell apart what is shown. Reviews are read, and not yet looked at for whose they are."""
    roots, pages, rotations, reviews, malformed = [], [], [], [], []
    unique = {event.id: event for event in sorted(events, key=lambda event: (event.id, event.sig))}
    for event in unique.values():
        try:
            if event.kind == REVIEW and event.tag("L") == NAMESPACE:
                reviews.append((event, parse_review(event)))
            elif ("d", ROOT_NAME) in event.tags or ("t", ROOT_NAME) in event.tags:
                roots.append((event, parse_root(event)))
            elif ("t", LEAVES_NAME) in event.tags:
                pages.append((event, parse_page(event)))
            elif ("t", ROTATION_NAME) in event.tags:
                rotations.append(event)
        except InvalidReceipt:
            malformed.append(event)
    return Shown(
        tuple(sorted((one for one in roots if one[1].log == log), key=_by_size)),
        tuple(one for one in pages if one[1].log == log), tuple(rotations), tuple(reviews), tuple(malformed),
    )  # fmt: skip


# The state of a log ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """A log as far as its leaves are here: `head`, which `root` stated, over `texts`.

    `roots` are those that count, the smallest first. `hidden` is one of them: the reader saw it before, and it is not
    shown now.
    """

    chain: Chain
    roots: tuple[Stated, ...] = ()
    hidden: Stated | None = None
    root: Event | None = None
    head: Head | None = None
    texts: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether no leaf of a published root is missing."""
        size = self.head.size if self.head else 0
        return all(root.head.size <= size for _, root in self.roots)


def read_state(log: str, shown: Shown, now: int, known: Event | None) -> State:
    """The leaves tell of keys, and keys tell which roots count: both are read in turn until nothing changes."""
    hidden = None if known is None else _read_known(log, known)
    if hidden is not None and any(event.id == hidden[0].id for event, _ in shown.roots):
        hidden = None
    roots = sorted([*shown.roots, *filter(None, (hidden,))], key=_by_size)
    state = State(read_chain(log, (), shown.rotations, now))
    for _ in range(KEY_ROUNDS_MAX):
        keys = state.chain
        counted = tuple(
            (event, root) for event, root in roots
            if keys.may_sign(event.pubkey, root.head.size, event.created_at)
        )  # fmt: skip
        pages = [page for event, page in shown.pages if event.pubkey in keys]
        found = _newest(counted, pages)
        state = State(
            _chain_of(log, found[2], shown.rotations, now), counted, hidden if hidden in counted else None, *found
        )  # fmt: skip
        if state.chain == keys:
            break
    return state


def _by_size(stated: Stated) -> tuple[int, str, str]:
    event, root = stated
    return (root.head.size, root.head.root, event.id)


def _read_known(log: str, event: Event) -> Stated | None:
    with suppress(InvalidReceipt):
        root = parse_root(event)
        return (event, root) if root.log == log else None
    return None


def _newest(
    roots: Sequence[Stated], pages: Sequence[Page]
) -> tuple[Event | None, Head | None, tuple[str, ...]]:
    """The newest root whose leaves are here; of a forked log's, over so many leaves, one of them."""
    heads = {root.head: event for event, root in roots}
    for head, event in islice(reversed(heads.items()), HEADS_TRIED_MAX):
        leaves = find_leaves(pages, head, frozenset(heads))
        if leaves is not None:
            return event, head, leaves
    return None, None, ()


def _chain_of(log: str, texts: Sequence[str], rotations: Sequence[Event], now: int) -> Chain:
    """By all leaves; where one of them is malformed by the first alone; at least by the rotations themselves."""
    for some in (texts, texts[:1]):
        with suppress(InvalidReceipt):
            return read_chain(log, some, rotations, now)
    return read_chain(log, (), rotations, now)


def check_roots(shown: Shown, state: State, now: int) -> Iterator[Finding]:
    """Forks, roots that do not count, and what was held back."""
    contradicted = {one.size: one for one in find_contradictions(state.roots)}  # two of them prove it
    for size, one in contradicted.items():
        yield Finding(Kind.FORK, f"two roots over {size} leaves", (one.first, one.second))
    for event, root in state.roots:
        if not root.is_consistent:
            text = f"the root over {root.head.size} leaves has no proof that it grew from the one before it"
            yield Finding(Kind.FORK, text, (event,))
    for event, root in _not_beginnings(state):
        if state.root is not None and root.head.size not in contradicted:
            text = f"the log does not begin with the {root.head.size} leaves that a smaller root stands for"
            yield Finding(Kind.FORK, text, (event, state.root))
    counted = {event.id for event, _ in state.roots}
    ignored = [event for event, _ in shown.roots if event.id not in counted]
    yield from together(Kind.FOREIGN_KEY, "roots by a key that may not sign them: ignored", ignored)
    future = [event for event, _ in state.roots if event.created_at > now + CLOCK_SECONDS]
    yield from together(Kind.FUTURE, "roots dated in the future", future)
    malformed = [event for event in shown.malformed if event.pubkey in state.chain]
    yield from together(Kind.MALFORMED, "events of the agent that cannot be read", malformed)
    if (
        state.roots or shown.pages or shown.rotations or shown.reviews
    ):  # else nobody ever said that there is a log
        yield from _check_newest(state)


def together(kind: Kind, text: str, events: Sequence[Event]) -> Iterator[Finding]:
    """One finding for all of these, however many somebody made; none for none."""
    if events:
        yield Finding(kind, f"{text} ({len(events)})", tuple(events[:SHOWN_MAX]))


def _not_beginnings(state: State) -> Iterator[Stated]:
    """The roots over leaves that are not the first ones of those that are here."""
    frontier = merkle.Frontier()
    hashes = [merkle.leaf_hash(text.encode()) for text in state.texts]
    for event, root in state.roots:
        if root.head.size <= len(hashes):
            frontier, _ = frontier.extend(hashes[frontier.size : root.head.size])
            if frontier.root.hex() != root.head.root:
                yield event, root


def _check_newest(state: State) -> Iterator[Finding]:
    shown = [one for one in state.roots if one != state.hidden]
    newest = {APP_DATA: 0, ROOT_REPLACEABLE: 0}
    for event, root in shown:
        newest[event.kind] = max(newest[event.kind], root.head.size)
    size = max(newest.values())
    if state.hidden is not None and state.hidden[1].head.size > size:
        event, root = state.hidden
        text = f"a root over {root.head.size} leaves was seen before, and none over more than {size} is shown"
        yield Finding(Kind.HIDDEN_ROOT, text, (event,))
    for kind, own in newest.items():
        if own < size:
            events = tuple(event for event, root in shown if root.head.size == size)
            text = f"a root over {size} leaves is shown, and as kind {kind} none over more than {own}"
            yield Finding(Kind.HIDDEN_ROOT, text, events)
    if not state.is_whole:
        event, root = state.roots[-1]
        here = state.head.size if state.head else 0
        text = f"of the {root.head.size} leaves of the newest root, those under a root over {here} were found"
        yield Finding(Kind.MISSING, text, (event,))
    if not state.roots:
        yield Finding(Kind.MISSING, "no root of this log is shown")


# What its leaves say ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Book:
    """The leaves of a log, None for one that cannot be read, and by what they are of: the first of each counts.

    `doubled` are the numbers of the others.
    """

    leaves: tuple[Leaf | None, ...]
    jobs: dict[str, tuple[int, JobLeaf]] = field(default_factory=dict)  # by request
    answers: dict[str, tuple[int, ReviewLeaf]] = field(default_factory=dict)  # by review
    doubled: tuple[int, ...] = ()


def read_book(texts: Iterable[str]) -> Book:
    """Read the leaves of a log."""
    leaves = tuple(_read_leaf(text) for text in texts)
    jobs: dict[str, tuple[int, JobLeaf]] = {}
    answers: dict[str, tuple[int, ReviewLeaf]] = {}
    doubled = []
    for number, leaf in enumerate(leaves):
        match leaf:
            case JobLeaf() if jobs.setdefault(leaf.request, (number, leaf))[0] != number:
                doubled.append(number)
            case ReviewLeaf():
                first, said = answers.setdefault(leaf.review, (number, leaf))
                if leaf.answer and not said.answer:  # what was seen first, and answered later
                    answers[leaf.review] = (first, leaf)
                elif first != number:
                    doubled.append(number)
    return Book(leaves, jobs, answers, tuple(doubled))


def _read_leaf(text: str) -> Leaf | None:
    with suppress(InvalidReceipt):
        return parse_leaf(text)
    return None


def check_book(book: Book, state: State, now: int) -> Iterator[Finding]:
    """Leaves that cannot be read, that are there twice, or that are dated wrongly; jobs for itself."""
    evidence = () if state.root is None else (state.root,)
    for number in book.doubled:
        if isinstance(leaf := book.leaves[number], JobLeaf):
            text = f"leaf {number} is of the same job as leaf {book.jobs[leaf.request][0]}"
            yield Finding(Kind.DOUBLE_JOB, text, evidence)
        elif isinstance(leaf, ReviewLeaf):
            text = f"leaf {number} is of the same review as leaf {book.answers[leaf.review][0]}"
            yield Finding(Kind.DOUBLE_ANSWER, text, evidence)
    for number, job in book.jobs.values():
        if job.customer in state.chain:
            yield Finding(Kind.SELF_DEALING, f"leaf {number} is of a job for the agent itself", evidence)
    yield from _check_payments(book, evidence)
    malformed = [number for number, leaf in enumerate(book.leaves) if leaf is None]
    yield from of_leaves(Kind.MALFORMED, "these leaves cannot be read", malformed, evidence)
    yield from of_leaves(
        Kind.FUTURE, "these leaves are dated after the root over them", _too_late(book, state, now), evidence
    )


def _check_payments(book: Book, evidence: tuple[Event, ...]) -> Iterator[Finding]:
    """Each job has a lock, and an invoice, of its own."""
    seen: dict[str, int] = {}
    for number, job in book.jobs.values():
        for name in filter(None, (job.lock, job.hash)):
            first = seen.setdefault(name, number)
            if first != number:
                text = f"leaf {number} names the lock or the invoice that leaf {first} does"
                yield Finding(Kind.DOUBLE_LOCK, text, evidence)


def of_leaves(kind: Kind, text: str, numbers: Sequence[int], events: tuple[Event, ...]) -> Iterator[Finding]:
    """One finding for all of these leaves; none for none."""
    if numbers:
        named = ", ".join(str(number) for number in numbers[:SHOWN_MAX])
        rest = f" and {len(numbers) - SHOWN_MAX} more" if len(numbers) > SHOWN_MAX else ""
        yield Finding(kind, f"{text}: leaf {named}{rest}", events)


def _too_late(book: Book, state: State, now: int) -> list[int]:
    sizes = [root.head.size for _, root in state.roots]
    earliest = list(accumulate((event.created_at for event, _ in reversed(state.roots)), min))[::-1]
    late = []
    for number, leaf in enumerate(book.leaves):
        place = bisect_right(sizes, number)  # the smallest root over it; a larger one may be older still
        limit = min([now, *earliest[place : place + 1]]) + CLOCK_SECONDS
        if leaf is not None and leaf.at > limit:
            late.append(number)
    return late
