"""The line to a wallet (NIP-47): requests out as encrypted events, each waiting for the answer that names it.

A request is published once, because a wallet that is asked twice may pay twice; it expires when we stop waiting. Late,
repeated and unknown answers are dropped.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import structlog

from identity import DecryptionError, Event, InvalidKey, LocalSigner, make_template, nip04, nip44, sign_event
from relay_bridge import Connect, Filter, RelayPool, Subscription
from relay_bridge.timing import within
from store import Clock
from wallet.errors import RailRefused, RailUnavailable
from wallet.rails.nwc_wire import (
    ANSWER,
    INFO,
    NOTIFICATION,
    NOTIFICATION_NIP04,
    REQUEST,
    Encryption,
    Info,
    NwcUri,
    encode_request,
    paid_hash,
    parse_answer,
    parse_info,
)

ANSWER_SECONDS: Final = 20.0
_INFO_SECONDS: Final = 3600  # how long what the wallet says it can do is believed
_LOOK_BACK_SECONDS: Final = 600  # clocks differ
_UNSENT: Final = "error: not connected"

log = structlog.get_logger(__name__)


class NotSent(RailUnavailable):
    """No relay took the request: the wallet certainly never saw it."""


class NwcLine:
    """Use as an async context manager: entering connects to the wallet's relays and listens, leaving stops.

    `on_paid` is given the payment hash of each payment to us that the wallet tells of.
    """

    def __init__(
        self, uri: NwcUri, clock: Clock, *, on_paid: Callable[[str], None], connect: Connect | None = None
    ) -> None:
        self._uri = uri
        self._clock = clock
        self._on_paid = on_paid
        self._pool = RelayPool(uri.relays, clock=clock, connect=connect)
        self._conversation = nip44.conversation_key(uri.secret, uri.wallet_key)
        self._subscription: Subscription | None = None
        self._calls: dict[str, asyncio.Future[str]] = {}
        self._info: tuple[int, Info] | None = None

    async def __aenter__(self) -> Self:
        await self._pool.__aenter__()
        self._pool.add_signer(LocalSigner(self._uri.secret))
        what = Filter(
            kinds=(ANSWER, NOTIFICATION, NOTIFICATION_NIP04),
            authors=(self._uri.wallet_key,),
            tags={"p": (self._uri.secret.public_key,)},
            since=self._clock.now() - _LOOK_BACK_SECONDS,
        )
        self._subscription = await self._pool.subscribe([what], self._on_event)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._subscription is not None:
            await self._subscription.close()
        await self._pool.__aexit__(*exc_info)

    async def info(self) -> Info:
        """What the wallet says it can do. Raises `RailUnavailable`."""
        now = self._clock.now()
        if self._info is None or not 0 <= now - self._info[0] < _INFO_SECONDS:
            found = await self._pool.query([Filter(kinds=(INFO,), authors=(self._uri.wallet_key,))])
            if not found:
                raise RailUnavailable(
                    f"the wallet says at {self._where} nothing of itself; check that it runs, or connect it anew"
                )
            self._info = now, parse_info(found[0])
        return self._info[1]

    async def call(
        self, method: str, *, seconds_max: float = ANSWER_SECONDS, **params: Any
    ) -> Mapping[str, Any]:
        """Ask for one thing once, and return its result. Params that are None are left out.

        Raises `RailRefused` with the wallet's code; `NotSent`; `RailUnavailable` if no answer came, or none that can be
        read: then it may have been done.
        """
        info = await self.info()
        if method not in info.methods:
            raise RailRefused(nwc_code="NOT_IMPLEMENTED", detail=f"its info event lists no {method}")
        assert self._subscription is not None, "use `async with`"
        await self._subscription.eose()  # or the answer could come before we listen
        now = self._clock.now()
        tags = [("p", self._uri.wallet_key), ("encryption", info.encryption)]
        template = make_template(
            REQUEST,
            content=self._encrypt(encode_request(method, params), info.encryption),
            tags=[*tags, ("expiration", str(now + int(seconds_max)))],
            created_at=now,
        )
        plaintext = await self._exchange(sign_event(template, self._uri.secret), method, seconds_max)
        answer = parse_answer(plaintext, method)
        if answer.error is not None:
            code, detail = (str(answer.error.get(name, "")) for name in ("code", "message"))
            if code == "UNSUPPORTED_ENCRYPTION":
                self._info = None
            raise RailRefused(nwc_code=code or "OTHER", detail=detail)
        return answer.result or {}

    async def _exchange(self, event: Event, method: str, seconds_max: float) -> str:
        answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._calls[event.id] = answered
        publishing = asyncio.create_task(self._publish(event, answered))
        try:
            return await within(self._clock, seconds_max, answered)
        except TimeoutError:
            raise RailUnavailable(
                f"the wallet has not answered {method} at {self._where} within {seconds_max:.0f} s"
            ) from None
        finally:
            del self._calls[event.id]
            publishing.cancel()
            await asyncio.wait([publishing])

    async def _publish(self, event: Event, answered: asyncio.Future[str]) -> None:
        said = await self._pool.publish(event)
        unsent = all(answer.refused or answer.message.startswith(_UNSENT) for answer in said.values())
        if unsent and not answered.done():
            reasons = "; ".join(f"{url} ({answer.message})" for url, answer in said.items())
            answered.set_exception(NotSent(f"the wallet cannot be asked: {reasons}"))

    def _on_event(self, event: Event, relay: str) -> None:
        answered = self._calls.get(event.tag("e") or "") if event.kind == ANSWER else None
        if event.kind == ANSWER and (answered is None or answered.done()):
            return
        try:
            plaintext = self._decrypt(event)
        except (DecryptionError, InvalidKey) as error:
            log.info("nwc_unreadable", relay=relay, reason=str(error))
            return
        if answered is not None:
            answered.set_result(plaintext)
        elif payment_hash := paid_hash(plaintext):
            self._on_paid(payment_hash)

    def _encrypt(self, text: str, scheme: Encryption) -> str:
        if scheme is Encryption.NIP44:
            return nip44.encrypt(text, self._conversation)
        return nip04.encrypt(text, self._uri.secret, self._uri.wallet_key)

    def _decrypt(self, event: Event) -> str:
        if nip04.is_payload(event.content):
            return nip04.decrypt(event.content, self._uri.secret, self._uri.wallet_key)
        return nip44.decrypt(event.content, self._conversation)

    @property
    def _where(self) -> str:
        return ", ".join(self._uri.relays)
