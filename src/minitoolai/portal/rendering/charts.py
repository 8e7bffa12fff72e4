"""Lay out bar charts for SVG, which frame/charts.html draws; and make texts safe for CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 78, 24, 14, 34
MAX_DAY_LABELS = 8
ROW_HEIGHT, BAR_HEIGHT, EDGE = 50, 16, 8


class Bar(msgspec.Struct, frozen=True):
    """A rectangle. Its `kind` decides its colour."""

    x: float
    y: float
    width: float
    height: float
    kind: str


class Label(msgspec.Struct, frozen=True):
    """A text and its position."""

    x: float
    y: float
    text: str


class Chart(msgspec.Struct, frozen=True):
    """The shapes and texts of one chart."""

    height: float
    bars: tuple[Bar, ...]
    #: Grid lines with their values (in a row chart: the value of each row), and the labels of the other axis.
    scale: tuple[Label, ...]
    labels: tuple[Label, ...]

    @property
    def shapes(self) -> dict[str, str]:
        """Return kind → SVG path of all its bars: one <path> each keeps a page of ninety days small."""
        paths: dict[str, str] = {}
        for bar in self.bars:
            outline = f"M{bar.x:g} {bar.y:g}h{bar.width:g}v{bar.height:g}h-{bar.width:g}z"
            paths[bar.kind] = paths.get(bar.kind, "") + outline
        return paths


class Column(msgspec.Struct, frozen=True):
    """One bar of a chart: its label, and the amount of each kind, from the bottom up."""

    label: str
    amounts: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        return sum(amount for _, amount in self.amounts)


def scale_values(highest: int) -> list[int]:
    """Return four or five round values from 0 to at least `highest`; fewer if `highest` is small."""
    if highest <= 0:
        return [0, 1]
    step = 1
    while highest > 4 * step:
        # 1, 2, 5, 10, 20, 50, …
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return list(range(0, highest + step, step))


def column_chart(data: Sequence[Column], write: Callable[[int], str]) -> Chart:
    """Lay out stacked bars side by side, one per day. `write` formats a value in the reader's language."""
    scale = scale_values(max((column.total for column in data), default=0))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    slot = wide / max(len(data), 1)
    label_every = -(-len(data) // MAX_DAY_LABELS)
    bars, labels = [], []
    for place, column in enumerate(data):
        x, y = LEFT + place * slot, TOP + float(high)
        for kind, amount in column.amounts:
            if amount:
                height = max(amount / scale[-1] * high, 1.0)
                y -= height
                bars.append(Bar(round(x + slot * 0.14, 1), round(y, 1), round(slot * 0.72, 1), round(height, 1), kind))
        # Counted from the right, so that the newest day has a label.
        if (len(data) - 1 - place) % label_every == 0:
            labels.append(Label(round(x + slot / 2, 1), HEIGHT - BOTTOM + 20, column.label))
    lines = [Label(LEFT - 8, round(TOP + high * (1 - value / scale[-1]), 1), write(value)) for value in scale]
    return Chart(HEIGHT, tuple(bars), tuple(lines), tuple(labels))


def row_chart(data: Sequence[Column], write: Callable[[int], str]) -> Chart:
    """Lay out bars below each other, each under its label and value: for a few things with long names."""
    highest = max((column.total for column in data), default=0) or 1
    wide = WIDTH - 2 * EDGE
    bars, labels, values = [], [], []
    for place, column in enumerate(data):
        y, x = place * ROW_HEIGHT + 26, float(EDGE)
        labels.append(Label(EDGE, y - 5, column.label))
        for kind, amount in column.amounts:
            if amount:
                width = max(amount / highest * wide, 1.0)
                bars.append(Bar(round(x, 1), y + 2, round(width, 1), BAR_HEIGHT, kind))
                x += width
        values.append(Label(EDGE, y - 5, write(column.total)))
    return Chart(len(data) * ROW_HEIGHT, tuple(bars), tuple(values), tuple(labels))


# ── CSV ───────────────────────────────────────────────────────────────────────────────────────────────────


def escape_formula(text: str | None) -> str:
    """Return a text that a spreadsheet does not run as a formula (CSV injection)."""
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text or ""
