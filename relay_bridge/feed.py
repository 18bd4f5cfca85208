"""What a session serves: somebody's ear on one relay."""

from collections.abc import Sequence
from typing import Protocol

from identity.event import Event
from relay_bridge.filters import Filter


class Feed(Protocol):
    """One subscription's ear on one relay. All but `events` and `room` must return at once."""

    #: Whether the subscription is asked for again when the relay or the connection ends it.
    lasting: bool
    #: Whether it may hear by a `REQ` that it shares with others: it reads by itself what is stored, then.
    shares: bool

    def filters(self) -> Sequence[Filter]:
        """What to ask for now; read anew for every `REQ`."""
        ...

    def opened(self, *, shared: bool) -> None:
        """A `REQ` is about to be sent. `shared`: the relay has one already that brings what is new, nothing stored."""
        ...

    def ignores(self, event: Event) -> bool:
        """Whether the feed would do nothing with a matching event, genuine or not: then nobody verifies it.

        The event may be forged: what it says must change nothing.
        """
        ...

    async def events(self, events: Sequence[Event]) -> bool:
        """Take verified, matching events, in the relay's order; nothing else is delivered meanwhile.

        Those of a shared `REQ` may begin a moment before `opened`. False: no room. The subscription is then closed,
        and asked for again after `room`.
        """
        ...

    async def room(self) -> None:
        """Wait until there is room again."""
        ...

    def eose(self) -> None:
        """All stored events were handed over, if the `REQ` brings those; at once after `opened` if it is shared."""
        ...

    def lost(self) -> None:
        """The subscription ended: by us, by the relay, or with the connection."""
        ...
