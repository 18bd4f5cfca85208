"""Gift wraps: a message whose author, kind and time only its receiver learns (NIP-59).

rumor (unsigned, true author and time) → seal (signed by the author, encrypted to the receiver) → wrap (signed
by a key used once, encrypted to the receiver). What a rumor means is decided elsewhere: `wallet` and `dvm`.
"""

import secrets
from collections.abc import Callable
from typing import Final

from identity import nip44
from identity.errors import DecryptionError, EncryptionError, InvalidEvent, InvalidKey
from identity.event import (
    Event,
    EventTemplate,
    Rumor,
    make_rumor,
    make_template,
    parse_event,
    parse_rumor,
    sign_event,
)
from identity.keys import SecretKey, check_public_key
from identity.signer import Signer

KIND_SEAL: Final = 13
KIND_GIFT_WRAP: Final = 1059
KIND_EPHEMERAL_GIFT_WRAP: Final = 21059

#: Seals and wraps are dated up to this far back, so who subscribes to wraps must look back as far.
BACKDATE_SECONDS_MAX: Final = 2 * 24 * 60 * 60


async def wrap(
    signer: Signer,
    recipient: str,
    rumor: EventTemplate,
    *,
    now: int,
    ephemeral: bool = False,
    expires_at: int | None = None,
    randbelow: Callable[[int], int] = secrets.randbelow,
) -> Event:
    """Seal `rumor` as the signer, wrap it for `recipient` (x-only hex): kind 1059, or 21059 if `ephemeral`.

    `now` and `expires_at` are Unix seconds. `randbelow(n)` draws 0 … n−1 for the false dates; keys and nonces
    always come from the system's random source. An ephemeral wrap is dated `now`: relays refuse ephemeral
    events that are a minute old, and what is only passed on shows its time anyway. `expires_at` goes on the
    wrap alone, as a seal has no tags.

    Raises `InvalidKey` for a bad recipient, `InvalidEvent` or `EncryptionError` for an unfit rumor.
    """
    check_public_key(recipient)
    inner = make_rumor(rumor, signer.public_key).to_json().decode()
    seal = await signer.sign(
        make_template(
            KIND_SEAL,
            content=await signer.nip44_encrypt(recipient, inner),
            created_at=now - randbelow(BACKDATE_SECONDS_MAX + 1),
        )
    )
    once = SecretKey.generate()
    content = nip44.encrypt(seal.to_json().decode(), nip44.derive_conversation_key(once, recipient))
    if len(content) > nip44.PAYLOAD_BYTES_MAX:
        raise EncryptionError(
            f"the gift wrap would hold {len(content)} bytes, and {nip44.PAYLOAD_BYTES_MAX} are the limit: "
            "send less, or a link to the rest"
        )
    tags = [("p", recipient)]
    if expires_at is not None:
        tags.append(("expiration", str(expires_at)))
    return sign_event(
        make_template(
            KIND_EPHEMERAL_GIFT_WRAP if ephemeral else KIND_GIFT_WRAP,
            content=content,
            tags=tags,
            created_at=now if ephemeral else now - randbelow(BACKDATE_SECONDS_MAX + 1),
        ),
        once,
    )


async def unwrap(signer: Signer, wrap: Event) -> Rumor:
    """Open a wrap that was verified at the door; returns the rumor, whose `pubkey` is proven by the seal.

    What could deceive us is refused: a seal that is not kind 13, is not signed by its author, or whose author
    is not the rumor's. What can only harm its sender is ignored: tags on the seal, a signature or false id in
    the rumor (its id is computed). One rumor may come in many wraps: tell messages apart by `Rumor.id`.

    Raises `DecryptionError`.
    """
    if wrap.kind not in (KIND_GIFT_WRAP, KIND_EPHEMERAL_GIFT_WRAP):
        raise DecryptionError(f"an event of kind {wrap.kind} is not a gift wrap")
    if len(wrap.content) > nip44.PAYLOAD_BYTES_MAX:  # said here too, so that no remote signer is sent it
        raise DecryptionError(f"the gift wrap is longer than {nip44.PAYLOAD_BYTES_MAX} bytes")
    try:
        seal = parse_event(await signer.nip44_decrypt(wrap.pubkey, wrap.content))
        if seal.kind != KIND_SEAL:
            raise DecryptionError(f"the gift wrap holds an event of kind {seal.kind}, not a seal")
        seal.verify()
        rumor = parse_rumor(await signer.nip44_decrypt(seal.pubkey, seal.content))
    except (InvalidEvent, InvalidKey) as error:
        raise DecryptionError(f"the gift wrap holds no valid message: {error}") from None
    if rumor.pubkey != seal.pubkey:
        raise DecryptionError("the message claims another author than the key that sealed it")
    return rumor
