"""Draw charts as SVG text: readable by screen readers, in light and dark, and without a library.

Colours are CSS classes, so that one file follows the reader's colour scheme. No meaning depends on a colour alone:
bars are labelled, and lines have their names at their ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

_STYLE = """
text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
.title { font-size: 16px; font-weight: 600; }
.soft { fill: #59636e; }
.bold { font-weight: 600; }
.paper { fill: #ffffff; }
.grid { stroke: #d1d9e0; stroke-width: 1; }
.bar { fill: #8c959f; }
.ours { fill: #0969da; }
.limit { stroke: #bc4c00; stroke-width: 1.5; stroke-dasharray: 5 4; }
.line { fill: none; stroke-width: 2; }
.line.ours { fill: none; stroke-width: 3.5; }
.s0 { stroke: #0969da; } .s1 { stroke: #bc4c00; } .s2 { stroke: #1a7f37; } .s3 { stroke: #8250df; }
.s4 { stroke: #9a6700; } .s5 { stroke: #59636e; } .s6 { stroke: #bf3989; }
.d1 { stroke-dasharray: 9 4; } .d2 { stroke-dasharray: 3 3; } .d3 { stroke-dasharray: 12 3 3 3; }
.d4 { stroke-dasharray: 6 6; } .d5 { stroke-dasharray: 1 4; } .d6 { stroke-dasharray: 14 6; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; }
  .soft { fill: #9198a1; }
  .paper { fill: #0d1117; }
  .grid { stroke: #3d444d; }
  .bar { fill: #6e7681; }
  .ours { fill: #4493f8; }
  .line.ours { fill: none; }
  .limit { stroke: #f0883e; }
  .s0 { stroke: #4493f8; } .s1 { stroke: #f0883e; } .s2 { stroke: #3fb950; } .s3 { stroke: #ab7df8; }
  .s4 { stroke: #d29922; } .s5 { stroke: #9198a1; } .s6 { stroke: #db61a2; }
}
"""
WIDTH = 760
_LINE_STYLES = 7


class Drawing:
    """An SVG file with a title and a description."""

    def __init__(self, height: int, title: str, description: str) -> None:
        self.height, self._title, self._description = height, title, description
        self._parts: list[str] = []
        self.text(20, 30, title, "title")

    def describe(self, description: str) -> None:
        """Replace the description."""
        self._description = description

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        name = f' class="{style}"' if style else ""
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}"{name} text-anchor="{anchor}">{escape(text)}</text>')

    def rect(self, x: float, y: float, width: float, height: float, style: str) -> None:
        size = f'width="{max(1.0, width):.1f}" height="{height:.1f}"'
        self._parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" {size} rx="2" class="{style}"/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>')

    def path(self, points: Sequence[tuple[float, float]], style: str) -> None:
        steps = " ".join(f"{'L' if at else 'M'}{x:.1f} {y:.1f}" for at, (x, y) in enumerate(points))
        self._parts.append(f'<path d="{steps}" class="{style}"/>')

    def circle(self, x: float, y: float, style: str) -> None:
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="{style}"/>')

    def render(self) -> str:
        """Return the file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}"'
            f' height="{self.height}" role="img" aria-labelledby="title desc">'
        )
        return "\n".join(
            [
                head,
                f'<title id="title">{escape(self._title)}</title>',
                f'<desc id="desc">{escape(self._description)}</desc>',
                f"<style>{_STYLE}</style>",
                f'<rect width="{WIDTH}" height="{self.height}" class="paper"/>',
                *self._parts,
                "</svg>",
                "",
            ]
        )


def bars(
    drawing: Drawing,
    top: float,
    heading: str,
    values: Sequence[tuple[str, float, str]],
    widest: float,
    aim: float | None = None,
) -> float:
    """Draw horizontal bars: name, value and what to write behind it. Return the height used.

    A bar longer than `widest` is cut and ends in a gap, so that one slow peer does not hide what the others differ by.
    `aim` is a value to mark with a dashed line.
    """
    left, room, step = 240, 380, 26
    drawing.text(20, top + 14, heading, "soft")
    aim_at = left + aim / widest * room if aim is not None else 0.0
    if aim is not None:
        drawing.line(aim_at, top + 22, aim_at, top + 28 + len(values) * step, "limit")
    for at, (name, value, label) in enumerate(values):
        y = top + 28 + at * step
        is_ours = name.startswith("MiniToolAI")
        drawing.text(left - 10, y + 13, name, "bold" if is_ours else "", "end")
        length = min(value, widest) / widest * room
        style = "ours" if is_ours else "bar"
        if value > widest:
            drawing.rect(left, y, length - 20, 17, style)
            drawing.rect(left + length - 14, y, 14, 17, style)
        else:
            drawing.rect(left, y, length, 17, style)
        # Behind the dashed line, if it would cross the label.
        end = aim_at if left + length < aim_at < left + length + 60 else left + length
        drawing.text(end + 8, y + 13, label, "bold" if is_ours else "")
    return 28 + len(values) * step + 16


def lines(
    drawing: Drawing, top: float, columns: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]]
) -> None:
    """Draw one line for each series over columns of equal width, on a logarithmic scale, with names at the ends."""
    left, right, height = 70, WIDTH - 200, drawing.height - top - 60
    known = [value for _, values in series for value in values if value]
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))

    def y_of(value: float) -> float:
        return top + height - (math.log10(value) - low) / (high - low) * height

    for power in range(low, high + 1):
        drawing.line(left, y_of(10**power), right, y_of(10**power), "grid")
        drawing.text(left - 10, y_of(10**power) + 4, f"{10**power:,}", "soft", "end")
    step = (right - left) / max(1, len(columns) - 1)
    for at, column in enumerate(columns):
        drawing.text(left + at * step, top + height + 24, column, "soft", "middle")
    ends = []
    for number, (name, values) in enumerate(series):
        points = [(left + at * step, y_of(value)) for at, value in enumerate(values) if value]
        if not points:
            continue
        is_ours = name.startswith("MiniToolAI")
        style = 0 if is_ours else 1 + number % (_LINE_STYLES - 1)
        drawing.path(points, f"line s{style} d{style}" + (" ours" if is_ours else ""))
        ends.append((points[-1][1], name, is_ours, style))
    _name_ends(drawing, right, ends)


def _name_ends(drawing: Drawing, right: float, ends: list[tuple[float, str, bool, int]]) -> None:
    """Write the names of lines at their ends, apart from each other."""
    last = -math.inf
    for y, name, is_ours, style in sorted(ends):
        shown = max(y, last + 18)
        last = shown
        drawing.line(right + 4, y, right + 22, shown, f"line s{style}")
        drawing.text(right + 28, shown + 4, name, "bold" if is_ours else "")
