"""`make bench`: measure everything, print the table and write it into docs/performance.md. `make bench ONLY=events`."""

import asyncio
import os
import re
import sys
from pathlib import Path

from bench.figures import FIGURES
from bench.measure import machine
from tradepost.logs import configure_logs

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
HEAD = "| figure | what | ours | the other | ratio (lowest … highest) |\n|---|---|---|---|---|\n"


async def main() -> None:
    """Run the figures that ONLY names, or all."""
    configure_logs("error")
    only = os.environ.get("ONLY")
    if only and only not in FIGURES:
        sys.exit(f"no figure {only!r}; there are {', '.join(FIGURES)}")
    where = machine()
    print(where)
    rows = []
    for name in [only] if only else FIGURES:
        rows.append((await FIGURES[name]()).row())
        print(rows[-1], flush=True)
    if not only:
        table = f"<!-- figures -->\nMeasured on {where}.\n\n{HEAD}" + "\n".join(rows) + "\n<!-- end -->"
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(
            re.sub(r"<!-- figures -->.*<!-- end -->", lambda _: table, text, flags=re.S), encoding="utf-8"
        )


asyncio.run(main())
