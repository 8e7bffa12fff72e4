"""Charts as numbers for SVG: where each bar, line and label goes. Templates draw them (frame/charts.html)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence

import msgspec

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 78, 24, 14, 34
MOST_DAY_LABELS = 8
ROW, BAR, EDGE = 50, 16, 8


class Bar(msgspec.Struct, frozen=True):
    """A rectangle; `kind` is its colour."""

    x: float
    y: float
    width: float
    height: float
    kind: str


class Label(msgspec.Struct, frozen=True):
    """A text at a place."""

    x: float
    y: float
    text: str


class Chart(msgspec.Struct, frozen=True):
    """One drawing."""

    height: float
    bars: tuple[Bar, ...]
    #: Lines of the scale with their values (of rows: the value of each), and what stands on the other axis.
    scale: tuple[Label, ...]
    labels: tuple[Label, ...]

    @property
    def shapes(self) -> dict[str, str]:
        """Kind → the outline of all its bars, for one <path>: a page of ninety days stays small."""
        found: dict[str, str] = {}
        for bar in self.bars:
            outline = f"M{bar.x:g} {bar.y:g}h{bar.width:g}v{bar.height:g}h-{bar.width:g}z"
            found[bar.kind] = found.get(bar.kind, "") + outline
        return found


class Column(msgspec.Struct, frozen=True):
    """One place of a chart: its label, and how much of each kind, from below."""

    label: str
    amounts: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        return sum(amount for _, amount in self.amounts)


def steps(highest: int) -> list[int]:
    """Round values of a scale from 0 to at least `highest`: four or five of them, or as many as there are."""
    if highest <= 0:
        return [0, 1]
    step = 1
    while highest > 4 * step:
        # 1, 2, 5, 10, 20, 50, …
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return list(range(0, highest + step, step))


def columns(data: Sequence[Column], write: Callable[[int], str]) -> Chart:
    """Stacked bars side by side: one for each day. `write` says a value as the reader's language does."""
    scale = steps(max((column.total for column in data), default=0))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    slot = wide / max(len(data), 1)
    every = -(-len(data) // MOST_DAY_LABELS)
    bars, labels = [], []
    for place, column in enumerate(data):
        x, y = LEFT + place * slot, TOP + float(high)
        for kind, amount in column.amounts:
            if amount:
                height = max(amount / scale[-1] * high, 1.0)
                y -= height
                bars.append(Bar(round(x + slot * 0.14, 1), round(y, 1), round(slot * 0.72, 1), round(height, 1), kind))
        # Counted from the right: the newest day always has its name.
        if (len(data) - 1 - place) % every == 0:
            labels.append(Label(round(x + slot / 2, 1), HEIGHT - BOTTOM + 20, column.label))
    lines = [Label(LEFT - 8, round(TOP + high * (1 - value / scale[-1]), 1), write(value)) for value in scale]
    return Chart(HEIGHT, tuple(bars), tuple(lines), tuple(labels))


def rows(data: Sequence[Column], write: Callable[[int], str]) -> Chart:
    """Bars below each other, above each its label and its value: for a few things with long names."""
    highest = max((column.total for column in data), default=0) or 1
    wide = WIDTH - 2 * EDGE
    bars, labels, values = [], [], []
    for place, column in enumerate(data):
        y, x = place * ROW + 26, float(EDGE)
        labels.append(Label(EDGE, y - 5, column.label))
        for kind, amount in column.amounts:
            if amount:
                width = max(amount / highest * wide, 1.0)
                bars.append(Bar(round(x, 1), y + 2, round(width, 1), BAR, kind))
                x += width
        values.append(Label(EDGE, y - 5, write(column.total)))
    return Chart(len(data) * ROW, tuple(bars), tuple(values), tuple(labels))


# (merged from sheets) Files for spreadsheets.


def plain(text: str | None) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text or ""


def sheet(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Lines of CSV below a line of names, in UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()
