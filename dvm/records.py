"""What a post tells itself by way of its relays, so that its seed alone brings it back.

A record is an addressable event of application data (NIP-78), signed by the seed's own identity and encrypted to it;
its `d` tag says nothing to others. A later record of the same name takes the place of the earlier one.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from dvm.stored import stored_events
from identity import DecryptionError, Event, LocalSigner, make_template
from identity.nip40 import is_expired
from relay_bridge import Filter, RelayPool
from store import Clock
from wallet import Seed
from wallet.seed import CUSTOMER

RECORD: Final = 30078


async def make_record(
    seed: Seed, name: str, content: Mapping[str, Any], *, now: int, expires_at: int | None = None
) -> Event:
    """The event that keeps `content` (JSON) under `name`."""
    signer = LocalSigner(seed.identity(CUSTOMER))
    payload = await signer.nip44_encrypt(signer.public_key, orjson.dumps(content).decode())
    tags = [("d", seed.job_key("record", name).public_key)]
    if expires_at is not None:
        tags.append(("expiration", str(expires_at)))
    return await signer.sign(make_template(RECORD, content=payload, tags=tags, created_at=now))


async def read_records(pool: RelayPool, seed: Seed, clock: Clock) -> list[dict[str, Any]]:
    """Every record that the relays hold, the newest first; what is not ours to read is left out."""
    signer = LocalSigner(seed.identity(CUSTOMER))
    newest: dict[str, dict[str, Any]] = {}
    for event in await stored_events(pool, Filter(kinds=(RECORD,), authors=(signer.public_key,))):
        name = event.tag("d") or ""
        if name in newest or is_expired(event, clock.now()):
            continue
        try:
            content = orjson.loads(await signer.nip44_decrypt(signer.public_key, event.content))
        except (DecryptionError, orjson.JSONDecodeError):
            continue  # of another application under the same identity
        if isinstance(content, dict):
            newest[name] = content
    return list(newest.values())
