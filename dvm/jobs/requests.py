"""The requests to one agent, read: plain ones at once, private ones with the agent's key."""

from collections import OrderedDict
from typing import Final

from dvm.errors import BadRequest
from dvm.nip90 import JobRequest, parse_request
from dvm.private import reveal, scheme_of
from identity import DecryptionError, Event, Signer

REMEMBERED_MAX: Final = 64


class Unreadable(BadRequest):
    """An encrypted request that this agent's key does not open."""


class Requests:
    """Reads what customers asked. The store keeps the signed event, so a private one is decrypted when it is needed;
    the last few are remembered, in memory alone, as the key may be with a remote signer.
    """

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._remembered: OrderedDict[str, JobRequest] = OrderedDict()

    async def read(self, event: Event) -> JobRequest:
        """Raises `BadRequest`, and `Unreadable` if it cannot be decrypted."""
        if scheme_of(event) is None:
            return parse_request(event)
        if event.id not in self._remembered:
            try:
                clear = await reveal(self._signer, event)
            except DecryptionError as error:
                raise Unreadable(
                    f"the encrypted request cannot be read ({error}); encrypt it to this agent by NIP-44 or NIP-04"
                ) from None
            self._remembered[event.id] = parse_request(event, clear)
            if len(self._remembered) > REMEMBERED_MAX:
                self._remembered.popitem(last=False)
        return self._remembered[event.id]

    async def opens(self, event: Event) -> bool:
        """Whether the event can be decrypted, whatever is in it."""
        try:
            await self.read(event)
        except Unreadable:
            return False
        except BadRequest:
            pass
        return True

    async def read_again(self, event: Event) -> JobRequest | None:
        """As `read`, of a request that was refused perhaps: None if it was too bad to be read."""
        try:
            return await self.read(event)
        except BadRequest:
            return None
