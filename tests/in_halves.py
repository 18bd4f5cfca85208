"""Runs the suite as two processes side by side: most tests wait for others, so two cores take little more than half the time.

What each says is printed when it has ended; coverage is combined.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
ONE = ("bench", "escrow", "fuzz", "identity", "interop", "relay_bridge", "store", "wallet")


def main(arguments: list[str]) -> int:
    """Run both with pytest's `arguments`; 1 if one of them fails."""
    folders = [TESTS / name for name in ONE]
    halves = {
        "one": [str(folder) for folder in folders],
        "other": [str(TESTS), *(f"--ignore={folder}" for folder in folders)],
    }
    data = {name: TESTS.parent / f".coverage.{name}" for name in halves}
    running = []
    for name, paths in halves.items():
        said = tempfile.TemporaryFile()  # noqa: SIM115 - it goes when the process does
        environment = os.environ | {"COVERAGE_FILE": str(data[name])}
        command = [sys.executable, "-m", "pytest", *arguments, *paths]
        running.append((subprocess.Popen(command, env=environment, stdout=said, stderr=said), said))
    codes = []
    for process, said in running:
        codes.append(process.wait())
        said.seek(0)
        sys.stdout.buffer.write(said.read())
        sys.stdout.flush()
    found = [str(path) for path in TESTS.parent.glob(".coverage.*")]
    combined = subprocess.run([sys.executable, "-m", "coverage", "combine", "--quiet", *found], check=False)
    return int(any(codes) or combined.returncode != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
