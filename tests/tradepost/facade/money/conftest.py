"""The books of a post that has callers, and somebody with sats who pays them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.tradepost.facade.money.tills import Box, Payer


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "box")


@pytest.fixture
async def payer(box: Box) -> AsyncIterator[Payer]:
    async with box.payer(20_000) as payer:
        yield payer
