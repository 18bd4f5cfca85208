"""NIP-42: prove to a relay who we are, when it asks and only with the key the matter is about."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from identity.errors import SignerUnavailable
from identity.event import Event, make_template
from identity.signer import Signer
from relay_bridge.timing import within
from relay_bridge.values import Answer
from store import Clock

log = structlog.get_logger(__name__)

AUTH_KIND: Final = 22242
_CHALLENGE_SECONDS_MAX: Final = 5.0
_ANSWER_SECONDS_MAX: Final = 10.0
_CHALLENGES_MAX: Final = 3  # a relay may replace its challenge while we sign


class Signers:
    """The identities of this post, in the order in which they were added."""

    def __init__(self) -> None:
        self._signers: dict[str, Signer] = {}

    def add(self, signer: Signer) -> None:
        """Make an identity available; adding it twice is harmless."""
        self._signers[signer.public_key] = signer

    def choose(self, keys: set[str]) -> list[Signer]:
        """Those of `keys` that are ours; if none is, the first of all (a gift wrap's author is nobody).

        Never more than needed: a relay that saw two keys on one connection knows that they belong together.
        """
        ours = [signer for key, signer in self._signers.items() if key in keys]
        return ours or list(self._signers.values())[:1]


class Authenticator:
    """Answers the challenges of one connection."""

    def __init__(
        self, url: str, signers: Signers, clock: Clock, send: Callable[[Event], Awaitable[Answer]]
    ) -> None:
        self._url = url
        self._signers = signers
        self._clock = clock
        self._send = send
        self._challenge = ""
        self._challenged = asyncio.Event()
        self._turn = asyncio.Lock()
        self._known: set[str] = set()  # keys the relay accepted under the present challenge

    def challenged(self, challenge: str) -> None:
        """The relay sent `AUTH`: the challenge is valid until it sends another."""
        self._challenge = challenge
        self._known.clear()
        self._challenged.set()

    async def authenticate(self, keys: set[str]) -> bool:
        """Answer `auth-required` in a matter of `keys`. False if we cannot, or the relay does not want us."""
        signers = self._signers.choose(keys)
        async with self._turn:
            try:
                await within(self._clock, _CHALLENGE_SECONDS_MAX, self._challenged.wait())
                outcomes = [await self._introduce(signer) for signer in signers]
            except (TimeoutError, SignerUnavailable) as error:
                log.warning("relay_auth_unanswered", relay=self._url, reason=str(error))
                return False
        return any(outcomes)

    async def _introduce(self, signer: Signer) -> bool:
        if signer.public_key in self._known:
            return True
        for _ in range(_CHALLENGES_MAX):
            challenge = self._challenge
            tags = [["relay", self._url], ["challenge", challenge]]
            event = await signer.sign(make_template(AUTH_KIND, tags=tags, created_at=self._clock.now()))
            answer = await within(self._clock, _ANSWER_SECONDS_MAX, self._send(event))
            if answer.accepted:
                if challenge == self._challenge:
                    self._known.add(signer.public_key)
                return True
            if challenge == self._challenge:
                log.warning(
                    "relay_auth_refused", relay=self._url, public_key=signer.public_key, answer=answer.message
                )
                break
        return False
