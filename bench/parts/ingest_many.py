"""Ingestion from several relays that all tell the same: `python -m bench.parts.ingest_many EVENTS`.

Answers each number of relays on stdin with the different events a second that came to the subscriber.
"""

import asyncio
import sys

from bench.parts.ingest import ours, signed
from tradepost.logs import configure_logs


def main() -> None:
    configure_logs("error")
    raw = [event.to_json() for event in signed(int(sys.argv[1]))]
    print("ready", flush=True)
    for line in sys.stdin:
        print(asyncio.run(ours(raw, int(line))), flush=True)


if __name__ == "__main__":
    main()
