"""The root of an agent's log as it is published, and the pages that its leaves are fetched from. Pure.

A root goes out twice: as a kind-30078 event, which every newer one replaces (NIP-78), and as a regular event of kind
78, which stays: two roots of one size that differ prove by themselves that the log was forked. The wire:
docs/receipts.md.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Final

from identity import merkle
from identity.errors import InvalidReceipt
from identity.event import Event, EventTemplate, Tag, make_template

ROOT_REPLACEABLE: Final = 30078
APP_DATA: Final = 78
ROOT_NAME: Final = "tradepost:root"
LEAVES_NAME: Final = "tradepost:leaves"
ALGORITHM: Final = "rfc9162-sha256"
PAGE_BYTES_MAX: Final = 40_000
DETOURS_MAX: Final = 32
RELAYS_MAX: Final = 8

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,9}")


@dataclass(frozen=True)
class Head:
    """A state of a log: its size, and the root over so many leaves in lowercase hex."""

    size: int
    root: str


@dataclass(frozen=True)
class Root:
    """A published state. `log` is the first key of the log, `previous` what was published before it, and
    `consistency` the proof that this one grew out of that (hex); `relays` have the leaves.
    """

    log: str
    head: Head
    previous: Head | None = None
    consistency: tuple[str, ...] = ()
    relays: tuple[str, ...] = ()

    def to_templates(self, now: int) -> tuple[EventTemplate, EventTemplate]:
        """The regular event and the replaceable one, to be signed by the agent."""
        tags: list[Tag] = [
            ("log", self.log), ("root", self.head.root), ("size", str(self.head.size)), ("alg", ALGORITHM),
        ]  # fmt: skip
        if self.previous is not None:
            tags += [
                ("prev", self.previous.root, str(self.previous.size)),
                ("consistency", *self.consistency),
            ]
        tags.append(("leaves", *self.relays))
        regular = make_template(APP_DATA, tags=[("t", ROOT_NAME), *tags], created_at=now)
        return regular, make_template(ROOT_REPLACEABLE, tags=[("d", ROOT_NAME), *tags], created_at=now)

    @property
    def is_consistent(self) -> bool:
        """Whether its own proof shows that it grew out of what it names as the one before."""
        if self.previous is None or self.previous.size == 0:
            return not self.consistency
        return merkle.verify_consistency(
            self.previous.size, self.head.size, [bytes.fromhex(one) for one in self.consistency],
            bytes.fromhex(self.previous.root), bytes.fromhex(self.head.root),
        )  # fmt: skip


def parse_root(event: Event) -> Root:
    """Read a root in either of its forms. Its signature is not checked. Raises `InvalidReceipt`."""
    is_root = {APP_DATA: ("t", ROOT_NAME), ROOT_REPLACEABLE: ("d", ROOT_NAME)}.get(event.kind) in event.tags
    if not is_root:
        raise InvalidReceipt(
            f"not a root: kind {ROOT_REPLACEABLE} with d, or kind {APP_DATA} with t, {ROOT_NAME}"
        )
    if event.has_tag("expiration"):
        raise InvalidReceipt("a root that is to vanish is none")
    if event.tag("alg") != ALGORITHM:
        raise InvalidReceipt(f"a root by an algorithm that is not {ALGORITHM}")
    previous, proof = event.tags_named("prev"), event.tags_named("consistency")
    relays = event.tags_named("leaves")
    if len(previous) > 1 or len(proof) > len(previous) or any(len(tag) != 3 for tag in previous):
        raise InvalidReceipt(
            "a root names one before it, by root and size, and one proof that it grew from that"
        )
    consistency = proof[0][1:] if proof else ()
    return Root(
        log=_hex(event.tag("log")), head=_head(event.tag("root"), event.tag("size")),
        previous=_head(*previous[0][1:]) if previous else None,
        consistency=tuple(_hex(one) for one in consistency[: 2 * merkle.SIZE_MAX.bit_length()]),
        relays=relays[0][1 : RELAYS_MAX + 1] if relays else (),
    )  # fmt: skip


@dataclass(frozen=True)
class Contradiction:
    """Two events of one log that cannot both be of an append-only log: they prove a fork by themselves."""

    size: int
    first: Event
    second: Event


def find_contradictions(roots: Iterable[tuple[Event, Root]]) -> list[Contradiction]:
    """Every size for which the events of one log state two roots, as their own or as the one before.

    Signatures are to be checked before; roots of several logs may be among them.
    """
    stated: dict[tuple[str, int], dict[str, Event]] = {}
    for event, root in roots:
        for head in (root.head, root.previous):
            if head is not None:
                stated.setdefault((root.log, head.size), {}).setdefault(head.root, event)
    return [
        Contradiction(size, first, second)
        for (_, size), events in sorted(stated.items())
        for first, second in combinations(events.values(), 2)
    ]


# Pages of leaves -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """Some leaves of a log in a row, the first one at number `first`."""

    log: str
    first: int
    leaves: tuple[str, ...]

    def to_template(self, now: int) -> EventTemplate:
        """The regular event to be signed by the agent."""
        tags: list[Tag] = [
            ("t", LEAVES_NAME), ("log", self.log), ("range", str(self.first), str(len(self.leaves))),
        ]  # fmt: skip
        return make_template(APP_DATA, content="\n".join(self.leaves), tags=tags, created_at=now)


def make_pages(log: str, first: int, leaves: Sequence[str]) -> list[Page]:
    """Leaves cut into pages that fit into an event each."""
    pages: list[Page] = []
    here: list[str] = []
    size = 0
    for leaf in leaves:
        size += len(leaf.encode()) + 1
        if here and size > PAGE_BYTES_MAX:
            pages.append(Page(log, first, tuple(here)))
            first, here, size = first + len(here), [], len(leaf.encode()) + 1
        here.append(leaf)
    return [*pages, Page(log, first, tuple(here))] if here else pages


def parse_page(event: Event) -> Page:
    """Read a page of leaves. Its signature is not checked; only a root says that its leaves are of a log.

    Raises `InvalidReceipt`.
    """
    if event.kind != APP_DATA or ("t", LEAVES_NAME) not in event.tags:
        raise InvalidReceipt(f"not a page of leaves: kind {APP_DATA} with t {LEAVES_NAME}")
    leaves = tuple(event.content.split("\n")) if event.content else ()
    match event.tags_named("range"):
        case [(_, first, count)] if _NUMBER.fullmatch(first) and count == str(len(leaves)):
            return Page(_hex(event.tag("log")), int(first), leaves)
    raise InvalidReceipt("a page says in one `range` which leaves it has, and has so many")


def find_leaves(pages: Iterable[Page], head: Head, stated: frozenset[Head]) -> tuple[str, ...] | None:
    """The leaves of a log at that state out of pages in any order; None if they are not in there.

    Pages may overlap, and contradict each other: a log that was forked has several that go on from one leaf. Those
    come first that lead to a state in `stated`; how many ways are tried has a limit.
    """
    ordered = sorted({(page.first, page.leaves) for page in pages})
    firsts = [first for first, _ in ordered]
    longest = max((len(leaves) for _, leaves in ordered), default=0)
    ways: list[_Way] = [_Way(merkle.Frontier())]
    detours = DETOURS_MAX
    while ways:
        way = ways.pop()
        size = way.frontier.size
        if size == head.size:
            if way.head == head:
                return way.leaves()
            continue
        near = ordered[bisect_left(firsts, size - longest + 1) : bisect_right(firsts, size)]
        steps = {leaves[size - first : head.size - first] for first, leaves in near} - {()}
        onward = sorted(
            (way.onward(step) for step in steps),
            key=lambda one: (one.head in stated, len(one.step), one.step),
        )
        ways += onward[-1 - detours :]
        detours -= max(0, min(detours, len(onward) - 1))
    return None


@dataclass(frozen=True)
class _Way:
    """Leaves in a row from the first on: `step` after those of `before`."""

    frontier: merkle.Frontier
    step: tuple[str, ...] = ()
    before: "_Way | None" = None

    def onward(self, step: tuple[str, ...]) -> "_Way":
        """These leaves and some more."""
        frontier, _ = self.frontier.extend([merkle.leaf_hash(leaf.encode()) for leaf in step])
        return _Way(frontier, step, self)

    @property
    def head(self) -> Head:
        """The state that they lead to."""
        return Head(self.frontier.size, self.frontier.root.hex())

    def leaves(self) -> tuple[str, ...]:
        """All of them."""
        steps = []
        way: _Way | None = self
        while way is not None:
            steps.append(way.step)
            way = way.before
        return tuple(chain.from_iterable(reversed(steps)))


def _head(root: str | None, size: str | None) -> Head:
    if size is None or not _NUMBER.fullmatch(size) or int(size) > merkle.SIZE_MAX:
        raise InvalidReceipt(f"the size of a log is a whole number up to {merkle.SIZE_MAX}")
    return Head(int(size), _hex(root))


def _hex(text: str | None) -> str:
    if text is None or not _HEX.fullmatch(text):
        raise InvalidReceipt("a root names its log and its root in 64 lowercase hex digits each")
    return text
