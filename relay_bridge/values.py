"""Plain values the pool answers with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

_MOMENT_SECONDS: Final = 1.0
_HALVINGS_MAX: Final = 10
_TIMES_AS_LONG: Final = 3
_WEIGHT: Final = 0.1  # of the last thing asked in what is known of a relay
_REFUSED: Final = frozenset({"blocked", "invalid", "pow", "restricted"})


@dataclass(frozen=True)
class Answer:
    """What came of publishing an event to one relay. `message` starts with a machine-readable prefix or is empty.

    Where the relay itself said nothing (not connected, no answer in time) it is `silent`, with an `error:`.
    """

    accepted: bool
    message: str = ""
    silent: bool = False

    @property
    def refused(self) -> bool:
        """Whether the relay does not want this event (NIP-01 prefixes): to send it again soon is pointless."""
        return not self.accepted and self.message.partition(":")[0] in _REFUSED


@dataclass(frozen=True)
class RelayChange:
    """What became of the configured relays: those that are new, and those that are none any more."""

    added: tuple[str, ...]
    left: tuple[str, ...]

    @classmethod
    def between(cls, before: Sequence[str], after: Sequence[str]) -> "RelayChange":
        """What became of those of `before`, if there are those of `after` now."""
        return cls(
            tuple(url for url in after if url not in before), tuple(url for url in before if url not in after)
        )


@dataclass
class RelayHealth:
    """How a relay does; counted for as long as the pool remembers it."""

    url: str
    connected: bool = False
    #: Unix time of the last change of `connected`.
    since: int = 0
    #: Connections that broke and attempts that failed.
    failures: int = 0
    last_error: str = ""
    last_notice: str = ""
    #: Events that were verified and handed on.
    events: int = 0
    #: Events that were dropped unverified, for who sent them: no fault of the relay.
    ignored: int = 0
    #: Subscriptions the relay ended by itself.
    closed: int = 0
    #: Messages dropped, by what they were: `malformed`, `unasked`, `invalid`, `repeated`.
    refused: dict[str, int] = field(default_factory=dict)
    #: Questions answered to the end and events accepted; those that were not, in time or at all.
    kept: int = 0
    broken: int = 0
    #: Of the latter those in a row, up to now.
    silent: int = 0
    #: The share of what was asked of it lately that it did, 0 to 1: at first neither good nor bad.
    reliability: float = 0.5
    #: How long it takes to answer, lately; None before the first answer.
    answer_seconds: float | None = None

    @property
    def patience_seconds(self) -> float:
        """How long it may take when others have answered: a moment, or some times as long as usual.

        Half of that for each time in a row that it did not.
        """
        seconds = max(_MOMENT_SECONDS, _TIMES_AS_LONG * (self.answer_seconds or 0.0))
        return seconds / (1 << min(self.silent, _HALVINGS_MAX))

    def keeps(self, seconds: float) -> None:
        """It did what it was asked, so long after."""
        self.kept += 1
        self.silent = 0
        self.reliability += _WEIGHT * (1 - self.reliability)
        before = seconds if self.answer_seconds is None else self.answer_seconds
        self.answer_seconds = before + _WEIGHT * (seconds - before)

    def breaks(self) -> None:
        """It did not do what it was asked: refused, or was not there, or did not answer in time."""
        self.broken += 1
        self.silent += 1
        self.reliability *= 1 - _WEIGHT

    def lies(self) -> None:
        """It sent so much that nobody asked for, or that is forged, that it was left."""
        self.reliability = 0.0

    @property
    def rank(self) -> float:
        """0 to 1, the higher the better: reliability, worth half where an answer takes a second."""
        return self.reliability / (1 + (self.answer_seconds or 0.0))
