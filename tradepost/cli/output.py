"""How commands speak: results on stdout, status on stderr."""

import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

#: For people: status and progress.
status = Console(stderr=True, highlight=False, emoji=False)
#: For results.
result = Console(highlight=False, emoji=False)

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, one object a line, for programs.")]

# What others sent us must not move the cursor, ring or change the title of somebody's terminal.
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BACKSLASHES: Final = re.compile(r"\\{3,}")


def say(markup: str) -> None:
    """Tell a person on stderr; wrapped at words in a terminal, one line in a file."""
    status.print(markup, soft_wrap=not status.is_terminal)


def quoted(text: str) -> str:
    """`text` of somebody else, harmless inside of markup and on a terminal."""
    # A long run of backslashes would keep rich busy for minutes, and at the end they undo the markup that follows.
    shown = _BACKSLASHES.sub("\\\\\\\\… ", _CONTROLS.sub("\ufffd", text))
    return escape(f"{shown} " if shown.endswith("\\") else shown)


def print_text(text: str) -> None:
    """A result on stdout: as it is for programs, without control characters for a terminal."""
    sys.stdout.write((_CONTROLS.sub("\ufffd", text) if sys.stdout.isatty() else text) + "\n")
    sys.stdout.flush()


def print_json(value: Mapping[str, Any]) -> None:
    """One object as one line on stdout."""
    sys.stdout.write(orjson.dumps(value).decode() + "\n")
    sys.stdout.flush()


def print_table(table: Table) -> None:
    """A table on stdout; in a pipe without the spaces that fill its lines up."""
    if result.is_terminal:
        result.print(table)
        return
    with result.capture() as drawn:
        result.print(table)
    print_text("\n".join(line.rstrip() for line in drawn.get().splitlines()))


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values (markup) below each other on stdout; a value of 64 characters fits a line of 80."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, value)
    print_table(table)


def fail(message: str, *, as_json: bool, kind: str, code: str, action: str | None = None) -> None:
    """Tell on stderr what went wrong and what to do next. `code`: see docs/errors.md."""
    if as_json:
        told = {"error": message, "code": code, "type": kind, "action": action}
        sys.stderr.write(orjson.dumps(told).decode() + "\n")
    else:
        say(f"[bold red]error:[/] {quoted(message)}")


def local_time(unix: int) -> str:
    """A moment as the reader's clock shows it."""
    return datetime.fromtimestamp(unix, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def clock_time(unix: int) -> str:
    """The time of day of a moment as the reader's clock shows it."""
    return local_time(unix)[11:]


def price_words(msat: int | None) -> str:
    """What an agent announces to ask; None if nobody can read it."""
    if msat is None:
        return "price unknown"
    return "free" if msat == 0 else f"{-(-msat // 1000)} sat"


def age(seconds: int) -> str:
    """A span of time as people say it: 40 s, 3 min, 5 h, 12 days."""
    for unit, length, below in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, 172_800)):
        if seconds < below:
            return f"{max(0, seconds) // length} {unit}"
    return f"{seconds // 86_400} days"
