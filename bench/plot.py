"""Small SVG plots. No background, and colours that can be read on a light page and on a dark one."""

import math
import statistics
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 72, 40, 64, 52
GREY, FAINT = "#7d8590", "#7d859055"
COLOURS = ("#2f81f7", "#d29922", "#3fb950", "#db61a2")

Points = Sequence[tuple[float, float]]


def curve(title: str, x: str, y: str, series: Mapping[str, Points], *, log_x: bool = False) -> str:
    """Lines over numbers, from 0 on both axes. With `log_x` every x has a place of its own, by its logarithm."""
    along = math.log10 if log_x else float
    given = sorted({px for points in series.values() for px, _ in points})
    xs = given if log_x else _ticks(given[-1])
    ys = _ticks(max(py for points in series.values() for _, py in points))
    low, high = along(xs[0]), along(xs[-1])

    def place(px: float, py: float) -> tuple[float, float]:
        share = (along(px) - low) / ((high - low) or 1)
        return LEFT + share * (WIDTH - LEFT - RIGHT), _height(py, ys)

    parts = [*_frame(title, x, y, ys), *_legend(list(series))]
    parts += [_text(place(px, 0)[0], HEIGHT - BOTTOM + 18, _short(px), "middle") for px in xs]
    for colour, points in zip(COLOURS, series.values(), strict=False):
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (place(*point) for point in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(points) <= 20:
            parts += [_dot(*place(*point), colour) for point in points]
    return _svg(parts)


def bars(title: str, y: str, groups: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """A bar for each series of each group: the median, with a whisker from lowest to highest."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    ys = _ticks(max(max(values) for group in groups.values() for values in group.values()))
    parts = [*_frame(title, "", y, ys), *_legend(names)]
    room = (WIDTH - LEFT - RIGHT) / len(groups)
    for number, (label, group) in enumerate(groups.items()):
        middle, width = LEFT + (number + 0.5) * room, min(room * 0.8 / len(group), 90)
        parts.append(_text(middle, HEIGHT - BOTTOM + 18, label, "middle"))
        for place, (name, values) in enumerate(group.items()):
            left = middle + (place - len(group) / 2) * width
            parts += _bar(left + 3, width - 6, values, ys, COLOURS[names.index(name)])
    return _svg(parts)


def _bar(left: float, width: float, values: Sequence[float], ys: Sequence[float], colour: str) -> list[str]:
    median = statistics.median(values)
    top, low, high = (_height(value, ys) for value in (median, min(values), max(values)))
    middle = left + width / 2
    return [
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{HEIGHT - BOTTOM - top:.1f}" '
        f'fill="{colour}" fill-opacity="0.8"/>',
        f'<line x1="{middle:.1f}" x2="{middle:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{GREY}" stroke-width="2"/>',
        _text(middle, high - 6, f"{median:,.0f}" if median >= 100 else f"{median:.2f}", "middle"),
    ]


def _frame(title: str, x: str, y: str, ys: Sequence[float]) -> list[str]:
    parts = [_text(LEFT, 20, title, "start", 'font-size="15" font-weight="bold"')]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x, "middle"))
    parts.append(_text(-(TOP + HEIGHT - BOTTOM) / 2, 16, y, "middle", 'transform="rotate(-90)"'))
    for value in ys:
        at = _height(value, ys)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="{FAINT}"/>')
        parts.append(_text(LEFT - 8, at + 4, _short(value), "end"))
    return parts


def _legend(names: Sequence[str]) -> list[str]:
    parts, at = [], float(LEFT)
    for colour, name in zip(COLOURS, names, strict=False):
        parts.append(f'<rect x="{at:.1f}" y="34" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(at + 18, 44, name, "start"))
        at += 40 + 7 * len(name)
    return parts


def _ticks(most: float) -> list[float]:
    """0 and up in steps of 1, 2 or 5, four to eight of them, the last at or above `most`."""
    power = 10.0 ** math.floor(math.log10(most or 1))
    step = next(s for s in (power / 10, power / 5, power / 2, power, power * 2) if most / s <= 8)
    return [n * step for n in range(math.ceil(most / step * (1 - 1e-9)) + 1)]


def _height(value: float, ys: Sequence[float]) -> float:
    return HEIGHT - BOTTOM - value / ys[-1] * (HEIGHT - TOP - BOTTOM)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.3g}"


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'


def _svg(parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="12" fill="{GREY}">\n' + "\n".join(parts) + "\n</svg>\n"
    )
