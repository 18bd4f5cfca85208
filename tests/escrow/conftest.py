"""What the simulations share: they log nothing, as processes die in them all the time."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from soak.virtual import quiet


@pytest.fixture
def without_logs() -> Iterator[None]:
    before = structlog.get_config(), logging.getLogger("asyncio").level
    quiet()
    yield
    structlog.configure(**before[0])
    logging.getLogger("asyncio").setLevel(before[1])
