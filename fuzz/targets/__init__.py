"""What is fuzzed: one module each.

A module has `CHECKS` (name → function of the input's bytes, which raises nothing unless it found something), `SEEDS`
(check's name and input, many) and `WORDS`. Properties are in the checks: only the documented errors, reading what was
written gives the same, bounds hold, and other people's libraries agree where they can judge.
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAMES: Final = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py")))

Check = Callable[[bytes], None]
Seeds = Iterable[tuple[str, bytes]]


@dataclass(frozen=True)
class Target:
    """One target, loaded."""

    name: str
    checks: dict[str, Check]
    seeds: tuple[tuple[str, bytes], ...]
    words: tuple[str, ...]

    def run(self, data: bytes) -> None:
        """The first byte chooses the check, the rest is its input."""
        if data:
            checks = list(self.checks.values())
            checks[data[0] % len(checks)](data[1:])

    def corpus(self) -> list[bytes]:
        """The seeds as `run` takes them."""
        names = list(self.checks)
        return [bytes([names.index(check)]) + body for check, body in self.seeds]


def load(name: str) -> Target:
    """Import a target, and with it what it tries."""
    module = importlib.import_module(f"fuzz.targets.{name}")
    return Target(name, module.CHECKS, tuple(module.SEEDS), tuple(module.WORDS))
