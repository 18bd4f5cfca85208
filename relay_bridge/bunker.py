"""A key that lives in a remote signer, also called a bunker (NIP-46): connecting to it, and an `identity.Signer` on it.

The signer is trusted with its key and with nothing else: whatever it says it signed is compared with what was asked.
"""

import asyncio
import hmac
import secrets
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from identity import nip04, nip44
from identity.errors import DecryptionError, EncryptionError, IdentityError, InvalidEvent, InvalidKey
from identity.event import Event, EventTemplate, event_id, parse_event
from identity.keys import SecretKey, check_public_key
from identity.nip19 import encode_npub
from identity.nip46 import KIND, encode_template, parse_answer
from relay_bridge.bunker_line import BunkerLine, decrypt_message
from relay_bridge.errors import BunkerError, BunkerRefused, BunkerSilent, BunkerUntrue
from relay_bridge.filters import Filter
from relay_bridge.pool import RelayPool
from relay_bridge.timing import within
from store import Clock

log = structlog.get_logger(__name__)

#: What we ask the signer to allow.
PERMISSIONS: Final = "sign_event,nip44_encrypt,nip44_decrypt,nip04_encrypt,nip04_decrypt"

_CLIENT: Final = "tradepost"
_CONNECT_SECONDS: Final = 120.0  # with a person at the other end
_GREETING_SECONDS: Final = 10.0
_SWITCH_SECONDS: Final = 10.0
_TEXT_BYTES_MAX: Final = 256 * 1024  # what may go to a signer in one request; relays take less


class BunkerSigner:
    """An `identity.Signer` whose key is at the other end of a `BunkerLine`; made by `connect_bunker`.

    All methods raise `BunkerError`, which is a `SignerUnavailable`; `BunkerUntrue`, which is an `InvalidEvent`; and
    `EncryptionError` for what is too large for the relays on the way: beyond 30 KiB or so where events may have 64.
    """

    def __init__(self, line: BunkerLine, public_key: str) -> None:
        self._line = line
        self._public_key = public_key

    @property
    def public_key(self) -> str:
        """See `Signer.public_key`: the user's key, not the remote signer's own."""
        return self._public_key

    async def sign(self, template: EventTemplate) -> Event:
        """See `Signer.sign`. The event is exactly the template under this key, or `BunkerUntrue` is raised."""
        wanted = event_id(self._public_key, template)
        result = await self._line.call("sign_event", encode_template(template))
        try:
            event = parse_event(result)
            event.verify()
        except InvalidEvent as error:
            raise BunkerUntrue(f"the signer sent no valid event: {error}") from None
        if event.id != wanted:
            fields = [
                n
                for n in ("kind", "content", "tags", "created_at")
                if getattr(event, n) != getattr(template, n)
            ]
            fields += ["author"] if event.pubkey != self._public_key else []
            raise BunkerUntrue(
                f"the signer signed another event than it was asked to ({', '.join(fields)}); nothing was published"
            )
        return event

    async def nip44_encrypt(self, peer: str, plaintext: str) -> str:
        """See `Signer.nip44_encrypt`."""
        result = await self._encrypt("nip44_encrypt", peer, plaintext)
        if not nip44.is_payload(result):
            raise BunkerUntrue("the signer did not encrypt by NIP-44")
        return result

    async def nip44_decrypt(self, peer: str, payload: str) -> str:
        """See `Signer.nip44_decrypt`."""
        return await self._decrypt("nip44_decrypt", peer, payload)

    async def nip04_encrypt(self, peer: str, plaintext: str) -> str:
        """See `Signer.nip04_encrypt`."""
        result = await self._encrypt("nip04_encrypt", peer, plaintext)
        if not nip04.is_payload(result):
            raise BunkerUntrue("the signer did not encrypt by NIP-04")
        return result

    async def nip04_decrypt(self, peer: str, payload: str) -> str:
        """See `Signer.nip04_decrypt`."""
        return await self._decrypt("nip04_decrypt", peer, payload)

    async def _encrypt(self, method: str, peer: str, plaintext: str) -> str:
        size = len(_utf8(plaintext))
        if not 1 <= size <= _TEXT_BYTES_MAX:
            raise EncryptionError(f"a remote signer encrypts 1 … {_TEXT_BYTES_MAX} bytes, not {size}")
        return await self._line.call(method, check_public_key(peer), plaintext)

    async def _decrypt(self, method: str, peer: str, payload: str) -> str:
        check_public_key(peer)
        if len(payload) > nip44.PAYLOAD_BYTES_MAX:
            raise DecryptionError(
                f"a payload of {len(payload)} characters; {nip44.PAYLOAD_BYTES_MAX} are accepted"
            )
        if not payload.isascii():
            raise DecryptionError("the payload is not base64")
        try:
            return await self._line.call(method, peer, payload)
        except (BunkerRefused, EncryptionError) as refused:
            # A payload that nobody can read is for good, a permission that is missing is not: money may be in it.
            if await self._decrypts(method):
                raise DecryptionError(f"the payload cannot be opened: {refused}") from None
            raise BunkerRefused(str(refused)) from None

    async def _decrypts(self, method: str) -> bool:
        """Whether the signer opens what we encrypted to it: then it may, and the other payload was no good."""
        word, client = secrets.token_hex(8), self._line.client_key
        if method == "nip04_decrypt":
            payload = nip04.encrypt(word, client, self._public_key)
        else:
            payload = nip44.encrypt(word, nip44.conversation_key(client, self._public_key))
        try:
            return await self._line.call(method, client.public_key, payload) == word
        except (BunkerRefused, EncryptionError):
            return False

    def __repr__(self) -> str:
        return f"BunkerSigner(public_key={self._public_key!r})"


