"""A signer that is waited for: what we owe others is not dropped because the key's holder is away for a while."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import structlog

from identity import Event, EventTemplate, Signer, SignerUnavailable
from store import Clock

log = structlog.get_logger(__name__)

RETRY_SECONDS_FIRST: Final = 1.0
RETRY_SECONDS_MAX: Final = 60.0
T = TypeVar("T")


class PatientSigner:
    """A `Signer` that never raises `SignerUnavailable`: it asks again, for as long as it takes."""

    def __init__(self, signer: Signer, clock: Clock) -> None:
        self._signer = signer
        self._clock = clock

    @property
    def public_key(self) -> str:
        """See `Signer.public_key`."""
        return self._signer.public_key

    async def sign(self, template: EventTemplate) -> Event:
        """See `Signer.sign`."""
        return await self._patiently(partial(self._signer.sign, template))

    async def nip44_encrypt(self, peer: str, plaintext: str) -> str:
        """See `Signer.nip44_encrypt`."""
        return await self._patiently(partial(self._signer.nip44_encrypt, peer, plaintext))

    async def nip44_decrypt(self, peer: str, payload: str) -> str:
        """See `Signer.nip44_decrypt`."""
        return await self._patiently(partial(self._signer.nip44_decrypt, peer, payload))

    async def nip04_encrypt(self, peer: str, plaintext: str) -> str:
        """See `Signer.nip04_encrypt`."""
        return await self._patiently(partial(self._signer.nip04_encrypt, peer, plaintext))

    async def nip04_decrypt(self, peer: str, payload: str) -> str:
        """See `Signer.nip04_decrypt`."""
        return await self._patiently(partial(self._signer.nip04_decrypt, peer, payload))

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        delay_seconds = RETRY_SECONDS_FIRST
        while True:
            try:
                return await ask()
            except SignerUnavailable as error:
                log.warning("signer_unavailable", signer=self.public_key, reason=str(error))
                await self._clock.sleep(delay_seconds)
                delay_seconds = min(delay_seconds * 2, RETRY_SECONDS_MAX)
