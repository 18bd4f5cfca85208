"""Private jobs: which part of a request, its feedback and its result only the two parties can read. No state.

Requests and feedback carry a JSON array of tags as their encrypted content, as NDK and nostrdvm write them; results
carry the result itself, as NIP-90 does. Outside stays what finds the event and what relays and other clients need of
it: `e`, `p`, `expiration`, the bare word of the `status`, the bare `amount`, `sealed`, `confidence`, and the `request`
as it came.
docs/decisions.md says why.
"""

from enum import StrEnum
from typing import Final

import msgspec
import orjson

from dvm.errors import BadRequest
from dvm.kinds import FEEDBACK
from dvm.nip90 import CONFIDENCE, ENCRYPTED
from identity import (
    DecryptionError,
    Event,
    EventTemplate,
    InvalidKey,
    Signer,
    Tags,
    make_template,
    nip04,
    nip44,
)
from identity.seal import SEALED

# Tag → how many of its fields everybody may read.
# What is promised of a sealed result is for everybody to check; it tells nothing of what is inside.
_PUBLIC_FIELDS: Final = {
    "e": 9, "p": 9, "expiration": 2, "status": 2, "amount": 2, SEALED: 6, CONFIDENCE: 2,
}  # fmt: skip
# Whom and what an event is about is said outside, under the eyes of relays; what is inside cannot change it.
_ADDRESS: Final = frozenset({"e", "p", ENCRYPTED})
_TAGS_DECODER: Final = msgspec.json.Decoder(Tags)


class Scheme(StrEnum):
    """How a private event is encrypted."""

    NIP44 = "nip44"
    NIP04 = "nip04"


def scheme_of(event: Event) -> Scheme | None:
    """How an event's content is encrypted, seen by looking at it; None if the event is not private."""
    if not event.has_tag(ENCRYPTED):
        return None
    return Scheme.NIP04 if nip04.is_payload(event.content) else Scheme.NIP44


def is_exposed(request: Event, answer: Event) -> bool:
    """Whether a private request is answered in clear."""
    return scheme_of(request) is not None and scheme_of(answer) is None


async def encrypt(signer: Signer, peer: str, text: str, scheme: Scheme) -> str:
    """Encrypt a result. An empty one stays empty: NIP-44 has no form for it, and its length shows anyway.

    Raises `EncryptionError`, `SignerUnavailable`.
    """
    if not text:
        return ""
    if scheme is Scheme.NIP04:
        return await signer.nip04_encrypt(peer, text)
    return await signer.nip44_encrypt(peer, text)


async def hide(signer: Signer, template: EventTemplate, peer: str, scheme: Scheme) -> EventTemplate:
    """Make a request or feedback private: its tags and content go inside, what must stay outside does.

    Raises `EncryptionError`, `SignerUnavailable`.
    """
    inside = [tag for tag in template.tags if tag[0] not in _ADDRESS]
    if template.content:
        inside.append(("content", template.content))
    outside = [tag[: _PUBLIC_FIELDS[tag[0]]] for tag in template.tags if tag[0] in _PUBLIC_FIELDS]
    return make_template(
        template.kind, content=await encrypt(signer, peer, orjson.dumps(inside).decode(), scheme),
        tags=[*outside, (ENCRYPTED,)], created_at=template.created_at,
    )  # fmt: skip


async def reveal(signer: Signer, event: Event, peer: str | None = None) -> EventTemplate:
    """What a private event says: its tags, those inside before those of the same name outside, and its content.

    `peer` is the other party, by default the author. Raises `DecryptionError` if it cannot be opened, `BadRequest` if a
    request holds no tags, `SignerUnavailable`.
    """
    text = await _decrypt(signer, peer or event.pubkey, event.content)
    tags, content = event.tags, text
    if event.kind < 6000 or event.kind == FEEDBACK:
        inside = _tags(text)
        if inside is not None:
            content = next((tag[1] for tag in inside if tag[0] == "content" and len(tag) > 1), "")
            names = {tag[0] for tag in inside} - _ADDRESS
            tags = (
                *(tag for tag in inside if tag[0] in names),
                *(tag for tag in event.tags if tag and tag[0] not in names),
            )
        elif (
            event.kind != FEEDBACK
        ):  # where NIP-90 alone is followed, the content of feedback is a partial result
            raise BadRequest('the decrypted content is not a JSON array of tags, like [["i", text, "text"]]')
    return make_template(event.kind, content=content, tags=tags, created_at=event.created_at)


async def plain_text(signer: Signer, result: Event) -> str:
    """The text of a result, whether it is private or not. Raises `DecryptionError`, `SignerUnavailable`."""
    return (await reveal(signer, result)).content if scheme_of(result) else result.content


def bytes_in_event(text: str, scheme: Scheme | None) -> int:
    """How many bytes a content takes in an event's JSON, once it is encrypted (None: it is not)."""
    if scheme is None:
        return len(orjson.dumps(text))
    size = len(text.encode())
    if scheme is Scheme.NIP04:
        return _base64_length(16 * (size // 16 + 1)) + len("?iv=") + _base64_length(16)
    prefix = 2 if size < 65536 else 6
    return _base64_length(1 + 32 + prefix + nip44.padded_length(max(size, 1)) + 32)


def _base64_length(size: int) -> int:
    return -(-size // 3) * 4


async def _decrypt(signer: Signer, peer: str, payload: str) -> str:
    if not payload:
        return ""  # nothing is hidden
    if len(payload) > nip44.PAYLOAD_BYTES_MAX:  # said here too, so that no remote signer is sent it
        raise DecryptionError(f"the encrypted content is longer than {nip44.PAYLOAD_BYTES_MAX} characters")
    try:
        if nip04.is_payload(payload):
            return await signer.nip04_decrypt(peer, payload)
        return await signer.nip44_decrypt(peer, payload)
    except InvalidKey as error:
        raise DecryptionError(str(error)) from None


def _tags(text: str) -> Tags | None:
    """The tags that decrypted text holds, empty ones left out; None if it is something else."""
    if not text:
        return ()
    try:
        return tuple(tag for tag in _TAGS_DECODER.decode(text) if tag)
    except (msgspec.MsgspecError, RecursionError):
        return None
