"""Being told to end: SIGINT (Ctrl-C) and SIGTERM."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ending() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set while the context lasts; afterwards they do what they did before.

    Only in the main thread, on a running loop.
    """
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    try:
        yield told
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
