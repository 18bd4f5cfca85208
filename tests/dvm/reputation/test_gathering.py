"""Floods: of reviews, of rotations, of pages in one second."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from dvm.reputation import gathering, settlements
from dvm.reputation import reader as reader_module
from identity import SecretKey
from identity.audit import LOOKED_AT_MAX
from relay_bridge import RelayPool
from tests.dvm.reputation.booth import Booth, Sold, handed_on
from tests.dvm.reputation.reading import ONE, claim_to, put, read
from tradepost.testing import ManualClock, MemoryMint, MemoryRelay


async def test_a_flood_of_reviews_costs_no_more_than_one_judgement(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth, mint: MemoryMint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A customer shows coins over and over that are none, and strangers any: few are looked at, and judged once."""
    judgements = Counter[str]()
    for name in ("audit", "look"):
        real = getattr(reader_module, name)
        monkeypatch.setattr(reader_module, name, counting(judgements, name, real))
    monkeypatch.setattr(settlements, "look", counting(judgements, "look", settlements.look))
    sold, stranger = Sold(booth), SecretKey.generate()
    booth.append(sold.leaf())
    put(relays[ONE], booth.publish())
    coins = sold.paid_at(mint)
    mint.spent.clear()
    for number in range(60):
        booth.now += 1
        put(
            relays[ONE], [sold.review(coins, rating=1 + number % 5, by=(sold.customer, stranger)[number % 2])]
        )
    for asked in (mint, None):
        judgements.clear()
        await read(pool, clock, booth.log, mint=asked)
        assert judgements["audit"] == 1
        assert 0 < judgements["look"] <= LOOKED_AT_MAX
    assert mint.asked.total() <= LOOKED_AT_MAX + 2  # with its keysets, and the keys of one


def counting(counts: Counter[str], name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any) -> Any:
        counts[name] += 1
        return real(*arguments)

    return counted


async def test_pages_all_of_one_second(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A page of answers goes back in time: what does not fit into one is asked for with a larger limit, and told of."""
    monkeypatch.setattr(gathering, "PAGES_AT_ONCE", 10)
    monkeypatch.setattr(gathering, "CROWD_MIN", 10)
    for _ in range(15):
        booth.append(Sold(booth).leaf())
        put(relays[ONE], booth.publish())
        booth.now -= 1
    material, judged = await read(pool, clock, booth.log)
    assert judged.is_whole
    assert len(judged.receipts) == 15
    assert "(tradepost:leaves) of one second, and perhaps not all" in material.relays[0].trouble


async def test_rotations_that_strangers_flood_with_are_told_of(
    pool: RelayPool, relays: dict[str, MemoryRelay], clock: ManualClock, booth: Booth,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """They hide none that a key of the log signed, and that they may hide a recovery is said."""
    monkeypatch.setattr(gathering, "ROTATIONS_MAX", 20)
    first = booth.publish()
    after, rotation = handed_on(booth)
    put(relays[ONE], [*first, rotation, *after.publish()])
    put(relays[ONE], [claim_to(booth.log, clock.now() - number) for number in range(40)])
    material, judged = await read(pool, clock, booth.log)
    assert judged.chain.current == after.key.public_key
    assert "(tradepost:rotation, by anybody) or more; older ones were not read" in material.relays[0].trouble
