"""`make bench` measures everything and writes docs/performance.md; `make bench ONLY=jobs` measures one and prints it.

With ROUNDS=1 in the environment it is quick and rough, and writes nothing either.
"""

import os
import sys
import time

from bench.figures import FIGURES
from bench.measure import ROUNDS, machine
from bench.report import section, write
from tradepost.logs import configure_logs


def main() -> None:
    """Run the figure that ONLY names, or all."""
    only, rounds = os.environ.get("ONLY"), os.environ.get("ROUNDS")
    if only and only not in FIGURES:
        sys.exit(f"there is no figure {only!r}; there are {', '.join(FIGURES)}")
    configure_logs("error")
    where, begun, figures = machine(), time.monotonic(), []
    print(where)
    for name in [only] if only else FIGURES:
        started = time.monotonic()
        figures.append(FIGURES[name](int(rounds or ROUNDS)))
        print(f"\n{section(figures[-1])}\n\n({time.monotonic() - started:.0f} s)", flush=True)
    if not only and not rounds:
        write(where, figures)
    print(f"\n{time.monotonic() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
