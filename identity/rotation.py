"""Keys of an agent's log: how it is handed on from one to the next, and what each of them may say. Pure.

A log is named by its first key. Each key of it is *committed to* before it is used: by the first leaf, then by each
rotation, which state the SHA-256 of the key that comes next. A rotation is a regular event of kind 78, which stays:

- *handed on*: signed by the old key, with the same statement by the new one inside it. The old key counts for an hour
  more, so that who has not heard of it is served.
- *recovered*: signed by the new key alone, to which the log was committed. Whoever found or stole the old key cannot
  make it. The old key ends at once, and its roots of a size beyond the rotation's never counted.

Where two lead on from one key, the one to which the log was committed wins, and the other is shown: `contested`. An
event by a new key alone, to which nobody was committed, is but a claim. The wire: docs/receipts.md, docs/keys.md.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Final

from identity import merkle
from identity.errors import InvalidEvent, InvalidReceipt
from identity.event import Event, EventTemplate, Tag, make_template, parse_event
from identity.receipts import KeyLeaf, parse_leaf
from identity.roots import APP_DATA, Head

ROTATION_NAME: Final = "tradepost:rotation"
OVERLAP_SECONDS: Final = 3600
FUTURE_SECONDS_MAX: Final = 900  # clocks differ; what is dated later is not in force yet
KEYS_MAX: Final = 100  # of one log
SHOWN_MAX: Final = 20  # of what does not count
CONTENT_CHARS_MAX: Final = 4000

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,9}")


def commitment(public_key: str) -> str:
    """What is stated of a key before it is used: the SHA-256 of its 32 bytes, in hex."""
    return hashlib.sha256(bytes.fromhex(public_key)).hexdigest()


@dataclass(frozen=True)
class Rotation:
    """The log `log` goes over from the key `old` to `new`, when it was at `head`, at `at` (seconds since 1970).

    `next` is the `commitment` to the key after `new`. `by_both`: signed by the old key too.
    """

    log: str
    old: str
    new: str
    head: Head
    next: str
    at: int
    by_both: bool
    event: Event | None = None

    @property
    def until(self) -> int:
        """Until when the old key counts."""
        return self.at + (OVERLAP_SECONDS if self.by_both else 0)

    def to_template(self) -> EventTemplate:
        """What the new key signs: the event itself if it signs alone, else what goes into that of the old key."""
        return self._template("")

    def countersigned(self, by_new: Event) -> EventTemplate:
        """What the old key signs, with the same statement by the new key in it."""
        return self._template(by_new.to_json().decode())

    def _template(self, content: str) -> EventTemplate:
        tags: list[Tag] = [
            ("t", ROTATION_NAME), ("p", self.old), ("p", self.new), ("log", self.log), ("from", self.old),
            ("to", self.new), ("size", str(self.head.size)), ("root", self.head.root), ("next", self.next),
            ("overlap", str(self.until - self.at)),
        ]  # fmt: skip
        return make_template(APP_DATA, content=content, tags=tags, created_at=self.at)


def parse_rotation(event: Event) -> Rotation:
    """Read a rotation and check its signatures. Whether it counts says `read_chain`. Raises `InvalidReceipt`."""
    if event.kind != APP_DATA or ("t", ROTATION_NAME) not in event.tags:
        raise InvalidReceipt(f"not a rotation: kind {APP_DATA} with t {ROTATION_NAME}")
    by_both = event.tag("overlap") == str(OVERLAP_SECONDS)
    if not by_both and event.tag("overlap") != "0":
        raise InvalidReceipt(f"a rotation has an overlap of {OVERLAP_SECONDS} seconds, or of none")
    size = event.tag("size") or ""
    if not _NUMBER.fullmatch(size) or not 0 < int(size) < merkle.SIZE_MAX:
        raise InvalidReceipt("a rotation names the size of the log: its first leaf is there before")
    rotation = Rotation(
        log=_hex(event, "log"), old=_hex(event, "from"), new=_hex(event, "to"), next=_hex(event, "next"),
        head=Head(int(size), _hex(event, "root")), at=event.created_at, by_both=by_both, event=event,
    )  # fmt: skip
    if rotation.old == rotation.new:
        raise InvalidReceipt("a rotation leads from one key to another")
    author = rotation.old if by_both else rotation.new
    if event.pubkey != author:
        raise InvalidReceipt("a rotation is signed by the old key, or with no overlap by the new one alone")
    try:
        event.verify()
        if by_both:
            _check_consent(event, rotation.new)
    except InvalidEvent as error:
        raise InvalidReceipt(f"a rotation is not signed as it says: {error}") from None
    return rotation


def _check_consent(event: Event, new: str) -> None:
    """The new key says the same. Raises `InvalidReceipt`, `InvalidEvent`."""
    if len(event.content) > CONTENT_CHARS_MAX:
        raise InvalidReceipt(f"a rotation has {CONTENT_CHARS_MAX} characters at most")
    consent = parse_event(event.content)
    consent.verify()
    said = (consent.pubkey, consent.kind, consent.created_at, consent.tags)
    if said != (new, event.kind, event.created_at, event.tags):
        raise InvalidReceipt("the new key does not say the same as the old one")


# The chain -------------------------------------------------------------------------------------------------------


class Passed(StrEnum):
    """How a log came to a key."""

    FIRST = "first"
    HANDED_ON = "handed-on"  # both keys signed
    RECOVERED = "recovered"  # the old one was lost or stolen; the new one had been committed to


@dataclass(frozen=True)
class Tenure:
    """The time of one key. `since` and `until` are seconds since 1970; None: it is the current one.

    It signs roots of a size above `above`, up to `size_max`. `committed`: the log had named it before, so that nobody
    but its owner could go over to it. `lost`: it was recovered from, so that a thief may have signed with it, and dated
    that as it pleased. `next` is the commitment to the key after it, None if the first leaf is not known.
    """

    key: str
    how: Passed
    committed: bool
    next: str | None
    since: int = 0
    until: int | None = None
    above: int = 0
    size_max: int | None = None
    lost: bool = False
    rotation: Event | None = None


@dataclass(frozen=True)
class Chain:
    """The keys of a log, the first one first.

    `contested` are rotations away from one of them, signed as they must be, that lead to a key which does not count;
    `claims` such by keys alone that nobody was committed to. At most `SHOWN_MAX` of each.
    """

    log: str
    tenures: tuple[Tenure, ...]
    contested: tuple[Event, ...] = ()
    claims: tuple[Event, ...] = ()

    @property
    def current(self) -> str:
        """The key that has the log now."""
        return self.tenures[-1].key

    @property
    def keys(self) -> tuple[str, ...]:
        """All its keys, in order."""
        return tuple(tenure.key for tenure in self.tenures)

    def tenure(self, key: str) -> Tenure | None:
        """The time of a key, None for one that the log never had."""
        return next((tenure for tenure in self.tenures if tenure.key == key), None)

    def counts(self, key: str, created_at: int) -> bool:
        """Whether what `key` signed then (an offer, a result) is said for this log, as far as its date is true."""
        tenure = self.tenure(key)
        return (
            tenure is not None
            and tenure.since <= created_at
            and (tenure.until is None or created_at <= tenure.until)
        )

    def may_sign(self, key: str, size: int, at: int) -> bool:
        """Whether a root over so many leaves, dated so, is for `key` to sign.

        What a key signs beyond the rotation away from it is nobody's root, whatever date it gives it.
        """
        tenure = self.tenure(key)
        if tenure is None or not self.counts(key, at):
            return False
        return tenure.above < size and (tenure.size_max is None or size <= tenure.size_max)

    def __contains__(self, key: object) -> bool:
        """Whether it is or was a key of the log."""
        return any(tenure.key == key for tenure in self.tenures)


def read_chain(log: str, leaves: Sequence[str], events: Iterable[Event], now: int) -> Chain:
    """The chain of keys of `log`, as its leaves (all from the first on, or none if not known) and `events` tell it.

    `events` may be anything that relays had, in any order: what is malformed, of another log, or dated later than `now`
    is left out. Raises `InvalidReceipt` if the leaves do not begin with the log's first key, or one of them tells of a
    rotation that is not what it says, or was not when the log was there.
    """
    first, recorded = _read_leaves(log, leaves)
    rotations = {rotation.event: rotation for rotation in recorded}
    for event in events:
        try:
            rotation = parse_rotation(event)
        except InvalidReceipt:
            continue
        rotations.setdefault(event, rotation)
    in_force = [r for r in rotations.values() if r.log == log and r.at <= now + FUTURE_SECONDS_MAX]
    tenures = [Tenure(log, Passed.FIRST, committed=True, next=first.next if first else None)]
    while len(tenures) < KEYS_MAX:
        chosen = _choose(tenures, in_force, recorded)
        if chosen is None:
            break
        tenures[-1:] = _pass_on(tenures[-1], chosen)
    return _with_rest(log, tenures, in_force)


def _read_leaves(log: str, leaves: Sequence[str]) -> tuple[KeyLeaf | None, list[Rotation]]:
    """The first leaf, and the rotations that the log tells of."""
    found = [
        (number, leaf) for number, text in enumerate(leaves) if isinstance(leaf := parse_leaf(text), KeyLeaf)
    ]
    if not leaves:
        return None, []
    if not found or found[0][0] != 0 or found[0][1].key != log or found[0][1].rotation:
        raise InvalidReceipt("a log begins with the leaf of its first key")
    rotations: list[Rotation] = []
    frontier = merkle.Frontier()
    for (begin, _), (end, leaf) in pairwise(found):
        frontier, _ = frontier.extend([merkle.leaf_hash(text.encode()) for text in leaves[begin:end]])
        try:
            rotation = parse_rotation(parse_event(leaf.rotation))
        except InvalidEvent as error:
            raise InvalidReceipt(f"leaf {end} has no rotation in it: {error}") from None
        told = (rotation.log, rotation.new, rotation.next, rotation.head)
        if told != (log, leaf.key, leaf.next, Head(end, frontier.root.hex())):
            raise InvalidReceipt(f"leaf {end} says something else than the rotation in it")
        rotations.append(rotation)
    return found[0][1], rotations


def _choose(
    tenures: Sequence[Tenure], rotations: Iterable[Rotation], recorded: Sequence[Rotation]
) -> Rotation | None:
    """The one that leads on from the last key; None if none does, or several do and nothing decides between them."""
    here, used = tenures[-1], {tenure.key for tenure in tenures}
    leading = [
        rotation
        for rotation in rotations
        if rotation.old == here.key and rotation.new not in used and rotation.at >= here.since
        and rotation.head.size > here.above and (rotation.by_both or _is_committed(here, rotation))
    ]  # fmt: skip
    leading = [rotation for rotation in leading if _is_committed(here, rotation)] or leading
    in_log = [rotation for rotation in leading if rotation in recorded]
    if not in_log and len({rotation.new for rotation in leading}) > 1:
        return None
    return min(
        in_log or leading, key=lambda r: (not r.by_both, r.at, r.event.id if r.event else ""), default=None
    )


def _is_committed(tenure: Tenure, rotation: Rotation) -> bool:
    return tenure.next == commitment(rotation.new)


def _pass_on(old: Tenure, rotation: Rotation) -> list[Tenure]:
    how = Passed.HANDED_ON if rotation.by_both else Passed.RECOVERED
    return [
        replace(old, until=rotation.until, size_max=rotation.head.size, lost=not rotation.by_both),
        Tenure(
            rotation.new, how, _is_committed(old, rotation), rotation.next, since=rotation.at,
            above=rotation.head.size, rotation=rotation.event,
        ),
    ]  # fmt: skip


def _with_rest(log: str, tenures: Sequence[Tenure], rotations: Iterable[Rotation]) -> Chain:
    """What does not count, told apart: of two keys' hands, or of one that only claims."""
    steps = {(old.key, new.key) for old, new in pairwise(tenures)}
    of_key = {tenure.key: tenure for tenure in tenures}
    contested: list[Event] = []
    claims: list[Event] = []
    for rotation in sorted(rotations, key=lambda r: (r.at, r.event.id if r.event else "")):
        tenure = of_key.get(rotation.old)
        if tenure is None or rotation.event is None or (rotation.old, rotation.new) in steps:
            continue
        proven = rotation.by_both or _is_committed(tenure, rotation)
        (contested if proven else claims).append(rotation.event)
    return Chain(log, tuple(tenures), tuple(contested[:SHOWN_MAX]), tuple(claims[:SHOWN_MAX]))


def _hex(event: Event, name: str) -> str:
    found = event.tags_named(name)
    if len(found) != 1 or len(found[0]) < 2 or not _HEX.fullmatch(found[0][1]):
        raise InvalidReceipt(f"a rotation has one {name}, in 64 lowercase hex digits")
    return found[0][1]
