"""Death by SIGKILL: what `points.py` ends in thought is ended here by the kernel, a process for each point.

A forked process plays a scenario on real files until a party reaches its point. What is outside of the parties' machine
(mint, Lightning, relays, the time) is put aside, and the process kills itself: nothing is closed, flushed or rolled
back. A second later a new one goes on with what is on disk. Unlike in `points.py` all three parties die at once.
"""

import os
import pickle
import signal
import tempfile
from pathlib import Path

from soak.points import SCENARIOS, Point, problems_with
from soak.run import play
from soak.world import Outside, ground


def problems_after_sigkill(point: Point) -> list[str]:
    """What is not as it must be if the process is killed there; empty if it is survived."""
    scenario = SCENARIOS[point.scenario]
    ground()  # for both processes
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        child = os.fork()
        if child == 0:
            _live_and_die(point, folder)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if ended != -signal.SIGKILL:
            return [f"it did not die there, but ended with {ended}"]
        outside = pickle.loads((folder / "outside").read_bytes())
        outside.time += 1
        return problems_with(scenario, play(scenario.plan, folder, outside))


def _live_and_die(point: Point, folder: Path) -> None:
    def die(outside: Outside) -> None:
        (folder / "outside").write_bytes(pickle.dumps(outside))
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        play(point.plan, folder, struck=die)
    finally:
        os._exit(1)
