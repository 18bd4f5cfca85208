"""The machine's clock."""

import time

from store import SystemClock


async def test_now_is_unix_time_in_whole_seconds() -> None:
    before = int(time.time())
    assert before <= SystemClock().now() <= before + 5


async def test_sleep_lasts_as_long_as_asked() -> None:
    before = time.monotonic()
    await SystemClock().sleep(0.02)
    assert time.monotonic() - before >= 0.02
