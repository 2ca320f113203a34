"""Line and bar plots as SVG, with units on the axes and selectable text.

Each plot draws its own background, light or dark according to the viewer's preference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 680, 380
LEFT, RIGHT, TOP, BOTTOM = 78, 150, 44, 58  # margins; like all sizes here, in pixels
_GAP = 15.0  # the minimum distance between two labels
_STYLE = """\
.background{fill:#ffffff}.axis{stroke:#57606a;stroke-width:1}.grid{stroke:#d8dee4;stroke-width:1}
text{font:12px system-ui,sans-serif;fill:#24292f}.title{font-size:14px;font-weight:600}.unit{fill:#57606a}
.line{fill:none;stroke-width:2}.s0{stroke:#0969da}.s1{stroke:#bc4c00}.s2{stroke:#1a7f37}.s3{stroke:#8250df}
.d0,.b0{fill:#0969da}.d1,.b1{fill:#bc4c00}.d2,.b2{fill:#1a7f37}.d3,.b3{fill:#8250df}
@media (prefers-color-scheme:dark){.background{fill:#0d1117}.axis{stroke:#8b949e}.grid{stroke:#30363d}text{fill:#e6edf3}
.unit{fill:#9da7b3}.s0{stroke:#58a6ff}.s1{stroke:#f0883e}.s2{stroke:#3fb950}.s3{stroke:#bc8cff}
.d0,.b0{fill:#58a6ff}.d1,.b1{fill:#f0883e}.d2,.b2{fill:#3fb950}.d3,.b3{fill:#bc8cff}}"""

Point = tuple[float, float]


@dataclass(frozen=True)
class Lines:
    """Series of points, each labelled at its last point.

    ``ticks`` are the marks on the x axis. With ``log`` both axes are logarithmic; otherwise both begin at 0.
    """

    title: str
    x_unit: str
    y_unit: str
    series: Sequence[tuple[str, Sequence[Point]]]
    ticks: Sequence[float]
    log: bool = False

    def svg(self) -> str:
        points = [point for _, row in self.series for point in row]
        across = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT, self.log)
        up = _Axis([y for _, y in points], HEIGHT - BOTTOM, TOP, self.log)
        page = _Page(self.title)
        for value in up.ticks():
            page.line("grid", LEFT, up(value), WIDTH - RIGHT, up(value))
            page.text(LEFT - 8, up(value) + 4, number(value), "end")
        for value in self.ticks:
            page.line("axis", across(value), HEIGHT - BOTTOM, across(value), HEIGHT - BOTTOM + 5)
            page.text(across(value), HEIGHT - BOTTOM + 19, number(value), "middle")
        page.line("axis", LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM)
        page.line("axis", LEFT, TOP, LEFT, HEIGHT - BOTTOM)
        page.units(self.x_unit, self.y_unit)
        for index, (_, row) in enumerate(self.series):
            path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in row)
            page.add(f'<polyline class="line s{index}" points="{path}"/>')
            for x, y in row:
                page.add(f'<circle class="d{index}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3.5"/>')
        ends = [(up(row[-1][1]), index) for index, (_, row) in enumerate(self.series)]
        lowest = -math.inf
        for y, index in sorted(ends):
            lowest = max(y, lowest + _GAP)
            name, row = self.series[index]
            page.text(across(row[-1][0]) + 9, lowest + 4, name, "start")
        return page.svg()


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, each labelled with its name and divided into ``parts``."""

    title: str
    unit: str
    parts: Sequence[str]
    bars: Sequence[tuple[str, Sequence[float]]]

    def svg(self) -> str:
        across = _Axis([0.0, *(sum(values) for _, values in self.bars)], LEFT, WIDTH - RIGHT, False)
        page = _Page(self.title)
        for value in across.ticks():
            page.line("grid", across(value), TOP, across(value), HEIGHT - BOTTOM)
            page.text(across(value), HEIGHT - BOTTOM + 19, number(value), "middle")
        height = (HEIGHT - BOTTOM - TOP) / len(self.bars)
        for row, (name, values) in enumerate(self.bars):
            y, so_far = TOP + height * row, 0.0
            page.text(LEFT - 8, y + height / 2 + 4, name, "end")
            for index, value in enumerate(values):
                x, end = across(so_far), across(so_far + value)
                page.add(f'<rect class="b{index}" x="{x:.1f}" y="{y + height * 0.15:.1f}" width="{max(0.0, end - x):.1f}" height="{height * 0.7:.1f}"/>')  # fmt: skip  # noqa: E501
                so_far += value
        page.line("axis", LEFT, TOP, LEFT, HEIGHT - BOTTOM)
        for index, part in enumerate(self.parts):
            y = TOP + 10 + 20 * index
            page.add(f'<rect class="b{index}" x="{WIDTH - RIGHT + 14}" y="{y}" width="12" height="12"/>')
            page.text(WIDTH - RIGHT + 32, y + 10, part, "start")
        page.units(self.unit, "")
        return page.svg()


@dataclass
class _Page:
    title: str
    _parts: list[str] = field(default_factory=list)

    def add(self, element: str) -> None:
        self._parts.append(element)

    def line(self, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
        self.add(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def text(self, x: float, y: float, text: str, anchor: str, more: str = "") -> None:
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>')

    def units(self, x_unit: str, y_unit: str) -> None:
        self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, x_unit, "middle", ' class="unit"')
        if y_unit:
            middle = (TOP + HEIGHT - BOTTOM) / 2
            self.text(18, middle, y_unit, "middle", f' class="unit" transform="rotate(-90 18 {middle:.1f})"')

    def svg(self) -> str:
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">'  # noqa: E501
        title = escape(self.title)
        top = f'<text class="title" x="{LEFT}" y="24">{title}</text>'
        background = f'<rect class="background" width="{WIDTH}" height="{HEIGHT}"/>'
        return "\n".join(
            [head, f"<title>{title}</title><style>{_STYLE}</style>", background, top, *self._parts, "</svg>\n"]
        )


class _Axis:
    """Maps values to coordinates."""

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool) -> None:
        self._log = log
        if log:
            low, high = min(values), max(values)
            self.low, self.high = 10.0 ** math.floor(math.log10(low) + 1e-9), 10.0 ** math.ceil(math.log10(high) - 1e-9)
            self.high = max(self.high, self.low * 10)
        else:
            self.low, self.high = 0.0, max(*values, 1e-9) * 1.05
        self._start, self._end = start, end
        self._scale: Callable[[float], float] = math.log10 if log else float

    def __call__(self, value: float) -> float:
        low, high = self._scale(self.low), self._scale(self.high)
        return self._start + (self._scale(value) - low) / (high - low) * (self._end - self._start)

    def ticks(self) -> list[float]:
        if self._log:
            first, last = round(math.log10(self.low)), round(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1)]
        step = 10.0 ** math.floor(math.log10(self.high / 4))
        step *= next(times for times in (1, 2, 5, 10) if self.high / (step * times) <= 6)
        return [step * count for count in range(int(self.high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """``30,000``, ``12``, ``0.05``."""
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.3g}"
