"""What is known of other agents: read from their events, put into an order. Pure; whoever asks relays is elsewhere.

Everything here was written by strangers: sizes are cut, and nothing that a terminal would obey is left in.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final

import msgspec

from dvm.kinds import FEEDBACK, NAMES, check_request_kind, folded, is_request_kind, name_of
from dvm.nip90 import parse_feedback, parse_result, repeated_request
from dvm.schemas import Param
from identity import Event
from identity.nip40 import is_expired

ALIVE_SECONDS: Final = 900  # what deployed clients allow between heartbeats
RECENT_SECONDS: Final = 86_400  # who answered somebody so lately is probably there, heartbeat or not
ANSWER_SECONDS_MAX: Final = 86_400  # a later one was a rerun, or its date is a lie
CLOCKS_APART_SECONDS: Final = 5  # an answer may be dated so much before its question
NAME_CHARS_MAX: Final = 60
ABOUT_CHARS_MAX: Final = 280
KINDS_MAX: Final = 50
WORDS_MAX: Final = 50
PARAMS_MAX: Final = 50
_PICTURE: Final = re.compile(r"https?://[!-~]{1,500}")


@dataclass(frozen=True)
class Answers:
    """How long requests waited for an agent, by the dates that both sides signed: whole seconds, and dates can lie.

    Medians over `jobs` requests. `first_seconds` ends with any word from the agent, `result_seconds` with the result:
    in paid jobs the customer's time to pay is in it. `last_at` is the date of its newest answer, unix seconds.
    """

    jobs: int = 0
    first_seconds: float | None = None
    result_seconds: float | None = None
    last_at: int | None = None


@dataclass(frozen=True)
class Listing:
    """An announced agent, as read from relays. Of prices that say nothing we can read, None is left.

    `price_msat` is the least of the kinds that were searched for. `alive`: it sent a heartbeat lately, at `beat_at`.
    `deposit_msat`, `pow_bits`, `refuses_strangers`: what a job costs a customer at least who never paid it, what work
    its request needs, and whether the agent takes it at all. `params` are those of all its kinds together.
    """

    public_key: str
    slug: str
    name: str
    about: str
    words: tuple[str, ...]
    kinds: tuple[int, ...]
    prices_msat: Mapping[int, int | None]
    price_msat: int | None
    alive: bool
    beat_at: int | None
    announced_at: int
    deposit_msat: int = 0
    pow_bits: int = 0
    refuses_strangers: bool = False
    picture: str = ""
    params: tuple[Param, ...] = ()
    answers: Answers = field(default=Answers())


@dataclass(frozen=True)
class Wanted:
    """What somebody looks for: the job kinds that are called so, and the words themselves."""

    text: str
    kinds: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "Wanted":
        """From a kind's number, its name or a part of that, or any words. Raises `BadRequest` for no job's kind."""
        if text.isascii() and text.isdigit():
            return cls(text, (check_request_kind(int(text[:6])),))
        return cls(text, tuple(kind for kind, name in NAMES.items() if folded(text) in folded(name)))

    def fits(self, listing: Listing) -> bool:
        """Whether the agent does one of the kinds, or says all of the words of itself."""
        told = folded(" ".join((listing.name, listing.about, *listing.words)))
        words = folded(self.text).split()
        return bool(set(self.kinds) & set(listing.kinds)) or (
            bool(words) and all(word in told for word in words)
        )


def listings(
    announced: Iterable[Event], beats: Iterable[Event], now: int, kinds: Iterable[int] = ()
) -> list[Listing]:
    """Agents by their 31990 and 11998 events, the newest of each; those that do no job are left out.

    `kinds` are those whose price counts (default: all of an agent's).
    """
    beat_at = {
        event.pubkey: event.created_at
        for event in sorted(beats, key=lambda event: event.created_at)
        if event.created_at <= now + ALIVE_SECONDS
        and not is_expired(event, now)
        and event.tag("status") != "offline"
    }
    newest: dict[tuple[str, str], Event] = {}
    for event in sorted(announced, key=lambda event: event.created_at):
        newest[event.pubkey, event.tag("d") or ""] = event
    searched = frozenset(kinds)
    read = (_read(event, searched) for event in newest.values() if not is_expired(event, now))
    return [_with_beat(listing, beat_at.get(listing.public_key), now) for listing in read if listing.kinds]


def ranked(found: Iterable[Listing], now: int) -> list[Listing]:
    """Live ones first, then those who answered lately, then cheaper, quicker and newer ones."""

    def order(listing: Listing) -> tuple[object, ...]:
        recent = now - (listing.answers.last_at or 0) <= RECENT_SECONDS
        seconds = listing.answers.result_seconds
        price = listing.price_msat
        return (
            not listing.alive,
            not (listing.alive or recent),
            price is None,
            price or 0,
            math.inf if seconds is None else seconds,
            -listing.announced_at,
            listing.public_key,
        )

    return sorted(found, key=order)


def requests_answered(answers: Iterable[Event]) -> tuple[str, ...]:
    """Ids of the requests that these events answer, those answered last first."""
    newest_first = sorted(answers, key=lambda event: -event.created_at)
    return tuple(dict.fromkeys(filter(None, map(_request_id, newest_first))))


def requests_repeated(answers: Iterable[Event]) -> dict[str, Event]:
    """By id, the requests that results hold again: relays drop the requests themselves when these expire (NIP-40)."""
    return {request.id: request for event in answers if (request := repeated_request(event))}


def measured(answers: Iterable[Event], requests: Iterable[Event], now: int) -> dict[str, Answers]:
    """By agent, how long `requests` waited for `answers` (7000 and 6xxx)."""
    asked_at = {event.id: event for event in requests if is_request_kind(event.kind)}
    first: dict[str, dict[str, int]] = {}
    result: dict[str, dict[str, int]] = {}
    last_at: dict[str, int] = {}
    for event in answers:
        if event.created_at > now + CLOCKS_APART_SECONDS:
            continue
        agent = event.pubkey
        last_at[agent] = max(last_at.get(agent, 0), event.created_at)
        request = asked_at.get(_request_id(event) or "")
        seconds = event.created_at - request.created_at if request else -ANSWER_SECONDS_MAX
        if request is None or not -CLOCKS_APART_SECONDS <= seconds <= ANSWER_SECONDS_MAX:
            continue
        kinds = [first] + [result] * (event.kind == request.kind + 1000)
        for waited in kinds:
            mine = waited.setdefault(agent, {})
            mine[request.id] = min(mine.get(request.id, ANSWER_SECONDS_MAX), max(0, seconds))
    return {
        agent: Answers(
            jobs=len(first.get(agent, {})),
            first_seconds=_median(first.get(agent, {})),
            result_seconds=_median(result.get(agent, {})),
            last_at=at,
        )
        for agent, at in last_at.items()
    }


def with_answers(listing: Listing, by_agent: Mapping[str, Answers]) -> Listing:
    """The listing with what was measured of its agent."""
    return replace(listing, answers=by_agent.get(listing.public_key, Answers()))


def _median(waited: Mapping[str, int]) -> float | None:
    return float(median(waited.values())) if waited else None


def _request_id(event: Event) -> str | None:
    read = parse_feedback(event) if event.kind == FEEDBACK else parse_result(event)
    # It goes into filters, where anything but an id would make relays refuse the whole question.
    return read.request_id if read and re.fullmatch("[0-9a-f]{64}", read.request_id) else None


def _with_beat(listing: Listing, beat_at: int | None, now: int) -> Listing:
    return replace(listing, beat_at=beat_at, alive=beat_at is not None and now - beat_at <= ALIVE_SECONDS)


def _read(event: Event, searched: frozenset[int]) -> Listing:
    try:
        content = msgspec.json.decode(event.content, type=dict[str, object])
    except (msgspec.MsgspecError, RecursionError):
        content = {}
    told = {**{name: event.tag(name) for name in ("name", "about", "amount")}, **content}
    kinds = tuple(dict.fromkeys(_numbers(event, "k")))[:KINDS_MAX]
    named = {tag[1]: _msat(tag[2]) for tag in event.tags_named("price") if len(tag) > 2}
    prices = {kind: named.get(str(kind), _msat(told["amount"])) for kind in kinds}
    known = [
        price for kind, price in prices.items() if price is not None and (kind in searched or not searched)
    ]
    picture = content.get("picture") or content.get("image")
    return Listing(
        deposit_msat=_demanded(event, "amount"),
        pow_bits=_demanded(event, "pow"),
        refuses_strangers=any(tag[1:2] == ("refused",) for tag in event.tags_named("strangers")),
        picture=picture if isinstance(picture, str) and _PICTURE.fullmatch(picture) else "",
        params=tuple(_params(content.get("nip90Params"))),
        public_key=event.pubkey,
        slug=one_line(event.tag("d"), NAME_CHARS_MAX),
        name=one_line(told["name"], NAME_CHARS_MAX),
        about=one_line(told["about"], ABOUT_CHARS_MAX),
        words=tuple(one_line(tag[1], NAME_CHARS_MAX) for tag in event.tags_named("t")[:WORDS_MAX] if len(tag) > 1),
        kinds=kinds,
        prices_msat=prices,
        price_msat=min(known, default=None),
        alive=False,
        beat_at=None,
        announced_at=event.created_at,
    )  # fmt: skip


def _demanded(event: Event, what: str) -> int:
    """The most that is asked of strangers in the tags `["strangers", what, number]`."""
    tags = [tag for tag in event.tags_named("strangers") if tag[1:2] == (what,) and len(tag) > 2]
    return max((_msat(tag[2]) or 0 for tag in tags), default=0)


def _params(announced: object) -> Iterable[Param]:
    """As nostrdvm announces them: by name, whether each is required, and what it may be."""
    for name, told in list(announced.items())[:PARAMS_MAX] if isinstance(announced, dict) else ():
        said = told if isinstance(told, dict) else {}
        values = said.get("values")
        yield Param(
            one_line(name, NAME_CHARS_MAX),
            one_line(said.get("description"), ABOUT_CHARS_MAX),
            tuple(one_line(value, NAME_CHARS_MAX) for value in values[:WORDS_MAX] if isinstance(value, str))
            if isinstance(values, list)
            else (),
            required=said.get("required") is True,
        )


def _numbers(event: Event, name: str) -> Iterable[int]:
    digits: Callable[[str], object] = re.compile("[0-9]{4}").fullmatch
    return (
        int(tag[1])
        for tag in event.tags_named(name)
        if len(tag) > 1 and digits(tag[1]) and is_request_kind(int(tag[1]))
    )


def one_line(text: object, chars_max: int) -> str:
    """One line of it that can be shown anywhere: no control characters, none that turn the direction of writing."""
    if not isinstance(text, str):
        return ""
    shown = "".join(c if c.isprintable() else " " for c in text[: chars_max * 4])
    line = " ".join(shown.split())
    return line if len(line) <= chars_max else f"{line[: chars_max - 1]}…"


def _msat(price: object) -> int | None:
    if price == "free":
        return 0
    text = str(price)[:20]
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 16 else None


def called(listing: Listing, kind: int, wanted: str) -> bool:
    """Whether a word that names a capability means this agent: the kind, what it or the agent calls it, or its name."""
    word = folded(wanted)
    return word in (str(kind), folded(name_of(kind)), *map(folded, listing.words)) or word in folded(
        listing.name
    )
