"""Plain values the pool answers with."""

from dataclasses import dataclass, field
from typing import Final

_REFUSED: Final = frozenset({"blocked", "invalid", "pow", "restricted"})


@dataclass(frozen=True)
class Answer:
    """What came of publishing an event to one relay. `message` starts with a machine-readable prefix or is empty.

    Where the relay itself said nothing (not connected, no answer in time), `message` starts with `error:`.
    """

    accepted: bool
    message: str = ""

    @property
    def refused(self) -> bool:
        """Whether asking this relay again with the same event is pointless (NIP-01 prefixes)."""
        return not self.accepted and self.message.partition(":")[0] in _REFUSED


@dataclass
class RelayHealth:
    """How a relay does; counted since the pool was opened."""

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
    #: Subscriptions the relay ended by itself.
    closed: int = 0
    #: Messages dropped, by what they were: `malformed`, `unasked`, `invalid`.
    refused: dict[str, int] = field(default_factory=dict)