async def connect_bunker(line: BunkerLine, *, secret: str = "", known_key: str = "") -> BunkerSigner:
    """Introduce ourselves to the signer on an open line and learn whose key it holds.

    `known_key`: the user's key of an earlier connection with the same client key; the signer is then only greeted, as
    most take a `secret` once. Raises `BunkerError`; `BunkerUntrue` if the user's key is not `known_key` any more.
    """
    if known_key:
        try:
            return await _greet(line, known_key, _GREETING_SECONDS)
        except (BunkerSilent, BunkerRefused) as error:
            log.info("bunker_forgot_us", reason=str(error))
    about = msgspec.json.encode({"name": _CLIENT}).decode()
    await line.call("connect", line.remote_key, secret, PERMISSIONS, about, seconds_max=_CONNECT_SECONDS)
    return await _greet(line, known_key, _CONNECT_SECONDS)


async def _greet(line: BunkerLine, known_key: str, seconds_max: float) -> BunkerSigner:
    try:
        public_key = check_public_key(await line.call("get_public_key", seconds_max=seconds_max))
    except InvalidKey:
        raise BunkerUntrue(
            "the signer answered `get_public_key` with something that is no public key"
        ) from None
    if known_key and public_key != known_key:
        raise BunkerUntrue(
            f"the signer holds {encode_npub(public_key)} now, and {encode_npub(known_key)} before: choose that account "
            "in it again, or connect to it anew under another name"
        )
    return BunkerSigner(line, public_key)


async def follow_relays(line: BunkerLine, on_moved: Callable[[Sequence[str]], None]) -> None:
    """Ask the signer at which relays it wants to be asked from now on, and go there (`switch_relays`).

    A signer that knows no such request, as older ones, changes nothing.
    """
    try:
        result = await line.call("switch_relays", seconds_max=_SWITCH_SECONDS)
        relays = msgspec.json.decode(result or "null", type=list[str] | None)
        if relays:
            await line.move(relays)
            on_moved(line.relays)
    except (BunkerError, EncryptionError, msgspec.MsgspecError) as error:
        log.info("bunker_stays", reason=str(error))


async def await_invited(
    pool: RelayPool, clock: Clock, *, client_key: SecretKey, secret: str, seconds_max: float
) -> str:
    """Wait for a signer that was given our nostrconnect:// URL; returns its own key.

    It is known by `secret`: anybody else may write to us. Raises `BunkerSilent`.
    """
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_event(event: Event, _relay: str) -> None:
        try:
            answer = parse_answer(decrypt_message(client_key, event))
        except IdentityError:
            return  # from whomever
        if hmac.compare_digest(answer.result.encode(), secret.encode()) and not found.done():
            found.set_result(event.pubkey)

    what = Filter(kinds=(KIND,), tags={"p": (client_key.public_key,)})
    subscription = await pool.subscribe([what], on_event)
    try:
        return await within(clock, seconds_max, found)
    except TimeoutError:
        raise BunkerSilent(
            f"no signer answered within {seconds_max:g} s at {', '.join(pool.urls)}; give it the URL once more, or "
            "name a relay that it reaches"
        ) from None
    finally:
        await subscription.close()


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise EncryptionError("the text holds a lone surrogate, which UTF-8 cannot carry") from None
