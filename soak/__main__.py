"""`python -m soak`: seeds for a given time, on all cores. A failing one is told with the command that replays it."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from soak.plan import draw_plan
from soak.run import Outcome, play
from soak.virtual import quiet


def run_seed(seed: int) -> Outcome:
    """One run in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        return play(draw_plan(seed), Path(folder))


def run_seeds(first: int, count: int, seconds: float) -> dict[str, Any]:
    """So many runs, or as many as there is time for; tells failing ones at once, and the sum of all in the end."""
    seen: Counter[str] = Counter()
    bad: list[int] = []
    ends_at, runs = time.monotonic() + seconds, 0
    for seed in range(first, first + count):
        if time.monotonic() > ends_at:
            break
        outcome = run_seed(seed)
        runs += 1
        seen.update(outcome.seen)
        seen["eventful"] += bool(outcome.seen & {"dispute", "refund", "restart"})
        if outcome.problems:
            bad.append(seed)
            print(
                f"seed {seed}: {'; '.join(outcome.problems)}\n  {outcome.plan}\n  python -m soak --seed {seed}",
                file=sys.stderr,
            )
    return {"runs": runs, "bad": bad, "seen": dict(seen)}


def run_side_by_side(first: int, count: int, seconds: float, workers: int) -> dict[str, Any]:
    """The same on several cores, each with its part of the seeds."""
    share = -(-count // workers)
    command = [
        sys.executable,
        "-m",
        "soak",
        "--workers",
        "1",
        "--seconds",
        str(seconds),
        "--runs",
        str(share),
        "--first",
    ]
    processes = [
        subprocess.Popen([*command, str(first + number * share)], stdout=subprocess.PIPE, text=True)
        for number in range(workers)
    ]
    runs, bad, seen = 0, list[int](), Counter[str]()
    for process in processes:
        answer = json.loads(process.communicate()[0].splitlines()[-1])
        runs, bad = runs + answer["runs"], bad + answer["bad"]
        seen.update(answer["seen"])
    return {"runs": runs, "bad": bad, "seen": dict(seen)}


def main() -> int:
    """See the head of this file."""
    quiet()
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="for how long (default: 600)")
    parser.add_argument("--runs", type=int, default=10**9, help="how many at most")
    parser.add_argument(
        "--first", type=int, default=int(time.time()), help="the first seed (default: by the time)"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, help="replay this one, with its trace")
    wanted = parser.parse_args()
    if wanted.seed is not None:
        outcome = run_seed(wanted.seed)
        print(*outcome.lines, outcome.plan, f"trace {outcome.digest}", *outcome.problems, sep="\n")
        return bool(outcome.problems)
    if wanted.workers > 1:
        told = run_side_by_side(wanted.first, min(wanted.runs, 10**9), wanted.seconds, wanted.workers)
    else:
        told = run_seeds(wanted.first, wanted.runs, wanted.seconds)
    print(json.dumps(told))
    return bool(told["bad"])


if __name__ == "__main__":
    sys.exit(main())
