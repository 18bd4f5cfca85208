"""Reading an agent's reputation from relays in memory, and what a stranger claims."""

from collections.abc import Iterable

from dvm.reputation.reader import Material, Reader
from dvm.reputation.settlements import MintWitness
from identity import Event, SecretKey, sign_event
from identity.audit import Audit, Verdict
from identity.published import Kind
from identity.roots import Head
from identity.rotation import Rotation
from relay_bridge import RelayPool
from store import Database
from tradepost.testing import ManualClock, MemoryMint, MemoryRelay

ONE, TWO, THREE = "ws://one.test", "ws://two.test", "ws://three.test"
DAY = 86_400


def put(relay: MemoryRelay, events: Iterable[Event]) -> None:
    for event in events:
        relay.insert(event)


async def read(
    pool: RelayPool,
    clock: ManualClock,
    agent: str,
    *,
    mint: MemoryMint | None = None,
    db: Database | None = None,
) -> tuple[Material, Audit]:
    async with MintWitness(
        [mint.url] if mint else [], mint.transport if mint else MemoryMint().transport
    ) as witness:
        reader = Reader(pool, clock, witness=witness if mint else None, db=db)
        material = await reader.read(agent)
        return material, await reader.judge(material)


def verdicts(judged: Audit) -> list[Verdict]:
    return [receipt.verdict for receipt in judged.receipts]


def kinds(judged: Audit) -> set[Kind]:
    return {finding.kind for finding in judged.findings}


def claim_to(key: str, now: int) -> Event:
    """A stranger says that a log of its own went over from that key to it."""
    stranger = SecretKey.generate()
    claim = Rotation(
        log=stranger.public_key, old=key, new=stranger.public_key, head=Head(1, "00" * 32), next="00" * 32, at=now,
        by_both=False,
    )  # fmt: skip
    return sign_event(claim.to_template(), stranger)
