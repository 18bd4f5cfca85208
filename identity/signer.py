"""The seam between a key's owner and the code that needs signatures: local now, remote (NIP-46) later."""

from typing import Protocol

from identity import nip04, nip44
from identity.event import Event, EventTemplate, sign_event
from identity.keys import SecretKey


class Signer(Protocol):
    """Signs and decrypts for one public key. Asynchronous, because the key may live elsewhere.

    Every method may then raise `SignerUnavailable`: whoever calls keeps what it wanted to do, and tries again later.
    """

    @property
    def public_key(self) -> str:
        """The x-only public key in hex."""
        ...

    async def sign(self, template: EventTemplate) -> Event:
        """Sign as this key. Raises `InvalidEvent` if the text cannot be UTF-8."""
        ...

    async def nip44_encrypt(self, peer: str, plaintext: str) -> str:
        """Encrypt to `peer` (NIP-44 v2). Raises `EncryptionError`, `InvalidKey` for a bad `peer`."""
        ...

    async def nip44_decrypt(self, peer: str, payload: str) -> str:
        """Decrypt what `peer` sent (NIP-44 v2). Raises `DecryptionError`, `InvalidKey` for a bad `peer`."""
        ...

    async def nip04_encrypt(self, peer: str, plaintext: str) -> str:
        """Encrypt to `peer` the old way (NIP-04). Raises `EncryptionError`, `InvalidKey` for a bad `peer`."""
        ...

    async def nip04_decrypt(self, peer: str, payload: str) -> str:
        """Decrypt what `peer` sent the old way (NIP-04), which proves nothing about who wrote it.

        Raises `DecryptionError`, `InvalidKey` for a bad `peer`.
        """
        ...


class LocalSigner:
    """A `Signer` whose key is in this process."""

    def __init__(self, key: SecretKey) -> None:
        self._key = key

    @property
    def public_key(self) -> str:
        """See `Signer.public_key`."""
        return self._key.public_key

    async def sign(self, template: EventTemplate) -> Event:
        """See `Signer.sign`."""
        return sign_event(template, self._key)

    async def nip44_encrypt(self, peer: str, plaintext: str) -> str:
        """See `Signer.nip44_encrypt`."""
        return nip44.encrypt(plaintext, nip44.conversation_key(self._key, peer))

    async def nip44_decrypt(self, peer: str, payload: str) -> str:
        """See `Signer.nip44_decrypt`."""
        return nip44.decrypt(payload, nip44.conversation_key(self._key, peer))

    async def nip04_encrypt(self, peer: str, plaintext: str) -> str:
        """See `Signer.nip04_encrypt`."""
        return nip04.encrypt(plaintext, self._key, peer)

    async def nip04_decrypt(self, peer: str, payload: str) -> str:
        """See `Signer.nip04_decrypt`."""
        return nip04.decrypt(payload, self._key, peer)

    def __repr__(self) -> str:
        return f"LocalSigner(public_key={self.public_key!r})"
