"""NUT-13 counters against what the mint has signed: none may ever serve twice, whatever became of the database.

Asking (NUT-09) changes nothing at a mint.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from store import Clock, Database
from wallet import queries
from wallet.errors import InvalidProof, MintError, MintUnavailable
from wallet.keysets import Keyset
from wallet.mint import BATCH_MAX, BlindSignature, MintClient
from wallet.operations import Output, Role
from wallet.operations_coins import Made, make_coin, make_outputs
from wallet.seed import COUNTER_MAX, Seed

EMPTY_BATCHES_MAX: Final = 3  # NUT-13's advice: three hundred counters without a coin, and there are no more
#: Locked coins are not found by their counters alone, so those behind the last plain coin are stepped over. Less than
#: the gap that any restore looks beyond.
SKIPPED: Final = BATCH_MAX
#: Pauses before a batch is asked for again.
RETRY_SECONDS: Final = (5, 15, 40)

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Batch:
    """What a mint signed of the counters from `first` on. `used`: the last of them that it signed, -1 if none."""

    first: int
    used: int
    coins: tuple[tuple[int, Made], ...]  # each with its counter
    unproven: int  # signatures that are no coins


async def scan(
    seed: Seed, client: MintClient, keyset: Keyset, first: int, *, clock: Clock | None = None
) -> AsyncIterator[Batch]:
    """What the mint signed for this seed from counter `first` on, until some batches in a row hold no coin.

    With a `clock` a mint that has answered and then does not (many questions in a row are what rate limits are for) is
    waited for, a minute at most. Raises `MintError`, `MintUnavailable`.
    """
    empty = 0
    delays: Iterator[int] = iter(())
    while empty < EMPTY_BATCHES_MAX and first <= COUNTER_MAX:
        count = min(BATCH_MAX, COUNTER_MAX + 1 - first)
        outputs = await asyncio.to_thread(
            make_outputs, seed, keyset.id, [(Role.BLANK, 0)] * count, first_counter=first, attempt=0
        )
        try:
            signed = await client.restore([output.message for output in outputs])
        except MintUnavailable:
            delay = next(delays, None)
            if clock is None or delay is None:
                raise
            await clock.sleep(delay)
            continue
        delays = iter(RETRY_SECONDS)
        batch = await asyncio.to_thread(_open, keyset, outputs, signed)
        yield batch
        empty = 0 if batch.coins else empty + 1  # signatures that are no coins do not keep us asking for ever
        first += count


async def check_counter(db: Database, seed: Seed, client: MintClient, keyset: Keyset) -> None:
    """See that the mint has signed nothing from the keyset's next counter on; if it has, step over what it signed.

    That happens with an old copy of the database, and with words that were put back without a restore: the next
    outputs would be refused, or be coins that were spent long ago. Raises `MintUnavailable`.
    """
    start = await queries.next_counter(db, keyset.id)
    used = -1
    try:
        async for batch in scan(seed, client, keyset, start):
            if batch.used < 0 and used < 0:
                return
            used = max(used, batch.used)
    except MintError as error:
        raise MintUnavailable(
            f"{client.url} does not say what it has signed: {error}; try again later"
        ) from None
    async with db.transaction() as tx:
        await queries.raise_counter(tx, keyset.id, used + 1 + SKIPPED)
    log.warning(
        "database_behind", mint=client.url, keyset=keyset.id, next=start, used=used, mend="tradepost restore"
    )


def _open(keyset: Keyset, outputs: Sequence[Output], signed: Mapping[str, BlindSignature]) -> Batch:
    answered = [output for output in outputs if output.blinded in signed]
    coins: list[tuple[int, Made]] = []
    for output in answered:
        try:
            coin = make_coin(output, signed[output.blinded], {keyset.id: keyset}, need_dleq=False)
        except InvalidProof:
            continue
        coins.append((output.counter, replace(coin, role=Role.KEEP)))
    used = max((output.counter for output in answered), default=-1)
    return Batch(outputs[0].counter, used, tuple(coins), len(answered) - len(coins))
