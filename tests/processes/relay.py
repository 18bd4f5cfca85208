"""A relay in a process of its own, on files that survive it: `relay.py PORT FOLDER`. Says "up" and runs until killed."""

import asyncio
import sys
from pathlib import Path

from relay_bridge import EmbeddedRelay


async def main(port: int, folder: Path) -> None:
    async with EmbeddedRelay(port=port, path=folder):
        print("up", flush=True)
        await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
