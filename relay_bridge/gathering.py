"""Who of a session's feeds has a `REQ` of its own, and who shares one: public relays allow some twenty.

A few feeds have their own, and who comes while there are fewer is heard at once. From the next on, those that share
are gathered for a moment and asked for in one *bundle*, together with the few and with those of the bundle before. Once
the relay has the new one, the old one is closed; not at once, for a relay may still be about to say what came before
the new one.

A relay that refuses a bundle is asked for half of those who were to join, down to one: who is refused even in a bundle
of its own is asked for alone from then on, as is everybody at a relay that does not answer. Who was heard is heard all
that time.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn

import structlog

from relay_bridge.ears import Alone, Bundle, Ear, Room
from relay_bridge.feed import Feed
from relay_bridge.filters import Filter
from relay_bridge.messages import prefix_of
from relay_bridge.timing import Backoff, within
from store import Clock

log = structlog.get_logger(__name__)

_ALONE_MAX: Final = 8  # with as many queries at a time, and some bundles, not above twenty
_MOMENT_SECONDS: Final = 0.05
_LINGER_SECONDS: Final = 1.0  # relays look for what is new some ten times a second


class Gathering:
    """Belongs to one session."""

    def __init__(
        self,
        relay: str,
        clock: Clock,
        *,
        seconds_max: float,
        ask: Callable[[Ear], None],
        close: Callable[[Ear], None],
        part: Callable[[Feed, Ear], bool],
        authenticate: Callable[[Sequence[Filter]], Awaitable[bool]],
        prove: Callable[[], Awaitable[None]],
    ) -> None:
        """`seconds_max` is for the answer to a bundle; `part` closes what a feed hears by besides that one.

        `prove` returns when all that the relay sent before is in the feeds' hands.
        """
        self._relay = relay
        self._clock = clock
        self._seconds_max = seconds_max
        self._ask = ask
        self._close = close
        self._part = part
        self._authenticate = authenticate
        self._prove = prove
        self._alone: dict[Feed, Alone] = {}  # of those who share
        self._waiting: dict[Feed, None] = {}
        self._loners: set[Feed] = set()
        self._answers = True  # whether the relay answers bundles at all
        self._bundles: list[Bundle] = []  # which the relay has
        self._joining_max: float = math.inf
        self._room = Room()
        self._asked: Bundle | None = None
        self._refusal: str | None = None
        self._answered = asyncio.Event()
        self._crowded = asyncio.Event()

    def open(self, feed: Feed) -> None:
        """Ask for a feed: alone, or with others in a moment."""
        if self._can_share(feed) and len(self._alone) >= _ALONE_MAX:
            self._waiting[feed] = None
            self._crowded.set()
        else:
            self._ask_alone(feed)

    def leave(self, feed: Feed) -> bool:
        """The feed was closed; whether it was still waiting for its `REQ`."""
        was_waiting = feed in self._waiting
        self._waiting.pop(feed, None)
        self._alone.pop(feed, None)
        if self._asked is not None:
            self._asked.feeds.pop(feed, None)
            if not self._asked.feeds:
                self._answered.set()
        return was_waiting

    def told(self, ear: Ear) -> None:
        """The relay said `EOSE`."""
        if ear is self._asked:
            self._refusal = None
            self._answered.set()
        elif isinstance(ear, Alone):
            ear.told = True
            if self._bundles:
                self._crowded.set()

    def refused(self, ear: Ear, reason: str) -> bool:
        """The relay said `CLOSED`. Whether that is dealt with: nobody relied on a bundle that was not taken yet."""
        if ear is not self._asked:
            return False
        self._refusal = reason
        self._answered.set()
        return True

    async def run(self) -> NoReturn:
        """Gather."""
        backoff = Backoff(0.5, factor=2.0)
        while True:
            await self._crowded.wait()
            await asyncio.sleep(_MOMENT_SECONDS)  # not by the clock: nothing is decided by these two waits
            self._crowded.clear()
            before, bundle = self._pack()
            if not bundle.feeds:
                continue
            refusal = await self._put(bundle)
            if not bundle.feeds:  # all have left meanwhile
                self._close(bundle)
            elif refusal is None:
                backoff.reset()
                await self._settle(before, bundle)
            else:
                log.info("bundle_refused", relay=self._relay, feeds=len(bundle.feeds), reason=refusal)
                if prefix_of(refusal) == "rate-limited":
                    await self._clock.sleep(backoff.next())
                else:
                    self._shrink(before, bundle)
            if self._waiting:
                self._crowded.set()

    def _can_share(self, feed: Feed) -> bool:
        return feed.shares and self._answers and feed not in self._loners

    def _ask_alone(self, feed: Feed) -> None:
        alone = Alone(feed)
        if self._can_share(feed):
            self._alone[feed] = alone
        feed.opened(shared=False)
        self._ask(alone)

    def _pack(self) -> tuple[Bundle | None, Bundle]:
        """A bundle that has room, and one to take its place: with as many others as fit in and may join."""
        joining = [*(feed for feed, alone in self._alone.items() if alone.told), *self._waiting]
        for before in (*reversed(self._bundles), None):
            bundle = Bundle()
            for feed in before.feeds if before is not None else ():
                bundle.add(feed, self._room)
            joined = 0
            for feed in joining:
                if joined < self._joining_max:
                    joined += bundle.add(feed, self._room)
            if joined:
                return before, bundle
        for feed in joining:  # too much for a bundle, each of them
            self._exclude(feed)
        return None, Bundle()

    async def _put(self, bundle: Bundle) -> str | None:
        """Ask for it; why the relay does not want it, or None."""
        self._asked = bundle
        for _ in range(2):
            self._answered.clear()
            self._refusal = "error: no answer"
            self._ask(bundle)
            with suppress(TimeoutError):
                await within(self._clock, self._seconds_max, self._answered.wait())
            if not self._answered.is_set():
                self._answers = False
                self._close(bundle)
            wants_to_know_us = prefix_of(self._refusal or "") == "auth-required"
            if not (wants_to_know_us and await self._authenticate(bundle.filters)):
                break
        self._asked = None
        return self._refusal

    async def _settle(self, before: Bundle | None, bundle: Bundle) -> None:
        """Those who waited are heard; who was heard before is heard by this one alone, after a moment with both."""
        self._joining_max *= 2
        self._bundles = [one for one in self._bundles if one is not before and one.feeds] + [bundle]
        for feed in [feed for feed in bundle.feeds if feed in self._waiting]:
            del self._waiting[feed]
            feed.opened(shared=True)
            feed.eose()
        await asyncio.sleep(_LINGER_SECONDS)
        await self._prove()  # we may be late, too
        for feed in [*bundle.feeds]:
            self._alone.pop(feed, None)
            self._part(feed, bundle)

    def _shrink(self, before: Bundle | None, bundle: Bundle) -> None:
        """The relay refuses a bundle: let fewer join, until it is clear whether that is too much or one of them."""
        joining = [feed for feed in bundle.feeds if before is None or feed not in before.feeds]
        self._joining_max = max(1, len(joining) // 2)
        if not self._answers:
            for feed in [*self._alone, *self._waiting]:
                self._exclude(feed)
        elif len(joining) == 1:
            if before is not None:
                # Unless it is about this one, which is tried by itself now.
                self._room = self._room.below(bundle.size, before.size)
            else:
                self._exclude(joining[0])
                self._room = Room()

    def _exclude(self, feed: Feed) -> None:
        self._loners.add(feed)
        self._alone.pop(feed, None)
        if feed in self._waiting:
            del self._waiting[feed]
            self._ask_alone(feed)
