"""Draws lines as an SVG, the same for the same points: axes with units, a few round ticks, a label at each line's end;
must measure nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 76, 130, 48, 56
COLOURS = ("#1f6fb2", "#c4501b", "#2f7d4f", "#7a4fa3")
#: a label that would lie on another is moved down so far, px
LABEL_PX = 16
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.title{font-size:16px;font-weight:600}.grid{stroke:#ddd}"
    ".axis{stroke:#666}.target{stroke:#999;stroke-dasharray:5 4}.line{fill:none;stroke-width:2.5}"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line; points ascend in x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture. x is logarithmic unless `log_x` is false, y where `log_y`; else from 0. `target`: a dashed line at
    this y. `marks`: a dot at each point."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log_y: bool = False
    log_x: bool = True
    marks: bool = True
    target: float | None = None


def draw(chart: Chart) -> str:
    xs = [x for line in chart.lines for x, _ in line.points]
    ys = [y for line in chart.lines for _, y in line.points] + ([] if chart.target is None else [chart.target])
    if not xs:
        raise ValueError(f"{chart.title!r} has no points")
    across = Scale(min(xs) if chart.log_x else 0, max(xs), LEFT, WIDTH - RIGHT, log=chart.log_x)
    up = Scale(min(ys) if chart.log_y else 0, max(ys), HEIGHT - BOTTOM, TOP, log=chart.log_y)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(chart.title)}</title><style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text class="title" x="{LEFT}" y="26">{escape(chart.title)}</text>',
    ]
    for tick in up.ticks():
        y = up(tick)
        out.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{short(tick)}</text>')
    for tick in sorted(set(xs)) if len(set(xs)) <= 8 else across.ticks():
        x = across(tick)
        out.append(f'<path class="axis" d="M{x} {HEIGHT - BOTTOM}v5"/>')
        out.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{short(tick)}</text>')
    out.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text x="{middle:g}" y="{HEIGHT - 12}" text-anchor="middle">{escape(chart.x)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(f'<text transform="translate(18 {middle:g}) rotate(-90)" text-anchor="middle">{escape(chart.y)}</text>')
    if chart.target is not None:
        y = up(chart.target)
        out.append(f'<path class="target" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{WIDTH - RIGHT + 8}" y="{y + 4:g}">target {short(chart.target)}</text>')
    out += _draw_lines(chart, across, up)
    return "\n".join([*out, "</svg>"]) + "\n"


def _draw_lines(chart: Chart, across: Scale, up: Scale) -> list[str]:
    out: list[str] = []
    taken = [] if chart.target is None else [up(chart.target) + 4]
    for line, colour in zip(chart.lines, COLOURS, strict=False):
        places = [(across(x), up(y)) for x, y in line.points]
        path = "L".join(f"{x} {y}" for x, y in places)
        out.append(f'<path class="line" stroke="{colour}" d="M{path}"/>')
        if chart.marks:
            out += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in places]
        x, y = places[-1][0] + 8, places[-1][1] + 4
        while any(abs(y - other) < LABEL_PX for other in taken):
            y += LABEL_PX
        taken.append(y)
        out.append(f'<text x="{x:g}" y="{y:g}" style="fill:{colour}">{escape(line.name)}</text>')
    return out


class Scale:
    """A number's place on the picture, rounded to a tenth of a pixel."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool) -> None:
        self._log = log
        if log:
            # half a step of air where there is but one value
            low, high = (low / 2, high * 2) if low == high else (low, high)
        else:
            high = _round_up(high) if high > low else low + 1
        self._low, self._high = self._scaled(low), self._scaled(high)
        self._start, self._end = start, end

    def _scaled(self, number: float) -> float:
        return math.log10(number) if self._log else number

    def __call__(self, number: float) -> float:
        part = (self._scaled(number) - self._low) / (self._high - self._low)
        return round(self._start + part * (self._end - self._start), 1)

    def ticks(self) -> list[float]:
        """Round numbers inside."""
        if not self._log:
            step = (self._high - self._low) / 5
            return [self._low + step * number for number in range(6)]
        first, last = math.floor(self._low), math.ceil(self._high)
        steps = (1, 2, 5) if last - first <= 3 else (1,)
        numbers = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        return [number for number in numbers if self._low - 1e-9 <= math.log10(number) <= self._high + 1e-9]


def _round_up(number: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten: it divides into five round steps."""
    power = 10.0 ** math.floor(math.log10(number))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10) if step * power >= number * (1 - 1e-12))


def short(number: float) -> str:
    """250 · 1.5k · 2M · 1G"""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
