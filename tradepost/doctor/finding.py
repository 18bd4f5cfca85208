"""What a check found."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is. `fail`: something will not work; `warn`: something may not, or somebody should look at it."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: `said` in words, and in `mend` the command or the step that mends it, if there is one."""

    check: str
    level: Level
    said: str
    mend: str = ""


def ok(check: str, said: str) -> Finding:
    """Nothing to do."""
    return Finding(check, Level.OK, said)


def warn(check: str, said: str, mend: str = "") -> Finding:
    """Something to look at."""
    return Finding(check, Level.WARN, said, mend)


def fail(check: str, said: str, mend: str = "") -> Finding:
    """Something that will not work."""
    return Finding(check, Level.FAIL, said, mend)
