"""What was measured, as Markdown: for the screen and for docs/performance.md."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.measure import Figure, Line

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
HEAD = "| what | ours | the other | ratio (lowest … highest) | bar | met |\n|---|---|---|---|---|---|"
BEGIN, END = "<!-- figures: written by make bench -->", "<!-- end of figures -->"


def section(figure: Figure) -> str:
    """One figure: heading, table, notes, plots."""
    parts = [f"### {figure.title}: `{figure.name}`", table(figure.lines)]
    if figure.notes:
        parts.append("\n".join(f"- {note}" for note in figure.notes))
    parts += [f"![{figure.title}](performance/{name})" for name in figure.plots]
    return "\n\n".join(parts)


def table(lines: Sequence[Line]) -> str:
    """Each with medians, the ratio with its spread, the bar and whether it is met."""
    return "\n".join([HEAD, *map(_row, lines)])


def write(where: str, figures: Sequence[Figure], page: Path = PAGE) -> None:
    """Put all figures into the page, between its two marks, and the plots into the folder beside it.

    Raises `ValueError` if the marks are not there; then nothing is written.
    """
    text = "\n\n".join([BEGIN, f"Measured on {where}.", *map(section, figures), END])
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(
            f"{page} has lost its marks {BEGIN!r} and {END!r}: put them back where the figures belong"
        )
    page.write_text(before + text + after, encoding="utf-8")
    plots = page.with_suffix("")
    plots.mkdir(exist_ok=True)
    for stale in plots.glob("*.svg"):
        stale.unlink()
    for figure in figures:
        for name, svg in figure.plots.items():
            (plots / name).write_text(svg, encoding="utf-8")


def _row(line: Line) -> str:
    bar, met = "–", "–"
    if line.bar is not None:
        bar, met = str(line.bar), "yes" if line.bar.is_met(line.ratio) else "**no**"
    return (
        f"| {line.what} | {_value(line.ours, line.unit)} | {_value(line.other, line.unit)} "
        f"| **{line.ratio:.2f}** ({min(line.ratios):.2f} … {max(line.ratios):.2f}) | {bar} | {met} |"
    )


def _value(values: Sequence[float], unit: str) -> str:
    middle = statistics.median(values)
    return f"{middle:,.0f} {unit}" if middle >= 100 or middle == int(middle) else f"{middle:.2f} {unit}"
