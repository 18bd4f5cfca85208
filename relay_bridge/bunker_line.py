"""The line to a remote signer (NIP-46): requests out as encrypted events, each waiting for the one answer to it.

Relays keep nothing of this kind, so a request is sent again, as the same event, until it is answered: a signer that
saw it knows it by its id, one that was away sees it now. Late, repeated and unknown answers are dropped.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, repeat
from typing import Final

import structlog

from identity import nip04, nip44
from identity.errors import DecryptionError, EncryptionError, InvalidEvent, InvalidKey
from identity.event import Event, make_template, sign_event
from identity.keys import SecretKey
from identity.nip19 import encode_npub
from identity.nip46 import KIND, Answer, encode_request, parse_answer
from relay_bridge.errors import BunkerRefused, BunkerSilent
from relay_bridge.filters import Filter
from relay_bridge.pool import RelayPool
from relay_bridge.subscription import Subscription
from relay_bridge.timing import within
from relay_bridge.urls import usable_relays
from store import Clock

log = structlog.get_logger(__name__)

#: How long an answer is waited for; somebody may have to find their phone and press a button.
ANSWER_SECONDS: Final = 60.0
#: The same once more when the signer asks for a visit to a web page.
VISIT_SECONDS: Final = 300.0

_RESEND_SECONDS: Final = (3.0, 10.0)  # the first time, and from then on
_UNSENT_SECONDS: Final = 1.0
_IN_FLIGHT_MAX: Final = 64
_LOOK_BACK_SECONDS: Final = 600  # clocks differ

Visit = Callable[[str], None]


@dataclass
class _Call:
    """One request under way."""

    answer: asyncio.Future[Answer]
    auth_url: str = ""
    refusals: list[str] = field(default_factory=list)


class BunkerLine:
    """Use as an async context manager: entering listens for answers, leaving stops.

    `pool` is a pool of its own, which the caller opens and closes; `relays` are those at which the signer listens.
    `on_visit` is given the URL of a page that the user must visit before the signer goes on.
    """

    def __init__(
        self,
        pool: RelayPool,
        clock: Clock,
        *,
        client_key: SecretKey,
        remote_key: str,
        relays: Sequence[str],
        on_visit: Visit,
    ) -> None:
        self.remote_key = remote_key
        self.relays = tuple(relays)
        self.client_key = client_key
        self._pool = pool
        self._clock = clock
        self._on_visit = on_visit
        self._conversation = nip44.conversation_key(client_key, remote_key)
        self._subscriptions: list[Subscription] = []
        self._calls: dict[str, _Call] = {}
        self._turns = asyncio.Semaphore(_IN_FLIGHT_MAX)
        self._heard_at: int | None = None

    async def __aenter__(self) -> "BunkerLine":
        await self._listen(self.relays)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for subscription in self._subscriptions:
            await subscription.close()

    async def call(self, method: str, *params: str, seconds_max: float = ANSWER_SECONDS) -> str:
        """Ask for one thing and return its result; many may be under way.

        Raises `BunkerSilent`, `BunkerRefused` with what the signer said, `EncryptionError` if no relay takes it, which
        most likely means that it is too large.
        """
        request_id = secrets.token_hex(16)
        template = make_template(
            KIND,
            content=nip44.encrypt(encode_request(request_id, method, params), self._conversation),
            tags=[("p", self.remote_key)],
            created_at=self._clock.now(),
        )
        call = _Call(asyncio.get_running_loop().create_future())
        async with self._turns:
            self._calls[request_id] = call
            sending = asyncio.create_task(self._keep_sending(sign_event(template, self.client_key), call))
            try:
                answer = await self._wait(call, method, seconds_max)
            finally:
                del self._calls[request_id]
                sending.cancel()
                await asyncio.wait([sending])
        if answer.error:
            raise BunkerRefused(
                f"the signer {self._name} refused `{method}`: {answer.error}; allow it there, then try again"
            )
        return answer.result

    async def move(self, relays: Sequence[str]) -> None:
        """Send further requests to these relays, and listen there too (`switch_relays`); unusable ones are left out."""
        usable = usable_relays(relays)
        if not usable or set(usable) == set(self.relays):
            return
        await self._listen(usable)
        self.relays = usable
        log.info("bunker_moved", relays=usable)

    # Out -----------------------------------------------------------------------------------------------------

    async def _keep_sending(self, event: Event, call: _Call) -> None:
        delays = chain(_RESEND_SECONDS, repeat(_RESEND_SECONDS[-1]))
        while not call.auth_url:
            answers = await self._pool.publish(event, self.relays)
            if call.answer.done():
                return
            call.refusals = [f"{url} ({a.message})" for url, a in answers.items() if not a.accepted]
            if all(a.refused for a in answers.values()):
                call.answer.set_exception(
                    EncryptionError(f"no relay takes the request to the signer: {'; '.join(call.refusals)}")
                )
                return
            is_sent = any(a.accepted for a in answers.values())
            await self._clock.sleep(next(delays) if is_sent else _UNSENT_SECONDS)

    async def _wait(self, call: _Call, method: str, seconds_max: float) -> Answer:
        asked_at = self._clock.now()
        try:
            return await within(self._clock, seconds_max, asyncio.shield(call.answer))
        except TimeoutError:
            if not call.auth_url:
                raise BunkerSilent(self._silence(call, method, asked_at)) from None
        try:
            return await within(self._clock, VISIT_SECONDS, asyncio.shield(call.answer))
        except TimeoutError:
            raise BunkerSilent(
                f"the signer {self._name} waits for you to visit {call.auth_url} before it does `{method}`; "
                "visit it, then try again"
            ) from None

    def _silence(self, call: _Call, method: str, asked_at: int) -> str:
        """What did not answer, since when, and what to do."""
        heard = "never" if self._heard_at is None else f"last at {_time(self._heard_at)}"
        what = f"the signer {self._name} has not answered `{method}` since {_time(asked_at)} (heard from it: {heard})"
        if call.refusals:
            return f"{what}; it could not be asked by {'; '.join(call.refusals)}; check these relays, or name others"
        where = ", ".join(self.relays)
        return f"{what}; it was asked at {where}: open it and allow the request, or check that it runs and is there"

    @property
    def _name(self) -> str:
        return f"{encode_npub(self.remote_key)[:16]}…"

    # In ------------------------------------------------------------------------------------------------------

    async def _listen(self, relays: Sequence[str]) -> None:
        what = Filter(
            kinds=(KIND,),
            authors=(self.remote_key,),
            tags={"p": (self.client_key.public_key,)},
            since=self._clock.now() - _LOOK_BACK_SECONDS,
        )
        subscription = await self._pool.subscribe([what], self._on_event, relays=relays)
        self._subscriptions.append(subscription)
        await subscription.eose()  # or the first answer could come before we listen

    def _on_event(self, event: Event, relay: str) -> None:
        try:
            answer = parse_answer(decrypt_message(self.client_key, event))
        except (DecryptionError, InvalidKey, InvalidEvent) as error:
            log.info("bunker_answer_unreadable", relay=relay, reason=str(error))
            return
        call = self._calls.get(answer.id)
        if call is None or call.answer.done():
            return
        self._heard_at = self._clock.now()
        if not answer.is_auth_url:
            call.answer.set_result(answer)
        elif not call.auth_url:  # one visit for one request, however often it is asked for
            call.auth_url = answer.error
            self._on_visit(answer.error)


def decrypt_message(key: SecretKey, event: Event) -> str:
    """The plaintext of a message to `key`, by NIP-04 if an old signer wrote it.

    Raises `DecryptionError`, `InvalidKey`.
    """
    if nip04.is_payload(event.content):
        return nip04.decrypt(event.content, key, event.pubkey)
    return nip44.decrypt(event.content, nip44.conversation_key(key, event.pubkey))


def _time(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%H:%M:%S UTC")
