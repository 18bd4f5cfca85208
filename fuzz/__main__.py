"""`make fuzz`: every target for ten minutes of processor time, two at a time. `make fuzz ONLY=events SECONDS=30`.

Each runs in a process of its own (`fuzz.run`), which is watched from here: its memory after a minute and at the end, and
whether it still comes to an end. Time is what the processor spent, so a run may be stopped and go on. Corpora and what
was found stay in `.cache/fuzz`; runs of ten minutes and more are noted in docs/fuzzing.md.
"""

import argparse
import os
import platform
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fuzz.targets import NAMES

ROOT: Final = Path(__file__).parent.parent
FOLDER: Final = ROOT / ".cache" / "fuzz"
PAGE: Final = ROOT / "docs" / "fuzzing.md"
NOTED_SECONDS_MIN: Final = 600
SETTLED_SECONDS: Final = 60  # by then caches and the first corpus are in memory
OVERTIME_SECONDS: Final = 60  # of processor time, to end in
INPUT_BYTES_MAX: Final = 8192
RSS_MB_MAX: Final = 512


class Run:
    """One target's process, from its start to the row that tells of it."""

    def __init__(self, target: str, seconds: int) -> None:
        self.target = target
        self._seconds = seconds
        self._rss_mb: list[int] = []
        self._overdue = False
        corpus = FOLDER / target
        corpus.mkdir(parents=True, exist_ok=True)
        self._log = FOLDER / f"{target}.log"
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "fuzz.run", target, str(corpus), f"-max_len={INPUT_BYTES_MAX}",
                f"-rss_limit_mb={RSS_MB_MAX}", f"-artifact_prefix={FOLDER}/{target}-",
            ],
            stdout=subprocess.DEVNULL, stderr=self._log.open("wb"), cwd=ROOT,
        )  # fmt: skip

    def is_running(self) -> bool:
        """Look at the process, and end it when its time is over."""
        if self._process.poll() is not None:
            return False
        spent = _cpu_seconds(self._process.pid)
        if not self._rss_mb and spent >= min(SETTLED_SECONDS, self._seconds / 2):
            self._rss_mb.append(_rss_mb(self._process.pid))
        if len(self._rss_mb) == 1 and spent >= self._seconds:
            self._rss_mb.append(_rss_mb(self._process.pid))
            self._process.send_signal(signal.SIGUSR1)  # libFuzzer ends after the input at hand
        if spent >= self._seconds + OVERTIME_SECONDS:
            self._overdue = True
            self._process.kill()
        return True

    def stop(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()

    @property
    def found(self) -> str:
        """What was found; empty if nothing was."""
        log = self._log.read_text(errors="replace")
        if self._overdue:
            return f"it did not end: see {self._log}"
        if self._process.returncode or len(self._rss_mb) < 2:
            return f"{(re.findall('Test unit written to (.*)', log) or ['it failed'])[-1]}: see {self._log}"
        return ""

    def row(self) -> str:
        """A line of the table."""
        log = self._log.read_text(errors="replace")
        covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)/", log)
        inputs = re.findall(r"number_of_executed_units: (\d+)", log)
        edges, features, corpus = covered[-1] if covered else ("–", "–", "–")
        count = int(inputs[-1]) if inputs else 0
        memory = " → ".join(f"{rss}" for rss in self._rss_mb)
        date = datetime.now(UTC).date().isoformat()
        return (
            f"| `{self.target}` | {self._seconds} | {count:,} | {count / self._seconds:,.0f} | {edges} / {features} | "
            f"{corpus} | {memory} | {'**found**' if self.found else 'none'} | {date} |"
        )


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) // 1024


def _note(target: str, row: str) -> None:
    """Put the row in place of the target's last one."""
    text = PAGE.read_text(encoding="utf-8")
    text, replaced = re.subn(rf"^\| `{target}` \|.*$", lambda _: row, text, flags=re.M)
    if not replaced:
        text = text.replace("\n<!-- end -->", f"\n{row}\n<!-- end -->")
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Run the targets that are named, or all; the exit code is 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", default=[], help=", ".join(NAMES))
    parser.add_argument("--seconds", type=int, default=600, help="of processor time, for each")
    parser.add_argument("--at-once", type=int, default=2)
    options = parser.parse_args()
    if unknown := set(options.targets) - set(NAMES):
        parser.error(f"there is no target {', '.join(unknown)}; there are {', '.join(NAMES)}")
    waiting, running, found = list(options.targets or NAMES), list[Run](), False
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and our children with us
    print(
        f"Python {platform.python_version()}, {options.seconds} s each, {options.at_once} at once", flush=True
    )
    try:
        while waiting or running:
            while waiting and len(running) < options.at_once:
                running.append(Run(waiting.pop(0), options.seconds))
            time.sleep(0.2)
            for run in [run for run in running if not run.is_running()]:
                running.remove(run)
                print(run.row(), run.found, flush=True)
                found = found or bool(run.found)
                if options.seconds >= NOTED_SECONDS_MIN and not run.found:
                    _note(run.target, run.row())
    finally:
        for run in running:
            run.stop()
    sys.exit(int(found))


main()
